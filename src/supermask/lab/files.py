"""Writing and hashing files."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from supermask.core.arrays import atomic_write, sync_folder
from supermask.errors import RunError


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    atomic_write(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are missing; a power failure does not take them away again."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def require_writable(folder: Path) -> None:
    """Make a results folder if it is missing, and make sure that it can be written.

    Raises:
        RunError: It cannot.
    """
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        way = "choose another by --out, or make this one writable"
        raise RunError(f"the results folder {folder} cannot be written ({error.strerror}): {way}") from error


def sha256(path: Path) -> str:
    """Hash of a file's content; for a folder, of the relative names and contents of all files below it."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    total = hashlib.sha256()
    for file_path in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{file_path.relative_to(path).as_posix()}\0{sha256(file_path)}\n".encode())
    return total.hexdigest()
