"""Runs as tasks of a Ray cluster: each with the processors and GPUs it declares, begun again when its worker is lost."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from supermask.errors import MissingExtraError, RunError, StoreError
from supermask.lab.events import ENDS, Event
from supermask.lab.executors.local import STOP_SECONDS, worker_environment
from supermask.lab.executors.mailbox import Mailbox
from supermask.lab.executors.processes import STOPPED, require_workers
from supermask.lab.executors.protocol import Tell
from supermask.lab.leases import LEASE_SECONDS, Leasing
from supermask.lab.remote import Store
from supermask.lab.runner import Job, Runner, after_death
from supermask.lab.store import RunFolder

_POLL_SECONDS: Final = 0.5
_ANSWER_SECONDS: Final = 10.0
_ASK_SECONDS: Final = 1.0  # between two questions of a task whether to stop
_AGAIN: Final = "run the same command to resume"


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Tasks of a Ray cluster. All its machines must see the experiment's files under the same paths, and the results folder
    too unless there is a store.

    Args:
        address: The cluster, ``HOST:PORT`` or ``auto``; None: what ``RAY_ADDRESS`` names, or a cluster that runs on this
            machine, or a new one on this machine for these runs alone.
        workers: Runs at once, at least 1; None: as many as the cluster has room for.
        cpus: Processors of a run; None: as many as its threads.
        gpus: GPUs of a run; a part of one (0.5) puts several runs on it.
        retries: How often a run is begun again from its last checkpoint after its worker was lost, at least 0.
        lease_seconds: So long is waited for a lost worker to be certainly dead, see
            :class:`supermask.lab.executors.shared.Shared`.

    Raises:
        RunError: A number is out of range.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float | None = None
    gpus: float = 0.0
    retries: int = 3
    lease_seconds: float = LEASE_SECONDS

    def __post_init__(self) -> None:
        require_workers(self.workers)
        Leasing(seconds=self.lease_seconds)
        if self.workers == 0:
            raise RunError(
                "a Ray cluster does runs in workers of its own, and workers is 0; say at least 1, or nothing"
            )
        for name, value in (("cpus", self.cpus or 0), ("gpus", self.gpus), ("retries", self.retries)):
            if value < 0:
                raise RunError(f"{name} must be at least 0, got {value}")

    @property
    def here(self) -> bool:
        """The runs train on the machines of the cluster."""
        return False

    @property
    def stopped(self) -> str:
        """What Ctrl-C leaves."""
        return STOPPED

    def run(self, runner: Runner, jobs: Sequence[Job], tell: Tell, on_stop: Callable[[], None] | None) -> None:
        """Do all jobs, see :class:`supermask.lab.executors.protocol.Executor`."""
        ray = _import_ray()
        if runner.device.startswith("cuda") and self.gpus == 0:
            raise RunError(
                "Ray shows a run only the GPUs that it asks for, and gpus is 0; say --with gpus=1, or --device cpu"
            )
        leasing = Leasing(seconds=self.lease_seconds, wait=True)
        data_dir = None if runner.data_dir is None else runner.data_dir.resolve()
        runner = replace(runner, leasing=leasing, data_dir=data_dir)
        jobs = [replace(job, folder=RunFolder(job.folder.path.resolve())) for job in jobs]
        with _connected(ray, self.address), _sign(jobs) as sign:
            _require_room(ray, self._resources(runner))
            affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
            here = affinity(ray.get_runtime_context().get_node_id(), soft=False)
            mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
            task = ray.remote(_train).options(
                **self._resources(runner),
                max_retries=self.retries,
                runtime_env={"env_vars": worker_environment(runner.threads)},
            )
            tasks = _Tasks(ray, lambda job: task.remote(runner, job, mailbox, sign), mailbox, tell, runner.store)
            tasks.do(jobs, self.workers or len(jobs), on_stop)

    def _resources(self, runner: Runner) -> dict[str, float]:
        return {"num_cpus": runner.threads if self.cpus is None else self.cpus, "num_gpus": self.gpus}


@dataclass
class _Tasks:
    """The driver's view of its tasks.

    Args:
        ray: The package.
        begin: Gives a job to the cluster.
        mailbox: Where the tasks leave their events.
        tell: Gets them.
        store: Where finished runs are brought from; None: the results folder is shared.
    """

    ray: Any
    begin: Callable[[Job], Any]
    mailbox: Any
    tell: Tell
    store: Store | None = None
    _ended: set[str] = field(default_factory=set)  # runs whose last event is told
    _not_fetched: StoreError | None = None

    def do(self, jobs: Sequence[Job], most: int, on_stop: Callable[[], None] | None) -> None:
        """Do all jobs, ``most`` at once.

        Raises:
            StoreError: Finished runs could not be brought from the store, where they are; the others have ended too.
            RunError: The cluster is gone.
            KeyboardInterrupt: Ctrl-C.
        """
        waiting = deque(jobs)
        at_work: dict[Any, Job] = {}
        try:
            while waiting or at_work:
                while waiting and len(at_work) < most:
                    job = waiting.popleft()
                    at_work[self.begin(job)] = job
                over, _ = self.ray.wait(list(at_work), num_returns=1, timeout=_POLL_SECONDS)
                self._hand_on()
                for task in over:
                    self._end(task, at_work.pop(task))
            if self._not_fetched is not None:
                raise self._not_fetched
        except KeyboardInterrupt:
            if on_stop is not None:
                on_stop()
            self.mailbox.stop.remote()
            if at_work:
                self.ray.wait(list(at_work), num_returns=len(at_work), timeout=STOP_SECONDS)
            raise
        except self.ray.exceptions.RayError as error:
            raise RunError(f"the Ray cluster is lost ({_first_line(error)}); start it again, then {_AGAIN}") from error

    def _hand_on(self) -> None:
        for event in self.ray.get(self.mailbox.take.remote()):
            self._tell_once(event)

    def _tell_once(self, event: Event) -> None:
        """A task that is begun again after it had told its end tells one again."""
        if event.run in self._ended:
            return
        if event.kind in ENDS:
            self._ended.add(event.run)
        self.tell(event)

    def _end(self, task: Any, job: Job) -> None:
        try:
            self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            self._hand_on()
            self._tell_lost(job, f"lost on the cluster ({_first_line(error)}); {_AGAIN}")
        else:
            self._fetch(job)
            self._hand_on()
            # a task that could not reach this process for a moment took it for gone
            self._tell_lost(job, f"its task ended before the run; {_AGAIN}")

    def _tell_lost(self, job: Job, why: str) -> None:
        if job.spec.id not in self._ended:
            self._tell_once(after_death(job, why))

    def _fetch(self, job: Job) -> None:
        """Bring a finished run from the store, if its folder was on another machine."""
        if self.store is None or job.folder.result.exists():
            return
        try:
            self.store.fetch(job.folder, job.spec.experiment)
        except StoreError as error:
            self._not_fetched = self._not_fetched or error


def _train(runner: Runner, job: Job, mailbox: Any, sign: Path) -> None:
    """What a worker of the cluster does: one run."""
    import ray

    def answer(call: Any) -> bool:
        try:
            return bool(ray.get(call))
        except ray.exceptions.RayError:  # the driver is gone
            return True

    asked = time.monotonic()
    stopping = answer(mailbox.stopping.remote())

    def emit(event: Event) -> None:
        nonlocal stopping
        put = mailbox.put.remote(event)
        if event.kind in ENDS:
            stopping = answer(put)

    def should_stop() -> bool:
        nonlocal asked, stopping
        if not stopping and time.monotonic() - asked >= _ASK_SECONDS:
            asked = time.monotonic()
            stopping = answer(mailbox.stopping.remote())
        return stopping

    if stopping:
        return
    if runner.store is None and not sign.exists():
        emit(job.event("failed", message=_not_shared(sign.parent)))
        return
    with contextlib.suppress(KeyboardInterrupt):  # stopped after a checkpoint
        runner(job, emit, should_stop)


def _not_shared(folder: Path) -> str:
    import platform

    return (
        f"{platform.node()} does not see the results folder {folder} of the machine that gave it this run; choose an --out "
        "that all machines of the cluster share, or give a store"
    )


@contextlib.contextmanager
def _sign(jobs: Sequence[Job]) -> Iterator[Path]:
    """A file in the results folder by which other machines know that they see the same one."""
    path = jobs[0].folder.path.parent / f".driver-{uuid.uuid4().hex}"
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to the cluster; one that is there already stays."""
    if ray.is_initialized():
        yield
        return
    named = address or os.environ.get("RAY_ADDRESS")
    try:
        if named and named not in ("auto", "local"):
            _require_answer(named)
        ray.init(address=address, log_to_driver=False, include_dashboard=None if named else False)
    except (OSError, RuntimeError, ValueError) as error:
        way = "leave the address out" if address or not named else "unset RAY_ADDRESS"
        raise RunError(
            f"no Ray cluster at {named or 'the usual places'} ({_first_line(error)}); start one by `ray start --head`, or "
            f"{way} for one on this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _require_answer(address: str) -> None:
    """Make sure that somebody listens: Ray itself would try for a minute, then end this process.

    Raises:
        OSError: Nobody does.
        ValueError: The address is none.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise ValueError("an address is HOST:PORT, of a machine that belongs to the cluster")
    socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()


def _require_room(ray: Any, wanted: dict[str, float]) -> None:
    """Refuse what no machine of the cluster could ever do: Ray would wait for one.

    Raises:
        RunError: Says what there is.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = wanted["num_cpus"], wanted["num_gpus"]
    if not any(there.get("CPU", 0) >= cpus and there.get("GPU", 0) >= gpus for there in machines):
        found = "; ".join(f"{there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs" for there in machines)
        raise RunError(
            f"no machine of the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs for a run (its machines have: {found}); ask "
            "for less by --threads, cpus or gpus"
        )


def _import_ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "running on a Ray cluster") from error
    return ray
