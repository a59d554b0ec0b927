"""Our own translated and exported sets: laid out like Cityscapes, labelled with train ids (see writer.py).

    leftImg8bit/SPLIT/SET/NAME_leftImg8bit.png, gtFine/SPLIT/SET/NAME_gtFine_labelTrainIds.png

Anything else of that layout is read, too, such as Cityscapes after createTrainIdLabelImgs of cityscapesScripts.
"""

from sgg_jax.data.classes import TRAIN_IDS
from sgg_jax.data.public.cityscapes import LAYOUT as CITYSCAPES
from sgg_jax.data.public.layout import Layout, table_of

LAYOUT = Layout(
    title="an export",
    image=CITYSCAPES.image,
    label=r"gtFine/(?P<split>[^/]+)/(?P<city>[^/]+)/(?P<key>[^/]+)_gtFine_labelTrainIds\.png",
    table=table_of(TRAIN_IDS, ()),
    licence="that of the set it was made from",
    counts={},
    subset="19 classes",
)
