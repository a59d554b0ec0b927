"""Dark Zurich (Sakaridis et al. 2019): nights; labels, train ids, for the 50 of val.

rgb_anon/{train,val}/night/SEQUENCE/NAME_rgb_anon.png, gt/val/night/SEQUENCE/NAME_gt_labelTrainIds.png
"""

from sgg_jax.data.classes import TRAIN_IDS
from sgg_jax.data.public.layout import Layout, table_of

LAYOUT = Layout(
    title="Dark Zurich",
    image=r"rgb_anon/(?P<split>[^/]+)/(?P<condition>night)/(?P<sequence>[^/]+)/(?P<key>[^/]+)_rgb_anon\.png",
    label=r"gt/(?P<split>[^/]+)/(?P<condition>night)/(?P<sequence>[^/]+)/(?P<key>[^/]+)_gt_labelTrainIds\.png",
    table=table_of(TRAIN_IDS, ()),
    licence="terms: https://www.trace.ethz.ch/publications/2019/GCMA_UIoU/",
    counts={"train": 2_416, "val": 50},
    subset="19 classes",
    unlabelled=("train", "test"),
)
