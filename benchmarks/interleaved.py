"""Timing that survives a noisy machine: candidates take turns, each in a process of its own, and only ratios are reported."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

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

    Raises:
        RuntimeError: A candidate failed, or its process died; the message names it, and has its traceback or exit code.
    """
    candidates: dict[str, _Candidate] = {}
    try:
        for name, environment in environments.items():
            candidates[name] = _Candidate(name, environment, (factory, name, calls, warmup, clock))
            candidates[name].answer()  # warmed up: one process at a time
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(rounds):
            for name, candidate in candidates.items():
                candidate.go()
                times[name].append(candidate.answer())
        return times
    finally:
        for candidate in candidates.values():
            candidate.end()


class _Candidate:
    """A process that times one candidate when it is told to."""

    def __init__(self, name: str, environment: Mapping[str, str], arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, *arguments), daemon=True)
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            self.process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        other.close()  # only the process has it now: when that dies, no answer can come

    def go(self) -> None:
        """Ask for one round; a process that has died is noticed by :meth:`answer`."""
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send("go")

    def answer(self) -> float:
        """What the process says next."""
        try:
            reply: float | str = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise RuntimeError(f"the process of {self.name!r} ended with exit code {self.process.exitcode}") from None
        if isinstance(reply, str):
            raise RuntimeError(f"{self.name!r} failed:\n{reply}")
        return reply

    def end(self) -> None:
        """Let the process end: without its pipe it has nothing to wait for."""
        self.pipe.close()
        self.process.join()


def _serve(pipe: Connection, factory: Factory, name: str, calls: int, warmup: int, clock: str) -> None:
    try:
        function, seconds = factory(name), getattr(time, clock)
        for _ in range(warmup):
            function()
        pipe.send(0.0)
        while pipe.recv() == "go":
            start = seconds()
            for _ in range(calls):
                function()
            pipe.send((seconds() - start) / calls)
    except EOFError:
        return  # the end
    except Exception:  # noqa: BLE001  (whatever it is, the one that asked says it)
        pipe.send(traceback.format_exc())


def ratio(times: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Median, 5 % and 95 % quantile of the paired ratios."""
    ratios = [a / b for a, b in zip(times, reference, strict=True)]
    cuts = statistics.quantiles(ratios, n=20, method="inclusive")
    return statistics.median(ratios), cuts[0], cuts[-1]
