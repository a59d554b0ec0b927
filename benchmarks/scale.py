"""How a translation by many hosts goes: the program's own leases under a clock of simulated events.

    python benchmarks/scale.py --out benchmarks/scale.json

Hosts of eight devices take blocks of images from one work list (`sgg_jax/leases.py`, the code that runs, in a temporary
directory). What a block takes is drawn: of its images, each with its own number of classes, and of its host, some of
which are slow; hosts are preempted and do not come back before the job is started again. Seconds of a step are those of
speed_rows.json, times what --faster says of another device. Efficiency: the work's seconds on one quick device, by
all devices' seconds from start to end, waiting, work done twice and the restart after a loss included.
"""

import heapq
import json
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks import harness  # noqa: E402
from sgg_jax.leases import Leases  # noqa: E402


class Work(NamedTuple):
    """What is to be done, by what."""

    devices: int
    images: int = 24_966  # GTA5
    batch: int = 4  # images a device has at once
    a_host: int = 8  # devices of one
    slow: float = 0.05  # share of hosts that take `slower` times as long
    slower: float = 1.5
    lost_an_hour: float = 0.01  # of the hosts, by preemption or failure
    restart: float = 120.0  # seconds to start a job again and to load what is compiled
    a_look: float = 5.0  # seconds between two looks of an idle host


class Outcome(NamedTuple):
    seconds: float  # from start to end, with a restart where hosts were lost
    efficiency: float
    used: float  # the same, of what these hosts can do: slow ones less
    tail: float  # seconds from when a host first found nothing free to the end
    twice: int  # blocks done again
    lost: int  # hosts
    device_hours: float


def block_seconds(work: Work, image: float, a_class: float, rng: np.random.Generator) -> np.ndarray:
    """Seconds of every block on a quick device: `image` for each image and `a_class` for each of its classes."""
    classes = np.clip(rng.normal(11, 2.5, work.images).round(), 4, 19)
    seconds = image + a_class * classes
    return np.add.reduceat(seconds, np.arange(0, work.images, work.batch))


def simulate(work: Work, blocks: np.ndarray, seed: int = 0) -> Outcome:
    """One translation of all blocks [n], given in seconds on a quick device."""
    hosts = max(1, work.devices // work.a_host)
    each = min(work.devices, work.a_host)
    rng, now = np.random.default_rng(seed), 0.0
    speed = np.ones(hosts)  # times as long as a quick host takes
    speed[rng.permutation(hosts)[: round(work.slow * hosts)]] = work.slower
    dies = rng.exponential(3600 / max(work.lost_an_hour, 1e-12), hosts) if hosts > 1 else np.full(1, np.inf)
    first_idle, done_by, times, lost = np.inf, 0.0, 0, set()
    with tempfile.TemporaryDirectory() as place:
        leases = [
            Leases(Path(place), range(len(blocks)), host, hosts, pause=0.0, clock=lambda: now) for host in range(hosts)
        ]
        given: list[Iterator[int | None]] = [iter(own) for own in leases]
        rounds: list[deque[list[int | None]]] = [deque() for _ in range(hosts)]  # what runs, and what is next

        free = np.zeros((hosts, each))  # when each device has done what it was given
        events: list[tuple[float, int]] = []  # (when a round is done, host)

        def begin(host: int) -> bool:
            """Gives a host's devices their next blocks, which each begins when it has done what it has; False at the
            end of the work."""
            taken = list(islice(given[host], each))
            if not taken:
                return False
            for device in range(each):  # those without a block of their own are given copies
                block = taken[min(device, len(taken) - 1)]
                length = work.a_look if block is None else blocks[block] * speed[host]
                free[host, device] = max(now, free[host, device]) + length
            rounds[host].append(taken)
            heapq.heappush(events, (float(free[host].max()), host))
            return True

        for _ in range(2):  # what runs, and what is next
            for host in range(hosts):
                begin(host)
        while events:
            now, host = heapq.heappop(events)
            if dies[host] < now:
                lost.add(host)
                if len(lost) == hosts:
                    raise RuntimeError("all hosts were lost before the work was done")
                continue
            finished = rounds[host].popleft()
            done = [block for block in finished if block is not None]
            for _ in finished:
                leases[host].finish()
            times += len(done)
            done_by = now if done else done_by
            if not begin(host) or not any(block is not None for block in rounds[host][-1]):
                first_idle = min(first_idle, now)
    seconds = done_by + (work.restart if lost else 0.0)
    return Outcome(
        seconds,
        float(blocks.sum()) / (seconds * hosts * each),
        float(blocks.sum()) / (seconds * each * float((1 / speed).sum())),
        max(0.0, done_by - first_idle),
        times - len(blocks),
        len(lost),
        seconds * hosts * each / 3600,
    )


def measured(path: Path, steps: int) -> tuple[float, float]:
    """Seconds of an image and of each class of it, for `steps` steps of SGG, from the table of parts."""
    record = json.loads(path.read_text())
    rows = {row["name"]: row["kinds"]["ours"]["median"] for row in record["rows"]}
    plain = rows["GSG step (with its denoiser pass)"] + rows["denoiser forward"]
    return steps / 2 * plain, steps / 2 * rows["LCG gradient"] / record["classes_present"]


def main() -> None:
    parser = harness.arguments(__doc__, "benchmarks/scale.json", 5)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--faster", type=float, default=8.0, help="how much faster a device is than that of the table")
    parser.add_argument("--batch", type=int, default=4, help="images that a device has at once")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 256, 2048])
    parser.add_argument("--price", type=float, default=2.0, help="of a device's hour")
    given = parser.parse_args()
    image, a_class = measured(ROOT / "benchmarks" / "speed_rows.json", given.steps)
    image, a_class = image / given.faster, a_class / given.faster
    settings: dict[str, dict[str, Any]] = {
        "quiet": dict(slow=0.0, lost_an_hour=0.0),
        "stragglers": dict(lost_an_hour=0.0),
        "stragglers and losses": {},
    }
    print(
        harness.head(
            "devices", "hosts are", "hours", "efficiency", "of what they can", "tail, s", "done twice", "lost", "cost"
        )
    )
    rows = []
    for devices in given.devices:
        for name, setting in settings.items():
            work = Work(devices, batch=given.batch, **setting)
            blocks = block_seconds(work, image, a_class, np.random.default_rng(0))
            outcomes = [simulate(work, blocks, seed) for seed in range(given.repeats)]
            mean = Outcome(*np.mean(outcomes, axis=0))
            rows.append({"setting": name, **work._asdict(), **mean._asdict(), "cost": mean.device_hours * given.price})
            cells = f"{mean.seconds / 3600:.2f}", f"{mean.efficiency:.1%}", f"{mean.used:.1%}", f"{mean.tail:.0f}"
            print(
                harness.line(devices, name, *cells, f"{mean.twice:.1f}", f"{mean.lost:.1f}", f"{rows[-1]['cost']:.0f}"),
                flush=True,
            )
    record = {"rows": rows, "seconds_an_image": image, "seconds_a_class": a_class, "price": given.price}
    harness.write(given.out, record)


if __name__ == "__main__":
    main()
