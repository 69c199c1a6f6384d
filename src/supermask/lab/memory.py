"""The memory of this process; needs nothing but Python, so that it also runs in processes without torch."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

if sys.platform != "win32":
    import resource

_CLEAR_REFS: Final = Path("/proc/self/clear_refs")
_STATUS: Final = Path("/proc/self/status")


def reset_peak() -> None:
    """Start measuring the peak anew, where the system allows it (Linux).

    What earlier work of this process has freed is given back to the system first, so that it does not count: workers are
    told to keep it (:data:`supermask.lab.executors.local.KEEP_MEMORY`). Only glibc (Linux) can do that; elsewhere the peak
    depends on what ran before.
    """
    gc.collect()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
    if _CLEAR_REFS.exists():
        try:
            _CLEAR_REFS.write_text("5")
        except OSError:  # not allowed in some containers: the peak then counts from the start of the process
            return


def peak_rss() -> int | None:
    """Bytes of the largest resident memory since :func:`reset_peak`; None where the system does not tell."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _malloc_trim() -> Callable[[int], int] | None:
    """What gives freed memory back in glibc; None on other systems."""
    if not sys.platform.startswith("linux"):
        return None
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    return trim
