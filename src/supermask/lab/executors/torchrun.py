"""Runs that several processes train together, all of them started by torchrun with the same command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

import torch

from supermask.errors import RanksError, RunError
from supermask.lab.distributed import AGAIN, World, joined
from supermask.lab.executors.processes import STOPPED
from supermask.lab.executors.protocol import Tell
from supermask.lab.runner import Job, Runner


@dataclass(frozen=True, kw_only=True)
class Torchrun:
    """The processes of torchrun, one run after the other. The first of them reads and writes the run folders.

    Args:
        timeout_seconds: How long a process waits for another one before it takes it for lost.

    Raises:
        RunError: A number is out of range.
    """

    timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not self.timeout_seconds > 0:
            raise RunError(f"timeout_seconds must be more than 0, got {self.timeout_seconds}")

    @property
    def here(self) -> bool:
        """The runs train on this machine, or on others like it."""
        return True

    @property
    def stopped(self) -> str:
        """What Ctrl-C leaves."""
        return STOPPED

    def run(self, runner: Runner, jobs: Sequence[Job], tell: Tell, on_stop: Callable[[], None] | None) -> None:
        """Do all jobs, see :class:`supermask.lab.executors.protocol.Executor`; called in the first process, also without jobs.

        Runs that failed before come last, so that one that fails again and again does not keep the others from being trained.
        """
        with joined(runner.device, self.timeout_seconds) as (world, device), _signals_wait(on_stop) as stopping:
            together = replace(runner, world=world, device=str(device))
            for job in sorted(jobs, key=lambda job: job.folder.failed.exists()):
                together(job, tell, stopping)
                if world.apart:
                    raise RanksError(f"the processes came apart, and the runs that are left were not begun: {AGAIN}")
                if stopping():
                    raise KeyboardInterrupt
            world.from_first("")

    def follow(self, runner: Runner, jobs: Sequence[Job]) -> None:
        """Train with the first process what it begins; called in the others.

        Args:
            runner: As in the first process.
            jobs: All runs of the experiment; folders of this process are never used.

        Raises:
            RanksError: The processes came apart, or have different experiments.
            KeyboardInterrupt: Ctrl-C.
        """
        known = {job.spec.id: job for job in jobs}
        with joined(runner.device, self.timeout_seconds) as (world, device), _signals_wait(None) as stopping:
            together = replace(runner, world=world, device=str(device), store=None)
            while run := _next(world, stopping):
                with world.together():
                    if run not in known:
                        raise RanksError(f"this process does not know the run {run}: all need the same experiment file")
                _follow(together, known[run], stopping)


def _next(world: World, stopping: Callable[[], bool]) -> str:
    """The run that the first process begins; nothing at the end."""
    try:
        return world.from_first("")
    except RuntimeError as error:
        if stopping():
            raise KeyboardInterrupt from error
        raise RanksError(f"the first process was lost (rank {world.rank} heard: {error}); {AGAIN}") from error


def _follow(runner: Runner, job: Job, stopping: Callable[[], bool]) -> None:
    threads = torch.get_num_threads()
    try:
        runner.follow(job, stopping)
    except (Exception, SystemExit):
        if runner.world.apart:
            raise
        # the first process tells and records that the run failed
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _signals_wait(on_stop: Callable[[], None] | None) -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM, which torchrun sends on, make ``stopping()`` true: all ranks then take a checkpoint together."""
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal stopping
        if not stopping and on_stop is not None:
            on_stop()
        stopping = True

    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread handle signals
        yield lambda: stopping
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
