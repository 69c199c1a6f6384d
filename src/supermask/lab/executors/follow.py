"""What runs do that another process trains, told from their folders."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from supermask.errors import RunError
from supermask.lab.events import Event
from supermask.lab.executors.protocol import Tell
from supermask.lab.failures import describe
from supermask.lab.runner import Job
from supermask.lab.store import read_failure, read_metrics

FOLLOW_SECONDS: Final = 2.0  # between two looks at the metrics of a run


@dataclass(frozen=True)
class _Place:
    """How far a run has been told."""

    epochs: int = 0
    size: int = 0  # bytes of its metrics


class Follower:
    """Tells the epochs of runs as they appear in their folders.

    Args:
        tell: Gets ``started`` at the first sign of a run, then every ``epoch``; ends are the caller's to tell.
        elsewhere: Whether another driver tells these runs as its own, see :class:`supermask.lab.events.Event`.
        now: A monotonic clock, in seconds.
    """

    def __init__(self, tell: Tell, *, elsewhere: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._elsewhere = elsewhere
        self._now = now
        self._places: dict[str, _Place] = {}
        self._next = float("-inf")

    def look(self, jobs: list[Job]) -> None:
        """Look at runs, at most every :data:`FOLLOW_SECONDS`."""
        if self._now() < self._next:
            return
        self._next = self._now() + FOLLOW_SECONDS
        for job in jobs:
            self.catch_up(job)

    def catch_up(self, job: Job) -> None:
        """Look at one run now: before its end is told."""
        known = self._places.get(job.spec.id, _Place())
        try:
            size = job.folder.metrics.stat().st_size
            lines = read_metrics(job.folder) if size != known.size else None
        except (RunError, OSError):  # not begun, or in the middle of a write by another host: the next look may read it
            return
        if job.spec.id not in self._places:
            self._tell(job.event("started", elsewhere=self._elsewhere))
        self._places[job.spec.id] = known if lines is None else _Place(len(lines), size)
        if lines is None:
            return
        resumed = len(lines) < known.epochs  # from an earlier checkpoint
        for line in lines[-1:] if resumed else lines[known.epochs :]:
            self._tell(_epoch(job, line, elsewhere=self._elsewhere))


def failed_elsewhere(job: Job) -> str | None:
    """Why a run failed that another process trained; None if it did not, or was begun again just now. Raises nothing."""
    try:
        return str(read_failure(job.folder)["error"])
    except FileNotFoundError:
        return None
    except (RunError, OSError) as error:
        return describe(error, job.folder.path)


def _epoch(job: Job, line: dict[str, Any], *, elsewhere: bool) -> Event:
    planned = int(job.spec.sections["train"]["epochs"])
    return job.event(
        "epoch",
        epoch=line["epoch"],
        epochs=max(planned, line["epoch"]),
        batch=1,
        batches=1,
        loss=line["train_loss"],
        accuracy=line["test_accuracy"],
        metric=line["test_metric"],
        seconds=line["seconds"],
        line=line,
        elsewhere=elsewhere,
    )
