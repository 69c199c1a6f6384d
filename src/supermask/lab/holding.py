"""Having a run to oneself: by a lock of the operating system on one machine, by a lease where several share the folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from supermask.core.locking import locked
from supermask.errors import RunHeldError
from supermask.lab.leases import BEATS, Lease, Leasing, Observer, Sight, claim, look
from supermask.lab.store import RunFolder

_POLL_SECONDS: Final = 1.0  # at most
HELD_ELSEWHERE: Final = "another process is training this run"


class Hold:
    """A run that is this process's alone.

    Args:
        lease: What others see of it; None where the lock of the operating system is enough.
    """

    def __init__(self, lease: Lease | None = None) -> None:
        self._lease = lease

    def require(self) -> None:
        """Make sure that it still is; before every write into the folder.

        Raises:
            RunHeldError: Another process has taken the run over.
        """
        if self._lease is not None:
            self._lease.require()

    def confirm(self) -> None:
        """Make sure that it is, and stays so for the moment: before the files that make a run finished.

        Raises:
            RunHeldError: Another process has taken the run over.
        """
        if self._lease is not None:
            self._lease.confirm()


@contextmanager
def holding(
    folder: RunFolder, leasing: Leasing | None, lapsed: Sight | None, stopping: Callable[[], bool]
) -> Iterator[Hold]:
    """Have a run to oneself within ``with``.

    Args:
        folder: The run's folder; it exists.
        leasing: How runs are claimed; None: by the lock alone.
        lapsed: A claim that was watched until it had lapsed; taken over if it still is the same.
        stopping: Asked while this waits for another process; True: raise KeyboardInterrupt.

    Raises:
        RunHeldError: Another process has it.
        OSError: Neither lock nor claim can be made.
    """
    if leasing is None:
        with locked(folder.lock, wait=False) as held:
            if not held:
                raise RunHeldError(HELD_ELSEWHERE)
            if not (sight := look(folder.lease)).free:
                raise RunHeldError(
                    f"{HELD_ELSEWHERE}: {sight.holder}, by its lease; if that process is dead, the same command with "
                    "--executor shared takes the run over"
                )
            yield Hold()
        return
    observer = Observer(leasing.seconds)
    while True:
        sight, free = observer.look(folder.lease)
        if free or sight == lapsed:
            with locked(folder.lock, wait=False, optional=True) as held:
                # a paused process keeps its lock, so only a run without a claim is protected by the lock
                lease = claim(folder.lease, sight, leasing) if held or not sight.free else None
                if lease is not None:
                    with lease:
                        try:
                            yield Hold(lease)
                        finally:
                            if folder.result.exists():
                                lease.remove()
                    return
        if not leasing.wait:
            raise RunHeldError(HELD_ELSEWHERE)
        if stopping():
            raise KeyboardInterrupt
        time.sleep(min(_POLL_SECONDS, leasing.seconds / BEATS))
