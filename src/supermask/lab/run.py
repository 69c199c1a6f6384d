"""Run an experiment: what is missing, in worker processes, into its results folder."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch

from supermask.errors import RunError
from supermask.lab.events import Event
from supermask.lab.executors.local import run_jobs
from supermask.lab.failures import describe
from supermask.lab.load import Experiment
from supermask.lab.machine import checkout, default_workers
from supermask.lab.plan import expand
from supermask.lab.runner import Job, Runner, after_death, is_finished, skip
from supermask.lab.store import run_folder


@dataclass(frozen=True)
class Outcome:
    """How the runs of an experiment ended: the last event of each.

    Args:
        folder: Results folder of the experiment.
        done: Trained to the end now.
        skipped: Finished before, or being trained by another process (the message says which).
        failed: Ended in an error; the message says which, ``failed.json`` has the traceback.
    """

    folder: Path
    done: list[Event] = field(default_factory=list)
    skipped: list[Event] = field(default_factory=list)
    failed: list[Event] = field(default_factory=list)


def run_experiment(
    experiment: Experiment,
    *,
    out: Path,
    workers: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    data_dir: Path | None = None,
    checkpoint_seconds: float = 60.0,
    download: bool = False,
    on_event: Callable[[Event], None] | None = None,
    on_stop: Callable[[], None] | None = None,
) -> Outcome:
    """Train the runs of an experiment that have no result yet.

    A run that was stopped or killed is resumed from its last checkpoint and ends bitwise as if it had never stopped
    (same machine, versions and threads). A failing run does not stop the others.

    Args:
        experiment: What to run.
        out: Results folder; the runs go to ``out/<experiment name>/<run id>``.
        workers: Worker processes, at most one a run; None: one a core, or one on a GPU; 0: none, run here (for debugging).
        threads: Threads of each worker. More than 1 changes results in their last bits.
        device: Where to train.
        data_dir: Searched first for data sets.
        checkpoint_seconds: Time between checkpoints, in seconds; at most one a step.
        download: Whether missing data sets may be downloaded.
        on_event: Gets every event, in this process.
        on_stop: Called at the first Ctrl-C, before the runs at work take their last checkpoints; a second Ctrl-C ends
            them at once.

    Raises:
        ConfigError: The experiment is wrong.
        RunError: A number is out of range, the results folder cannot be written, or no worker process can be started.
        KeyboardInterrupt: Ctrl-C; the workers have taken checkpoints and ended.
    """
    _require_at_least("workers", 0 if workers is None else workers, 0)
    _require_at_least("threads", threads, 1)
    _require_at_least("checkpoint_seconds", checkpoint_seconds, 0)
    jobs = [Job(spec, run_folder(out, experiment.name, spec.id)) for spec in expand(experiment)]
    outcome = Outcome(out / experiment.name)

    def tell(event: Event) -> None:
        ended = {"done": outcome.done, "skipped": outcome.skipped, "failed": outcome.failed}
        if event.kind in ended:
            ended[event.kind].append(event)
        if on_event is not None:
            on_event(event)

    missing = []
    for job in jobs:
        event = _look_up(job)
        if event is None:
            missing.append(job)
        else:
            tell(event)
    runner = Runner(
        threads=threads,
        device=device,
        data_dir=data_dir,
        download=download,
        checkpoint_seconds=checkpoint_seconds,
        commit=checkout() if missing else None,
    )
    if missing:
        _require_writable(outcome.folder)
    if workers == 0:
        _run_here(runner, missing, tell, on_stop)
    elif missing:
        run_jobs(
            runner,
            missing,
            workers=min(workers or default_workers(device), len(missing)),
            threads=threads,
            on_message=tell,
            on_death=lambda job, why: tell(after_death(job, why)),
            on_stop=on_stop,
        )
    return outcome


def _look_up(job: Job) -> Event | None:
    """The event of a run that is not trained: finished, or failed if what is in its folder cannot be read or belongs to
    another run, for it is neither used nor replaced then. None where it is missing.
    """
    try:
        return skip(job) if is_finished(job) else None
    except (RunError, OSError) as error:
        return job.event("failed", message=describe(error, job.folder.path))


def _require_at_least(name: str, value: float, least: int) -> None:
    if value < least:
        raise RunError(f"{name} must be at least {least}, got {value}")


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        way = "choose another by --out, or make this one writable"
        raise RunError(f"the results folder {folder} cannot be written ({error.strerror}): {way}") from error


class _Untold(BaseException):
    """Carries what telling an event raised past the run, whose fault it is not."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _run_here(
    runner: Runner, jobs: list[Job], tell: Callable[[Event], None], on_stop: Callable[[], None] | None
) -> None:
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
