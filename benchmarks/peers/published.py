"""The paper's networks in PyTorch: guided-diffusion's own UNet, AdaptSegNet's DeepLabV2, transformers' SegFormer.

Each takes an image [B,3,H,W] float32 in [-1,1] and gives float32; weights come under their published names. `dtype` is
of convolutions and products, as guided-diffusion's half precision has it: norms of its UNet stay float32.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)
RGB_MEAN, RGB_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Denoiser(nn.Module):
    """(x [B,3,H,W], step [1]) -> eps."""

    def __init__(self, options: Mapping[str, Any], dtype: torch.dtype):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.cuda.amp.custom_fwd is deprecated
            from guided_diffusion.unet import UNetModel
        self.network = UNetModel(
            image_size=0,  # it does not use it
            in_channels=3,
            model_channels=options["channels"],
            out_channels=6,
            num_res_blocks=options["blocks"],
            attention_resolutions=options["attention"],
            channel_mult=tuple(width / options["channels"] for width in options["widths"]),
            num_head_channels=options.get("head_channels", 64),
            use_scale_shift_norm=True,
            resblock_updown=True,
        )
        self.network.dtype = dtype
        for part in (self.network.input_blocks, self.network.middle_block, self.network.output_blocks):
            for layer in part.modules():
                if isinstance(layer, nn.Conv1d | nn.Conv2d):
                    layer.to(dtype)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        return self.network(x, step.expand(len(x)))[:, :3]


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, rate: int, skip: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, rate, rate, bias=False)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(channels) for channels in (width, width, 4 * width))
        self.downsample = None
        if skip:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + (x if self.downsample is None else self.downsample(x)))


class Classifier(nn.Module):
    def __init__(self, inputs: int, classes: int, rates: tuple[int, ...]):
        super().__init__()
        self.conv2d_list = nn.ModuleList(nn.Conv2d(inputs, classes, 3, 1, rate, rate) for rate in rates)

    def forward(self, x: Tensor) -> Tensor:
        return sum(conv(x) for conv in self.conv2d_list)


class DeepLabV2(nn.Module):
    """AdaptSegNet's, on a caffe ResNet whose BatchNorm keeps its statistics."""

    def __init__(self, options: Mapping[str, Any], dtype: torch.dtype):
        super().__init__()
        blocks, widths = options.get("blocks", (3, 4, 23, 3)), options.get("widths", (64, 128, 256, 512))
        self.dtype = dtype
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for stage, (stride, rate) in enumerate([(1, 1), (2, 1), (1, 2), (1, 4)]):
            row = []
            for block in range(blocks[stage]):
                row.append(Bottleneck(inputs, widths[stage], stride if block == 0 else 1, rate, block == 0))
                inputs = 4 * widths[stage]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*row))
        self.layer6 = Classifier(inputs, options["classes"], options["rates"])
        self.to(dtype).eval()
        self.register_buffer("mean", torch.tensor(BGR_MEAN)[:, None, None], persistent=False)  # stays float32

    def forward(self, image: Tensor) -> Tensor:
        x = ((image.flip(1) + 1) * 127.5 - self.mean).to(self.dtype)
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1, ceil_mode=True)
        logits = self.layer6(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return F.interpolate(logits.float(), size=image.shape[2:], mode="bilinear", align_corners=True)


class SegFormer(nn.Module):
    """transformers' own."""

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype):
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        self.dtype = dtype
        self.network = SegformerForSemanticSegmentation(SegformerConfig(**config)).to(dtype).eval()
        for name, values in (("mean", RGB_MEAN), ("deviation", RGB_DEVIATION)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = (((image + 1) / 2 - self.mean) / self.deviation).to(self.dtype)
        logits = self.network(pixel_values=x).logits.float()
        return F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)


def fill(module: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Gives a network here its weights under their published names; RuntimeError where one does not fit."""
    given = {name: torch.tensor(array) for name, array in weights.items()}
    if isinstance(module, SegFormer):  # transformers has other names inside than in its files
        network = type(module.network).from_pretrained(None, config=module.network.config, state_dict=given)
        given = network.state_dict()
    found = getattr(module, "network", module).load_state_dict(given, strict=False)
    left = [name for name in found.missing_keys if "num_batches_tracked" not in name]
    if left or found.unexpected_keys:
        raise RuntimeError(f"weights do not fit: {left[:3]} missing, {found.unexpected_keys[:3]} unknown")
