"""Weights & Biases, online or offline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supermask.errors import MissingExtraError
from supermask.lab.trackers.protocol import TrackedRun


class WeightsAndBiases:
    """Tells Weights & Biases; its own variables hold (`WANDB_MODE=offline`, `WANDB_DIR`, `WANDB_API_KEY`).

    Args:
        target: `project` or `entity/project`; the project `supermask` by default.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    def __init__(self, target: str | None) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", "wandb", "--track wandb") from error
        self._wandb = wandb
        entity, _, project = (target or "supermask").rpartition("/")
        self._entity, self._project = entity or None, project
        self._open: dict[str, Any] = {}

    def start(self, run: TrackedRun) -> None:
        """Make a run, or go on with the one of that id; it leaves the terminal to others."""
        if run.id in self._open:
            return
        opened = self._wandb.init(
            entity=self._entity,
            project=self._project,
            id=run.id,
            name=run.name,
            group=run.experiment,
            config=dict(run.settings),
            resume="allow",
            reinit="create_new",
            settings=self._wandb.Settings(console="off", silent=True),
        )
        opened.define_metric("*", step_metric="epoch")
        self._open[run.id] = opened

    def epoch(self, run: TrackedRun, epoch: int, values: Mapping[str, float]) -> None:
        """One row of the history; its own step goes on where a run is resumed, so the epoch is a value."""
        self._open[run.id].log({"epoch": epoch, **values})

    def end(self, run: TrackedRun, error: str | None) -> None:
        """Finished or failed; the reason is in the summary."""
        opened = self._open.pop(run.id)
        if error is not None:
            opened.summary["error"] = error
        opened.finish(exit_code=int(error is not None))

    def close(self) -> None:
        """Runs that were stopped end as such."""
        while self._open:
            self._open.popitem()[1].finish(exit_code=1)
