"""Networks by name. A denoiser is `(x, step) -> eps`, a segmenter `image -> logits`; flax stays in this folder."""

from typing import Any

import numpy as np
from flax import nnx

from sgg_jax.models.adm import ADM as ADM
from sgg_jax.models.deeplab import DeepLabV2 as DeepLabV2
from sgg_jax.models.functional import Apply as Apply
from sgg_jax.models.functional import flops as flops
from sgg_jax.models.functional import functional as functional
from sgg_jax.models.functional import named as named
from sgg_jax.models.functional import outline as outline
from sgg_jax.models.layers import Rng
from sgg_jax.models.options import check_options as check_options
from sgg_jax.models.segformer import SegFormer as SegFormer
from sgg_jax.models.segmenter import EncoderDecoder as EncoderDecoder
from sgg_jax.models.unet import UNet as UNet

DENOISERS = {"unet": UNet, "adm": ADM}
SEGMENTERS = {"encoder_decoder": EncoderDecoder, "deeplab": DeepLabV2, "segformer": SegFormer}


def make(network: type[Any], rng: Rng, **options: Any) -> nnx.Module:
    """A network; ValueError where one of its options is none, or they do not fit together."""
    check_options(network, options)
    made: nnx.Module = network(**options, rng=rng)
    return made


def build(network: type[Any], seed: int, **options: Any) -> tuple[Apply, dict[str, Any]]:
    """(apply, params) of a freshly initialised network; ValueError as `make`."""
    return functional(make(network, np.random.default_rng(seed), **options))
