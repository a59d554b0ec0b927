"""What a run was expected to take, and what it took, by stage.

    python main.py run --config configs/quick.py --workdir runs/quick
    python benchmarks/planned.py --workdir runs/quick --out planned.json

Of a run that was not interrupted: a stage's record tells how long it took in the process that ended it. Prints Markdown
and writes JSON with commit, versions and device.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import harness  # noqa: E402
from sgg_jax.pipeline import STAGES  # noqa: E402
from sgg_jax.records import read_json  # noqa: E402
from sgg_jax.workdir import Stages  # noqa: E402


def compared(workdir: Path) -> dict[str, Any]:
    """{"stages": {stage: {"planned", "real"}}, "preparation"}, in seconds; SystemExit where the run has not ended."""
    plan = read_json(workdir / "plan.json", {"rows": [dict], "preparation": int | float})
    planned: Counter[str] = Counter()
    for row in plan["rows"]:
        planned[row["stage"].partition(":")[0]] += row["seconds"]
    records = {stage: Stages(workdir).result(stage) for stage in STAGES if stage in planned}
    stages = {
        stage: {"planned": planned[stage], "real": float(record["seconds"])}
        for stage, record in records.items()
        if record is not None
    }
    if len(stages) < len(records):
        missing = ", ".join(stage for stage in records if stage not in stages)
        raise SystemExit(f"error: {workdir} is not finished: {missing} is to be run")
    return {"stages": stages, "preparation": plan["preparation"]}


def main(argv: list[str] | None = None) -> None:
    parser = harness.arguments(__doc__, "planned.json", 1)
    parser.add_argument("--workdir", type=Path, required=True, help="of a finished run")
    given = parser.parse_args(argv)
    found = compared(given.workdir)
    print(harness.head("stage", "planned, s", "real, s", "real / planned"))
    sums = {what: sum(entry[what] for entry in found["stages"].values()) for what in ("planned", "real")}
    for stage, entry in (*found["stages"].items(), ("all", sums)):
        numbers = [f"{entry[what]:.0f}" for what in ("planned", "real")]
        print(harness.line(stage, *numbers, f"{entry['real'] / max(entry['planned'], 0.5):.2f}"))
    print(f"\nbefore it, calibrating and compiling: {found['preparation']:.0f} s")
    harness.write(given.out, {"workdir": given.workdir.name, **found, "all": sums})


if __name__ == "__main__":
    main()
