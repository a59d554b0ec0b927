"""Paper-scale networks on one accelerator: seconds, memory and MFU of a denoiser's training step and of guided steps.

    python benchmarks/paper_scale.py --out paper_scale.json          # for one GPU: ADM-256, DeepLabV2 and SegFormer-B5
    python benchmarks/paper_scale.py --peers a b --out with_peers.json    # beside PyTorch, in turns
    python benchmarks/paper_scale.py --small --out small.json        # tiny networks, to see that it runs

Weights are random and the same on both sides; bfloat16 with float32 weights but for --small. One guided step is the
mean of SGG's two: a denoiser's forward pass, and an input gradient of the segmenter for the whole image (GSG) or for
each class present (LCG). PyTorch (kinds as in benchmarks/work.py; (a) takes one image at a time) runs
guided-diffusion's own UNet, AdaptSegNet's DeepLabV2 and transformers' SegFormer; its outputs are held against ours
before anything is timed. MFU: FLOPs as XLA counts them before it optimises, over seconds and --peak. Prints Markdown,
writes JSON.
"""

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.ours import called, columns, lively  # noqa: E402 - sets flags before jax is imported

os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # first calls are timed

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.tree_util import Partial  # noqa: E402

from benchmarks import harness  # noqa: E402
from benchmarks.harness import Call  # noqa: E402
from configs import default  # noqa: E402
from sgg_jax.devices import data_mesh, replicate, shard  # noqa: E402
from sgg_jax.guidance import VARIANTS  # noqa: E402
from sgg_jax.models import DENOISERS, SEGMENTERS, flops, named, outline  # noqa: E402
from sgg_jax.optimization import Recipe  # noqa: E402
from sgg_jax.planning import peak_memory  # noqa: E402
from sgg_jax.published.exporting import links_of  # noqa: E402
from sgg_jax.published.kinds import PUBLISHED, complete  # noqa: E402
from sgg_jax.sampling import Knobs, Method, ancestral  # noqa: E402
from sgg_jax.schedule import NoiseSchedule, linear, noise_schedule, respace  # noqa: E402
from sgg_jax.training import denoiser_objective, init_state, make_step  # noqa: E402
from sgg_jax.translation import translate  # noqa: E402

PEAK = 989e12  # H100 and H200 SXM, dense bfloat16 (NVIDIA's data sheets)
DENOISER, GUIDES = "256x256_diffusion_uncond", ("deeplabv2_resnet101", "segformer-b5")
SMALL: dict[str, dict[str, Any]] = {
    DENOISER: dict(channels=32, widths=(32, 64), blocks=1, attention=(2,), head_channels=32),
    "deeplabv2_resnet101": dict(blocks=(1, 1, 1, 1), widths=(8, 8, 16, 16)),
    "segformer-b5": dict(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), channels=16),
}
DEPTH, STEPS = 600, 2


class Network(NamedTuple):
    """A published configuration with random weights."""

    kind: str  # of sgg_jax.models
    options: dict[str, Any]  # of its constructor, published ones alone
    apply: Partial  # with its weights

    def tensors(self) -> dict[str, np.ndarray]:
        """Its weights under their published names."""
        ours = {name: np.asarray(leaf) for name, leaf in named(self.apply.args[0]).items()}
        found: dict[str, np.ndarray] = {}
        for link in links_of(self.kind, self.options):
            found |= zip(link.theirs, link.write(tuple(ours[name] for name in link.ours)), strict=True)
        return found


@cache
def network(name: str, small: bool) -> Network:
    kind, options = PUBLISHED[name]
    options = {**complete(kind, options), **(SMALL[name] if small else {})}
    how: dict[str, Any] = {"dtype": "float32" if small else "bfloat16", "remat": not small}
    apply, params = outline({**DENOISERS, **SEGMENTERS}[kind](**options, **how, rng=None))
    return Network(kind, options, Partial(apply, lively(params, len(name))))


class Work(NamedTuple):
    """What a row computes."""

    calls: dict[str, Call]  # by kind
    images: dict[str, int]  # of a call
    steps: int  # of a call: what is told is of one
    flops: float  # of one image and step
    differences: dict[str, float]  # between the sides' outputs


def training_step(small: bool, size: tuple[int, int], batch: int) -> Work:
    found = network(DENOISER, small)
    recipe = Recipe(**default.training(1, batch, 1e-4).to_dict())
    mesh = data_mesh()
    step = make_step(denoiser_objective(found.apply.func, True), recipe.rule, mesh)
    constants = noise_schedule(linear(1000)), jnp.ones(1000)
    state, constants = replicate((init_state(found.apply.args[0], recipe), constants), mesh)
    images = shard({"image": np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)}, mesh)

    def call() -> Any:
        nonlocal state  # each step takes its state's memory
        state, metrics = step(state, constants, images, 0, np.float32(0.0))
        return jax.block_until_ready(metrics)

    return Work({"ours": call}, {"ours": batch}, 1, 3 * flops(called, found.apply, *_one(size)), {})


def _one(size: tuple[int, int]) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    return jax.ShapeDtypeStruct((1, *size, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)


def guided_step(guide: str, small: bool, size: tuple[int, int], batch: int, classes: int, kinds: list[str]) -> Work:
    """Two steps from depth 600, a global one and a local one, of images in which all of the classes are."""
    denoiser, segmenter = network(DENOISER, small), network(guide, small)
    mesh, rng = data_mesh(), np.random.default_rng(0)
    schedule = respace(linear(1000), DEPTH, STEPS)
    rows = np.arange(size[0]) * classes // size[0]
    labels = np.broadcast_to(rows[:, None].astype(np.uint8), (batch, *size))
    image = rng.integers(0, 256, (batch, *size, 3), np.uint8)
    given = replicate((denoiser.apply, segmenter.apply, schedule), mesh)
    data = shard((image, labels, np.arange(batch, dtype=np.int32)), mesh)
    knobs = replicate(Knobs(jnp.float32(1.0), jnp.float32(0.0), jnp.float32(1.0), jnp.int32(0)), mesh)
    method = Method(VARIANTS["sgg"], ancestral, batch)

    def call() -> Any:
        return jax.block_until_ready(translate(*given, *data, knobs, method=method, mesh=mesh))

    calls, images, differences = {"ours": call}, {"ours": batch}, {}
    for kind in kinds:
        images[kind] = 1 if kind == "a" else batch
        calls[kind], differences[kind] = peer(kind, denoiser, segmenter, schedule, image, labels, small)
    one, step = _one(size)
    gradients = 2 * flops(called, segmenter.apply, one) * (1 + classes) / STEPS
    return Work(calls, images, STEPS, flops(called, denoiser.apply, one, step) + gradients, differences)


def peer(
    kind: str, denoiser: Network, segmenter: Network, schedule: NoiseSchedule, image: np.ndarray, labels: np.ndarray,
    small: bool,
) -> tuple[Call, float]:  # fmt: skip
    """PyTorch's translation by these steps, and how far its networks' outputs and gradient are from ours."""
    import torch

    from benchmarks.peers import published, translation
    from benchmarks.peers.calls import rows
    from benchmarks.peers.guidance import Likelihood, global_scene
    from sgg_jax.guidance import log_likelihood
    from sgg_jax.published.segformer import config_json
    from sgg_jax.types import to_float

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if small else torch.bfloat16
    layout = torch.contiguous_format if kind == "a" else torch.channels_last
    options = segmenter.options
    if segmenter.kind == "segformer":
        options = config_json(options, [str(number) for number in range(options["classes"])])
    made = {"deeplab": published.DeepLabV2, "segformer": published.SegFormer}[segmenter.kind](options, dtype)
    networks = published.Denoiser(denoiser.options, dtype), made
    for module, given in zip(networks, (denoiser, segmenter), strict=True):
        published.fill(module, given.tensors())
        module.requires_grad_(False).to(device, memory_format=layout)
    compiled = [torch.compile(m, dynamic=False) if kind == "c" else m for m in (*networks, Likelihood(made))]
    count = 1 if kind == "a" else len(image)
    settings = translation.Settings("sgg", "noisy", 2, 1.0, 0.0, 1.0, 0.0, 0 if kind == "a" else count, kind == "c")
    x = torch.tensor(image[:count]).permute(0, 3, 1, 2).to(device, memory_format=layout).float() / 127.5 - 1
    known = torch.tensor(labels[:count].astype(np.int64)).to(device)
    chain = rows(columns(schedule))

    def call() -> Any:
        found = translation.translate(
            translation.Networks(*compiled), chain, x, known, lambda _: torch.randn_like(x), settings
        )
        pixels = translation.to_pixels(found)
        return translation.agreement(compiled[1], pixels, known).cpu(), pixels.cpu()

    ours, step = to_float(jnp.asarray(image[:1])), np.array([DEPTH // 2])
    slope = jax.jit(lambda s, x, y: jax.grad(lambda x: log_likelihood(s(x), y).sum())(x))
    wanted = (
        jax.jit(called)(denoiser.apply, ours, step),
        jax.jit(called)(segmenter.apply, ours),
        slope(segmenter.apply, ours, jnp.asarray(labels[:1], jnp.int32)),
    )
    with torch.no_grad():
        outputs = [networks[0](x[:1], torch.tensor(step, device=device)), networks[1](x[:1])]
    outputs.append(global_scene(Likelihood(made), x[:1], known[:1]))
    pairs = zip(outputs, wanted, strict=True)
    difference = max(harness.difference(o.permute(0, 2, 3, 1).cpu().numpy(), w) for o, w in pairs)
    if small and not difference < 1e-4:  # bfloat16's are written down
        raise AssertionError(f"({kind}) differs from ours by {difference:.2g} of the largest value")
    return call, difference


def measured(work: Work, repeats: int) -> dict[str, Any]:
    """Seconds of our first call, and by kind seconds of a step of one image: median, least and most."""
    first, _ = harness.first_and_later(work.calls["ours"], 1)
    turns = harness.in_turns(work.calls, repeats)
    kinds = {
        kind: harness.spread([s / work.images[kind] / work.steps for s in seconds])._asdict()
        for kind, seconds in turns.items()
    }
    return {"first": first, "kinds": kinds, "flops": work.flops, "differences": work.differences}


def _size(text: str) -> tuple[int, int]:
    height, width = map(int, text.split("x"))
    return height, width


def main(argv: list[str] | None = None) -> None:
    parser = harness.arguments(__doc__, "paper_scale.json", 5)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--classes", type=int, default=11, help="present in every image")
    parser.add_argument("--batch", type=int, default=8 * jax.device_count(), help="images at once")
    parser.add_argument("--sizes", type=_size, nargs="+", default=[(256, 256), (512, 1024)], metavar="HxW")
    parser.add_argument("--peers", nargs="*", default=[], choices=("a", "b", "c"), help="kinds of PyTorch beside ours")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--peak", type=float, default=PEAK, help="FLOP a second of all devices together")
    given = parser.parse_args(argv)
    sizes = [(32, 32), (32, 64)] if given.small else given.sizes
    made: dict[str, Callable[[tuple[int, int]], Work]] = {
        "train ADM": lambda size: training_step(given.small, size, given.batch),
        **{
            f"guided step, {guide}": lambda size, guide=guide: guided_step(
                guide, given.small, size, given.batch, given.classes, given.peers
            )
            for guide in GUIDES
        },
    }
    others = [f"({kind}) / ours" for kind in given.peers]
    print(harness.head("what", "size", "ms an image (range)", "first call, s", "TFLOP", "MFU", "peak GiB", *others))
    rows: list[dict[str, Any]] = []
    for size in sizes:
        for title in (title for title in made if given.only in title):
            row: dict[str, Any] = {"what": title, "size": size, "batch": given.batch}
            try:
                row |= measured(made[title](size), given.repeats)
                row["mfu"] = row["flops"] / row["kinds"]["ours"]["median"] / given.peak
            except jax.errors.JaxRuntimeError as error:  # too large for the device: said, not hidden
                row["error"] = str(error).splitlines()[0][:200]
            rows.append({**row, "peak_memory": peak_memory()})
            print(_line(rows[-1], given.peers), flush=True)
    harness.write(given.out, {"rows": rows, "small": given.small, "classes": given.classes, "peak": given.peak})


def _line(row: dict[str, Any], others: list[str]) -> str:
    size = "x".join(map(str, row["size"]))
    if "error" in row:
        return harness.line(row["what"], size, row["error"], *[""] * (4 + len(others)))
    ours = row["kinds"]["ours"]
    theirs = (row["kinds"].get(kind) for kind in others)
    gains = (f"{found['median'] / ours['median']:.1f}" if found else "" for found in theirs)
    return harness.line(
        row["what"], size, harness.Spread(**ours).text("{:.1f}", 1e3), f"{row['first']:.0f}",
        f"{row['flops'] / 1e12:.3f}", f"{row['mfu']:.1%}", f"{row['peak_memory'] / 2**30:.1f}", *gains,
    )  # fmt: skip


if __name__ == "__main__":
    main()
