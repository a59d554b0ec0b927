"""What few steps cost and what they are worth: students of translations by ways to save steps, on streets.

    python benchmarks/few_steps.py train --workdir runs/few_steps
    python benchmarks/few_steps.py time --workdir runs/few_steps
    python benchmarks/few_steps.py table --workdir runs/few_steps --out benchmarks/few_steps.json --plot few_steps.png

`train`: PTL's guide for every seed, and for every setting and seed the translations of 64 images under it, and a
student of them: its mIoU on the target, the judge's agreement. A row is kept as it is finished, so the same command
goes on; --settings and --seeds name a part of the work. `time`: seconds per image, settings in turns, on a machine with
nothing else to do. `table`: Markdown, JSON and the plot of what both have found.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sgg_jax.compiler import set_cpu_flags  # noqa: E402

set_cpu_flags()  # before jax is imported

import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from benchmarks import harness  # noqa: E402
from configs import study  # noqa: E402
from sgg_jax.checks import check, claim  # noqa: E402
from sgg_jax.experiment import Experiment  # noqa: E402
from sgg_jax.methods import guide  # noqa: E402
from sgg_jax.records import read_json, write_json  # noqa: E402
from sgg_jax.results import guide_place  # noqa: E402
from sgg_jax.stages import adapt, fit_segmenter, scored, train_segmenter  # noqa: E402
from sgg_jax.translated_sets import translate_into  # noqa: E402
from sgg_jax.translation import in_blocks, translate_all  # noqa: E402
from sgg_jax.workdir import commit  # noqa: E402

PAPER: dict[str, Any] = dict(steps=0, sampler="ddpm", spacing="even", lcg_every=2, gradient_every=1, deep_every=1)
TWELVE: dict[str, Any] = {**PAPER, "steps": 12}
FIVE: dict[str, Any] = {**PAPER, "steps": 5, "spacing": "trailing"}
SETTINGS: dict[str, dict[str, Any]] = {
    "ddpm 250": PAPER,  # every step of the depth
    "ddpm 12": TWELVE,
    "ddpm 12, lcg every 4th": {**TWELVE, "lcg_every": 4},
    "ddpm 12, gradient every 2nd": {**TWELVE, "gradient_every": 2},
    "ddpm 12, deep every 3rd": {**TWELVE, "deep_every": 3},
    "ddpm 12, guided below 125": {**TWELVE, "interval": (0.0, 0.125)},
    "dpm 12": {**TWELVE, "sampler": "dpm", "spacing": "trailing"},
    "ddpm 6": {**TWELVE, "steps": 6},
    "ddpm 5": FIVE,
    "ddim 5": {**FIVE, "sampler": "ddim"},
    "dpm 5": {**FIVE, "sampler": "dpm"},
    "dpm 3": {**FIVE, "sampler": "dpm", "steps": 3},
    "dpm 3, lcg every 3rd": {**FIVE, "sampler": "dpm", "steps": 3, "lcg_every": 3},
}
"""Fields of config.translate; scale and clip_ratio are those of configs/default.py."""
PRESETS = {"ddpm 250": "paper", "ddpm 12": "balanced", "ddpm 5": "fast"}
"""Settings that configs/presets.py has, and its names for them."""
STUDY = (
    "64 source images, guides and judge of 400 steps of 16, three rounds of PTL of 150, students of 150 of 8, "
    "200 test images, depth 250"
)


def configured(setting: str, seed: int) -> Any:
    """The study's config, smaller, with the fields of a setting ("" for those of PTL's rounds)."""
    config = study.get_config()
    config.seed = seed
    config.data.source.streets.count, config.data.test.streets.count = 64, 200
    for recipe, steps in ((config.segmenter, 400), (config.adapt, 150), (config.student, 150)):
        recipe.training.steps = steps
    config.student.training.batch_size = 8
    config.translate.update(SETTINGS.get(setting, TWELVE))
    return config


def train(workdir: Path, settings: list[str], seeds: list[int]) -> None:
    base = Experiment(configured("", 0), workdir)
    claim(base)
    train_segmenter(base)
    for seed in seeds:
        seeded = base.with_seed(seed)
        guide(seeded)
        adapt(seeded)
        weights = seeded.segmenter_params(guide_place(seeded))
        for name in settings:
            path = workdir / "rows" / f"{name}-{seed}.json"
            if not path.exists():
                write_json(path, row(base, seeded.workdir, weights, name, seed))


def row(base: Experiment, seeded: Path, guide: Any, name: str, seed: int) -> dict[str, Any]:
    place = seeded / "settings" / name.replace(" ", "_").replace(",", "")
    run = Experiment(configured(name, seed), place, shared=base.workdir)
    check(run)
    depth, count = run.config.translate.depth, len(run.source)
    images = translate_into(run, place / "translated", guide, depth, run.method(), range(count), f"{name}, seed {seed}")
    student = fit_segmenter(run, "student", images, "student", label=f"student of {name}", place=place / "student")
    judge, test = run.segmenter_at("judge"), run.datasets["test"]
    assert test is not None
    return {
        "setting": name,
        "seed": seed,
        "miou": scored(run, run.segmenter(student, "student"), test, "score")["miou"],
        "agreement": scored(run, judge, images, "judge")["miou"],
        "commit": commit(),
    }


def time_settings(workdir: Path, settings: list[str], repeats: int = 3) -> None:
    """Seconds per image of a batch on every device, settings in turns: medians and ranges."""
    base = Experiment(configured("", 0), workdir)
    weights, size, mesh = base.segmenter_params("source"), base.config.translate.batch_size, base.translation_mesh
    together = size * mesh.size
    start = base.start(weights, base.config.translate.depth)

    def translation(name: str) -> harness.Call:
        run = Experiment(configured(name, 0), workdir / "timing", shared=workdir)
        networks, schedule = (run.denoiser(), run.segmenter(weights)), run.schedule(run.config.translate.depth)
        how: dict[str, Any] = dict(batch_size=size, method=run.method(), mesh=mesh, tile=run.tile)
        return lambda: list(
            translate_all(*networks, schedule, start, in_blocks(range(together), size), run.knobs, **how)
        )

    times = harness.in_turns({name: translation(name) for name in settings}, repeats)
    found = {name: harness.spread([second / together for second in seconds]) for name, seconds in times.items()}
    harness.write(workdir / "seconds.json", {"seconds_per_image": found})


def table(workdir: Path, out: Path, plot: Path | None) -> None:
    rows = [read_json(path) for path in sorted((workdir / "rows").glob("*.json"))]
    timed = read_json(workdir / "seconds.json")
    seconds, slowest = timed["seconds_per_image"], timed["seconds_per_image"]["ddpm 250"][0]
    lines = [harness.head("setting", "s per image", "times cheaper", "mIoU, %", "agreement, %", "seeds")]
    points = {}
    for name in SETTINGS:
        own = [row for row in rows if row["setting"] == name]
        if not own or name not in seconds:
            continue
        miou, agreement = (np.array([100 * row[key] for row in own]) for key in ("miou", "agreement"))
        cost = seconds[name][0]
        points[name] = (cost, float(miou.mean()), deviation(miou))
        scores = (f"{values.mean():.1f} ± {deviation(values):.1f}" for values in (miou, agreement))
        lines.append(harness.line(title(name), f"{cost:.3f}", f"{slowest / cost:.1f}", *scores, len(own)))
    print("\n".join(lines))
    write_json(out, {"study": STUDY, "settings": SETTINGS, "rows": rows, **timed})
    if plot is not None:
        draw(points, plot)


def title(name: str) -> str:
    """A setting in words."""
    spacing = ", trailing" if SETTINGS[name]["spacing"] == "trailing" else ""
    return f"{name}{spacing}{f' ({PRESETS[name]})' if name in PRESETS else ''}"


def deviation(values: np.ndarray) -> float:
    """Standard deviation over seeds; 0 of one."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def draw(points: dict[str, tuple[float, float, float]], path: Path) -> None:
    """mIoU of students over seconds per image, and the line of those that no other beats in both."""
    figure = Figure((9, 5), layout="constrained")
    axes = figure.add_subplot()
    best, front = -np.inf, []
    for number, (name, (x, y, spread)) in enumerate(sorted(points.items(), key=lambda item: item[1][0])):
        axes.errorbar(x, y, yerr=spread, fmt="o", ms=12, color="#3f83d6", capsize=3, label=f"{number}  {title(name)}")
        axes.annotate(str(number), (x, y), ha="center", va="center", color="white", fontsize=8, zorder=9)
        if y > best:
            best, front = y, [*front, (x, y)]
    axes.plot(*zip(*front, strict=True), "--", color="#d8730f", label="not beaten in both")
    axes.set(xscale="log", xlabel="seconds per image", ylabel="student's target mIoU, %")
    figure.legend(loc="outside right upper", frameon=False, handlelength=1, markerscale=0.5, fontsize=9)
    axes.grid(alpha=0.2)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "time", "table"))
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("few_steps.json"))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    if given.what == "train":
        train(given.workdir, given.settings, given.seeds)
    elif given.what == "time":
        time_settings(given.workdir, given.settings)
    else:
        table(given.workdir, given.out, given.plot)


if __name__ == "__main__":
    main()
