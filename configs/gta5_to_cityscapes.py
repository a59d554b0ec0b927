"""GTA5 to Cityscapes, 19 classes.

    python main.py run --config configs/gta5_to_cityscapes.py --workdir runs/gta5 \
        --config.data.source.root=/data/gta5 --config.data.target.root=/data/cityscapes

A root is the folder with the sets' own folders or with their zip files as downloaded. First `check_data` (same flags)
tells what is wrong with the files; `prepare_data` packs resized copies, which are faster to read.
"""

from configs import real


def get_config():
    config = real.get_config()
    config.data.source.name, config.data.source.size = "gta5", (720, 1280)
    config.data.target.name, config.data.target.size = "cityscapes", (512, 1024)
    config.data.test.name, config.data.test.size = "cityscapes", (512, 1024)
    config.data.test.public.split = "val"  # in the target's root
    return config
