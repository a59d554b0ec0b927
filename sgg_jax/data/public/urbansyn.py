"""UrbanSyn (Gomez et al. 2023): rendered frames that companies may use, labelled with train ids.

    rgb/rgb_0001.png, ss/ss_0001.png (or without the folder's name in the file's)

Which value means "no class" is not documented: 19 to 33 and 255 are taken for it.
"""

from sgg_jax.data.classes import TRAIN_IDS
from sgg_jax.data.public.layout import Layout, table_of

LAYOUT = Layout(
    title="UrbanSyn",
    image=r"rgb/(?:rgb_)?(?P<key>\d+)\.png",
    label=r"ss/(?:ss_)?(?P<key>\d+)\.png",
    table=table_of(TRAIN_IDS, tuple(range(19, 34))),
    licence="CC BY-SA 4.0",
    counts={"train": 7_539},
    subset="19 classes",
    consecutive=True,
)
