"""A function that is timed in a process of its own: with its own threads, its own memory, and only what it needs imported.

This module needs nothing but numpy, so that the process of an engine without torch is one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from supermask.core.clock import Clock, time_calls
from supermask.errors import RunError
from supermask.lab.memory import peak_rss, reset_peak

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
_END: Final = "end"


class Contender:
    """A process that holds one inference function; a context manager that ends it.

    Args:
        factory: ``package.module:function`` that makes a function from inputs (N, ...) to outputs (N, ...), both float32.
        arguments: What the factory is called with; pickled.
        threads: OpenMP threads of the process, which wait without spinning.

    Raises:
        RunError: The factory failed, or took too long.
    """

    def __init__(self, factory: str, arguments: Mapping[str, Any], *, threads: int, max_seconds: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(theirs, factory, dict(arguments)), daemon=True
        )
        with _environment({"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(threads)}):
            self._process.start()
        theirs.close()
        try:
            self._receive(max_seconds)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(self, x: NDArray[np.float32], *, max_seconds: float | None = None) -> NDArray[np.float32]:
        """Run it once; the input stays for :meth:`timer`, and the peak of its memory is measured from now on."""
        output: NDArray[np.float32] = self._ask(("run", x), max_seconds)
        return output

    def timer(self) -> Timer:
        """What times it on the input that it ran last."""
        return Timer(self)

    def peak(self) -> int | None:
        """Bytes of its process at their peak since the last :meth:`run`."""
        peak: int | None = self._ask(("peak",))
        return peak

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._pipe.send((_END,))
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def _ask(self, request: tuple[Any, ...], max_seconds: float | None = None) -> Any:
        try:
            self._pipe.send(request)
        except OSError as error:
            raise RunError(f"its process has ended with exit code {self._process.exitcode}") from error
        return self._receive(max_seconds)

    def _receive(self, max_seconds: float | None) -> Any:
        if not self._pipe.poll(max_seconds):
            raise RunError(f"not ready within {max_seconds:g} s")
        try:
            done, value = self._pipe.recv()
        except EOFError as error:
            self._process.join(2)
            raise RunError(f"its process has ended with exit code {self._process.exitcode}") from error
        if not done:
            raise RunError(str(value))
        return value


@dataclass(frozen=True)
class Timer:
    """Times a contender; a candidate of :func:`supermask.measure.latency.latency`."""

    contender: Contender

    def time(self, calls: int, clock: Clock) -> Sequence[float]:
        """Seconds of each of that many calls."""
        seconds: list[float] = self.contender._ask(("time", calls, clock))
        return seconds


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _serve(pipe: Connection, factory: str, arguments: Mapping[str, Any]) -> None:
    """What the process does: make the function, then answer."""
    try:
        module, _, name = factory.partition(":")
        function: Run = getattr(import_module(module), name)(**arguments)
        pipe.send((True, None))
        x = np.zeros(0, np.float32)
        while (request := pipe.recv())[0] != _END:
            if request[0] == "run":
                x = request[1]
                reset_peak()
                pipe.send((True, function(x)))
            elif request[0] == "time":
                pipe.send((True, time_calls(partial(function, x), *request[1:])))
            else:
                pipe.send((True, peak_rss()))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:  # noqa: BLE001  (told to the process that asked)
        last = traceback.extract_tb(error.__traceback__)[-1]
        pipe.send((False, f"{type(error).__name__}: {str(error).partition(chr(10))[0]} ({last.name})"))
