"""Cityscapes (Cordts et al. 2016), and what is laid out like it, such as our own exports.

    leftImg8bit/{train,val,test}/CITY/NAME_leftImg8bit.png
    gtFine/{train,val,test}/CITY/NAME_gtFine_labelIds.png        (test: dummies)

A set without labelIds files may have NAME_gtFine_labelTrainIds.png: see exported.py.
"""

from sgg_jax.data.classes import LABEL_IDS
from sgg_jax.data.public.layout import Layout, table_of

LAYOUT = Layout(
    title="Cityscapes",
    image=r"leftImg8bit/(?P<split>[^/]+)/(?P<city>[^/]+)/(?P<key>[^/]+)_leftImg8bit\.png",
    label=r"gtFine/(?P<split>[^/]+)/(?P<city>[^/]+)/(?P<key>[^/]+)_gtFine_labelIds\.png",
    table=table_of(LABEL_IDS, tuple(set(range(34)) - {i for ids in LABEL_IDS.values() for i in ids})),
    licence="terms: https://www.cityscapes-dataset.com/license/",
    counts={"train": 2_975, "val": 500, "test": 1_525},
    subset="19 classes",
    unlabelled=("test",),
)
