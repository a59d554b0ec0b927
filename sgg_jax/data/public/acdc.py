"""ACDC (Sakaridis et al. 2021): fog, night, rain and snow, labelled with train ids.

rgb_anon/{fog,night,rain,snow}/{train,val,test,train_ref,...}/SEQUENCE/NAME_rgb_anon.png
gt/ of the same folders, NAME_gt_labelTrainIds.png
"""

from sgg_jax.data.classes import TRAIN_IDS
from sgg_jax.data.public.layout import Layout, table_of

LAYOUT = Layout(
    title="ACDC",
    image=r"rgb_anon/(?P<condition>[^/]+)/(?P<split>[^/]+)/(?P<sequence>[^/]+)/(?P<key>[^/]+)_rgb(?:_ref)?_anon\.png",
    label=r"gt/(?P<condition>[^/]+)/(?P<split>[^/]+)/(?P<sequence>[^/]+)/(?P<key>[^/]+)_gt_labelTrainIds\.png",
    table=table_of(TRAIN_IDS, ()),
    licence="terms: https://acdc.vision.ee.ethz.ch",
    counts={"train": 1_600, "val": 406, "test": 2_000},
    subset="19 classes",
    unlabelled=("test", "train_ref", "val_ref", "test_ref"),
)
