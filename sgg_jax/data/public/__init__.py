"""Public data sets, one file each: where files lie, how they pair, what label values mean, what is known to be bad."""

from sgg_jax.data.public import (
    acdc,
    bdd100k,
    cityscapes,
    dark_zurich,
    exported,
    gta5,
    mapillary,
    synscapes,
    synthia,
    urbansyn,
)
from sgg_jax.data.public.layout import Layout as Layout
from sgg_jax.data.public.layout import open_public as open_public

LAYOUTS: dict[str, Layout] = {
    "gta5": gta5.LAYOUT,
    "synthia": synthia.LAYOUT,
    "cityscapes": cityscapes.LAYOUT,
    "acdc": acdc.LAYOUT,
    "dark_zurich": dark_zurich.LAYOUT,
    "bdd100k": bdd100k.LAYOUT,
    "urbansyn": urbansyn.LAYOUT,
    "synscapes": synscapes.LAYOUT,
    "mapillary": mapillary.LAYOUT,
    "exported": exported.LAYOUT,
}
