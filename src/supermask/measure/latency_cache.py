"""Latencies that were measured before, in one file for each machine and way of measuring."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from supermask.core.arrays import atomic_write
from supermask.core.clock import Clock
from supermask.core.locking import locked
from supermask.errors import MaskError

_FORMAT: Final = 1


def machine_of(batch: int, clock: Clock) -> dict[str, Any]:
    """What a measurement belongs to: this machine with the threads that torch has now."""
    processor = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = next(iter(names), processor)
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch": batch,
        "clock": clock,
    }


@dataclass(frozen=True)
class LatencyCache:
    """Named lists of numbers in a file; what is there first stays, so that a run that goes on sees what it began with.

    Args:
        folder: Where the file is; None: nothing is kept.
        machine: What the numbers belong to.
    """

    folder: Path | None
    machine: Mapping[str, Any]

    def known(self) -> dict[str, list[float]]:
        """What is in the file.

        Raises:
            MaskError: It is damaged, or of another machine.
        """
        if self.folder is None or not (file := self._file(self.folder)).exists():
            return {}
        try:
            content = json.loads(file.read_text())
            form, machine, numbers = content["format"], content["machine"], content["seconds"]
            found = {str(name): [float(value) for value in values] for name, values in numbers.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MaskError(f"{file} is damaged, delete it to measure again: {error}") from error
        if form != _FORMAT or machine != self.machine:
            raise MaskError(
                f"{file} holds measurements of format {form!r} of {machine}, not of {dict(self.machine)}; delete it"
            )
        return found

    def add(self, numbers: Mapping[str, list[float]]) -> dict[str, list[float]]:
        """Everything that is known with what is new; processes that add at once take turns.

        Raises:
            MaskError: The file is damaged, or of another machine.
        """
        if self.folder is None:
            return dict(numbers)
        file = self._file(self.folder)
        with locked(file.with_suffix(".lock")):
            merged = {**numbers, **self.known()}
            content = {"format": _FORMAT, "machine": dict(self.machine), "seconds": merged}
            atomic_write(file, json.dumps(content, indent=1, sort_keys=True).encode())
        return merged

    def _file(self, folder: Path) -> Path:
        digest = hashlib.sha256(json.dumps(dict(self.machine), sort_keys=True).encode()).hexdigest()
        return folder / f"latency-{digest[:12]}.json"
