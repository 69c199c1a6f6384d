"""Worker processes on this machine: spawned once, fed one job after the other, replaced when they die.

A worker imports torch with its environment already set:

* a thread count, and a passive OpenMP wait policy: threads that spin slow their neighbours down many times over;
* glibc keeps the memory that one training step frees for the next one, instead of giving it back to the system and
  taking it page by page again: two fifths of the CPU time of a Conv2 step (``docs/performance.md``).
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, Generic, TypeVar

from supermask.errors import RunError

J = TypeVar("J")
Send = Callable[[Any], None]
Task = Callable[[J, Send, Callable[[], bool]], None]

STOP_SECONDS: Final = 30.0  # what workers get to end their step and take a checkpoint when the driver is stopped
KEEP_MEMORY: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
_READY: Final = "ready"  # a worker has started
_BEGUN: Final = "begun"  # a worker has taken its job
_IDLE: Final = "idle"  # a worker has done its job
_QUIT: Final = "quit"  # the driver has no more of them


def run_jobs(
    task: Task[J],
    jobs: Sequence[J],
    *,
    workers: int,
    threads: int,
    on_message: Callable[[Any], None],
    on_death: Callable[[J, str], None],
    on_stop: Callable[[], None] | None = None,
    admit: Callable[[J, Sequence[J]], bool] | None = None,
) -> None:
    """Do all jobs and return; on an exception (Ctrl-C included) stop the workers first.

    Args:
        task: ``task(job, send, stopping)``; pickled to the workers, so are the jobs. It should return soon after
            ``stopping()`` turns true.
        jobs: Done in this order.
        workers: Number of processes, at least 1.
        threads: Threads of each.
        on_message: Gets what a task sends, in this process.
        on_death: Gets a job whose worker died, and why; the job is not tried again. A job that was given to a worker which
            had died after its last one goes to another.
        on_stop: Called after Ctrl-C, before the workers get :data:`STOP_SECONDS`; a second Ctrl-C kills them at once.
        admit: Whether a job may begin beside those at work; asked again when one of them has ended. A job that would be
            alone is not asked about.

    Raises:
        RunError: A worker process ended before it took its job; so would all others.
    """
    waiting = deque(jobs)
    pool: list[_Worker[J]] = []
    leaving: list[_Worker[J]] = []

    def may_begin() -> bool:
        at_work = [worker.job for worker in pool if not worker.idle]
        return bool(waiting) and (admit is None or not at_work or admit(waiting[0], at_work))

    try:
        while waiting or pool:
            while len(pool) < workers and may_begin():
                pool.append(_Worker(task, threads, waiting.popleft()))
            for worker in _ready(pool):
                if not worker.read(on_message):
                    pool.remove(worker)
                    why = worker.why_dead()
                    worker.require_started()
                    if worker.died_between_jobs:
                        waiting.appendleft(worker.job)
                    else:
                        on_death(worker.job, why)
                elif worker.idle:
                    if may_begin():
                        worker.give(waiting.popleft())
                    else:
                        worker.quit()
                        pool.remove(worker)
                        leaving.append(worker)
    except KeyboardInterrupt:
        if on_stop is not None:
            on_stop()
        raise
    finally:
        _stop(pool)
        _stop(leaving, ask=False)


class _Worker(Generic[J]):
    """One process and this end of its pipe."""

    def __init__(self, task: Task[J], threads: int, job: J) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(other, task), daemon=True)
        with environment_of_workers(threads), _interrupts_blocked():
            self.process.start()
        other.close()  # so that the death of the worker ends the pipe
        self.ready = False
        self.done = 0  # jobs
        self.give(job)

    def give(self, job: J) -> None:
        """Send a job."""
        self.job = job
        self.idle = self.begun = False
        with contextlib.suppress(OSError):  # died just now: read() will notice
            self.connection.send(job)

    def read(self, on_message: Callable[[Any], None]) -> bool:
        """Take the messages that are there; False when the worker is dead."""
        alive = self.process.is_alive()  # asked first: what a dead worker has sent is all there
        while True:
            try:
                if not self.connection.poll():
                    return alive or self.idle
                message = self.connection.recv()
            except (EOFError, OSError):
                return False
            if message == _READY:
                self.ready = True
            elif message == _BEGUN:
                self.begun = True
            elif message == _IDLE:
                self.idle = True
                self.done += 1
            else:
                on_message(message)

    @property
    def died_between_jobs(self) -> bool:
        """Of a dead worker: whether its job is as good as new. A worker's first job may be what kills it."""
        return self.done > 0 and not self.begun

    def drain(self) -> None:
        """Throw away what the worker has sent, whole messages or not: a full pipe would keep it from ending."""
        with contextlib.suppress(OSError):
            while os.name == "posix" and self.connection.poll() and os.read(self.connection.fileno(), 1 << 16):
                pass

    def why_dead(self) -> str:
        """What ended the process."""
        self.close()
        code = self.process.exitcode
        assert code is not None
        how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"worker {how}; run the same command to resume"

    def require_started(self) -> None:
        """Refuse a dead worker that ended by an error of its own before it was ready."""
        code = self.process.exitcode
        if not self.ready and code is not None and code > 0:
            raise RunError(
                f"a worker process could not start (exit code {code}, its error is above); a script that starts workers "
                "needs `if __name__ == '__main__':` around what it does, or workers=0"
            )

    def quit(self) -> None:
        """Let an idle worker end."""
        with contextlib.suppress(OSError):
            self.connection.send(_QUIT)

    def close(self) -> None:
        """Wait for the process to end."""
        self.process.join()
        self.connection.close()


def _ready(pool: list[_Worker[J]]) -> list[_Worker[J]]:
    """Wait until workers have sent something or died; those."""
    found = wait([item for worker in pool for item in (worker.connection, worker.process.sentinel)])
    return [worker for worker in pool if worker.connection in found or worker.process.sentinel in found]


def _stop(pool: list[_Worker[J]], *, ask: bool = True) -> None:
    """Ask workers to take a checkpoint and end; kill those that do not within :data:`STOP_SECONDS`.

    Args:
        pool: The workers.
        ask: False for workers that have been told to quit.
    """
    for worker in pool if ask else ():
        worker.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    try:
        for worker in pool:
            while worker.process.is_alive() and time.monotonic() < deadline:
                worker.drain()
                worker.process.join(0.02)
    finally:
        for worker in pool:
            worker.process.kill()
            worker.close()


def _work(connection: Connection, task: Task[Any]) -> None:
    """A worker's life."""
    stopping = False
    at_work = False

    def stop(signum: int, frame: object) -> None:  # noqa: ARG001
        nonlocal stopping
        stopping = True
        if not at_work:
            raise SystemExit

    def send(message: object) -> None:
        nonlocal stopping
        try:
            connection.send(message)
        except OSError:  # the driver is gone
            stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under nohup
        signal.signal(signal.SIGHUP, stop)  # the terminal was closed
    send(_READY)
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):  # the driver is gone, or wants an end
        while not stopping and (job := connection.recv()) != _QUIT:
            at_work = True
            gc.collect()  # a run begins with one, too: it need not look at modules and data again
            gc.freeze()
            send(_BEGUN)
            task(job, send, lambda: stopping)
            send(_IDLE)
            at_work = False


def worker_environment(threads: int) -> dict[str, str]:
    """Environment variables that a worker must start with.

    Args:
        threads: Threads of the worker.
    """
    wanted = {"OMP_WAIT_POLICY": "passive"}
    wanted |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return wanted | {name: value for name, value in KEEP_MEMORY.items() if name not in os.environ}


@contextlib.contextmanager
def environment_of_workers(threads: int) -> Iterator[None]:
    """Within it, processes that are started inherit what a worker must start with."""
    wanted = worker_environment(threads)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started here never see Ctrl-C; this one gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
