"""SYNTHIA-RAND-CITYSCAPES (Ros et al. 2016): rendered frames with 16 of Cityscapes' classes.

    RGB/0000000.png, GT/LABELS/ of the same names: PNG files of three 16-bit channels, class, instance, nothing

Most readers cut these to 8 bits and find class 0 everywhere; see decode.read_first_of_three.
"""

from sgg_jax.data.decode import read_first_of_three
from sgg_jax.data.public.layout import Layout, table_of

IDS = {0: 3, 1: 4, 2: 2, 3: 21, 4: 5, 5: 7, 6: 15, 7: 9, 8: 6, 10: 1, 11: 10, 12: 17, 13: 8, 15: 19, 17: 12, 18: 11}
"""Train id -> class of SYNTHIA. It has no terrain, truck and train."""

LAYOUT = Layout(
    title="SYNTHIA-RAND-CITYSCAPES",
    image=r"RGB/(?P<key>\d{7})\.png",
    label=r"GT/LABELS/(?P<key>\d{7})\.png",
    table=table_of({i: (value,) for i, value in IDS.items()}, tuple(set(range(23)) - set(IDS.values()))),
    licence="terms: https://synthia-dataset.net",
    counts={"train": 9_400},
    subset="16 classes",
    decode=read_first_of_three,
    consecutive=True,
)
