"""Work that hosts share: every block once, whatever the order; those of a dead or slow host again."""

import threading
from collections import Counter
from types import SimpleNamespace

import pytest

from sgg_jax import leases
from sgg_jax.leases import FIRST, PATIENCE, Leases


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)

    def sleep(seconds):
        now.seconds += seconds

    monkeypatch.setattr(leases.time, "sleep", sleep)
    now.read = lambda: now.seconds
    return now


def do(host, clock, seconds):
    """What a host does with all that it is given, each block taking so many seconds."""
    done = []
    for block in host:
        if block is not None:
            clock.seconds += seconds
            done.append(block)
        host.finish()
    return done


def test_one_host_does_every_block_in_order_and_waits_for_nobody(tmp_path, clock):
    assert do(Leases(tmp_path / "leases", [3, 5, 8], clock=clock.read), clock, 1) == [3, 5, 8]
    assert clock.seconds == 3


def test_blocks_may_be_taken_before_earlier_ones_are_finished(tmp_path):
    host = Leases(tmp_path, [0, 1, 2])
    given = iter(host)
    assert [next(given), next(given)] == [0, 1]
    host.finish()
    assert host.open() == {1, 2}
    assert list(given) == [2]


def test_hosts_begin_with_their_parts_and_then_help_each_other(tmp_path, clock):
    first, second = (Leases(tmp_path, range(6), host, 2, clock=clock.read) for host in (0, 1))
    slow = iter(first)
    assert next(slow) == 0
    assert do_until_idle(second) == [3, 4, 5, 1, 2]
    first.finish()
    assert [block for block in slow if block is not None] == []
    assert list(second) == []


def do_until_idle(host):
    done = []
    for block in host:
        if block is None:
            host.finish()
            return done
        done.append(block)
        host.finish()
    return done


def test_a_dead_hosts_block_is_done_again_after_a_while(tmp_path, clock):
    dead, alive = (Leases(tmp_path, range(4), host, 2, clock=clock.read) for host in (0, 1))
    assert next(iter(dead)) == 0
    assert do(alive, clock, 10) == [2, 3, 1, 0]
    assert 3 * 10 + PATIENCE * 10 <= clock.seconds - 10 < 3 * 10 + PATIENCE * 10 + 1
    assert alive.open() == set()


def test_who_has_done_none_waits_longer(tmp_path, clock):
    dead, alive = (Leases(tmp_path, [7], host, 2, clock=clock.read) for host in (0, 1))
    assert next(iter(dead)) == 7
    assert do(alive, clock, 10) == [7]
    assert FIRST <= clock.seconds - 10 < FIRST + 1


def test_a_slow_host_may_finish_what_another_did_again(tmp_path, clock):
    slow, quick = (Leases(tmp_path, range(2), host, 2, clock=clock.read) for host in (0, 1))
    mine = iter(slow)
    assert next(mine) == 0
    assert do(quick, clock, 1) == [1, 0]
    slow.finish()
    assert list(mine) == [] and slow.open() == set()


def test_hosts_that_race_share_every_block_once(tmp_path):
    done: list[list[int]] = [[] for _ in range(8)]
    start = threading.Barrier(8)

    def work(host):
        own = Leases(tmp_path, range(200), host, 8, pause=0.001)
        start.wait()
        for block in own:
            if block is not None:
                done[host].append(block)
            own.finish()

    threads = [threading.Thread(target=work, args=(host,)) for host in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = Counter(block for blocks in done for block in blocks)
    assert set(counts) == set(range(200))
    # a block may be done again where its host was held up for twice as long as the quickest one's took
    assert sum(counts.values()) < 300
