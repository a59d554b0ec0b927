"""GTA5 to Cityscapes with DeepLabV2-ResNet-101, the segmentation network of most papers before transformers.

    python main.py run --config configs/gta5_to_cityscapes_deeplabv2.py --workdir runs/gta5 \
        --config.data.source.root=/data/gta5 --config.data.target.root=/data/cityscapes
"""

from configs import gta5_to_cityscapes, real


def get_config():
    return real.deeplabv2(gta5_to_cityscapes.get_config())
