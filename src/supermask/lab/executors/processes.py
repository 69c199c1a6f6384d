"""Runs on this machine: in worker processes, or in this process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final

import torch

from supermask.errors import RunError
from supermask.lab.events import ENDS, Event
from supermask.lab.executors.gpu import Packing, free_bytes
from supermask.lab.executors.local import run_jobs
from supermask.lab.executors.protocol import Tell
from supermask.lab.machine import default_workers, usable_cores
from supermask.lab.runner import Job, Runner, after_death

STOPPED: Final = "stopped; nothing is lost: the same command resumes the unfinished runs from their checkpoints"
OnDeath = Callable[[Job, str], None]
Admit = Callable[[Job, Sequence[Job]], bool]


@dataclass(frozen=True, kw_only=True)
class Local:
    """Worker processes of this machine.

    Args:
        workers: How many, at most one a run; None: one a core, or one on a GPU. 0: none, the runs train in this process.
        pack: On a GPU: as many runs at once as its memory holds, by what finished runs of the same setting took; ``workers``
            is then the most, by default one a core.

    Raises:
        RunError: ``workers`` is out of range, or 0 with ``pack``.
    """

    workers: int | None = None
    pack: bool = False

    def __post_init__(self) -> None:
        require_workers(self.workers)
        if self.pack and self.workers == 0:
            raise RunError("pack puts several worker processes on a GPU, and workers is 0; leave one of them out")

    @property
    def here(self) -> bool:
        """The runs train on this machine."""
        return True

    @property
    def stopped(self) -> str:
        """What Ctrl-C leaves."""
        return STOPPED

    def run(self, runner: Runner, jobs: Sequence[Job], tell: Tell, on_stop: Callable[[], None] | None) -> None:
        """Do all jobs, see :class:`supermask.lab.executors.protocol.Executor`."""
        do_here(
            runner,
            jobs,
            workers=self.workers,
            pack=self.pack,
            tell=tell,
            on_death=lambda job, why: tell(after_death(job, why)),
            on_stop=on_stop,
        )


def require_workers(workers: int | None) -> None:
    """Refuse a number of workers that is out of range.

    Raises:
        RunError: It is negative.
    """
    if workers is not None and workers < 0:
        raise RunError(f"workers must be at least 0, got {workers}")


def do_here(
    runner: Runner,
    jobs: Sequence[Job],
    *,
    workers: int | None,
    pack: bool,
    tell: Tell,
    on_death: OnDeath,
    on_stop: Callable[[], None] | None,
) -> None:
    """Do jobs on this machine.

    Args:
        runner: Does a job.
        jobs: Runs, at least one.
        workers: See :class:`Local`.
        pack: See :class:`Local`.
        tell: Gets the events.
        on_death: Gets a job whose worker died, and why.
        on_stop: Called at the first Ctrl-C.

    Raises:
        RunError: No worker can be started, or there is no GPU to pack.
        KeyboardInterrupt: Ctrl-C; the runs have taken checkpoints.
    """
    if workers == 0:
        _do_in_this_process(runner, jobs, tell, on_stop)
        return
    ended: set[str] = set()

    def take(event: Event) -> None:
        if event.kind in ENDS:
            ended.add(event.run)
        tell(event)

    def on_last_breath(job: Job, why: str) -> None:
        for run in job.runs:
            if run.spec.id not in ended:  # otherwise the worker died after it had told how the run ends
                on_death(run, why)

    packing = Packing(runner.device, jobs, free_bytes) if pack else None
    most = workers or (usable_cores() if pack else default_workers(runner.device))
    run_jobs(
        runner,
        jobs,
        workers=min(most, len(jobs)),
        threads=runner.threads,
        on_message=take,
        on_death=on_last_breath,
        on_stop=on_stop,
        admit=None if packing is None else packing.admits,
    )


class _Untold(BaseException):
    """Carries what telling an event raised past the run, whose fault it is not."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _do_in_this_process(runner: Runner, jobs: Sequence[Job], tell: Tell, on_stop: Callable[[], None] | None) -> None:
    def hand_on(event: Event) -> None:
        try:
            tell(event)
        except Exception as error:
            raise _Untold(error) from error

    threads = torch.get_num_threads()
    try:
        with _first_interrupt_waits(on_stop) as stopping:
            for job in jobs:
                runner(job, hand_on, stopping)
                if stopping():
                    raise KeyboardInterrupt
    except _Untold as untold:
        raise untold.error from untold.error.__cause__
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _first_interrupt_waits(on_stop: Callable[[], None] | None) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C makes ``stopping()`` true, so that a run can take a checkpoint; a second one interrupts."""
    stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal stopping
        stopping = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if on_stop is not None:
            on_stop()

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored, and nobody else's
    ours = usual and threading.current_thread() is threading.main_thread()  # Python lets no other thread handle signals
    if ours:
        signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: stopping
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
