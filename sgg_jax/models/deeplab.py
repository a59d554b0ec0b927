"""DeepLabV2 (Chen et al. 2018) on a ResNet (He et al. 2016): the segmentation network of domain adaptation.

As AdaptSegNet (Tsai et al. 2018) made it usual: output stride 8, one scale, no CRF, and BatchNorm frozen; here it is
folded into the convolutions, so that training and evaluation are the same function.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sgg_jax.models.convolutions import (
    AtrousConv,
    batch_to_space,
    max_pool,
    pad_to,
    plain_max_pool,
    plain_pyramid_conv2d,
    pyramid_conv2d,
    resize_bilinear,
    space_to_batch,
)
from sgg_jax.models.layers import Conv, Rng
from sgg_jax.models.operations import Array

NORMALISATIONS = {  # step through the channels, -1 for BGR; what is subtracted from values in 0..255; what divides them
    "imagenet": (1, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # torchvision
    "caffe": (-1, (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0)),  # AdaptSegNet
}
STRIDE_PLACES = ("1x1", "3x3")

# Other ways to the same values. What they gain is for a value with its input gradient, in a loop, on one CPU core, at
# 128x256 pixels (benchmarks/forms.json); the first three together make the whole network 3% faster. Dilated
# convolutions always have the gradient of convolutions.atrous_conv2d, 3.3 to 3.7 times faster than JAX's own.
FORMS = (
    "halving",  # strided convolutions with a stride-1 input gradient: 1.6 to 1.8 times faster
    "pool",  # max-pooling as a running maximum: 10 times faster
    "pyramid",  # the classifier as one product and shifted sums: 1.4 times faster
    "split",  # stages 3 and 4 on batches of every 2nd and 4th pixel: no faster on CPU, unmeasured on GPUs
)
FASTER = FORMS[:3]

relu = jax.nn.relu


def normalised(image: Array, name: str) -> Array:
    """An RGB image in [-1,1] as the backbone was trained on it, `name` of NORMALISATIONS. [B,H,W,3] float32 both."""
    step, mean, deviation = NORMALISATIONS[name]
    gain, offset = 127.5 / np.array(deviation), (127.5 - np.array(mean)) / np.array(deviation)
    return image.astype(jnp.float32)[..., ::step] * gain.astype(np.float32) + offset.astype(np.float32)


class Bottleneck(nnx.Module):
    """relu(x + 1x1(relu(3x3(relu(1x1(x)))))), 4 * width channels out; the first block of a stage has a 1x1 skip."""

    def __init__(
        self, inputs: int, width: int, *, stride: int, stride_place: str, skip: bool, plain: bool, dtype: str, rng: Rng
    ):
        conv = partial(AtrousConv, dtype=dtype, rng=rng)
        self.conv1 = conv(inputs, width, 1, gain=2**0.5)
        self.conv2 = conv(width, width, 3, gain=2**0.5)
        self.conv3 = conv(width, 4 * width, 1, gain=0.1)
        self.skip = conv(inputs, 4 * width, 1) if skip else None
        self.stride = stride
        self.strides = (stride, 1) if stride_place == "1x1" else (1, stride)
        self.plain = plain

    def __call__(self, x: Array, inside: Array | None = None, *, rate: int = 1) -> Array:
        """inside: 1 where x is image and 0 where it is padding, which the 3x3 kernel must see as zeros. [B,H,W,1]"""
        h = relu(self.conv1(x, stride=self.strides[0]))
        if inside is not None:
            h = h * inside
        h = relu(self.conv2(h, stride=self.strides[1], rate=rate, plain=self.plain))
        return relu(self.conv3(h) + (x if self.skip is None else self.skip(x, stride=self.stride)))


class DeepLabV2(nnx.Module):
    """g: image [B,H,W,3] float32 in [-1,1] -> logits [B,H,W,classes] float32. Any H and W.

    blocks, widths: bottlenecks of each of the four stages, and their inner channels; the stem has widths[0].
    rates: dilations of the classifier's 3x3 convolutions, which are summed.
    normalisation: what the backbone expects, a name of NORMALISATIONS.
    stride_place: the convolution of a bottleneck that strides, "1x1" (caffe, AdaptSegNet) or "3x3" (torchvision).
    ceil_pool: max-pooling keeps a last, partly outer window (caffe, AdaptSegNet): of H = 512, 65 rows and not 64.
    align_corners: how logits are resized to the image, as PyTorch's interpolate.
    forms: which of FORMS to use; values and gradients are the same. remat: keep less for the gradient, compute more.
    """

    def __init__(
        self,
        *,
        classes: int,
        blocks: tuple[int, ...] = (3, 4, 23, 3),
        widths: tuple[int, ...] = (64, 128, 256, 512),
        rates: tuple[int, ...] = (6, 12, 18, 24),
        normalisation: str = "imagenet",
        stride_place: str = "3x3",
        ceil_pool: bool = False,
        align_corners: bool = True,
        forms: tuple[str, ...] = FASTER,
        remat: bool = False,
        dtype: str = "float32",
        rng: Rng,
    ):
        if len(blocks) != 4 or len(widths) != 4 or min(blocks) < 1:
            raise ValueError(f"a ResNet has four stages of blocks: got blocks {blocks} and widths {widths}")
        given = ({normalisation}, {stride_place}, set(forms))
        for found, known in zip(given, (NORMALISATIONS, STRIDE_PLACES, FORMS), strict=True):
            if unknown := found - set(known):
                raise ValueError(f"{min(unknown)!r} is none of {', '.join(known)}")
        self.normalisation, self.ceil_pool, self.align_corners = normalisation, ceil_pool, align_corners
        self.rates, self.forms, self.remat, self.dtype = rates, forms, remat, dtype
        spread = 58 / NORMALISATIONS[normalisation][2][0]  # of what the stem is given
        self.stem = AtrousConv(3, widths[0], 7, dtype=dtype, rng=rng, gain=2**0.5 / spread)

        def stage(inputs: int, width: int, count: int, stride: int) -> nnx.List:
            block = partial(Bottleneck, stride_place=stride_place, plain="halving" not in forms, dtype=dtype, rng=rng)
            first = block(inputs, width, stride=stride, skip=True)
            return nnx.List([first, *(block(4 * width, width, stride=1, skip=False) for _ in range(count - 1))])

        self.layer1 = stage(widths[0], widths[0], blocks[0], 1)
        self.layer2 = stage(4 * widths[0], widths[1], blocks[1], 2)
        self.layer3 = stage(4 * widths[1], widths[2], blocks[2], 1)
        self.layer4 = stage(4 * widths[2], widths[3], blocks[3], 1)
        gain = len(rates) ** -0.5
        self.aspp = nnx.List([Conv(4 * widths[3], classes, 3, dtype=dtype, rng=rng, gain=gain) for _ in rates])

    def _stage(self, x: Array, blocks: nnx.List, rate: int = 1, inside: Array | None = None) -> Array:
        for block in blocks:
            run: Callable[..., Array] = partial(block, rate=rate)
            x = (jax.checkpoint(run) if self.remat else run)(x, inside)
        return x

    def _split(self, x: Array) -> Array:
        """Stages 3 and 4 at rate 1, on batches of every second and of every fourth pixel."""
        height, width = x.shape[1:3]
        inside = pad_to(jnp.ones_like(x[..., :1]), 4)
        x = pad_to(x, 4)
        for blocks in (self.layer3, self.layer4):
            x, inside = space_to_batch(x, 2), space_to_batch(inside, 2)
            x = self._stage(x, blocks, inside=inside)
        return batch_to_space(batch_to_space(x, 2), 2)[:, :height, :width]

    def _encode(self, image: Array) -> Array:
        """The deepest map [B,ceil(H/8),ceil(W/8),4*widths[3]]; with ceil_pool a row and a column more, or not."""
        x = normalised(image, self.normalisation)
        x = relu(self.stem(x, stride=2, plain="halving" not in self.forms))
        x = (max_pool if "pool" in self.forms else plain_max_pool)(x, self.ceil_pool)
        x = self._stage(self._stage(x, self.layer1), self.layer2)
        if "split" in self.forms:
            return self._split(x)
        return self._stage(self._stage(x, self.layer3, 2), self.layer4, 4)

    def features(self, image: Array) -> Array:
        """What an image as a whole looks like: the deepest map's mean over its places. -> [B,4*widths[3]] float32."""
        return self._encode(image).astype(jnp.float32).mean((1, 2))

    def logits(self, image: Array) -> Array:
        """Logits where the network makes them, at an eighth of the image's size. -> [B,h,w,classes] float32."""
        kernels = jnp.stack([conv.kernel[...] for conv in self.aspp]).astype(self.dtype)
        pyramid = pyramid_conv2d if "pyramid" in self.forms else plain_pyramid_conv2d
        return pyramid(self._encode(image), kernels, self.rates) + sum(conv.bias[...] for conv in self.aspp)

    def __call__(self, image: Array) -> Array:
        return resize_bilinear(self.logits(image), (image.shape[1], image.shape[2]), self.align_corners)
