"""The table between guided-diffusion's files and ADM, and options from the shapes of a file."""

import math

import numpy as np
import pytest
from small_adm import OPTIONS, SMALL, drawn, read, write
from toys import check_table

from sgg_jax.errors import InputError
from sgg_jax.published import adm


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_every_tensor_is_read_and_written_as_it_was(changes):
    options = SMALL | changes
    check_table(adm.links(**options))
    tensors = drawn(options)
    back = write(read(tensors, options)[1], options)
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(back[key], tensor)


COUNTS = {  # the paper's tables of hyperparameters round them: 552M (LSUN), 554M, 559M, 422M, 296M
    "256x256_diffusion_uncond": 552_814_086,
    "256x256_diffusion": 553_838_086,
    "512x512_diffusion": 558_997_638,
    "512x512_diffusion_uncond_finetune": 557_973_638,
    "128x128_diffusion": 421_529_606,
    "64x64_diffusion": 295_904_454,
    "ffhq_10m": 93_563_910,
}


@pytest.mark.parametrize("name", adm.PUBLISHED)
def test_published_networks_are_recognised(name):
    options = adm.PUBLISHED[name]
    shapes = adm.tensor_shapes(options)
    assert sum(math.prod(shape) for shape in shapes.values()) == COUNTS[name]
    found = adm.options_of(shapes)
    assert found | options == found


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_shapes_tell_the_options(changes):
    options = SMALL | changes
    found = adm.options_of(adm.tensor_shapes(options))
    untold = {"heads", "head_channels", "new_attention_order", "label"}
    assert found | {name: value for name, value in options.items() if name not in untold} == found
    assert adm.tensor_shapes({**found, "heads": 1}) == adm.tensor_shapes(options)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"time_embed.0.weight": None}, "time_embed.0.weight is missing or has too few axes"),
        ({"time_embed.0.weight": (128,)}, "time_embed.0.weight is missing or has too few axes"),
        ({"time_embed.0.weight": (128, 33)}, "emb_layers.1.weight has"),
        ({"out.2.weight": (8, 32, 3, 3)}, r"out.2.bias has \[6\] in the place of \[3\]"),
        ({"input_blocks.0.0.weight": (32, 6, 3, 3)}, "input_blocks.0.0.weight has"),  # super-resolution
        ({"input_blocks.1.0.in_layers.2.weight": None}, "input_blocks.1.0.in_layers.2.weight is missing"),
        ({"output_blocks.3.0.out_layers.0.weight": None}, "output_blocks.3.0.out_layers.0.weight is missing"),
        ({"output_blocks.2.0.out_layers.0.weight": (40,)}, "40 channels do not divide into the 32 groups"),
        ({"input_blocks.0.0.more": (1,)}, "input_blocks.0.0.more is none of its"),
        ({"output_blocks.99.0.weight": (1,)}, "output_blocks.99.0.weight is none of its"),
        ({"middle_block.1.qkv.weight": (192, 64)}, r"middle_block.1.qkv.weight has \[192, 64\]"),
    ],
)
def test_what_is_no_adm_is_refused(changes, sentence):
    shapes = {**adm.tensor_shapes(SMALL), **changes}
    with pytest.raises(InputError, match=sentence):
        adm.options_of({key: shape for key, shape in shapes.items() if shape is not None})


def test_a_classifier_is_refused():
    shapes = adm.tensor_shapes(SMALL)
    with pytest.raises(InputError, match="output_blocks.0.0.out_layers.0.weight is missing"):
        adm.options_of({key: shape for key, shape in shapes.items() if not key.startswith("output_blocks.")})
