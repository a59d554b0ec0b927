"""Long: either of two hosts is asked to stop or killed while they train and translate; all ends as if left alone.

    python -m pytest tests/soak/test_hosts_soak.py

Not among the tests of `make test`, which strike twice.
"""

import signal

from test_hosts import assert_same_run, both, ended, strike

TRANSLATED = "adapt/round1/translated/leftImg8bit/train/all/*.png"
BLOWS = [
    ("denoiser/metrics.jsonl", 1, signal.SIGTERM),
    ("source/metrics.jsonl", 1, signal.SIGKILL),
    ("judge/metrics.jsonl", 0, signal.SIGTERM),
    (TRANSLATED, 1, signal.SIGKILL),
    ("adapt/round1/metrics.jsonl", 1, signal.SIGTERM),
    ("translated/leftImg8bit/train/all/*.png", 0, signal.SIGTERM),
    ("student/metrics.jsonl", 0, signal.SIGKILL),
]


def test_hosts_that_are_struck_end_in_the_same_bytes(tmp_path):
    codes, said = ended(both(tmp_path / "two"), 600)
    assert codes == [0, 0], said
    strike(tmp_path / "run", BLOWS)
    assert_same_run(tmp_path / "run", tmp_path / "two")
