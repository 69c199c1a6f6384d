"""What runs do that another process trains, told from their folders."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from supermask.errors import RunError
from supermask.lab.events import Event
from supermask.lab.executors.protocol import Tell
from supermask.lab.runner import Job
from supermask.lab.store import read_failure, read_metrics

FOLLOW_SECONDS: Final = 2.0  # between two looks at the metrics of a run


@dataclass
class _Place:
    """How far a run has been told."""

    epochs: int = 0
    size: int = 0  # bytes of its metrics


class Follower:
    """Tells the epochs of runs as they appear in their folders.

    Args:
        tell: Gets ``started`` at the first sign of a run, then ``epoch``; ends are the caller's to tell.
        now: A monotonic clock, in seconds.
    """

    def __init__(self, tell: Tell, now: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._now = now
        self._places: dict[str, _Place] = {}
        self._next = float("-inf")

    def look(self, jobs: list[Job]) -> None:
        """Look at runs, at most every :data:`FOLLOW_SECONDS`."""
        if self._now() < self._next:
            return
        self._next = self._now() + FOLLOW_SECONDS
        for job in jobs:
            self._look_at(job)

    def _look_at(self, job: Job) -> None:
        path = job.folder.metrics
        if not path.exists():
            return
        if job.spec.id not in self._places:
            self._tell(job.event("started"))
        place = self._places.setdefault(job.spec.id, _Place())
        size = path.stat().st_size
        if size == place.size:
            return
        try:
            lines = read_metrics(job.folder)
        except RunError:  # seen in the middle of a write by another host: the next look may read it
            return
        place.size = size
        if lines and len(lines) != place.epochs:
            self._tell(_epoch(job, lines[-1]))
        place.epochs = len(lines)


def failed_elsewhere(job: Job) -> str | None:
    """Why a run failed that another process trained; None if it did not.

    Raises:
        RunError: The record is damaged.
    """
    return str(read_failure(job.folder)["error"]) if job.folder.failed.exists() else None


def _epoch(job: Job, line: dict[str, Any]) -> Event:
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
    )
