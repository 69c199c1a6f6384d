"""TensorBoard: one folder of event files a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from supermask.errors import MissingExtraError
from supermask.lab.trackers.protocol import TrackedRun


class TensorBoard:
    """Writes event files.

    Args:
        target: The folder that `tensorboard --logdir` is given; `tensorboard` by default.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, target: str | None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard", "--track tensorboard") from error
        self._new_writer = SummaryWriter
        self._folder = Path(target or "tensorboard")
        self._open: dict[str, SummaryWriter] = {}

    def start(self, run: TrackedRun) -> None:
        """Open a file; what an earlier one holds of epochs that are told again is hidden."""
        label = re.sub(r"[^\w.=+-]+", "-", run.label)
        if run.id in self._open:
            self._open.pop(run.id).close()
        place = self._folder / run.experiment / f"{label}-s{run.seed}-{run.id}"
        writer = self._new_writer(str(place), purge_step=run.first_epoch)
        self._open[run.id] = writer
        if run.first_epoch == 1:
            rows = "\n".join(f"| {key} | {value} |" for key, value in run.settings.items())
            writer.add_text("settings", f"| setting | value |\n| --- | --- |\n{rows}", 1)

    def epoch(self, run: TrackedRun, epoch: int, values: Mapping[str, float]) -> None:
        """One point of every curve."""
        for key, value in values.items():
            self._open[run.id].add_scalar(key, value, epoch)
        self._open[run.id].flush()

    def end(self, run: TrackedRun, error: str | None) -> None:
        """Close the file."""
        writer = self._open.pop(run.id)
        if error is not None:
            writer.add_text("error", error)
        writer.close()

    def close(self) -> None:
        """Close the files of runs that were stopped."""
        while self._open:
            self._open.popitem()[1].close()
