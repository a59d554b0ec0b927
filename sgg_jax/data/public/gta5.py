"""GTA5 (Richter et al. 2016): 24,966 frames of a game with Cityscapes' label ids in palette PNG files.

images/00001.png .. 24966.png, labels/ of the same names; downloaded as 01_images.zip .. 10_labels.zip
"""

from sgg_jax.data.classes import LABEL_IDS
from sgg_jax.data.public.layout import Layout, table_of

MISMATCHED = "image and labels show different frames, of different sizes"
BLANK = "the image is black or white all over"

LAYOUT = Layout(
    title="GTA5",
    image=r"images/(?P<key>\d{5})\.png",
    label=r"labels/(?P<key>\d{5})\.png",
    table=table_of(LABEL_IDS, tuple(set(range(35)) - {i for ids in LABEL_IDS.values() for i in ids})),
    licence="terms: https://download.visinf.tu-darmstadt.de/data/from_games/",
    counts={"train": 24_966},
    subset="19 classes",
    bad={"15188": BLANK, "17705": BLANK, **{f"{number:05d}": MISMATCHED for number in range(20_801, 20_861)}},
    consecutive=True,
)
