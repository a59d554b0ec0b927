"""Cityscapes to ACDC: from fair weather to fog, night, rain and snow.

    python main.py run --config configs/cityscapes_to_acdc.py --workdir runs/acdc \
        --config.data.source.root=/data/cityscapes --config.data.target.root=/data/acdc

One condition alone: --config.data.target.public.split=train/night --config.data.test.public.split=val/night
"""

from configs import real


def get_config():
    config = real.get_config()
    config.data.source.name, config.data.source.size = "cityscapes", (512, 1024)
    config.data.target.name, config.data.target.size = "acdc", (540, 960)
    config.data.test.name, config.data.test.size = "acdc", (540, 960)
    config.data.test.public.split = "val"
    return config
