"""How fast the forms of strided, dilated and pooling layers are against plain ones of equal values.

    taskset -c 0 python benchmarks/forms.py --out benchmarks/forms.json

Each row runs two functions of equal values in turns, inside `lax.scan` as guidance does: a pass forward, and a value
with its gradient with respect to the input. Times are milliseconds a call, medians and ranges over the turns: CPU time
where the device is a CPU, so that neighbours on the core do not count, else the clock's. Prints Markdown and writes
JSON with commit, versions and device. A row more is an entry more in `rows`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sgg_jax.compiler import set_cpu_flags  # noqa: E402

set_cpu_flags()  # before jax is imported

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402

from benchmarks import harness  # noqa: E402
from sgg_jax.models.convolutions import (  # noqa: E402
    atrous_conv2d,
    batch_to_space,
    halving_conv2d,
    max_pool,
    plain_conv2d,
    plain_max_pool,
    plain_pyramid_conv2d,
    pyramid_conv2d,
    space_to_batch,
)
from sgg_jax.models.deeplab import FASTER, FORMS, DeepLabV2  # noqa: E402
from sgg_jax.models.functional import functional  # noqa: E402

Function = Callable[..., jax.Array]  # (x, *weights) -> y
Row = tuple[str, Function, Function, tuple[Any, ...]]  # name, plain, form, (x, *weights)
RATES = (6, 12, 18, 24)


def draw(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape).standard_normal(shape, np.float32))


def kernel(*shape: int) -> jax.Array:
    return draw(*shape) / np.prod(shape[-4:-1]) ** 0.5


def split(x: jax.Array, weights: jax.Array, rate: int) -> jax.Array:
    return batch_to_space(atrous_conv2d(space_to_batch(x, rate), weights), rate)


@jax.custom_vjp
def stored_flip(x: jax.Array, weights: jax.Array, flipped: jax.Array) -> jax.Array:
    """A frozen convolution that is given the kernel of its input gradient."""
    return plain_conv2d(x, weights)


stored_flip.defvjp(
    lambda x, weights, flipped: (plain_conv2d(x, weights), flipped),
    lambda flipped, g: (plain_conv2d(g, flipped), jnp.zeros_like(flipped).swapaxes(2, 3), jnp.zeros_like(flipped)),
)


def deeplab_rows(height: int, width: int) -> Iterator[Row]:
    """Layers of DeepLabV2-ResNet-101 for an image of that size, and the whole."""
    h2, w2, h4, w4, h8, w8 = (-(-side // n) for n in (2, 4, 8) for side in (height, width))
    strided = partial(plain_conv2d, stride=2)
    yield "7x7/2, 3 to 64", strided, halving_conv2d, (draw(1, height, width, 3), kernel(7, 7, 3, 64))
    yield "3x3/2, 128", strided, halving_conv2d, (draw(1, h4, w4, 128), kernel(3, 3, 128, 128))
    yield "max-pool 3x3/2, 64", partial(plain_max_pool, ceil=True), partial(max_pool, ceil=True), (draw(1, h2, w2, 64),)
    for rate, channels in ((2, 256), (4, 512)):
        name, inputs = f"3x3 rate {rate}, {channels}", (draw(1, h8, w8, channels), kernel(3, 3, channels, channels))
        own, split_rate = partial(plain_conv2d, rate=rate), partial(split, rate=rate)
        dilated = lambda x, weights, rate=rate: atrous_conv2d(x, weights, rate)  # noqa: E731
        yield f"{name}: gradient as convolution", own, dilated, inputs
        yield f"{name}: space-to-batch", dilated, split_rate, inputs
    weights = kernel(3, 3, 512, 512)
    flipped = jnp.flip(weights, (0, 1)).swapaxes(2, 3)
    given = (draw(1, h8, w8, 512), weights, flipped)
    yield "3x3, 512: stored flipped kernel", lambda x, weights, _: atrous_conv2d(x, weights), stored_flip, given
    pyramids = (draw(1, h8, w8, 2048), kernel(4, 3, 3, 2048, 19))
    yield "ASPP, 2048 to 19", partial(plain_pyramid_conv2d, rates=RATES), partial(pyramid_conv2d, rates=RATES), pyramids
    networks = {}
    for forms in ((), FASTER, FORMS):
        apply, params = functional(DeepLabV2(classes=19, forms=forms, rng=np.random.default_rng(0)))
        networks[forms] = lambda x, params, apply=apply: apply(params, x)
    image = jnp.tanh(draw(1, height, width, 3))
    yield "DeepLabV2-ResNet-101: " + ", ".join(FASTER), networks[()], networks[FASTER], (image, params)
    yield "DeepLabV2-ResNet-101: space-to-batch", networks[FASTER], networks[FORMS], (image, params)


def loop(function: Function, gradient: bool, calls: int) -> Function:
    """`calls` calls in a scan, each on an input that hangs on the last call's result, so that none can be left out."""

    def step(x: jax.Array, weights: tuple[Any, ...]) -> jax.Array:
        if gradient:
            return x + 1e-6 * jax.grad(lambda x: jnp.square(function(x, *weights)).sum())(x)
        return x + 1e-6 * function(x, *weights).mean()

    return jax.jit(lambda x, *weights: lax.scan(lambda x, _: (step(x, weights), None), x, length=calls)[0])


def measure(row: Row, gradient: bool, calls: int, repeats: int) -> dict[str, Any]:
    """Milliseconds a call of both functions, in turns."""
    name, plain, form, inputs = row
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    runs = {"plain": loop(plain, gradient, calls), "form": loop(form, gradient, calls)}
    values = [run(*inputs) - inputs[0] for run in runs.values()]  # compiles
    difference = harness.difference(values[1], values[0])
    turns = {kind: partial(_finished, run, inputs) for kind, run in runs.items()}
    times = harness.in_turns(turns, repeats, clock=clock)
    spread = {kind: harness.spread([1e3 * second / calls for second in t]) for kind, t in times.items()}
    gain = spread["plain"].median / spread["form"].median
    return {"name": name, "gradient": gradient, **spread, "gain": gain, "difference": difference}


def _finished(run: Function, inputs: tuple[Any, ...]) -> None:
    run(*inputs).block_until_ready()


def main() -> None:
    parser = harness.arguments(__doc__, "forms.json", 5)
    parser.add_argument("--size", type=int, nargs=2, action="append", metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--calls", type=int, default=2, help="calls in a loop")
    arguments = parser.parse_args()
    found = []
    print(harness.head("image", "layer", "", "plain, ms", "form, ms", "times faster"))
    for size in arguments.size or [(128, 256)]:
        for row in deeplab_rows(*size):
            for gradient in (False, True) if arguments.only in row[0] else ():
                one = {"size": list(size), **measure(row, gradient, arguments.calls, arguments.repeats)}
                found.append(one)
                what, times = "value and gradient" if gradient else "value", (one["plain"].text(), one["form"].text())
                print(harness.line(f"{size[0]}x{size[1]}", row[0], what, *times, f"{one['gain']:.2f}"), flush=True)
    harness.write(arguments.out, {"rows": found, "calls": arguments.calls, "repeats": arguments.repeats})


if __name__ == "__main__":
    main()
