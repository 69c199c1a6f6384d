"""Runs of several seeds as one job: each in its own folder, all trained as one batch.

**Checkpoints.** Every run gets its own, of the ordinary kind, and all of them are of the same moment. They are written in two
turns: first each one's next checkpoint beside its last one, then each takes the last one's place. Whenever the process is
killed, there is a moment of which every run has a checkpoint, and the group goes on from there. Runs that have no such moment
in common (one failed earlier, or was trained by itself since) go on apart: those of one moment together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from supermask.core.arrays import sync_folder
from supermask.errors import CheckpointError, RunHeldError
from supermask.lab.checkpoint import load_checkpoint, save_checkpoint
from supermask.lab.failures import describe
from supermask.lab.files import make_folder
from supermask.lab.holding import Hold, holding
from supermask.lab.metrics import MetricsFile
from supermask.lab.runner import Emit, Job, Runner, Watch
from supermask.lab.store import RunFolder
from supermask.lab.vectorized import SeedTrainer, Together

Place = tuple[int, int, int]  # round, epoch and batch of a checkpoint
Held = tuple[Job, Hold]

BEGINNING: Final = (-1, 0, 0)  # the place of a run without a checkpoint
_NEXT: Final = ".next.part"  # what a run that starts by itself takes for a leftover


@dataclass(frozen=True)
class Group(Job):
    """Runs that differ in nothing but their seed, to be trained as one batch; as a job, it is the first of them.

    Args:
        others: The rest of them.
        ratio: How much faster they were measured to be than one by one; None: not measured.
    """

    others: tuple[Job, ...] = ()
    ratio: float | None = None

    @property
    def runs(self) -> tuple[Job, ...]:
        """The runs that it is about."""
        return (Job(self.spec, self.folder, self.lapsed), *self.others)


@dataclass
class GroupRunner(Runner):
    """A runner that also does groups."""

    def __call__(self, job: Job, emit: Emit, stopping: Callable[[], bool]) -> None:
        """Do one job, see :meth:`Runner.__call__`; of a group, every run tells its own events."""
        if not isinstance(job, Group):
            super().__call__(job, emit, stopping)
            return
        with ExitStack() as stack:
            held = []
            for run in job.runs:
                with _told(run, emit):
                    make_folder(run.folder.path)
                    held.append((run, stack.enter_context(holding(run.folder, self.leasing, run.lapsed, stopping))))
            left: list[Held] = []
            for run, hold in held:
                with _told(run, emit), self._telling(run, hold, emit):
                    if not self._is_done(run, hold, emit):
                        left.append((run, hold))
            for index, part in enumerate(self._parts(left, emit)):
                if index and stopping():
                    raise KeyboardInterrupt
                if len(part) == 1:
                    run, hold = part[0]
                    with _told(run, emit), self._telling(run, hold, emit):
                        self._train(run, hold, emit, stopping)
                else:
                    self._train_together(part, job.ratio, emit, stopping)

    def _parts(self, held: Sequence[Held], emit: Emit) -> list[list[Held]]:
        """The runs that go on from one moment, with its checkpoint in place; most often all of them."""
        found: dict[str, dict[Place, Path | None]] = {}
        usable: list[Held] = []
        for run, hold in held:
            with _told(run, emit), self._telling(run, hold, emit):
                found[run.spec.id] = _places(run.folder)
                usable.append((run, hold))
        common = set.intersection(*(set(found[run.spec.id]) for run, _ in usable)) if usable else set()
        parts: dict[Place, list[Held]] = {}
        for run, hold in usable:
            places = found[run.spec.id]
            place = max(common or places)
            with _told(run, emit), self._telling(run, hold, emit):
                _settle(run.folder, places[place])
                parts.setdefault(place, []).append((run, hold))
        return list(parts.values())

    def _train_together(
        self, held: Sequence[Held], ratio: float | None, emit: Emit, stopping: Callable[[], bool]
    ) -> None:
        prepared = []
        for run, hold in held:
            with _told(run, emit), self._telling(run, hold, emit):
                prepared.append((run, hold, *self._prepare(run)))
        if not prepared:
            return
        together = {"seeds": [run.spec.seed for run, *_ in prepared], "ratio": ratio}
        watched: dict[SeedTrainer, tuple[Job, Watch, list[dict[str, Any]]]] = {}

        def fail(trainer: SeedTrainer, error: Exception) -> None:
            run, watch, _ = watched[trainer]
            with _told(run, emit), self._telling(run, watch.hold, emit):
                raise error

        with self._arithmetic(prepared[0][2]) as device:
            for run, hold, config, dataset in prepared:
                with _told(run, emit), self._telling(run, hold, emit):
                    starts = self._record_start(run.folder, device, dataset, together=together)
                    metrics = MetricsFile(run.folder.metrics, before_write=hold.require)
                    trainer = SeedTrainer(config, run.spec.seed, dataset, run.spec.folder, device, metrics)
                    # it tells, but takes no checkpoints: these are taken of all runs
                    watch = Watch(run, trainer, hold, emit, lambda: False, math.inf, self.store)
                    watch.share = 1.0 / len(prepared)
                    watch.start()
                    watched[trainer] = run, watch, starts
            if not watched:
                return
            saving = _Saving(watched, stopping, self.checkpoint_seconds)
            try:
                training = Together(list(watched), on_failure=fail, on_look=saving.look, on_epoch=saving.save_if_due)
                saving.training = training
                training.look_every = min(training.look_every, self.checkpoint_seconds)
                finished = training.run()
            except Exception as error:  # noqa: BLE001  (of the pass that they have in common)
                for trainer in saving.left():
                    fail(trainer, error)
                return
        for trainer, masks in finished.items():
            run, watch, starts = watched[trainer]
            with _told(run, emit), self._telling(run, watch.hold, emit):
                self._finish(run, watch, masks, starts)


class _Saving:
    """Looks at a group between its steps: progress of each run, checkpoints of all, the wish to stop."""

    def __init__(
        self,
        watched: dict[SeedTrainer, tuple[Job, Watch, list[dict[str, Any]]]],
        stopping: Callable[[], bool],
        every: float,
    ) -> None:
        self._watched = watched
        self._stopping = stopping
        self._every = every
        self._saved = time.monotonic()
        self.training: Together | None = None

    def left(self) -> list[SeedTrainer]:
        """The runs that have not failed."""
        return list(self._watched if self.training is None else self.training.trainers)

    def look(self) -> None:
        """Between two steps."""
        for trainer in self.left():
            if trainer.on_look is not None:
                trainer.on_look()
        self.save_if_due()

    def save_if_due(self, ends: bool = False) -> None:
        """Take a checkpoint of every run, if it is time to; raise KeyboardInterrupt where a stop is wished for.

        Args:
            ends: A round does: runs that are killed while others of the group write their results have nothing to train then.
        """
        stop = self._stopping()
        if not (stop or ends) and time.monotonic() - self._saved < self._every:
            return
        self._save()
        self._saved = time.monotonic()
        if stop:
            raise KeyboardInterrupt("stopped after a checkpoint")

    def _save(self) -> None:
        assert self.training is not None
        self.training.each(self._write_next)
        self.training.each(self._take_next)  # of those whose next one was written

    def _write_next(self, trainer: SeedTrainer) -> None:
        run, watch, _ = self._watched[trainer]
        save_checkpoint(_next(run.folder), watch.state())

    def _take_next(self, trainer: SeedTrainer) -> None:
        run, watch, _ = self._watched[trainer]
        _settle(run.folder, _next(run.folder))
        watch.copy()


@contextmanager
def _told(run: Job, emit: Emit) -> Iterator[None]:
    """What keeps a run of a group from being trained here becomes its last event."""
    try:
        yield
    except RunHeldError as error:
        emit(run.event("skipped", message=str(error)))
    except OSError as error:  # no folder or no lock, and so no place for a record
        emit(run.event("failed", message=describe(error, run.folder.path)))


def _next(folder: RunFolder) -> Path:
    return folder.checkpoint.with_name(_NEXT)


def _places(folder: RunFolder) -> dict[Place, Path | None]:
    """The moments that a run can go on from, with their checkpoints; its beginning, where it has no last one.

    Raises:
        CheckpointError: The run's last checkpoint is damaged.
    """
    last = folder.checkpoint
    found: dict[Place, Path | None] = {_place(last): last} if last.exists() else {BEGINNING: None}
    if _next(folder).exists():
        try:
            found.setdefault(_place(_next(folder)), _next(folder))
        except CheckpointError:  # of a process that was killed while it wrote: the last one stands
            _next(folder).unlink()
    return found


def _place(path: Path) -> Place:
    trainer = load_checkpoint(path, torch.device("cpu"))["trainer"]
    return trainer["sparsifier"]["round"], trainer["epoch"], trainer["batch"]


def _settle(folder: RunFolder, chosen: Path | None) -> None:
    """Make a checkpoint the run's last one; the other goes."""
    if chosen == _next(folder):
        chosen.replace(folder.checkpoint)
        sync_folder(folder.checkpoint.parent)
    else:
        _next(folder).unlink(missing_ok=True)
