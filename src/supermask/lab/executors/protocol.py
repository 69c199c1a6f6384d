"""What every way to get runs done has in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from supermask.lab.events import Event
from supermask.lab.runner import Job, Runner

Tell = Callable[[Event], None]


class Executor(Protocol):
    """A way to get runs done: a frozen dataclass whose fields are its options.

    Executors do not count for the ids of runs, and leave the same run folders.
    """

    @property
    def here(self) -> bool:
        """Whether the runs train on this machine, so that its device and its data can be looked at first."""

    @property
    def stopped(self) -> str:
        """What Ctrl-C leaves, for people."""

    def run(self, runner: Runner, jobs: Sequence[Job], tell: Tell, on_stop: Callable[[], None] | None) -> None:
        """Do all jobs and return.

        Args:
            runner: Does a job; how the runs are claimed is the executor's choice (:attr:`Runner.leasing`).
            jobs: Runs without a result, in the order in which to begin them; at least one.
            tell: Gets the events, in this process and thread. The last one of each job is ``done``, ``skipped`` or
                ``failed``, once.
            on_stop: Called at the first Ctrl-C, before runs at work take their last checkpoints.

        Raises:
            RunError: An option is out of range, or nothing can be started; says the way out.
            MissingExtraError: A package is missing; has the pip line.
            KeyboardInterrupt: Ctrl-C; the runs have taken checkpoints.
        """
