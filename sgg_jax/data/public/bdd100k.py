"""BDD100K, the 10,000 images for semantic segmentation (Yu et al. 2020), labelled with train ids.

    images/10k/{train,val,test}/NAME.jpg, labels/sem_seg/masks/{train,val}/NAME.png

The original set has 6 images without labels and 6 labels without images.
"""

from sgg_jax.data.classes import TRAIN_IDS
from sgg_jax.data.public.layout import Layout, table_of

LAYOUT = Layout(
    title="BDD100K",
    image=r"images/10k/(?P<split>[^/]+)/(?P<key>[^/]+)\.jpg",
    label=r"labels/sem_seg/masks/(?P<split>[^/]+)/(?P<key>[^/]+)\.png",
    table=table_of(TRAIN_IDS, ()),
    licence="terms: https://www.vis.xyz/bdd100k/",
    counts={"train": 7_000, "val": 1_000, "test": 2_000},
    subset="19 classes",
    unlabelled=("test",),
    loose=6,
)
