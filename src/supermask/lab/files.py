"""Writing, hashing and locking files.

Locks use POSIX ``flock``: on Windows, two drivers that work on one folder at the same time are not kept apart.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from supermask.core.arrays import atomic_write

if sys.platform != "win32":
    import fcntl


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    atomic_write(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def sha256(path: Path) -> str:
    """Hash of a file's content; for a folder, of the relative names and contents of all files below it."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    total = hashlib.sha256()
    for file_path in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{file_path.relative_to(path).as_posix()}\0{sha256(file_path)}\n".encode())
    return total.hexdigest()


@contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Hold a lock file; the system releases it with the process, however that ends.

    Yields:
        False if another process holds it.
    """
    if sys.platform == "win32":
        yield True
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
