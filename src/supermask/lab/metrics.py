"""The growing file of a run: one JSON line an epoch, cut back to what a checkpoint knows when a run is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supermask.errors import CheckpointError


class MetricsFile:
    """Appends epochs to a file and keeps them in ``lines``.

    Args:
        path: The file.
        before_write: Called before every change of the file; raises where another process has taken the run over.
    """

    def __init__(self, path: Path, before_write: Callable[[], None] | None = None) -> None:
        self.path = path
        self._before_write = before_write
        self.lines: list[dict[str, Any]] = []

    def restart(self, size: int = 0) -> None:
        """Keep the first ``size`` bytes: the epochs that a checkpoint knows.

        Raises:
            CheckpointError: The file is shorter or does not end a line there.
        """
        content = self.path.read_bytes()[:size] if self.path.exists() else b""
        if len(content) < size or not (content == b"" or content.endswith(b"\n")):
            raise CheckpointError(
                f"{self.path} does not hold the epochs that the checkpoint beside it knows; put the file back, or delete "
                f"the folder {self.path.parent} to train this run again from its start"
            )
        self.lines = [json.loads(line) for line in content.splitlines()]
        with self.path.open("ab") as file:  # what is kept is not written anew: that could fail half-way
            file.truncate(size)

    def append(self, line: dict[str, Any]) -> None:
        """Add one epoch."""
        if self._before_write is not None:
            self._before_write()
        self.lines.append(line)
        with self.path.open("ab") as file:
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    def sync(self) -> int:
        """Flush the file to the disk and return its size in bytes."""
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()
