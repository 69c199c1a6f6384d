"""Worker processes of this machine on a results folder that other machines work on too, each run claimed by a lease."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from supermask.core.locking import locked
from supermask.lab.events import ENDS, Event
from supermask.lab.executors.follow import Follower, failed_elsewhere
from supermask.lab.executors.processes import STOPPED, do_here, require_workers
from supermask.lab.executors.protocol import Tell
from supermask.lab.leases import BEATS, LEASE_SECONDS, Leasing, Observer, release_of
from supermask.lab.runner import Job, Runner, after_death, look_up

_LONGEST_POLL: Final = 5.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Any number of machines on one results folder, each given the same command; no two train the same run.

    Each driver takes the runs that nobody has, then waits for those that others train, and takes over the runs of drivers
    that have died. So every one of them ends when all runs have.

    Args:
        workers: Worker processes of this machine, see :class:`supermask.lab.executors.processes.Local`.
        pack: See there.
        lease_seconds: A process that was not heard of for so long counts as dead, and its runs go to others; at least 1.

    Raises:
        RunError: A number is out of range.
    """

    workers: int | None = None
    pack: bool = False
    lease_seconds: float = LEASE_SECONDS

    def __post_init__(self) -> None:
        require_workers(self.workers)
        Leasing(seconds=self.lease_seconds)

    @property
    def here(self) -> bool:
        """The runs train on this machine, or on others like it."""
        return True

    @property
    def stopped(self) -> str:
        """What Ctrl-C leaves."""
        return STOPPED

    def run(self, runner: Runner, jobs: Sequence[Job], tell: Tell, on_stop: Callable[[], None] | None) -> None:
        """Do all jobs, see :class:`supermask.lab.executors.protocol.Executor`."""
        leasing = Leasing(seconds=self.lease_seconds)
        runner = replace(runner, leasing=leasing)
        left = _Left(jobs, tell, self.lease_seconds)

        def on_death(job: Job, why: str) -> None:
            with contextlib.suppress(OSError):  # it lapses by itself then
                release_of(job.folder.lease, leasing.owner)
            left.take(after_death(job, why))

        ready = list(jobs)
        while ready:
            do_here(
                runner,
                ready,
                workers=self.workers,
                pack=self.pack,
                tell=left.take,
                on_death=on_death,
                on_stop=on_stop,
            )
            ready = left.wait()


class _Left:
    """The runs that have not ended, as far as this driver knows."""

    def __init__(self, jobs: Sequence[Job], tell: Tell, lease_seconds: float) -> None:
        self._jobs = {job.spec.id: job for job in jobs}
        self._tell = tell
        self._observer = Observer(lease_seconds)
        self._follower = Follower(tell, elsewhere=True)
        self._poll = min(_LONGEST_POLL, lease_seconds / BEATS)

    def take(self, event: Event) -> None:
        """Tell an event; but not that another process has a run, whose end is still to be told."""
        if event.kind == "skipped" and event.seconds is None:
            return
        if event.kind in ENDS:
            del self._jobs[event.run]
        self._tell(event)

    def wait(self) -> list[Job]:
        """Wait until a run that others had can be taken: those; none when all have ended."""
        while self._jobs:
            if ready := [job for job in map(self._look_at, list(self._jobs.values())) if job is not None]:
                return ready
            self._follower.look(list(self._jobs.values()))
            if self._jobs:
                time.sleep(self._poll)
        return []

    def _look_at(self, job: Job) -> Job | None:
        """A run that others had, if it can be taken now; its end is told if it has come."""
        sight, free = self._observer.look(job.folder.lease)
        if job.folder.result.exists() and (event := look_up(job)):
            self._follower.catch_up(job)
            self.take(event)
            return None
        if not free:
            return None
        if not sight.free:
            return replace(job, lapsed=sight)
        if why := failed_elsewhere(job):
            self._follower.catch_up(job)
            self.take(job.event("failed", message=f"{why} (in another process)"))
            return None
        with locked(job.folder.lock, wait=False, optional=True) as held:
            return job if held else None
