"""What a run tells while it works. Executors carry these from the workers to whoever shows the progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["started", "resumed", "progress", "epoch", "done", "skipped", "failed"]
ENDS: Final = ("done", "skipped", "failed")  # one of them is the last of a run


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
        elsewhere: Another driver tells this too, as its own.
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
    elsewhere: bool = False


def done_values(result: Mapping[str, Any]) -> dict[str, Any]:
    """What ``done`` tells of a run.

    Args:
        result: Its ``result.json``.
    """
    counts = result["counts"]
    return {
        "epoch": result["epochs"],
        "epochs": result["epochs"],
        "loss": result["loss"]["train"],
        "accuracy": result["accuracy"]["last"],
        "metric": result.get("metric", result["accuracy"])["last"],
        "density": counts["weights_remaining"] / counts["weights_targeted"] if counts["weights_targeted"] else None,
        "seconds": result["seconds"]["total"],
    }
