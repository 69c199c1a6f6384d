"""Processes that decode images: started by the path of their program, so that any script or worker may start them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from supermask.errors import ConfigError, DamagedDataError, DataError

_PROGRAM: Final = Path(__file__).with_name("pictures.py")
Request = dict[str, Any]
Answer = dict[str, Any]


def default_processes() -> int:
    """One for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A pool of decoding processes, ended with its ``with`` block; work that is under way is then thrown away.

    Args:
        processes: How many, >= 1; None: :func:`default_processes`.

    Raises:
        ConfigError: ``processes`` is out of range.
    """

    def __init__(self, processes: int | None = None) -> None:
        if processes is not None and (isinstance(processes, bool) or not isinstance(processes, int) or processes < 1):
            raise ConfigError(f"processes must be a number of decoding processes >= 1, got {processes!r}")
        self.processes = default_processes() if processes is None else processes
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        """The pool; a process is started when there is work for it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes."""
        for process in self._running:
            process.kill()
        for process in self._running:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):  # what the process had not read yet is thrown away with it
                    pipe.close()

    def work(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Do all requests; their numbers and answers in the order in which they are done.

        Raises:
            DamagedDataError: A shard is damaged.
            DataError: A file cannot be read or written, or a process died.
        """
        waiting: queue.SimpleQueue[tuple[int, Request]] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
        for number, request in enumerate(requests):
            waiting.put((number, request))
        while len(self._running) < min(self.processes, len(requests)):
            self._running.append(_start())
        threads = [threading.Thread(target=_feed, args=(p, waiting, done), daemon=True) for p in self._running]
        for thread in threads:
            thread.start()
        for _ in requests:
            number, reply = done.get()
            _raise_for(reply)
            yield number, reply
        for thread in threads:
            thread.join()


def _start() -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-P", str(_PROGRAM)]  # -P: its own folder is no place to import from
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8", env=environment)


def _feed(
    process: subprocess.Popen[str],
    waiting: queue.SimpleQueue[tuple[int, Request]],
    done: queue.SimpleQueue[tuple[int, Answer]],
) -> None:
    """Give one process a request after the other; runs in a thread of its own."""
    assert process.stdin is not None
    assert process.stdout is not None
    while True:
        try:
            number, request = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):  # it died, or the pool was ended
            line = ""
        if not line:
            died = f"a decoding process ended (exit code {process.wait()}); the same command continues where it stopped"
            done.put((number, {"error": died, "kind": "system"}))
            return
        done.put((number, json.loads(line)))


def _raise_for(reply: Answer) -> None:
    if "error" in reply:
        raise (DamagedDataError if reply["kind"] == "damaged" else DataError)(reply["error"])
