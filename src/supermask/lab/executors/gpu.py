"""Several runs on one GPU, where they fit: by what finished runs of the same setting took."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from supermask.errors import RunError
from supermask.lab.result import describe_setting
from supermask.lab.runner import Job
from supermask.lab.store import RunFolder, read_result

CONTEXT_BYTES: Final = 1 << 30  # what CUDA and its libraries take in each process beside tensors, and to spare
SLACK: Final = 1.25  # an allocator holds more than the tensors that it was asked for
_QUERY: Final = "import sys, torch; print(torch.cuda.mem_get_info(sys.argv[1])[0])"


class Packing:
    """Decides which runs share a GPU.

    A run whose setting has no finished run yet trains alone; its result then tells what the others of its setting need: the
    peak of its tensors times :data:`SLACK`, plus :data:`CONTEXT_BYTES`.

    Args:
        device: The GPU.
        jobs: The runs to come; their neighbours in the results folder are asked too.
        free: Bytes of a device that are free now.

    Raises:
        RunError: The device is no GPU, or cannot be asked.
    """

    def __init__(self, device: str, jobs: Sequence[Job], free: Callable[[str], int]) -> None:
        if not device.startswith("cuda"):
            raise RunError(
                f"pack puts several runs on one GPU, the device is {device!r}; say --device cuda, or leave it out"
            )
        self._free = free(device)
        self._settings = {job.spec.id: _setting(job) for job in jobs}
        self._needs: dict[str, int] = {}
        self._unfinished = {job.spec.id: job for job in jobs}
        for folder in sorted({job.folder.path.parent for job in jobs}):
            for path in sorted(folder.glob("*/result.json")):
                with contextlib.suppress(RunError):  # damaged, or of another version: it tells nothing
                    self._learn_from(read_result(RunFolder(path.parent)))

    def admits(self, job: Job, at_work: Sequence[Job]) -> bool:
        """Whether a run fits beside those at work."""
        for other in [other for other in self._unfinished.values() if other.folder.result.exists()]:
            del self._unfinished[other.spec.id]
            with contextlib.suppress(RunError):  # as above
                self._learn_from(read_result(other.folder))
        needs = [self._needs.get(self._settings[other.spec.id]) for other in (*at_work, job)]
        known = [need for need in needs if need is not None]
        return len(known) == len(needs) and sum(known) <= self._free

    def _learn_from(self, result: Mapping[str, Any]) -> None:
        peak = result["memory"].get("peak_device")
        setting = result.get("setting")
        if peak is not None and setting is not None:
            self._needs[setting] = max(self._needs.get(setting, 0), int(SLACK * peak) + CONTEXT_BYTES)


def free_bytes(device: str) -> int:
    """Bytes of a GPU that are free now. Asked in a process of its own, whose own part of the memory goes with it.

    Raises:
        RunError: It cannot be asked.
    """
    asked = subprocess.run([sys.executable, "-c", _QUERY, device], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        why = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RunError(f"the memory of {device!r} cannot be asked ({why}); leave pack out, and say --workers")
    return int(asked.stdout)


def _setting(job: Job) -> str:
    setting = describe_setting(job.spec, job.spec.config())["setting"]
    assert isinstance(setting, str)
    return setting
