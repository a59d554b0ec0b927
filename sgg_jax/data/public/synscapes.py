"""Synscapes (Wrenninge & Unger 2018): 25,000 rendered frames with Cityscapes' label ids.

img/rgb/N.png and img/class/N.png, 1440x720, N = 1 .. 25000 (img/rgb-2k is larger than the labels and not read)
"""

from sgg_jax.data.public.cityscapes import LAYOUT as CITYSCAPES
from sgg_jax.data.public.layout import Layout

LAYOUT = Layout(
    title="Synscapes",
    image=r"img/rgb/(?P<key>\d+)\.png",
    label=r"img/class/(?P<key>\d+)\.png",
    table=CITYSCAPES.table,
    licence="terms: https://synscapes.on.liu.se",
    counts={"train": 25_000},
    subset="19 classes",
    consecutive=True,
)
