"""What every tracker has in common, and the run that it is told of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run as a tracker shows it.

    Args:
        id: Its id; the same run has it whenever it is resumed.
        experiment: Name of its experiment.
        label: What tells it from others of the experiment, without the seed.
        seed: Its seed.
        settings: Dotted key -> value, every default filled in.
        first_epoch: The epoch that it begins in now, counted from 1; later ones that were told before are told again.
    """

    id: str
    experiment: str
    label: str
    seed: int
    settings: Mapping[str, Any]
    first_epoch: int

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.label}, seed {self.seed}"


class Tracker(Protocol):
    """Hands what runs tell on to a program of another kind. Several runs can be open at once.

    All calls come from one thread. Whatever is raised switches the tracker off, and touches no run.
    """

    def start(self, run: TrackedRun) -> None:
        """Open a run, or one that was opened by an earlier process again.

        A run that is open here already was begun again, after its worker was lost: it stays open, and epochs from
        ``run.first_epoch`` on are told again.
        """

    def epoch(self, run: TrackedRun, epoch: int, values: Mapping[str, float]) -> None:
        """Take in an epoch, counted from 1, with what is known of it."""

    def end(self, run: TrackedRun, error: str | None) -> None:
        """Close a run.

        Args:
            run: The run.
            error: Why it failed; None: it is done.
        """

    def close(self) -> None:
        """Give up what is held; runs that are still open were stopped, and may be opened again later."""
