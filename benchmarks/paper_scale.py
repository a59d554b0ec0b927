"""Paper-scale networks on one accelerator: seconds, memory and MFU of a denoiser's training step and of guided steps.

    python benchmarks/paper_scale.py --out paper_scale.json          # for one GPU: ADM-256, DeepLabV2 and SegFormer-B5
    python benchmarks/paper_scale.py --peers a b --out with_peers.json    # beside PyTorch, in turns
    python benchmarks/paper_scale.py --small --out small.json        # tiny networks, to see that it runs

Weights are random and the same on both sides; bfloat16 with float32 weights but for --small and --float32. One guided
step is the mean of SGG's two: a denoiser's forward pass, and an input gradient of the segmenter for the whole image
(GSG) or for each class present (LCG). PyTorch (kinds as in benchmarks/work.py; (a) takes one image at a time) runs
guided-diffusion's own UNet, AdaptSegNet's DeepLabV2 and transformers' SegFormer. Before anything is timed both networks
and both gradients of one image are held against ours: small ones must agree to 1e-4 of the largest value; at full size,
where kinks of a hundred rectified layers turn rounding into other gradients, differences are written down. MFU: forward
passes as XLA counts them, two for an input gradient, three for a training step, over seconds and --peak. Prints
Markdown, writes JSON row by row.
"""

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.ours import called, columns, lively  # noqa: E402, I001 - sets flags before jax is imported

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.tree_util import Partial  # noqa: E402

from benchmarks import harness  # noqa: E402
from benchmarks.harness import Call  # noqa: E402
from configs import default  # noqa: E402
from sgg_jax.calibration import thinned  # noqa: E402
from sgg_jax.devices import data_mesh, replicate, shard  # noqa: E402
from sgg_jax.guidance import VARIANTS, log_likelihood  # noqa: E402
from sgg_jax.models import DENOISERS, SEGMENTERS, flops, named, outline  # noqa: E402
from sgg_jax.optimization import Recipe  # noqa: E402
from sgg_jax.planning import peak_memory  # noqa: E402
from sgg_jax.published.exporting import links_of  # noqa: E402
from sgg_jax.published.kinds import PUBLISHED, complete  # noqa: E402
from sgg_jax.published.segformer import config_json  # noqa: E402
from sgg_jax.sampling import Knobs, Method, ancestral  # noqa: E402
from sgg_jax.schedule import NoiseSchedule, linear, noise_schedule, respace  # noqa: E402
from sgg_jax.training import denoiser_objective, init_state, make_step  # noqa: E402
from sgg_jax.translation import translate  # noqa: E402
from sgg_jax.types import Array, to_float  # noqa: E402

PEAK = 989e12  # of one H100 or H200 SXM, dense bfloat16 (NVIDIA's data sheets)
DENOISER, GUIDES = "256x256_diffusion_uncond", ("deeplabv2_resnet101", "segformer-b5")
SMALL: dict[str, dict[str, Any]] = {
    DENOISER: dict(channels=32, widths=(32, 64), blocks=1, attention=(2,), head_channels=32),
    "deeplabv2_resnet101": dict(blocks=(1, 1, 1, 1), widths=(8, 8, 16, 16)),
    "segformer-b5": dict(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), channels=16),
}
DEPTH, STEPS = 600, 2
LIMIT = 1e-4  # of a small network's difference, by the largest value


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


class Scale(NamedTuple):
    """Of what networks, in what arithmetic, on what."""

    small: bool
    dtype: str
    size: tuple[int, int]
    batch: int
    classes: int  # present in every image


class Work(NamedTuple):
    """What a row computes."""

    calls: dict[str, Call]  # by kind
    images: dict[str, int]  # of a call
    steps: int  # of a call: what is told is of one
    flops: float  # of one image and step
    differences: dict[str, dict[str, float]]  # of PyTorch's kinds from ours, by part


@cache
def network(name: str, small: bool, dtype: str) -> Network:
    kind, options = PUBLISHED[name]
    options = {**complete(kind, options), **(SMALL[name] if small else {})}
    apply, params = outline({**DENOISERS, **SEGMENTERS}[kind](**options, dtype=dtype, remat=not small, rng=None))
    return Network(kind, options, Partial(apply, lively(params, seed=0)))


def training_step(scale: Scale) -> Work:
    denoiser = network(DENOISER, scale.small, scale.dtype).apply
    recipe = Recipe(**default.training(1, scale.batch, 1e-4).to_dict())
    mesh = data_mesh()
    step = make_step(denoiser_objective(denoiser.func, True), recipe.rule, mesh, 1)
    constants = noise_schedule(linear(1000)), jnp.ones(1000)
    state, constants = replicate((init_state(denoiser.args[0], recipe), constants), mesh)
    images = shard({"image": _images(scale)}, mesh)

    def call() -> Any:
        nonlocal state  # each step takes its state's memory
        state, metrics = step(state, constants, images, 0, np.float32(0.0))
        return jax.block_until_ready(metrics)

    return Work({"ours": call}, {"ours": scale.batch}, 1, 3 * flops(called, denoiser, *_one(scale)), {})


def _images(scale: Scale) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (scale.batch, *scale.size, 3), np.uint8)


def _one(scale: Scale) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """An image and its step."""
    return jax.ShapeDtypeStruct((1, *scale.size, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)


def guided_step(guide: str, scale: Scale, kinds: list[str]) -> Work:
    """The first two of three steps from depth 600, a local one and a global one. (The third takes no gradient.)"""
    denoiser, segmenter = (network(name, scale.small, scale.dtype) for name in (DENOISER, guide))
    mesh, schedule = data_mesh(), thinned(respace(linear(1000), DEPTH, STEPS + 1), STEPS)
    stripes = np.arange(scale.size[0]) * scale.classes // scale.size[0]
    labels = np.broadcast_to(stripes[:, None].astype(np.uint8), (scale.batch, *scale.size))
    image = _images(scale)
    networks = replicate((denoiser.apply, segmenter.apply, schedule), mesh)
    data = shard((image, labels, np.arange(scale.batch, dtype=np.int32)), mesh)
    knobs = replicate(Knobs(jnp.float32(1.0), jnp.float32(0.0), jnp.float32(1.0), jnp.int32(0)), mesh)
    method = Method(VARIANTS["sgg"], ancestral, scale.batch // mesh.size)

    def call() -> Any:
        return jax.block_until_ready(translate(*networks, *data, knobs, method=method, mesh=mesh))

    calls, images, differences = {"ours": call}, {"ours": scale.batch}, {}
    wanted = outputs(denoiser.apply, segmenter.apply, image[:1], labels[:1]) if kinds else {}
    for kind in kinds:
        images[kind] = 1 if kind == "a" else scale.batch
        few = image[: images[kind]], labels[: images[kind]]
        calls[kind], found = peer(kind, denoiser, segmenter, schedule, *few, scale.dtype)
        differences[kind] = held_against(wanted, found, LIMIT if scale.small else np.inf)
    one, step = _one(scale)
    gradients = 2 * flops(called, segmenter.apply, one) * (1 + scale.classes) / STEPS
    return Work(calls, images, STEPS, flops(called, denoiser.apply, one, step) + gradients, differences)


def outputs(denoiser: Partial, segmenter: Partial, image: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Ours of both networks and of both gradients, of uint8 images and labels. [B,H,W,C] each."""

    def slope(segmenter: Partial, x: Array, labels: Array) -> Array:
        return jax.grad(lambda x: log_likelihood(segmenter(x), labels).sum())(x)

    x, known = to_float(jnp.asarray(image)), jnp.asarray(labels, jnp.int32)
    gradient = jax.jit(slope)
    regions = [(known == label)[..., None] for label in np.unique(labels)]
    found = {
        "denoiser": jax.jit(called)(denoiser, x, np.array([DEPTH // 2])),
        "segmenter": jax.jit(called)(segmenter, x),
        "GSG": gradient(segmenter, x, known),
        "LCG": sum(gradient(segmenter, x * one, jnp.where(one[..., 0], known, 255)) * one for one in regions),
    }
    return {name: np.asarray(value) for name, value in found.items()}


def held_against(wanted: dict[str, Any], found: dict[str, Any], limit: float) -> dict[str, float]:
    """Differences by part; AssertionError, naming the first, where one is more than the limit or no number."""
    differences = {name: harness.difference(found[name], value) for name, value in wanted.items()}
    for name, difference in differences.items():
        if not difference < limit:
            raise AssertionError(f"PyTorch's {name} differs by {difference:.2g} of the largest value")
    return differences


def peer(
    kind: str, denoiser: Network, segmenter: Network, schedule: NoiseSchedule, image: np.ndarray, labels: np.ndarray,
    dtype: str,
) -> tuple[Call, dict[str, np.ndarray]]:  # fmt: skip
    """PyTorch's translation by these steps, and its `outputs` of the first image."""
    import torch

    from benchmarks.peers import guidance, published, translation
    from benchmarks.peers.calls import rows

    torch.set_float32_matmul_precision("high")  # as jax takes products of float32 on NVIDIA's cards
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.contiguous_format if kind == "a" else torch.channels_last
    options = segmenter.options
    if segmenter.kind == "segformer":
        options = config_json(options, [str(number) for number in range(options["classes"])])
    guide = {"deeplab": published.DeepLabV2, "segformer": published.SegFormer}[segmenter.kind]
    plain = published.Denoiser(denoiser.options, getattr(torch, dtype)), guide(options, getattr(torch, dtype))
    for module, ours in zip(plain, (denoiser, segmenter), strict=True):
        published.fill(module, ours.tensors())
        module.requires_grad_(False).to(device, memory_format=layout)
    modules = (*plain, guidance.Likelihood(plain[1]))
    networks = translation.Networks(*(torch.compile(m, dynamic=False) if kind == "c" else m for m in modules))
    settings = translation.Settings(
        guidance="sgg", look="noisy", lcg_every=2, scale=1.0, fill=0.0, limit=1.0, clip_ratio=0.0,
        microbatch=0 if kind == "a" else len(image), padded=kind == "c",
    )  # fmt: skip
    x = torch.tensor(image).permute(0, 3, 1, 2).to(device, memory_format=layout).float() / 127.5 - 1
    known = torch.tensor(labels.astype(np.int64)).to(device)

    def call() -> Any:
        torch.backends.cudnn.benchmark = kind != "a"  # shapes stay, and XLA tries its convolutions out, too
        drawn = translation.translate(
            networks, rows(columns(schedule)), x, known, lambda _: torch.randn_like(x), settings
        )
        pixels = translation.to_pixels(drawn)
        return translation.agreement(networks.segmenter, pixels, known).cpu(), pixels.cpu()

    with torch.no_grad():
        step = torch.tensor([DEPTH // 2], device=device)
        found = {"denoiser": networks.denoiser(x, step), "segmenter": networks.segmenter(x)}
    found["GSG"] = guidance.global_scene(networks.likelihood, x, known)
    if kind == "a":
        found["LCG"] = guidance.local_class_loop(networks.likelihood, x, known, settings.fill)
    else:
        pairs = guidance.present_pairs(known)
        found["LCG"] = guidance.local_class_batched(
            networks.likelihood, x, known, settings.fill, pairs, settings.microbatch, settings.padded
        )
    return call, {name: value[:1].permute(0, 2, 3, 1).cpu().numpy() for name, value in found.items()}


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


def _too_large() -> tuple[type[Exception], ...]:
    """What either side raises where the device's memory is too small."""
    torch = sys.modules.get("torch")
    return (jax.errors.JaxRuntimeError, *([torch.OutOfMemoryError] if torch else []))


def main(argv: list[str] | None = None) -> None:
    parser = harness.arguments(__doc__, "paper_scale.json", 5)
    parser.add_argument("--small", action="store_true", help="tiny networks, 32x32 pixels, float32")
    parser.add_argument("--float32", action="store_true", help="compute in float32")
    parser.add_argument("--classes", type=int, default=11, help="present in every image")
    parser.add_argument("--batch", type=int, default=8 * jax.device_count(), help="images at once")
    parser.add_argument("--sizes", type=_size, nargs="+", default=[(256, 256), (512, 1024)], metavar="HxW")
    parser.add_argument("--peers", nargs="*", default=[], choices=("a", "b", "c"), help="kinds of PyTorch beside ours")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--peak", type=float, default=PEAK * jax.device_count(), help="FLOP a second of all devices")
    given = parser.parse_args(argv)
    if given.peers and jax.device_count() > 1 and not given.small:
        parser.error("PyTorch's side takes one device: show jax one alone (CUDA_VISIBLE_DEVICES=0)")
    dtype = "float32" if given.small or given.float32 else "bfloat16"
    made: dict[str, Callable[[Scale], Work]] = {"train ADM": training_step}
    for guide in GUIDES:
        made[f"guided step, {guide}"] = lambda scale, guide=guide: guided_step(guide, scale, given.peers)
    others = [f"({kind}) / ours" for kind in given.peers]
    print(
        harness.head(
            "what",
            "size",
            "ms an image (range)",
            f"images/s, N = {DEPTH}",
            "first call, s",
            "TFLOP",
            "MFU",
            "peak so far, GiB",
            *others,
        )
    )
    rows: list[dict[str, Any]] = []
    for size in [(32, 32)] if given.small else given.sizes:
        scale = Scale(given.small, dtype, size, given.batch, given.classes)
        for title in filter(lambda title: given.only in title, made):
            row: dict[str, Any] = {"what": title, "size": size, "batch": given.batch}
            try:
                row |= measured(made[title](scale), given.repeats)
                row["mfu"] = row["flops"] / row["kinds"]["ours"]["median"] / given.peak
            except _too_large() as error:  # said, not hidden
                row["error"] = str(error).splitlines()[0][:200]
            rows.append({**row, "peak_memory": peak_memory()})
            print(_line(rows[-1], given.peers), flush=True)
            about = {"small": given.small, "dtype": dtype, "classes": given.classes, "peak": given.peak}
            about |= {"repeats": given.repeats, "kinds": ["ours", *given.peers]}
            harness.write(given.out, {"rows": rows, **about})


def _line(row: dict[str, Any], others: list[str]) -> str:
    size = "x".join(map(str, row["size"]))
    if "error" in row:
        return harness.line(row["what"], size, row["error"], *[""] * (5 + len(others)))
    ours = row["kinds"]["ours"]
    theirs = (row["kinds"].get(kind) for kind in others)
    gains = (f"{found['median'] / ours['median']:.1f}" if found else "" for found in theirs)
    rate = "" if row["what"].startswith("train") else f"{1 / (DEPTH * ours['median']):.3f}"
    return harness.line(
        row["what"], size, harness.Spread(**ours).text("{:.1f}", 1e3), rate, f"{row['first']:.0f}",
        f"{row['flops'] / 1e12:.3f}", f"{row['mfu']:.1%}", f"{row['peak_memory'] / 2**30:.1f}", *gains,
    )  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory of the same card
    jax.config.update("jax_enable_compilation_cache", False)  # first calls are timed
    main()
