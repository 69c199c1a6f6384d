"""Timing that survives a noisy machine: all candidates take turns in one process, and only ratios are reported."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def processor() -> str:
    """Name of the processor, as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def header(command: str) -> str:
    """What every table of figures starts with: command, machine, versions, threads."""
    return (
        f"{command}: {processor()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread(s), CPU time of the process, medians of interleaved rounds"
    )


def measure(candidates: Mapping[str, Callable[[], object]], *, rounds: int, calls: int, warmup: int) -> dict[str, list[float]]:
    """Seconds of CPU time per call, one value a round; in every round each candidate runs once.

    Args:
        candidates: Name -> function to time.
        rounds: Number of rounds.
        calls: Calls of a candidate in one round.
        warmup: Untimed calls of each candidate before the first round.
    """
    for function in candidates.values():
        for _ in range(warmup):
            function()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, function in candidates.items():
            start = time.process_time()
            for _ in range(calls):
                function()
            times[name].append((time.process_time() - start) / calls)
    return times


def ratio(times: list[float], reference: list[float]) -> tuple[float, float, float]:
    """Median, 5 % and 95 % quantile of the paired ratios."""
    ratios = sorted(a / b for a, b in zip(times, reference, strict=True))
    cuts = statistics.quantiles(ratios, n=20, method="inclusive")
    return statistics.median(ratios), cuts[0], cuts[-1]
