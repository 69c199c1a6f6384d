"""trackio: a local database, or a Space of the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import contextvars
import sys
from collections.abc import Mapping
from typing import Any

from supermask.errors import MissingExtraError
from supermask.lab.trackers.protocol import TrackedRun


class Trackio:
    """Tells trackio; its own variables hold (`TRACKIO_DIR`, `TRACKIO_SPACE_ID`, `TRACKIO_SERVER_URL`).

    Args:
        target: The project, `supermask` by default.

    Raises:
        MissingExtraError: trackio is not installed.
    """

    def __init__(self, target: str | None) -> None:
        try:
            import trackio
        except ImportError as error:
            raise MissingExtraError("trackio", "trackio", "--track trackio") from error
        self._trackio = trackio
        self._project = target or "supermask"
        self._open: dict[str, Any] = {}

    def start(self, run: TrackedRun) -> None:
        """Make a run, or go on with the one of that name."""
        if run.id in self._open:
            return

        def begin() -> Any:
            return self._trackio.init(
                project=self._project,
                name=f"{run.name} ({run.id})",
                group=run.experiment,
                config=dict(run.settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

        with contextlib.redirect_stdout(sys.stderr):  # it greets; stdout may be JSON
            # its current run is a context variable, and a new one ends it: each run gets a context of its own
            self._open[run.id] = contextvars.Context().run(begin)

    def epoch(self, run: TrackedRun, epoch: int, values: Mapping[str, float]) -> None:
        """One row, with the epoch as its step."""
        self._open[run.id].log(dict(values), step=epoch)

    def end(self, run: TrackedRun, error: str | None) -> None:
        """Finish; trackio knows no failed runs, so the reason is a value."""
        opened = self._open.pop(run.id)
        if error is not None:
            opened.log({"error": error})
        self._finish(opened)

    def close(self) -> None:
        """Finish the runs that were stopped."""
        while self._open:
            self._finish(self._open.popitem()[1])

    @staticmethod
    def _finish(opened: Any) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            opened.finish()
