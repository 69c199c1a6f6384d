"""Who trains a run where several hosts share its folder: numbered claims, renewed by their holder, that lapse in silence.

A run that is being trained has a folder ``lease``. Each file in it is a claim; the one with the highest number holds the run::

    lease/000001   {"owner": "5e0c…", "host": "n1", "pid": 811, "beat": 97, "state": "held"}
    lease/000002   …

* Whoever wants a run makes the next number, by exclusive creation: of any number of processes, one succeeds. That is
  allowed if there is no claim, if the highest one is released, or if it has lapsed.
* The holder changes its claim a few times in :attr:`Leasing.seconds`. A claim has lapsed when somebody has seen the same
  bytes for that long on a monotonic clock of their own. No two clocks are ever compared, so a clock that is wrong, or set
  in the middle, changes nothing.
* A process that was paused for longer finds a higher number than its own, and must not write: it asks before every write
  (:meth:`Lease.require`), and before its results it makes the next number itself (:meth:`Lease.confirm`), which no cached
  list of names can feign.
* No claim is removed before the run has a result: a number that came back could be made twice.

Exclusive creation is what a shared file system must be able to do; locks are not needed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from supermask.errors import RunError, RunHeldError

LEASE_SECONDS: Final = 60.0
LEAST_SECONDS: Final = 1.0
MOST_SECONDS: Final = 86_400.0
BEATS: Final = 6  # changes of a claim in its seconds
_HELD: Final = "held"
_RELEASED: Final = "released"
_GONE: Final = (errno.ENOENT, getattr(errno, "ESTALE", errno.ENOENT))  # the latter is what NFS says
_LENGTH: Final = 256  # bytes of a claim: the same for all, so that it is changed in one place at once


@dataclass(frozen=True)
class Leasing:
    """How a process claims runs.

    Args:
        seconds: A claim that does not change for so long has lapsed; from :data:`LEAST_SECONDS` to :data:`MOST_SECONDS`.
            Network file systems may show others a change only after a minute (the attribute cache of NFS).
        wait: Wait for a run that another process holds, until it lapses, is released or has its result; False: leave it.
        owner: Names the driver whose processes these are.

    Raises:
        RunError: ``seconds`` is out of range.
    """

    seconds: float = LEASE_SECONDS
    wait: bool = False
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        if not self.seconds >= LEAST_SECONDS:
            raise RunError(f"lease_seconds must be at least {LEAST_SECONDS:g}, got {self.seconds}")
        if self.seconds > MOST_SECONDS:
            raise RunError(f"lease_seconds must be at most {MOST_SECONDS:g} (a day), got {self.seconds}")


@dataclass(frozen=True)
class Sight:
    """What a look at a lease showed.

    Args:
        number: The highest claim; 0: there is none.
        content: Its bytes.
    """

    number: int = 0
    content: bytes = b""

    @property
    def free(self) -> bool:
        """Whether nobody holds the run; a claim that is being written counts as held."""
        return self.number == 0 or self.values().get("state") == _RELEASED

    @property
    def holder(self) -> str:
        """Who made the claim, for people."""
        values = self.values()
        return f"process {values['pid']} on {values['host']}" if {"pid", "host"} <= values.keys() else "another process"

    def values(self) -> dict[str, Any]:
        """The content as JSON; empty while it is being written."""
        try:
            found = json.loads(self.content)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def look(folder: Path) -> Sight:
    """Look at a lease.

    Args:
        folder: The folder ``lease`` of a run; it need not exist.
    """
    try:
        number = max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=0)
        return Sight(number, _claim(folder, number).read_bytes()) if number else Sight()
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return Sight()  # none, or removed just now as the run has its result


class Observer:
    """Tells which leases have lapsed, by the clock of this process alone.

    Args:
        seconds: See :class:`Leasing`.
        now: A monotonic clock, in seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._since: dict[Path, tuple[Sight, float]] = {}

    def look(self, folder: Path) -> tuple[Sight, bool]:
        """What a lease shows, and whether it may be taken over: free, or unchanged for too long."""
        sight, now = look(folder), self._now()
        before, since = self._since.get(folder, (None, now))
        if sight != before:
            since = now
        self._since[folder] = sight, since
        return sight, sight.free or now - since >= self._seconds


def claim(folder: Path, sight: Sight, leasing: Leasing) -> Lease | None:
    """Make the claim that follows what was seen; None if somebody else made it.

    Args:
        folder: The folder ``lease`` of a run; made if it is missing.
        sight: What was free or had lapsed.
        leasing: Who claims.

    Raises:
        OSError: The claim cannot be written; it is not made then.
    """
    folder.mkdir(exist_ok=True)
    number = sight.number + 1
    return Lease(folder, number, leasing) if _make(folder, number, _content(leasing, 0)) else None


def release_of(folder: Path, owner: str) -> None:
    """Release the claim of an owner's process that has died, if it is still the highest.

    Raises:
        OSError: It cannot be written.
    """
    sight = look(folder)
    values = sight.values()
    if values.get("owner") == owner and not sight.free:
        _write(_claim(folder, sight.number), values | {"state": _RELEASED})


class Lease:
    """A claim of this process; within ``with`` it is kept fresh by a thread, and released at the end.

    Args:
        folder: The folder ``lease`` of the run.
        number: Number of the claim that was made.
        leasing: Who made it.
    """

    def __init__(self, folder: Path, number: int, leasing: Leasing) -> None:
        self.folder = folder
        self.number = number
        self._leasing = leasing
        self._beats = 0
        self._end = threading.Event()
        self._turn = threading.Lock()
        self._heart = threading.Thread(target=self._live, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._heart.join()
        with contextlib.suppress(OSError):  # removed with the result; or it cannot be written and lapses by itself
            _write(_claim(self.folder, self.number), _content(self._leasing, self._beats) | {"state": _RELEASED})

    def require(self) -> None:
        """Make sure that the run is still this process's; asked before every write into its folder.

        Raises:
            RunHeldError: Another process has taken it over.
        """
        if look(self.folder).number != self.number:
            raise self._lost()

    def confirm(self) -> None:
        """Like :meth:`require`, and nobody else's claim can follow before this one has been silent for its seconds again.

        Raises:
            RunHeldError: Another process has taken it over.
        """
        self.require()
        with self._turn:
            if not _make(self.folder, self.number + 1, _content(self._leasing, self._beats)):
                raise self._lost()
            self.number += 1

    def remove(self) -> None:
        """Remove the lease of a run that has its result."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _lost(self) -> RunHeldError:
        return RunHeldError(
            f"{look(self.folder).holder} has taken this run over, as nothing was heard of this process for "
            f"{self._leasing.seconds:g} s; what was trained since the last checkpoint is dropped"
        )

    def _live(self) -> None:
        while not self._end.wait(self._leasing.seconds / BEATS):
            with (
                self._turn,
                contextlib.suppress(OSError),
            ):  # the next beat may succeed; require() tells if it is too late
                self._beats += 1
                _write(_claim(self.folder, self.number), _content(self._leasing, self._beats))


def _claim(folder: Path, number: int) -> Path:
    return folder / f"{number:06}"


def _content(leasing: Leasing, beat: int) -> dict[str, Any]:
    return {"owner": leasing.owner, "host": platform.node(), "pid": os.getpid(), "beat": beat, "state": _HELD}


def _make(folder: Path, number: int, values: dict[str, Any]) -> bool:
    """Create a claim that must not exist; False if it does, or if the lease was removed with the result."""
    path = _claim(folder, number)
    try:
        with path.open("xb") as file:
            try:
                file.write(_text(values))
                file.flush()
            except OSError:
                path.unlink()  # nobody has it then, and the number may be made again
                raise
    except (FileExistsError, FileNotFoundError):
        return False
    return True


def _write(path: Path, values: dict[str, Any]) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(_text(values))


def _text(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode().ljust(_LENGTH - 1) + b"\n"
