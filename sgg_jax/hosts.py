"""Several hosts in one run: one process each, started by the same command, with one run directory that all of them see.

They train in step, connected by jax.distributed. Everything else goes through files: host 0 leads, which means that it
alone writes logs, checkpoints and what stages leave behind; the others wait for these. A job is one start of the
command on all hosts; in its directory every host has a file that tells that it lives.
"""

import json
import os
import secrets
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sgg_jax import progress, stopping
from sgg_jax.errors import InputError
from sgg_jax.records import write_text
from sgg_jax.workdir import alone

SILENT = 30.0
"""Seconds after which a host that gave no sign of life counts as gone."""
GONE = "gone"


def connect(coordinator: str = "", hosts: int = 0, host: int = -1) -> None:
    """Connects this process to the others of its job; call it before anything else is done with jax.

    coordinator: "address:port" of host 0; hosts: how many there are; host: which one this is. Without them, what
    Cloud TPU, Slurm, MPI or Kubernetes tell is taken, and nothing is done where there is none of these, or where
    `hosts` alone is 1. InputError where only some are given, or where the others cannot be reached.
    """
    given: dict[str, Any] = {}
    if hosts == 1 and not coordinator:
        return
    if coordinator or hosts or host >= 0:
        if not coordinator or not 0 <= host < hosts:
            raise InputError(
                f"--coordinator {coordinator or '(none)'} --hosts {hosts} --host {host}: give all three, the last "
                "counted from 0"
            )
        given = {"coordinator_address": coordinator, "num_processes": hosts, "process_id": host}
    elif "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" not in os.environ:
        return  # a pod, but not one of a job's
    # a host that is lost ends the others where they need it (`needed`), and not while they share translations
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_enable_preemption_service", False)  # signals are stopping.py's
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=int(SILENT), shutdown_timeout_seconds=10)
    except Exception as error:  # of jax, or of what it asks about the cluster
        reason = str(error).strip().split("\n")[0]
        if isinstance(error, ValueError) and not given:
            return  # no cluster
        raise InputError(
            f"this host cannot be connected to the others ({reason}): mend that, or run on it alone with --hosts 1"
        ) from error


def count() -> int:
    return jax.process_count()


def number() -> int:
    """This host's, from 0."""
    return jax.process_index()


def leads() -> bool:
    return jax.process_index() == 0


def agreed(value: int) -> int:
    """Host 0's value, on all hosts; all of them call it at the same place, and soon after each other."""
    return value if count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def check_alike(what: str, told: object) -> None:
    """InputError where this host has something else than host 0; all call it as `agreed`. told: what JSON can hold."""
    if count() == 1:
        return
    mine = zlib.crc32(json.dumps(told, sort_keys=True, default=str).encode()) & 0x7FFFFFFF
    if agreed(mine) != mine:
        raise InputError(
            f"host {number()} has other {what} than host 0: where files are new, it may not see all of them yet; run "
            "the same command on all hosts again"
        )


_any = jax.jit(jnp.any)


class Stops:
    """Whether any host was asked to stop: every host is told in the same step. Call it once a step."""

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, P(mesh.axis_names))
        self._mine = len(mesh.local_devices)
        self._before: Any = False

    def __call__(self) -> bool:
        asked = stopping.asked()
        if count() == 1:
            return asked
        before = bool(self._before)  # of the step before this one: reading it does not starve the devices
        everyone = jax.make_array_from_process_local_data(self._sharding, np.full(self._mine, asked, bool))
        self._before = _any(everyone)
        return before


class _Job:
    """This host's part in a job: it tells that it lives, and looks after the others."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.needed = threading.Event()  # whether this host cannot go on without the others
        self._heard = {host: ("", time.monotonic()) for host in range(count()) if host != number()}
        self._left = threading.Event()
        self._watch = threading.Thread(target=self._look_after, name="hosts", daemon=True)
        self._watch.start()

    def tell(self, text: str) -> None:
        write_text(self.directory / f"host-{number()}", text)

    def gone(self) -> dict[int, str]:
        """Hosts that left, or gave no sign of life for too long, and why."""
        found, now = {}, time.monotonic()
        for host, (before, since) in self._heard.items():
            try:
                said = (self.directory / f"host-{host}").read_text()
            except OSError:
                said = before
            if said != before:
                self._heard[host] = said, now
            elif now - since > SILENT:
                found[host] = f"no sign of life for {SILENT:.0f} s"
            if said.startswith(GONE):
                found[host] = said.removeprefix(GONE).strip(": ")
        return found

    def _look_after(self) -> None:
        beats, stop = 0, self.directory / "stop"
        while not self._left.wait(1.0):
            beats += 1
            try:
                self.tell(str(beats))
                if stop.exists():
                    stopping.ask()
                elif stopping.is_asked():
                    stop.touch()
            except OSError:
                continue  # a directory that is away for a moment: the others count the seconds
            gone = self.gone() if self.needed.is_set() else {}
            if gone:
                _say_lost(gone)
                os._exit(stopping.EXIT_CODE)

    def leave(self, why: str) -> None:
        """Tells the others that this host leaves. Host 0 waits for them, since they cannot do without its service."""
        self._left.set()
        self._watch.join(5.0)
        if not leads():
            jax.distributed.shutdown()  # before host 0 is told, whose end would abort this process
        with suppress(OSError):  # where the directory is gone, silence tells
            self.tell(f"{GONE}: {why}")
        until = time.monotonic() + SILENT
        while leads() and len(self.gone()) < len(self._heard) and time.monotonic() < until:
            time.sleep(0.2)


_job: _Job | None = None


@contextmanager
def joined(workdir: Path) -> Iterator[None]:
    """Holds the run directory for this job: for this process, or for all hosts that were connected.

    InputError where another job holds it, or where the hosts do not see the same directory.
    """
    if count() == 1:
        with alone(workdir):
            yield
        return
    directory = workdir / "jobs" / str(agreed(secrets.randbelow(2**31)))
    if leads():
        with alone(workdir):
            shutil.rmtree(directory.parent, ignore_errors=True)
            directory.mkdir(parents=True)
            with _taking_part(directory):
                yield
        return
    progress.silence()
    until = time.monotonic() + SILENT
    while not directory.exists():
        if time.monotonic() > until:
            raise InputError(f"host {number()} does not see what host 0 writes to {workdir}: name a shared directory")
        time.sleep(0.1)
    with _taking_part(directory):
        yield


@contextmanager
def _taking_part(directory: Path) -> Iterator[None]:
    global _job
    _job = job = _Job(directory)
    why = "it ended"
    try:
        yield
    except BaseException as error:
        why = str(error) or type(error).__name__
        raise
    finally:
        _job = None
        job.leave(why)
        if leads():
            shutil.rmtree(directory.parent, ignore_errors=True)


def token() -> str:
    """What names this job; "" where one host is alone."""
    return "" if _job is None else _job.directory.name


@contextmanager
def needed() -> Iterator[None]:
    """In the block this host cannot go on without the others: if one is lost, this one ends with stopping.EXIT_CODE."""
    if _job is None:
        yield
        return
    _job.needed.set()
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            time.sleep(SILENT + 5)  # mostly because another one is lost: then the watch ends this one before
        raise
    finally:
        _job.needed.clear()


@needed()
def together() -> None:
    """Waits until all hosts are here; for short waits, since their devices wait, too."""
    agreed(0)


def wait_for(ready: Callable[[], bool]) -> None:
    """Waits until what host 0 does is done; raises Stopped where a stop was asked for or host 0 is gone."""
    while not ready():
        stopping.check()
        gone = _job.gone() if _job is not None else {}
        if 0 in gone and not ready():
            _say_lost(gone)
            raise stopping.Stopped
        time.sleep(0.2)


def _say_lost(gone: dict[int, str]) -> None:
    lost = ", ".join(f"host {host} ({why})" for host, why in sorted(gone.items()))
    print(f"lost {lost}; the same command on all hosts goes on", file=sys.stderr, flush=True)
