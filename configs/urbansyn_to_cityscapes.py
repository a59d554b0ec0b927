"""UrbanSyn, which companies may use, to Cityscapes.

    python main.py run --config configs/urbansyn_to_cityscapes.py --workdir runs/urbansyn \
        --config.data.source.root=/data/urbansyn --config.data.target.root=/data/cityscapes
"""

from configs import gta5_to_cityscapes


def get_config():
    config = gta5_to_cityscapes.get_config()
    config.data.source.name, config.data.source.size = "urbansyn", (512, 1024)
    return config
