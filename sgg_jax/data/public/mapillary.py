"""Mapillary Vistas (Neuhold et al. 2017), labels of version 1.2: photographs of all sizes, 66 classes in palette PNGs.

    {training,validation,testing}/images/NAME.jpg
    {training,validation}/v1.2/labels/NAME.png, config_v1.2.json    as the download of 2.0 has them
    {training,validation}/labels/NAME.png, config.json              as that of 1.2 has them

Label values are positions in the list of the config; classes are found there by their readable names.
"""

import json
from collections.abc import Callable

import numpy as np

from sgg_jax.data.classes import CITYSCAPES
from sgg_jax.data.problems import BadFileError
from sgg_jax.data.public.layout import Layout, table_of
from sgg_jax.errors import InputError

CONFIG, OLD_CONFIG = "config_v1.2.json", "config.json"

NAMES = {
    "road": ("Road", "Service Lane", "Bike Lane", "Crosswalk - Plain", "Lane Marking - Crosswalk",
             "Lane Marking - General", "Manhole", "Pothole", "Catch Basin"),
    "sidewalk": ("Sidewalk", "Pedestrian Area", "Curb", "Curb Cut"),
    "building": ("Building",),
    "wall": ("Wall",),
    "fence": ("Fence",),
    "pole": ("Pole", "Utility Pole"),
    "traffic light": ("Traffic Light",),
    "traffic sign": ("Traffic Sign (Front)",),
    "vegetation": ("Vegetation",),
    "terrain": ("Terrain",),
    "sky": ("Sky",),
    "person": ("Person",),
    "rider": ("Bicyclist", "Motorcyclist", "Other Rider"),
    "car": ("Car",),
    "truck": ("Truck",),
    "bus": ("Bus",),
    "train": ("On Rails",),
    "motorcycle": ("Motorcycle",),
    "bicycle": ("Bicycle",),
}  # fmt: skip
"""Class of Cityscapes -> readable names of Mapillary's; all other names are void."""


def table(read: Callable[[str], bytes]) -> np.ndarray:
    """Lookup table from the set's own list of classes; InputError where it does not have a name."""
    try:
        text = read(CONFIG)
    except BadFileError as missing:
        try:
            text = read(OLD_CONFIG)
        except BadFileError:
            raise missing from None
    try:
        names = [str(label["readable"]) for label in json.loads(text)["labels"]]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{CONFIG} of Mapillary Vistas is not its list of classes ({error}); unpack it again"
        ) from error
    unknown = [name for known in NAMES.values() for name in known if name not in names]
    if unknown:
        raise InputError(f"{CONFIG} of Mapillary Vistas has no class {unknown[0]!r}; is it of another version?")
    ids = {i: tuple(names.index(name) for name in NAMES[info.name]) for i, info in enumerate(CITYSCAPES)}
    taken = {value for values in ids.values() for value in values}
    return table_of(ids, tuple(set(range(len(names))) - taken))


LAYOUT = Layout(
    title="Mapillary Vistas",
    image=r"(?P<split>training|validation|testing)/images/(?P<key>[^/]+)\.jpg",
    label=r"(?P<split>training|validation|testing)/(?:v1\.2/)?labels/(?P<key>[^/]+)\.png",
    table=table,
    licence="terms: https://www.mapillary.com/dataset/vistas",
    counts={"training": 18_000, "validation": 2_000, "testing": 5_000},
    subset="19 classes",
    unlabelled=("testing",),
)
