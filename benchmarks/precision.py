"""What an accelerator's arithmetic changes: every part there, held against float32 on this machine's CPU.

    python benchmarks/precision.py --out precision.json

The streets networks, by three arithmetics: float32 products in full ("highest"), as the device takes them by default
(TensorFloat-32 on NVIDIA, bfloat16 passes on TPU), and networks that compute in bfloat16. Largest difference by largest
value. Where the CPU is all there is, the first two columns are 0. --tiny shows that it runs.
"""

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.ours import TINY, Ours  # noqa: E402, I001 - sets flags before jax is imported
from benchmarks import harness  # noqa: E402
from benchmarks.equality import Answers, answers  # noqa: E402

import jax  # noqa: E402

BFLOAT16 = {"denoiser.unet.dtype": "bfloat16", "segmenter.encoder_decoder.dtype": "bfloat16"}
ARITHMETICS: dict[str, tuple[str, dict[str, Any]]] = {  # jax's precision of products, changes of the config
    "highest": ("highest", {}),
    "default": ("default", {}),
    "bfloat16": ("default", BFLOAT16),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("precision.json"), help="the JSON file that is written")
    parser.add_argument("--tiny", action="store_true", help="very small networks and images")
    parser.add_argument("--answers", type=Path, help="only write the answers of this process's device to that file")
    given = parser.parse_args(argv)
    changes = TINY if given.tiny else {}
    if given.answers:
        given.answers.write_bytes(pickle.dumps(answers(Ours(changes), trained=())))
        return
    wanted = on_cpu(given.tiny)
    found: dict[str, dict[str, float]] = {}
    print(harness.head("difference from the CPU's float32", *ARITHMETICS))
    for name, (precision, more) in ARITHMETICS.items():
        with jax.default_matmul_precision(precision):
            found[name] = differences(wanted, answers(Ours({**changes, **more}), trained=()))
    for part in found["highest"]:
        print(harness.line(part, *(f"{found[name][part]:.1e}" for name in ARITHMETICS)))
    harness.write(given.out, {"differences": found, "tiny": given.tiny})


def on_cpu(tiny: bool) -> Answers:
    """The same parts by a process that sees the CPU alone."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "answers"
        command = [sys.executable, __file__, "--answers", str(path), *(["--tiny"] if tiny else [])]
        subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=True)
        found: Answers = pickle.loads(path.read_bytes())
        return found


def differences(wanted: Answers, found: Answers) -> dict[str, float]:
    """By part."""
    return {name: harness.difference(found.found[name], value) for name, value in wanted.found.items()}


if __name__ == "__main__":
    main()
