"""Several drivers on one results folder: no run twice, dead and paused ones are replaced, none loses another's work."""

import json
import os
import signal
import threading
from contextlib import contextmanager

import pytest

from supermask.errors import RunError
from supermask.lab.executors.follow import Follower, failed_elsewhere
from supermask.lab.executors.processes import Local
from supermask.lab.executors.shared import Shared
from supermask.lab.leases import Leasing, claim, look
from supermask.lab.run import run_experiment
from supermask.lab.runner import Runner
from supermask.lab.store import read_failures, read_metrics, read_results

from ..drivers import epochs_done, kill, start_driver, wait_until, workers_of
from ..helpers import assert_same_run, experiment, jobs_of, only_run, run_here, stop_after
from ..test_faults import on_linux

OWN = {"model": {"name": "userparts:build"}, "train.epochs": 3, "train.batch_size": 400}
SLOW = {"model": {"name": "userparts:build"}, "train.epochs": 12}
HERE = Shared(workers=0, lease_seconds=2)


def run_shared(patch, out, *, executor=HERE, **options):
    return run_experiment(experiment(patch, vary=options.pop("vary", None)), out=out, executor=executor, **options)


def assert_as_if_alone(out, patch, straight, seeds=2):
    run_here(patch, straight, vary={"seed": seeds})
    for path in (straight / "test").iterdir():
        assert_same_run(only_run(path), only_run(out / "test" / path.name))
        assert not (out / "test" / path.name / "lease").exists()


def test_the_same_runs_as_alone(tmp_path):
    outcome = run_shared(OWN, tmp_path / "runs", vary={"seed": 2})
    assert len(outcome.done) == 2
    assert_as_if_alone(tmp_path / "runs", OWN, tmp_path / "straight")
    assert len(run_shared(OWN, tmp_path / "runs", vary={"seed": 2}).skipped) == 2


def test_an_executor_has_its_own_number_of_workers(tmp_path):
    with pytest.raises(RunError, match="workers and an executor are both given; give the number to the executor"):
        run_experiment(experiment(), out=tmp_path, workers=1, executor=Local())
    for make in (Local, Shared):
        with pytest.raises(RunError, match="workers must be at least 0, got -1"):
            make(workers=-1)
    with pytest.raises(RunError, match="lease_seconds must be at least 1, got 0"):
        Shared(lease_seconds=0)


def test_it_waits_for_a_run_that_another_has_and_tells_its_end(tmp_path):
    first, second = jobs_of(tmp_path, OWN, vary={"seed": 2})
    first.folder.path.mkdir(parents=True)
    lease, events = claim(first.folder.lease, look(first.folder.lease), Leasing(seconds=60)), []
    release = threading.Event()

    def hold():
        with lease:
            release.wait(60)

    other = threading.Thread(target=hold)
    other.start()

    def on_event(event):
        events.append((event.kind, event.seed))
        if (event.kind, event.seed) == ("done", 1):
            release.set()

    outcome = run_shared(OWN, tmp_path, vary={"seed": 2}, on_event=on_event)
    other.join()
    assert [event.seed for event in outcome.done] == [1, 0], "the free one first, the other when it was released"
    assert second.folder.result.exists()
    assert outcome.skipped == outcome.failed == []


def test_a_dead_drivers_run_is_taken_over(tmp_path):
    """Its claim lapses; nothing but the work since its last checkpoint is done again."""
    (job,) = jobs_of(tmp_path, OWN)
    stop_after(6, job)
    claim(job.folder.lease, look(job.folder.lease), Leasing(seconds=1))  # and never heard of again
    events = []
    outcome = run_shared(OWN, tmp_path, executor=Shared(workers=0, lease_seconds=1), on_event=events.append)
    assert len(outcome.done) == 1
    kinds = [event.kind for event in events]
    assert kinds.index("started") < kinds.index("resumed"), "what the other did is told while this one waits"
    assert not job.folder.lease.exists()
    run_here(OWN, tmp_path / "straight")
    assert_same_run(only_run(tmp_path / "straight"), job.folder)


def test_a_run_that_failed_elsewhere_is_told_and_not_repeated(tmp_path):
    (job,) = jobs_of(tmp_path, OWN)
    job.folder.path.mkdir(parents=True)
    lease = claim(job.folder.lease, look(job.folder.lease), Leasing(seconds=60))

    def fail():
        with lease:
            job.folder.failed.write_text(
                json.dumps({"schema": 1, "run": job.spec.id, "label": "x", "seed": 0, "error": "bad", "traceback": ""})
            )

    timer = threading.Timer(1.0, fail)
    timer.start()
    (event,) = run_shared(OWN, tmp_path).failed
    timer.join()
    assert event.message == "bad (in another process)"


@pytest.mark.parametrize("look_number", [3, 6, 11, 12])
def test_a_process_that_lost_its_run_leaves_the_folder_alone(look_number, tmp_path):
    """Paused for long at some moment, and woken when the run is another's: it stops at its next write."""
    (job,) = jobs_of(tmp_path, OWN)
    events, taken, looks = [], [], iter(range(1, 100))

    def look_about():
        if next(looks) == look_number:
            taken.append(claim(job.folder.lease, look(job.folder.lease), Leasing(seconds=60)))
        return False

    Runner(checkpoint_seconds=0, leasing=Leasing(seconds=60))(job, events.append, look_about)
    assert events[-1].kind == "skipped"
    assert "has taken this run over, as nothing was heard of this process for 60 s" in events[-1].message
    assert not job.folder.result.exists()
    assert not job.folder.weights.exists()
    assert not job.folder.failed.exists()
    assert look(job.folder.lease).number == taken[0].number


def test_losing_a_run_while_it_fails(tmp_path, monkeypatch):
    """The record of a failure would lie beside the other process's work."""
    (job,) = jobs_of(tmp_path, OWN)

    def lose(*_, **__):
        claim(job.folder.lease, look(job.folder.lease), Leasing(seconds=60))
        raise ValueError("a failure of a process whose time is over")

    monkeypatch.setattr("supermask.lab.runner.Trainer", lose)
    events = []
    Runner(leasing=Leasing(seconds=60))(job, events.append, lambda: False)
    assert [event.kind for event in events] == ["skipped"]
    assert not job.folder.failed.exists()


def test_following_a_run(tmp_path):
    (job,) = jobs_of(tmp_path, OWN)
    told, now = [], [0.0]
    follower = Follower(lambda event: told.append((event.kind, event.epoch, event.epochs)), now=lambda: now[0])
    follower.look([job])
    run_here(OWN, tmp_path)
    follower.look([job])
    assert told == [], "not so soon"
    now[0] = 2.0
    follower.look([job])
    assert told == [("started", None, None), ("epoch", 1, 3), ("epoch", 2, 3), ("epoch", 3, 3)], "every epoch"
    now[0] = 4.0
    follower.look([job])
    lines = job.folder.metrics.read_bytes().splitlines(keepends=True)
    job.folder.metrics.write_bytes(lines[0] + b"\0\0\0\n")
    now[0] = 6.0
    follower.look([job])
    assert len(told) == 4, "neither again, nor what cannot be read"
    job.folder.metrics.write_bytes(lines[0])
    now[0] = 8.0
    follower.look([job])
    assert told[4:] == [("epoch", 1, 3)], "another process has resumed it"


def test_what_is_told_of_a_followed_run_is_what_its_metrics_hold(tmp_path):
    """Trackers take their numbers from there; what a look raises of the one who is told is not lost."""
    (job,) = jobs_of(tmp_path, OWN)
    run_here(OWN, tmp_path)
    told = []
    Follower(told.append, elsewhere=True).catch_up(job)
    assert [event.line for event in told[1:]] == read_metrics(job.folder)
    assert all(event.elsewhere for event in told)

    def full_pipe(event):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Follower(full_pipe).catch_up(job)


def test_the_record_of_a_failure_that_goes_or_is_damaged(tmp_path):
    """The driver that waits goes on: it was begun again just now, or this one run has failed."""
    (job,) = jobs_of(tmp_path, OWN)
    assert failed_elsewhere(job) is None
    job.folder.path.mkdir(parents=True)
    job.folder.failed.write_text("half")
    told = []
    HERE.run(Held(), [job], told.append, None)
    assert [event.kind for event in told] == ["failed"]
    assert "failed.json: damaged (" in told[0].message


class Held(Runner):
    """Finds every run in the hands of others."""

    def __call__(self, job, emit, stopping):
        emit(job.event("skipped", message="another process is training this run"))


def test_a_worker_that_dies_after_it_told_the_end(tmp_path, monkeypatch):
    """The run has ended, once."""

    def die_at_the_end(task, jobs, *, on_message, on_death, **_):
        for job in jobs:
            task(job, on_message, lambda: False)
            on_death(job, "worker killed by signal 9; run the same command to resume")

    monkeypatch.setattr("supermask.lab.executors.processes.run_jobs", die_at_the_end)
    for executor in (Local(workers=1), Shared(workers=1)):
        outcome = run_shared(OWN, tmp_path / type(executor).__name__, executor=executor)
        assert (len(outcome.done), outcome.failed) == (1, [])


# ---------------------------------------------------------------------- real processes


@contextmanager
def driver_at_work(tmp_path, sleep):
    """A driver and its two workers, each in the third epoch of its run or later."""
    out = tmp_path / "runs"
    driver = start_driver(SLOW, out, tmp_path / "driver.py", sleep=sleep, checkpoint_seconds=0.2, shared=1.5)
    with driver:
        wait_until(lambda: len(done := epochs_done(out)) == 2 and min(done) >= 2, seconds=300)
        yield driver, out


def files_of(out):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}


@pytest.mark.slow
@on_linux
def test_a_paused_driver_notices_that_its_run_is_another_process_s(tmp_path):
    """SIGSTOP for longer than the lease; the others finish; SIGCONT: it ends with all runs, and changed nothing."""
    with driver_at_work(tmp_path, sleep=0.05) as (driver, out):
        for pid in (driver.pid, *workers_of(driver.pid)):
            os.kill(pid, signal.SIGSTOP)
        outcome = run_shared(SLOW, out, executor=Shared(workers=0, lease_seconds=1.5), vary={"seed": 2})
        assert len(outcome.done) == 2
        before = files_of(out)
        for pid in (driver.pid, *workers_of(driver.pid)):
            os.kill(pid, signal.SIGCONT)
        output, errors = driver.communicate(timeout=120)
    assert driver.returncode == 0, errors
    assert output.count("skipped") == 2
    assert output.count("done") == output.count("failed") == 0
    assert files_of(out) == before
    assert_as_if_alone(out, SLOW, tmp_path / "straight")


@pytest.mark.slow
@on_linux
def test_a_killed_worker_then_the_driver_and_the_other_one(tmp_path):
    """kill -9. The worker's run is free at once, that of the driver and its last worker after a while; all are done, once."""
    with driver_at_work(tmp_path, sleep=0.1) as (driver, out):
        first, last = workers_of(driver.pid)
        kill(first)
        wait_until(lambda: read_failures(out), seconds=60)
        (failed,) = read_failures(out)
        assert failed["error"] == "worker killed by signal 9; run the same command to resume"
        assert look(next(out.rglob("failed.json")).with_name("lease")).free
        assert read_results(out) == [], "the other one is at work"
        for pid in (driver.pid, last):
            kill(pid)
        driver.communicate(timeout=60)
    events = []
    outcome = run_shared(
        SLOW, out, executor=Shared(workers=0, lease_seconds=1.5), vary={"seed": 3}, on_event=events.append
    )
    assert sorted(event.seed for event in outcome.done) == [0, 1, 2]
    resumed = [event.seed for event in events if event.kind == "resumed"]
    assert sorted(resumed) == [0, 1]
    assert read_failures(out) == []
    assert len(read_results(out)) == 3
    assert_as_if_alone(out, SLOW, tmp_path / "straight", seeds=3)
