"""Seconds of single calls; needs nothing but Python, so that it also runs in processes without torch."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final, Literal

Clock = Literal["wall", "cpu"]
CLOCKS: Final[dict[str, Callable[[], float]]] = {"wall": time.perf_counter, "cpu": time.process_time}


def time_calls(function: Callable[[], object], calls: int, clock: Clock = "wall") -> list[float]:
    """Seconds of each of so many calls, one after the other; the collector of garbage waits meanwhile.

    Args:
        function: Called without arguments; what it returns is dropped.
        calls: How many, >= 0.
        clock: ``wall``, or ``cpu``: time of all threads of this process.
    """
    now = CLOCKS[clock]
    collects = gc.isenabled()
    gc.disable()
    try:
        seconds = []
        for _ in range(calls):
            start = now()
            function()
            seconds.append(now() - start)
    finally:
        if collects:
            gc.enable()
    return seconds
