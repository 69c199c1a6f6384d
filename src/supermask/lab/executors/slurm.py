"""Runs as jobs of Slurm, through submitit: an array, whose jobs go back into the queue when they are stopped early."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from supermask.core.locking import locked
from supermask.errors import MissingExtraError, RunError
from supermask.lab.events import Event
from supermask.lab.executors.follow import Follower, failed_elsewhere
from supermask.lab.executors.local import environment_of_workers
from supermask.lab.executors.processes import require_workers
from supermask.lab.executors.protocol import Tell
from supermask.lab.files import make_folder, write_json
from supermask.lab.leases import LEASE_SECONDS, Leasing, look
from supermask.lab.runner import Job, Runner, after_death, look_up
from supermask.lab.store import RunFolder, read_json

ARRAY_MOST: Final = 1000  # jobs of an array: Slurm's usual limit is 1001
_POLL_SECONDS: Final = 2.0
_KNOWN_SECONDS: Final = 120.0  # after which a job is in the book-keeping of a cluster that keeps any
_NAME: Final = "supermask"
_ALIVE: Final = ("PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "COMPLETING", "SUSPENDED", "PREEMPTED")


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Jobs of a Slurm cluster. Its machines must see the results folder, the experiment's files and this Python.

    A job that is about to reach its time limit, or is sent submitit's signal (USR2) when it is pre-empted, takes a checkpoint
    and puts itself back into the queue. Ctrl-C ends only the following of the jobs; the same command follows them again.

    Args:
        workers: Jobs at once, at least 1; None: as many as Slurm allows.
        runs: Runs of a job, one after the other.
        minutes: Time limit of a job; one that reaches it goes on where it was, in the queue's next turn.
        timeouts: How often a job may reach it.
        cpus: Processors of a job; None: as many as its threads.
        gpus: GPUs of a job.
        memory_gb: Memory of a job; None: the cluster's default.
        partition: As for ``sbatch``, so are the next three.
        account: See ``partition``.
        qos: See ``partition``.
        constraint: See ``partition``.
        setup: Shell commands before a job, such as ``module load cuda``.
        lease_seconds: See :class:`supermask.lab.executors.shared.Shared`.
        cluster: ``local``: submitit's own processes on this machine in place of Slurm, to try things out.

    Raises:
        RunError: A number is out of range.
    """

    workers: int | None = None
    runs: int = 1
    minutes: int = 240
    timeouts: int = 100
    cpus: int | None = None
    gpus: int = 0
    memory_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    lease_seconds: float = LEASE_SECONDS
    cluster: Literal["slurm", "local"] = "slurm"

    def __post_init__(self) -> None:
        require_workers(self.workers)
        Leasing(seconds=self.lease_seconds)
        if self.workers == 0:
            raise RunError("Slurm does runs in jobs of its own, and workers is 0; say at least 1, or nothing")
        least = {"runs": 1, "minutes": 1, "timeouts": 0, "gpus": 0}
        for name, smallest in (least | ({} if self.cpus is None else {"cpus": 1})).items():
            if (value := getattr(self, name)) < smallest:
                raise RunError(f"{name} must be at least {smallest}, got {value}")

    @property
    def here(self) -> bool:
        """The runs train on the machines of the cluster."""
        return False

    @property
    def stopped(self) -> str:
        """What Ctrl-C leaves."""
        return (
            "no longer following the jobs; they stay with Slurm: the same command follows them again, "
            f"`scancel --name {_NAME}` ends them and those of your other experiments"
        )

    def run(self, runner: Runner, jobs: Sequence[Job], tell: Tell, on_stop: Callable[[], None] | None) -> None:  # noqa: ARG002
        """Do all jobs, see :class:`supermask.lab.executors.protocol.Executor`; Ctrl-C leaves them to Slurm."""
        submitit = _import_submitit()
        leasing = Leasing(seconds=self.lease_seconds, wait=True)
        data_dir = None if runner.data_dir is None else runner.data_dir.resolve()
        runner = replace(runner, leasing=leasing, data_dir=data_dir)
        jobs = [replace(job, folder=RunFolder(job.folder.path.resolve())) for job in jobs]
        ledger = _Ledger(jobs[0].folder.path.parent / ".slurm")
        make_folder(ledger.folder)
        stamps = {job.spec.id: _stamp(job) for job in jobs}
        with locked(ledger.folder / "lock", optional=True):  # the same command given twice at once
            followed = {} if self.cluster == "local" else ledger.alive(submitit, jobs)
            if new := [job for job in jobs if job.spec.id not in followed]:
                followed |= self._submit(submitit, runner, new, ledger)
        _follow(jobs, followed, stamps, tell, self.lease_seconds)
        if self.cluster == "local":
            for handle in followed.values():
                handle.wait()  # it is our own child, and about to end

    def _submit(self, submitit: Any, runner: Runner, jobs: Sequence[Job], ledger: _Ledger) -> dict[str, Any]:
        """Give jobs to the cluster; run id -> submitit's job."""
        batches = [Batch(runner, tuple(jobs[start : start + self.runs])) for start in range(0, len(jobs), self.runs)]
        try:
            executor = submitit.AutoExecutor(ledger.folder, cluster=self.cluster, slurm_max_num_timeout=self.timeouts)
        except RuntimeError as error:
            raise RunError(
                "no Slurm on this machine (the command srun is not there); give the same command on a machine of the "
                "cluster, such as its login node"
            ) from error
        executor.update_parameters(
            name=_NAME,
            timeout_min=self.minutes,
            cpus_per_task=runner.threads if self.cpus is None else self.cpus,
            gpus_per_node=self.gpus,
            mem_gb=self.memory_gb,
            slurm_partition=self.partition,
            slurm_account=self.account,
            slurm_qos=self.qos,
            slurm_constraint=self.constraint,
            slurm_setup=list(self.setup) or None,
            slurm_array_parallelism=self.workers or ARRAY_MOST,
        )
        handles: dict[str, Any] = {}
        for start in range(0, len(batches), ARRAY_MOST):
            part = batches[start : start + ARRAY_MOST]
            try:
                with environment_of_workers(runner.threads):
                    given = executor.submit_array(part)
            except (OSError, subprocess.CalledProcessError, submitit.core.utils.FailedJobError) as error:
                raise RunError(f"Slurm refuses the jobs: {error}; look at --with partition, account and qos") from error
            handles |= {job.spec.id: handle for batch, handle in zip(part, given, strict=True) for job in batch.jobs}
            ledger.note(handles)
        return handles


@dataclass
class Batch:
    """What a job of the cluster does: runs, one after the other. Pickled with all it needs.

    Args:
        runner: Does a run.
        jobs: The runs that have not ended.
    """

    runner: Runner
    jobs: tuple[Job, ...]

    def __call__(self) -> None:
        """Do the runs; at submitit's signal take a checkpoint, then let submitit put the job back into the queue."""
        from submitit import JobEnvironment

        number = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
        give_back: Any = signal.getsignal(number)
        stopping = False

        def stop(signum: int, frame: object) -> None:  # noqa: ARG001
            nonlocal stopping
            stopping = True

        signal.signal(number, stop)
        try:
            with contextlib.suppress(KeyboardInterrupt):  # stopped after a checkpoint
                while self.jobs and not stopping:
                    self.runner(self.jobs[0], _ignore, lambda: stopping)
                    self.jobs = self.jobs[1:]  # one that failed is not tried again in the queue's next turn
        finally:
            signal.signal(number, give_back)
        if stopping and self.jobs:
            give_back(number, None)

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue: the same runs, which resume from their folders."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _ignore(event: Event) -> None:
    """The driver, if there is one, reads the run's folder."""


class _Ledger:
    """Which job of the cluster does which run, for the next time that the command is given.

    Args:
        folder: Where submitit keeps its files and the logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "submitted.json"

    def note(self, handles: dict[str, Any]) -> None:
        """Add jobs of the cluster."""
        write_json(self._path, self._known() | {run: handle.job_id for run, handle in handles.items()})

    def alive(self, submitit: Any, jobs: Sequence[Job]) -> dict[str, Any]:
        """Runs whose jobs wait or run; run id -> submitit's job."""
        known = self._known()
        handles = {
            job.spec.id: submitit.SlurmJob(self.folder, known[job.spec.id]) for job in jobs if job.spec.id in known
        }
        return {run: handle for run, handle in handles.items() if _is_alive(handle)}

    def _known(self) -> dict[str, Any]:
        return read_json(self._path) if self._path.exists() else {}


def _is_alive(handle: Any) -> bool:
    """Whether a job waits or runs; the cluster's book-keeping does not know it at once."""
    state = handle.state.upper()
    if state != "UNKNOWN":
        return bool(state.startswith(_ALIVE))
    try:
        return bool(0 <= time.time() - handle.paths.submitted_pickle.stat().st_mtime < _KNOWN_SECONDS)
    except FileNotFoundError:
        return False


def _follow(
    jobs: Sequence[Job], handles: dict[str, Any], stamps: dict[str, Any], tell: Tell, settle_seconds: float
) -> None:
    """Tell what the runs do until all have ended.

    Args:
        jobs: The runs.
        handles: Run id -> submitit's job.
        stamps: Run id -> :func:`_stamp` before the jobs were given.
        tell: Gets the events.
        settle_seconds: So long after its job is over a run may still get its end: network file systems show it late.
    """
    left = {job.spec.id: job for job in jobs}
    over: dict[str, float] = {}  # run id -> since when its job is, by a monotonic clock
    follower = Follower(tell)
    while left:
        follower.look(list(left.values()))
        for run, job in list(left.items()):
            if run not in over and handles[run].done():
                over[run] = time.monotonic()
            settled = run in over and time.monotonic() - over[run] >= settle_seconds
            if event := _end(job, handles[run], stamps[run], settled=settled):
                del left[run]
                follower.catch_up(job)
                tell(event)
        if left:
            time.sleep(_POLL_SECONDS)


def _end(job: Job, handle: Any, stamp: Any, *, settled: bool) -> Event | None:
    """The last event of a run; None while it is to come.

    Args:
        job: The run.
        handle: Submitit's job.
        stamp: See :func:`_follow`.
        settled: Whether what is not there now will not come.
    """
    if job.folder.result.exists() and (event := look_up(job)):
        return event if event.kind == "failed" else replace(event, kind="done", message=None)
    if _stamp(job) not in (None, stamp) and look(job.folder.lease).free and (why := failed_elsewhere(job)):
        return job.event("failed", message=why)
    if not settled:
        return None
    return after_death(
        job,
        f"job {handle.job_id} of the cluster ended ({handle.state}) before the run; its log is {handle.paths.stderr}; run the "
        "same command to resume",
    )


def _stamp(job: Job) -> tuple[int, int] | None:
    """Tells two records of a failure apart; None where there is none."""
    try:
        found = job.folder.failed.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _import_submitit() -> Any:
    try:
        import submitit
        import submitit.core.utils
    except ImportError as error:
        raise MissingExtraError("submitit", "slurm", "running on Slurm") from error
    return submitit
