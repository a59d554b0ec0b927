"""Your own images: a folder of labelled source images, a folder of target images, any sizes and formats.

    python main.py run --config configs/folders.py --workdir runs/mine \
        --config.data.source.folder.images=/data/game/images --config.data.source.folder.labels=/data/game/labels \
        --config.data.target.folder.images=/data/camera

Copy this file, put your class table into it and choose a size. Labels are PNG files with the same names as their
images, one value a pixel; list the values below, and those without a class in `void_ids`.

With labelled target images, set config.data.test (and config.data.judge and config.data.val, from other images) to get
scores and a comparison; give `name="folder"` and the folders as for the source.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.data.size = (96, 192)  # height, width: images are scaled to cover it and cut to the middle
    config.data.classes = (  # name, values in the label files, colour in the pictures
        ("road", (0,), (128, 64, 128)),
        ("sidewalk", (1,), (244, 35, 232)),
        ("building", (2,), (70, 70, 70)),
        ("vegetation", (3,), (107, 142, 35)),
        ("sky", (4,), (70, 130, 180)),
        ("person", (5,), (220, 20, 60)),
        ("car", (6,), (0, 0, 142)),
        ("pole", (7,), (153, 153, 153)),
    )
    config.data.workers = 4  # threads that decode images
    config.data.source.name = "folder"
    config.data.target.name = "folder"
    config.denoiser.weights = ""  # the shipped one knows streets
    config.data.judge.name = "none"
    config.data.val.name = "none"
    config.compare.methods = ("none", "sdedit", "sgg_ptl")  # "oracle" needs config.data.judge
    config.compare.seeds = (0,)
    config.compare.sdedit_depths = (400,)  # several need config.data.val
    config.data.test.name = "none"
    return config
