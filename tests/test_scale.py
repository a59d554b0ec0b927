"""The simulation of many hosts, where its outcome is known."""

import numpy as np
import pytest

from benchmarks.scale import Work, block_seconds, simulate

QUIET = Work(1, slow=0.0, lost_an_hour=0.0)


def test_one_device_wastes_nothing():
    found = simulate(QUIET, np.full(10, 7.0))
    assert found.seconds == 70 and found.efficiency == 1 and found.lost == found.twice == 0


@pytest.mark.parametrize(("devices", "blocks", "rounds"), [(16, 32, 2), (16, 33, 3), (24, 24, 1), (8, 3, 1)])
def test_equal_blocks_take_whole_rounds(devices, blocks, rounds):
    found = simulate(QUIET._replace(devices=devices), np.full(blocks, 7.0))
    assert found.seconds == 7 * rounds
    assert found.efficiency == pytest.approx(blocks / (rounds * devices))


def test_a_lost_hosts_blocks_are_done_by_the_others():
    work = QUIET._replace(devices=32, lost_an_hour=4.0)
    found = simulate(work, np.full(400, 30.0), seed=1)
    assert found.lost > 0 and found.seconds > 30 * 400 / 32 + work.restart


def test_blocks_hold_all_images():
    work = QUIET._replace(images=103, batch=4)
    blocks = block_seconds(work, 1.0, 0.0, np.random.default_rng(0))
    assert len(blocks) == 26 and blocks.sum() == 103
