"""Run an experiment: what is missing, in worker processes, into its results folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from supermask.errors import RunError
from supermask.lab.events import Event
from supermask.lab.executors.local import run_jobs
from supermask.lab.load import Experiment
from supermask.lab.machine import checkout
from supermask.lab.plan import expand
from supermask.lab.runner import Job, Runner, is_finished, record_failure, skip
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
) -> Outcome:
    """Train the runs of an experiment that have no result yet.

    A run that was stopped or killed is resumed from its last checkpoint and ends bitwise as if it had never stopped
    (same machine, versions and threads). A failing run does not stop the others.

    Args:
        experiment: What to run.
        out: Results folder; the runs go to ``out/<experiment name>/<run id>``.
        workers: Worker processes; None: as many as there are cores or runs; 0: no processes, run here (for debugging).
        threads: Threads of each worker. More than 1 changes results in their last bits.
        device: Where to train.
        data_dir: Searched first for data sets.
        checkpoint_seconds: Time between checkpoints, in seconds; at most one a step.
        download: Whether missing data sets may be downloaded.
        on_event: Gets every event, in this process.

    Raises:
        ConfigError: The experiment is wrong.
        RunError: A number is out of range, or a folder holds a run of the same id but another spec.
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

    finished = [is_finished(job) for job in jobs]
    for job, done in zip(jobs, finished, strict=True):
        if done:
            tell(skip(job))
    missing = [job for job, done in zip(jobs, finished, strict=True) if not done]
    runner = Runner(
        threads=threads,
        device=device,
        data_dir=data_dir,
        download=download,
        checkpoint_seconds=checkpoint_seconds,
        commit=checkout() if missing else None,
    )
    if workers == 0:
        _run_here(runner, missing, tell)
    elif missing:

        def died(job: Job, why: str) -> None:
            record_failure(job, why, "")
            tell(job.event("failed", message=why))

        count = min(workers or _cores(), len(missing))
        run_jobs(runner, missing, workers=count, threads=threads, on_message=tell, on_death=died)
    return outcome


def _require_at_least(name: str, value: float, least: int) -> None:
    if value < least:
        raise RunError(f"{name} must be at least {least}, got {value}")


def _run_here(runner: Runner, jobs: list[Job], tell: Callable[[Event], None]) -> None:
    threads = torch.get_num_threads()
    try:
        for job in jobs:
            runner(job, tell, lambda: False)
    finally:
        torch.set_num_threads(threads)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
