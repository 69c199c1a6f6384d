"""Timing that survives a noisy machine: candidates take turns, each in a process of its own, and only ratios are reported."""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from supermask.lab.executors.local import KEEP_MEMORY

PLAIN = {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
"""One thread that does not spin; otherwise as a user's own program runs."""
LAB = PLAIN | KEEP_MEMORY
"""As the lab runs its workers."""

Factory = Callable[[str], Callable[[], object]]


def machine() -> str:
    """Processor, cores, torch and the variant of the kernels."""
    import torch

    from supermask.kernels.library import variant

    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        model = next(line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line)
    level = torch.backends.cpu.get_cpu_capability()
    return f"{model} ({level}), {os.cpu_count()} cores, torch {torch.__version__}, kernels {variant()}"


def header(command: str) -> str:
    """What every table of interleaved figures starts with."""
    return (
        f"{command}: {machine()}, 1 thread, CPU time, medians of interleaved rounds, ratios paired by round [5 %, 95 %]"
    )


def measure(
    factory: Factory,
    environments: Mapping[str, Mapping[str, str]],
    *,
    rounds: int,
    calls: int,
    warmup: int,
    clock: str = "process_time",
) -> dict[str, list[float]]:
    """Seconds per call, one value a round; in every round each candidate runs once.

    Args:
        factory: Importable function: name of a candidate -> what to time. Called in the candidate's own process.
        environments: Name of a candidate -> environment variables of its process, set before it starts.
        rounds: Number of rounds.
        calls: Calls of a candidate in one round.
        warmup: Untimed calls of each candidate before the first round.
        clock: Function of ``time`` that gives seconds: ``process_time`` (CPU time) or ``perf_counter`` (wall clock).
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name, environment in environments.items():
        pipes[name], other = context.Pipe()
        before = dict(os.environ)
        os.environ.update(environment)
        context.Process(target=_serve, args=(other, factory, name, calls, warmup, clock), daemon=True).start()
        os.environ.clear()
        os.environ.update(before)
        pipes[name].recv()  # warmed up: one process at a time
    times: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send("go")
            times[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send("")  # end
    return times


def _serve(pipe: Connection, factory: Factory, name: str, calls: int, warmup: int, clock: str) -> None:
    function, seconds = factory(name), getattr(time, clock)
    for _ in range(warmup):
        function()
    pipe.send(0.0)
    while pipe.recv() == "go":
        start = seconds()
        for _ in range(calls):
            function()
        pipe.send((seconds() - start) / calls)


def ratio(times: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Median, 5 % and 95 % quantile of the paired ratios."""
    ratios = [a / b for a, b in zip(times, reference, strict=True)]
    cuts = statistics.quantiles(ratios, n=20, method="inclusive")
    return statistics.median(ratios), cuts[0], cuts[-1]
