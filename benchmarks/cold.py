"""One call of one kind in a process of its own: how long the first one takes, and how much memory. See speed.py.

    python benchmarks/cold.py WORK KIND CALL

WORK: a pickled work.Work. Loads jax or torch, not both. Prints one line of JSON: seconds and bytes.
"""

import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.harness import first_and_later, peak_resident, resident  # noqa: E402
from benchmarks.work import Work  # noqa: E402

LATER = 3


def side(work: Work, kind: str) -> Any:
    if kind == "ours":
        from benchmarks.ours import Ours

        return Ours(work.changes)
    from benchmarks.peers.calls import Peer

    peer = Peer(work, kind)
    _ = peer.networks  # as ours, with the weights in memory
    return peer


def main(path: str, kind: str, name: str) -> None:
    work: Work = pickle.loads(Path(path).read_bytes())
    made = side(work, kind)
    images = len(work.image) if kind == "ours" else made.seen(name)
    call = made.call(name)
    ready, before = time.perf_counter() - BEGAN, resident()
    first, later = first_and_later(call, LATER)
    found = {"ready": ready, "first": first, "later": later.median, "compile": first - later.median}
    print(json.dumps({**found, "images": images, "resident": before, "peak": peak_resident()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
