"""SYNTHIA-RAND-CITYSCAPES to Cityscapes: 16 classes are in both; scores are given for 19, 16 and 13.

    python main.py run --config configs/synthia_to_cityscapes.py --workdir runs/synthia \
        --config.data.source.root=/data/synthia --config.data.target.root=/data/cityscapes
"""

from configs import gta5_to_cityscapes


def get_config():
    config = gta5_to_cityscapes.get_config()
    config.data.source.name, config.data.source.size = "synthia", (760, 1280)
    return config
