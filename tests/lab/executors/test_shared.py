"""Several drivers on one results folder: no run twice, dead and paused ones are replaced, none loses another's work."""

import json
import os
import signal
import threading

import pytest

from supermask.errors import RunError
from supermask.lab.executors.follow import Follower
from supermask.lab.executors.processes import Local
from supermask.lab.executors.shared import Shared
from supermask.lab.leases import Leasing, claim, look
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment
from supermask.lab.runner import Job, Runner
from supermask.lab.store import read_failures, read_results, run_folder

from ..drivers import epochs_done, kill, start_driver, wait_until, workers_of
from ..helpers import assert_same_run, experiment, only_run, run_here
from ..test_faults import on_linux

OWN = {"model": {"name": "userparts:build"}, "train.epochs": 3, "train.batch_size": 400}
SLOW = {"model": {"name": "userparts:build"}, "train.epochs": 12}
HERE = Shared(workers=0, lease_seconds=2)


def jobs_of(out, patch, **options):
    return [Job(spec, run_folder(out, "test", spec.id)) for spec in expand(experiment(patch, **options))]


def run_shared(patch, out, *, executor=HERE, **options):
    return run_experiment(experiment(patch, vary=options.pop("vary", None)), out=out, executor=executor, **options)


def assert_as_if_alone(out, patch, straight):
    run_here(patch, straight, vary={"seed": 2})
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
    looks = iter([False] * 6 + [True])
    with pytest.raises(KeyboardInterrupt):
        Runner(checkpoint_seconds=0)(job, lambda _: None, lambda: next(looks))
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
    assert told == [("started", None, None), ("epoch", 3, 3)]
    now[0] = 4.0
    follower.look([job])
    lines = job.folder.metrics.read_bytes().splitlines(keepends=True)
    job.folder.metrics.write_bytes(lines[0] + b"\0\0\0\n")
    now[0] = 6.0
    follower.look([job])
    assert len(told) == 2, "neither again, nor what cannot be read"
    job.folder.metrics.write_bytes(lines[0])
    now[0] = 8.0
    follower.look([job])
    assert told[2:] == [("epoch", 1, 3)], "another process has resumed it"


# ---------------------------------------------------------------------- real processes


@pytest.mark.slow
@on_linux
def test_a_paused_driver_notices_that_its_run_is_another_process_s(tmp_path):
    """SIGSTOP for longer than the lease; the others finish; SIGCONT: it ends with all runs, and changed nothing."""
    out = tmp_path / "runs"
    driver = start_driver(SLOW, out, tmp_path / "driver.py", sleep=0.05, checkpoint_seconds=0.2, shared=1.5)
    with driver:
        wait_until(lambda: len(done := epochs_done(out)) == 2 and min(done) >= 2, seconds=300)
        for pid in (driver.pid, *workers_of(driver.pid)):
            os.kill(pid, signal.SIGSTOP)
        outcome = run_shared(SLOW, out, executor=Shared(workers=0, lease_seconds=1.5), vary={"seed": 2})
        assert len(outcome.done) == 2
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
        for pid in (driver.pid, *workers_of(driver.pid)):
            os.kill(pid, signal.SIGCONT)
        output, errors = driver.communicate(timeout=120)
    assert driver.returncode == 0, errors
    assert output.count("skipped") == 2
    assert output.count("done") == output.count("failed") == 0
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert after == before
    assert_as_if_alone(out, SLOW, tmp_path / "straight")


@pytest.mark.slow
@on_linux
def test_two_drivers_of_which_one_is_killed(tmp_path):
    """kill -9 of a driver and all its workers: the other one does everything, once."""
    out = tmp_path / "runs"
    driver = start_driver(SLOW, out, tmp_path / "driver.py", sleep=0.05, checkpoint_seconds=0.2, shared=1.5)
    with driver:
        wait_until(lambda: len(done := epochs_done(out)) == 2 and min(done) >= 2, seconds=300)
        for pid in (driver.pid, *workers_of(driver.pid)):
            kill(pid)
        events = []
        outcome = run_shared(
            SLOW, out, executor=Shared(workers=0, lease_seconds=1.5), vary={"seed": 3}, on_event=events.append
        )
        driver.communicate(timeout=60)
    assert sorted(event.seed for event in outcome.done) == [0, 1, 2]
    assert sum(event.kind == "resumed" for event in events) == 2
    assert read_failures(out) == []
    assert len(read_results(out)) == 3


@pytest.mark.slow
@on_linux
def test_a_killed_worker_leaves_its_run_free(tmp_path):
    out = tmp_path / "runs"
    driver = start_driver(SLOW, out, tmp_path / "driver.py", sleep=0.03, checkpoint_seconds=0.2, shared=60)
    with driver:
        wait_until(lambda: len(done := epochs_done(out)) == 2 and min(done) >= 2, seconds=300)
        kill(workers_of(driver.pid)[0])
        output, errors = driver.communicate(timeout=120)
    assert driver.returncode == 0, errors
    assert output.count("worker killed by signal 9; run the same command to resume") == 1
    assert len(read_failures(out)) == 1
    outcome = run_shared(SLOW, out, executor=Shared(workers=0, lease_seconds=60), vary={"seed": 2})
    assert (len(outcome.done), len(outcome.skipped)) == (1, 1), "at once: its driver has released the claim"
    assert_as_if_alone(out, SLOW, tmp_path / "straight")
