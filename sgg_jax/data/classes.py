"""The 19 classes of Cityscapes, their colours and ids, and the subsets that scores are given for."""

import numpy as np

from sgg_jax.data.dataset import VOID, ClassInfo

CITYSCAPES = (
    ClassInfo("road", (7,), (128, 64, 128)),
    ClassInfo("sidewalk", (8,), (244, 35, 232)),
    ClassInfo("building", (11,), (70, 70, 70)),
    ClassInfo("wall", (12,), (102, 102, 156)),
    ClassInfo("fence", (13,), (190, 153, 153)),
    ClassInfo("pole", (17,), (153, 153, 153)),
    ClassInfo("traffic light", (19,), (250, 170, 30)),
    ClassInfo("traffic sign", (20,), (220, 220, 0)),
    ClassInfo("vegetation", (21,), (107, 142, 35)),
    ClassInfo("terrain", (22,), (152, 251, 152)),
    ClassInfo("sky", (23,), (70, 130, 180)),
    ClassInfo("person", (24,), (220, 20, 60)),
    ClassInfo("rider", (25,), (255, 0, 0)),
    ClassInfo("car", (26,), (0, 0, 142)),
    ClassInfo("truck", (27,), (0, 0, 70)),
    ClassInfo("bus", (28,), (0, 60, 100)),
    ClassInfo("train", (31,), (0, 80, 100)),
    ClassInfo("motorcycle", (32,), (0, 0, 230)),
    ClassInfo("bicycle", (33,), (119, 11, 32)),
)
"""Train id -> name, value in labelIds files (cityscapesScripts, labels.py), colour."""

SUBSETS = {
    "19 classes": tuple(range(19)),
    "16 classes": (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
    "13 classes": (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
}
"""Train ids of Cityscapes that a mean IoU is taken over. SYNTHIA has 16 of the classes; 13 are those without the wall,
the fence and the pole that it draws otherwise."""

LABEL_IDS = {i: info.ids for i, info in enumerate(CITYSCAPES)}
"""Train id -> labelIds of Cityscapes, which GTA5 and Synscapes have, too."""
TRAIN_IDS = {i: (i,) for i in range(len(CITYSCAPES))}
"""Train id -> itself, for sets that are labelled with train ids."""


def palette(classes: tuple[ClassInfo, ...]) -> np.ndarray:
    """[256,3] uint8: colours by train id; black for what is none."""
    colors = np.zeros((256, 3), np.uint8)
    if classes:
        colors[: len(classes)] = [info.color for info in classes]
    colors[VOID] = 0
    return colors
