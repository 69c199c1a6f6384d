"""A lock between processes that the operating system frees when its holder dies."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_RETRY_SECONDS: Final = 0.1
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems without locks say


@contextmanager
def locked(path: Path, *, wait: bool = True, optional: bool = False) -> Iterator[bool]:
    """Hold an exclusive lock on a file, which is made if missing and never removed.

    Args:
        path: The lock file.
        wait: Wait until the lock is free.
        optional: Something else keeps others out too: a file system that has no locks counts as a free one.

    Yields:
        True; False if another holder has it and ``wait`` is off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        held = _try_lock(file, optional=optional)
        while wait and not held:
            time.sleep(_RETRY_SECONDS)
            held = _try_lock(file, optional=optional)
        yield held


def _try_lock(file: IO[str], *, optional: bool) -> bool:
    try:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if not optional or error.errno not in _NO_LOCKS:
            raise
    return True
