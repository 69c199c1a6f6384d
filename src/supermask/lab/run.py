"""Run an experiment: what is missing, by an executor, into its results folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from supermask.errors import RunError
from supermask.lab.distributed import is_first, launched
from supermask.lab.events import Event
from supermask.lab.executors.processes import Local
from supermask.lab.executors.protocol import Executor
from supermask.lab.executors.torchrun import Torchrun
from supermask.lab.files import require_writable
from supermask.lab.group import GroupRunner
from supermask.lab.load import Experiment
from supermask.lab.machine import checkout
from supermask.lab.plan import expand
from supermask.lab.remote import Store
from supermask.lab.runner import Job, look_up
from supermask.lab.seed_choice import OnChoice, arrange
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
    executor: Executor | None = None,
    threads: int = 1,
    device: str = "cpu",
    data_dir: Path | None = None,
    checkpoint_seconds: float = 60.0,
    download: bool = False,
    store: str | None = None,
    on_event: Callable[[Event], None] | None = None,
    on_stop: Callable[[], None] | None = None,
    on_choice: OnChoice | None = None,
) -> Outcome:
    """Train the runs of an experiment that have no result yet.

    A run that was stopped or killed is resumed from its last checkpoint and ends bitwise as if it had never stopped
    (same machine, versions and threads). A failing run does not stop the others.

    Args:
        experiment: What to run.
        out: Results folder; the runs go to ``out/<experiment name>/<run id>``.
        workers: Worker processes, at most one a run; None: one a core, or one on a GPU; 0: none, run here (for debugging).
        executor: How the runs get done; None: by ``Local(workers=workers)``. Under torchrun a ``Torchrun()``, in every process;
            what this returns is then complete in the first of them, and empty in the others.
        threads: Threads of each worker. More than 1 changes results in their last bits.
        device: Where to train.
        data_dir: Searched first for data sets.
        checkpoint_seconds: Time between checkpoints, in seconds; at most one a step.
        download: Whether missing data sets may be downloaded.
        store: URL of a store: finished runs are fetched from it and copied to it, checkpoints are copied to it, and a run
            goes on from the one there where that is further.
        on_event: Gets every event, in this process.
        on_stop: Called at the first Ctrl-C, before the runs at work take their last checkpoints; a second Ctrl-C ends
            them at once.
        on_choice: Gets, for each label of an experiment with ``seeds: vectorized``, how its seeds are trained.

    Raises:
        ConfigError: The experiment is wrong.
        StoreError: The store cannot be read, or not take a finished run.
        MissingExtraError: The package for the store is missing.
        RunError: A number is out of range, an executor does not go with torchrun, the results folder cannot be written, or
            no worker process can be started.
        KeyboardInterrupt: Ctrl-C; the workers have taken checkpoints and ended.
    """
    if executor is None:
        executor = Local(workers=workers)
    elif workers is not None:
        raise RunError("workers and an executor are both given; give the number to the executor")
    if launched() != isinstance(executor, Torchrun):
        raise RunError(
            "torchrun starts several processes, and only runs of an experiment can be trained by them together: give "
            "executor=Torchrun() under torchrun, and no other; or start without it"
        )
    _require_at_least("threads", threads, 1)
    _require_at_least("checkpoint_seconds", checkpoint_seconds, 0)
    jobs = [Job(spec, run_folder(out, experiment.name, spec.id)) for spec in expand(experiment)]
    outcome = Outcome(out / experiment.name)
    runner = GroupRunner(
        threads=threads,
        device=device,
        data_dir=data_dir,
        download=download,
        checkpoint_seconds=checkpoint_seconds,
    )
    if isinstance(executor, Torchrun) and not is_first():
        executor.follow(runner, jobs)
        return outcome

    def tell(event: Event) -> None:
        ended = {"done": outcome.done, "skipped": outcome.skipped, "failed": outcome.failed}
        if event.kind in ended:
            ended[event.kind].append(event)
        if on_event is not None:
            on_event(event)

    remote = None if store is None else Store(store)
    there = set() if remote is None else remote.finished(experiment.name)
    missing = []
    for job in jobs:
        event = look_up(job)
        if remote is not None and (event is None or event.kind == "skipped"):
            remote.exchange(job.folder, experiment.name, here=job.spec.id in there)
            event = look_up(job)
        if event is None:
            missing.append(job)
        else:
            tell(event)
    if missing:
        require_writable(outcome.folder)
    if missing or isinstance(executor, Torchrun):  # its other processes wait for a word
        if missing and experiment.seeds == "vectorized" and not isinstance(executor, Torchrun):
            missing = arrange(missing, runner, executor, outcome.folder, on_choice)
        executor.run(replace(runner, commit=checkout(), store=remote), missing, tell, on_stop)
    return outcome


def _require_at_least(name: str, value: float, least: int) -> None:
    if value < least:
        raise RunError(f"{name} must be at least {least}, got {value}")
