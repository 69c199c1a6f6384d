"""What a run tells while it works. Executors carry these from the workers to whoever shows the progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["started", "resumed", "progress", "epoch", "done", "skipped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One message of one run; a field is None where it is unknown or has no meaning.

    Args:
        kind: What happened. ``started`` or ``resumed`` come first, then ``progress`` (at most twice a second) and
            ``epoch``; ``done``, ``skipped`` or ``failed`` come last.
        run: Id of the run.
        label: Label of the run, without its seed.
        seed: Seed of the run.
        epoch: Epoch at work or just finished, counted from 1.
        epochs: Epochs in all, as far as is known (methods with several rounds may add more).
        batch: Batches done in this epoch.
        batches: Batches in an epoch.
        loss: Mean training loss of the epoch so far.
        accuracy: Test accuracy after the epoch, a fraction; None where the run is judged by another metric.
        metric: Value of that metric (or of the accuracy) on the test split after the epoch.
        density: Remaining weights over targeted weights after the epoch.
        seconds: Time this run has taken so far, earlier starts included.
        message: Why a run failed or was skipped; of ``progress``, what went wrong beside it.
        line: What ``metrics.jsonl`` holds of the epoch, of an ``epoch``.
    """

    kind: Kind
    run: str
    label: str
    seed: int
    epoch: int | None = None
    epochs: int | None = None
    batch: int | None = None
    batches: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    metric: float | None = None
    density: float | None = None
    seconds: float | None = None
    message: str | None = None
    line: dict[str, Any] | None = None
