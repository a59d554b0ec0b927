"""Paper-scale networks: seconds, memory and MFU of a denoiser's training step and of a guided translation step.

    python benchmarks/paper_scale.py --out paper_scale.json          # for one GPU: ADM-256, DeepLabV2 and SegFormer-B5
    python benchmarks/paper_scale.py --small --out small.json        # tiny networks, to see that it runs

Weights are random; bfloat16 with float32 weights but for --small. One guided step is one of SGG's: a denoiser's forward
pass, and by turns an input gradient of the segmenter for the whole image (GSG) or for each class present (LCG). MFU:
FLOPs as XLA counts them before it optimises, over seconds and --peak. Prints Markdown, writes JSON.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from sgg_jax.compiler import set_cpu_flags  # noqa: E402

set_cpu_flags()  # before jax is imported
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # first calls are timed

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.tree_util import Partial  # noqa: E402

from benchmarks import harness  # noqa: E402
from configs import default  # noqa: E402
from sgg_jax.devices import data_mesh, replicate, shard  # noqa: E402
from sgg_jax.guidance import VARIANTS  # noqa: E402
from sgg_jax.models import DENOISERS, SEGMENTERS, Apply, build  # noqa: E402
from sgg_jax.optimization import Recipe  # noqa: E402
from sgg_jax.planning import peak_memory  # noqa: E402
from sgg_jax.published.kinds import PUBLISHED, complete  # noqa: E402
from sgg_jax.sampling import Knobs, Method, ancestral  # noqa: E402
from sgg_jax.schedule import linear, noise_schedule, respace  # noqa: E402
from sgg_jax.training import denoiser_objective, init_state, make_step  # noqa: E402
from sgg_jax.translation import translate  # noqa: E402

PEAK = 989e12  # H100 SXM, dense bfloat16 (NVIDIA's data sheet)
FULL = {"256x256_diffusion_uncond": {}, "deeplabv2_resnet101": {}, "segformer-b5": {}}
SMALL: dict[str, dict[str, Any]] = {
    "256x256_diffusion_uncond": dict(channels=32, widths=(32, 64), blocks=1, attention=(2,), head_channels=32),
    "deeplabv2_resnet101": dict(blocks=(1, 1, 1, 1), widths=(8, 8, 16, 16)),
    "segformer-b5": dict(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), channels=16),
}


def network(name: str, small: bool) -> tuple[Apply, Any]:
    """(apply, random weights) of a published configuration, or of a small one of its kind."""
    kind, options = PUBLISHED[name]
    how: dict[str, Any] = {"dtype": "float32" if small else "bfloat16", "remat": not small}
    chosen = {**complete(kind, options), **(SMALL if small else FULL)[name], **how}
    return build({**DENOISERS, **SEGMENTERS}[kind], 0, **chosen)


def measured(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Seconds of the first call, which compiles, and median and range of those that follow."""
    first, later = harness.first_and_later(lambda: jax.block_until_ready(call()), repeats)
    return {"first": first, "seconds": later.median, "least": later.least, "most": later.most}


def flops(apply: Apply, params: Any, *inputs: jax.ShapeDtypeStruct) -> float:
    return float((jax.jit(apply).lower(params, *inputs).cost_analysis() or {}).get("flops", 0.0))


def training_step(denoiser: tuple[Apply, Any], size: tuple[int, int], batch: int, repeats: int) -> dict[str, float]:
    apply, params = denoiser
    recipe = Recipe(**default.training(1, batch, 1e-4).to_dict())
    mesh = data_mesh()
    step = make_step(denoiser_objective(apply, True), recipe.rule, mesh)
    constants = noise_schedule(linear(1000)), jnp.ones(1000)
    state, constants = replicate((init_state(params, recipe), constants), mesh)
    images = shard({"image": np.zeros((batch, *size, 3), np.uint8)}, mesh)

    def call() -> Any:
        nonlocal state  # each step takes its state's memory
        state, metrics = step(state, constants, images, 0, np.float32(0.0))
        return metrics

    found = measured(call, repeats)
    image, index = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    return {**found, "flops": 3 * batch * flops(apply, params, image, index)}


def guided_step(
    denoiser: tuple[Apply, Any], segmenter: tuple[Apply, Any], size: tuple[int, int], batch: int, classes: int,
    repeats: int,
) -> dict[str, float]:  # fmt: skip
    """Of two steps, a global and a local one, the mean."""
    mesh, steps = data_mesh(), 2
    schedule = replicate(respace(linear(1000), 600, steps), mesh)
    rows = np.arange(size[0]) * classes // size[0]
    labels = np.broadcast_to(rows[:, None].astype(np.uint8), (batch, *size))
    data = shard((np.zeros((batch, *size, 3), np.uint8), labels, np.arange(batch, dtype=np.int32)), mesh)
    knobs = replicate(Knobs(jnp.float32(1.0), jnp.float32(0.0), jnp.float32(1.0), jnp.int32(0)), mesh)
    method = Method(VARIANTS["sgg"], ancestral, batch)
    networks = replicate((Partial(*denoiser), Partial(*segmenter)), mesh)
    found = measured(lambda: translate(*networks, schedule, *data, knobs, method=method, mesh=mesh), repeats)
    image, index = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    gradients = 2 * flops(*segmenter, image) * (1 + classes) / steps
    total = batch * (flops(*denoiser, image, index) + gradients)
    times = {name: found[name] / steps for name in ("seconds", "least", "most")}
    return {"first": found["first"], **times, "flops": total}


def _size(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


def main() -> None:
    parser = harness.arguments(__doc__, "paper_scale.json", 5)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--classes", type=int, default=11, help="present in every image")
    parser.add_argument("--batch", type=int, default=jax.device_count())
    parser.add_argument("--sizes", type=_size, nargs="+", default=[(256, 256), (512, 1024)], metavar="HxW")
    parser.add_argument("--peak", type=float, default=PEAK, help="FLOP a second of all devices together")
    arguments = parser.parse_args()
    sizes = [(32, 32), (32, 64)] if arguments.small else arguments.sizes
    denoiser = network("256x256_diffusion_uncond", arguments.small)
    segmenters = {name: network(name, arguments.small) for name in ("deeplabv2_resnet101", "segformer-b5")}
    rows: list[dict[str, Any]] = []
    for size in sizes:
        shape = size, arguments.batch
        made = {"train ADM": lambda s=shape: training_step(denoiser, *s, arguments.repeats)}
        for name, segmenter in segmenters.items():
            made[f"guided step, {name}"] = lambda s=shape, g=segmenter: guided_step(
                denoiser, g, *s, arguments.classes, arguments.repeats
            )
        for title, run in made.items():
            try:
                found = run()
            except jax.errors.JaxRuntimeError as error:  # too large for the device: said, not hidden
                found = {"error": str(error).splitlines()[0][:200]}
            row = {"what": title, "size": size, "batch": arguments.batch, **found, "peak_memory": peak_memory()}
            if "flops" in row:
                row["mfu"] = row["flops"] / row["seconds"] / arguments.peak
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    harness.write(arguments.out, {"rows": rows, "small": arguments.small})
    columns = ["what", "size", "s (range)", "first call, s", "TFLOP", "MFU", "peak memory so far, GiB"]
    print(harness.head(*columns))
    for row in rows:
        cells = (
            [f"{row['seconds']:.4f} ({row['least']:.4f} to {row['most']:.4f})", f"{row['first']:.0f}",
             f"{row['flops'] / 1e12:.3f}", f"{row['mfu']:.1%}"]
            if "seconds" in row else [row["error"], "", "", ""]
        )  # fmt: skip
        size, memory = "x".join(map(str, row["size"])), f"{row['peak_memory'] / 2**30:.1f}"
        print(harness.line(row["what"], size, *cells, memory))


if __name__ == "__main__":
    main()
