"""Runs through submitit: with its own local executor in place of Slurm, and with programs that only look like Slurm's."""

import json
import os
import pickle
import re
import signal
import stat
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from supermask.errors import MissingExtraError, RunError
from supermask.lab.executors.slurm import Batch, Slurm, _follow
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment
from supermask.lab.runner import Job, Runner
from supermask.lab.store import read_results, run_folder

from ..drivers import wait_until
from ..helpers import assert_same_run, experiment, only_run, run_here

submitit = pytest.importorskip("submitit")
OWN = {"model": {"name": "userparts:build"}, "train.epochs": 3, "train.batch_size": 400}
LOCAL = Slurm(cluster="local", lease_seconds=2)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Slurm")


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder of programs: sbatch keeps what it is given, sacct says what the file `state` does."""
    folder = tmp_path / "programs"
    folder.mkdir()
    program(folder, "srun", "exit 1")
    program(folder, "sbatch", f'cp "$1" {folder}/script.sh\necho "Submitted batch job 77"')
    lines = 'printf "JobID|State|NodeList\\n"; for i in 0 1 2 3; do printf "77_$i|$state|n1\\n"; done'
    program(folder, "sacct", f"state=$(cat {folder}/state); echo called >> {folder}/asked; {lines}")
    (folder / "state").write_text("PENDING")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    submitit.SlurmJob.watcher.clear()
    return folder


@pytest.mark.slow
def test_runs_in_jobs_of_submitit(tmp_path):
    vary = {"seed": 2, "variant": {"good": {}, "bad": {"model": {"name": "userparts:build_broken"}}}}
    events = []
    made = Slurm(cluster="local", runs=2, lease_seconds=2)
    outcome = run_experiment(experiment(OWN, vary=vary), out=tmp_path / "runs", executor=made, on_event=events.append)
    assert sorted((event.label, event.seed) for event in outcome.done) == [("good", 0), ("good", 1)]
    assert [event.label for event in outcome.failed] == ["bad", "bad"]
    assert outcome.failed[0].message.startswith("RuntimeError: this model cannot be built (")
    assert next(event.kind for event in events if event.run == outcome.done[0].run) == "started"
    run_here(OWN, tmp_path / "straight", vary={"variant": {"good": {}}})
    left = only_run(tmp_path / "straight")
    right = run_folder(tmp_path / "runs", "test", left.path.name)
    assert_same_run(left, right)
    start = json.loads(right.env.read_text())["starts"][0]
    assert start["OMP_WAIT_POLICY"] == "passive"
    assert not right.lease.exists()
    assert len(list((tmp_path / "runs" / "test" / ".slurm").glob("*_submitted.pkl"))) == 2


@pytest.mark.slow
def test_pre_emption_puts_the_job_back_and_loses_nothing(tmp_path, monkeypatch):
    """submitit's signal in the middle of an epoch: a checkpoint, the queue again, and the same result."""
    patch = {"model": {"name": "userparts:build"}, "train.epochs": 12}
    monkeypatch.setenv("TEST_SLEEP", "0.05")
    (job,) = (Job(spec, run_folder(tmp_path / "runs", "test", spec.id)) for spec in expand(experiment(patch)))
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=30)
    handle = executor.submit(Batch(Runner(checkpoint_seconds=1000), (job,)))
    wait_until(lambda: job.folder.metrics.exists() and job.folder.metrics.stat().st_size > 0, seconds=300)
    (task,) = children_of(handle._process.pid)
    os.kill(task, signal.SIGUSR2)
    wait_until(job.folder.checkpoint.exists, seconds=300)
    handle.wait()
    assert len(read_results(tmp_path / "runs")) == 1
    assert len(json.loads(job.folder.env.read_text())["starts"]) == 2
    assert "Requeued job" in handle.stderr() + handle.stdout()
    monkeypatch.setenv("TEST_SLEEP", "0")
    run_here(patch, tmp_path / "straight")
    straight = only_run(tmp_path / "straight")
    assert straight.weights.read_bytes() == job.folder.weights.read_bytes()


def children_of(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def test_a_signal_after_the_last_run_gives_nothing_back(tmp_path, monkeypatch):
    (job,) = (Job(spec, run_folder(tmp_path, "test", spec.id)) for spec in expand(experiment(OWN)))
    given, before = [], signal.getsignal(signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, lambda number, _: given.append(number))
    try:
        runner = Runner()
        Batch(runner, (job,))()
        assert job.folder.result.exists()
        job.folder.result.unlink()

        def stop_at_once(job, emit, stopping):
            signal.raise_signal(signal.SIGUSR2)
            assert stopping()
            raise KeyboardInterrupt

        batch = Batch(stop_at_once, (job, job))
        batch()
        assert given == [signal.SIGUSR2], "once, and the second run was not begun"
        assert batch.checkpoint().function is batch
        assert len(pickle.dumps(runner)) < 1000, "the data stays here"
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_what_slurm_is_asked_for(tmp_path, slurm, monkeypatch):
    """One array; the same command follows its jobs instead of giving them again."""
    monkeypatch.setattr("supermask.lab.executors.slurm._follow", lambda *_: None)
    made = Slurm(workers=3, minutes=90, gpus=1, cpus=4, memory_gb=16, partition="gpu", setup=("module load cuda",))
    runs = experiment(OWN, vary={"seed": 4})
    run_experiment(runs, out=tmp_path / "runs", executor=made)
    script = (slurm / "script.sh").read_text()
    for flag in (
        "array=0-3%3", "time=90", "gpus-per-node=1", "cpus-per-task=4", "mem=16GB", "partition=gpu", "job-name=supermask",
        "signal=USR2@90",
    ):  # fmt: skip
        assert f"#SBATCH --{flag}\n" in script
    assert "\nmodule load cuda\n" in script
    known = json.loads((tmp_path / "runs" / "test" / ".slurm" / "submitted.json").read_text())
    assert sorted(known.values()) == ["77_0", "77_1", "77_2", "77_3"]

    (slurm / "script.sh").unlink()
    run_experiment(runs, out=tmp_path / "runs", executor=made)
    assert not (slurm / "script.sh").exists(), "they wait already"
    submitit.SlurmJob.watcher.clear()
    (slurm / "state").write_text("FAILED")
    run_experiment(runs, out=tmp_path / "runs", executor=made)
    assert (slurm / "script.sh").exists()


def test_a_job_that_ends_before_its_run(tmp_path, slurm):
    (slurm / "state").write_text("OUT_OF_MEMORY")
    outcome = run_experiment(experiment(OWN, vary={"seed": 2}), out=tmp_path / "runs", executor=Slurm(lease_seconds=1))
    assert len(outcome.failed) == 2
    message = outcome.failed[0].message
    assert re.match(
        r"job 77_0 of the cluster ended \(OUT_OF_MEMORY\) before the run; its log is \S+/77_0_0_log.err; ", message
    )
    assert json.loads(next((tmp_path / "runs").rglob("failed.json")).read_text())["error"].startswith("job 77_")


def test_jobs_that_slurm_refuses(tmp_path, slurm):
    program(slurm, "sbatch", 'echo "sbatch: error: invalid partition specified: gpuu" >&2; exit 1')
    with pytest.raises(RunError, match=r"(?s)Slurm refuses the jobs: .*; look at --with partition, account and qos"):
        run_experiment(experiment(OWN), out=tmp_path / "runs", executor=Slurm(partition="gpuu"))


def test_a_machine_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="no Slurm on this machine .* such as its login node"):
        run_experiment(experiment(OWN), out=tmp_path / "runs", executor=Slurm())


def test_without_submitit(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingExtraError, match=r"python -m pip install 'supermask\[slurm\]'"):
        run_experiment(experiment(OWN), out=tmp_path / "runs", executor=LOCAL)


def test_ctrl_c_leaves_the_jobs_to_slurm():
    assert "`scancel --name supermask` ends them and those of your other experiments" in Slurm().stopped


class Over:
    """A job that is over."""

    job_id, state = "77_0", "COMPLETED"
    paths = SimpleNamespace(stderr="77_0.err")

    def done(self):
        return True


def test_a_result_that_a_network_file_system_shows_late(tmp_path, monkeypatch):
    """The job is over, and its run's folder is as it was a while ago: that is no failure."""
    run_here(OWN, tmp_path)
    (job,) = (Job(spec, run_folder(tmp_path, "test", spec.id)) for spec in expand(experiment(OWN)))
    hidden, looks, told = job.folder.result.with_name("hidden"), iter(range(5)), []
    job.folder.result.rename(hidden)

    def poll(seconds):
        assert not job.folder.failed.exists()
        if next(looks) == 3:
            hidden.rename(job.folder.result)

    monkeypatch.setattr("supermask.lab.executors.slurm.time.sleep", poll)
    _follow([job], {job.spec.id: Over()}, {job.spec.id: None}, told.append, 60)
    assert [event.kind for event in told] == ["started", "epoch", "epoch", "epoch", "done"]
    assert told[1].line["epoch"] == 1, "trackers have the numbers from there"


def test_a_run_that_failed_is_not_tried_again_after_pre_emption(tmp_path):
    jobs = [Job(spec, run_folder(tmp_path, "test", spec.id)) for spec in expand(experiment(OWN, vary={"seed": 3}))]
    given, before = [], signal.getsignal(signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, lambda number, _: given.append(number))

    def run(job, emit, stopping):
        if job is jobs[1]:
            signal.raise_signal(signal.SIGUSR2)
            raise KeyboardInterrupt

    try:
        batch = Batch(run, tuple(jobs))
        batch()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert given == [signal.SIGUSR2]
    assert batch.checkpoint().function.jobs == tuple(jobs[1:])


def test_the_same_command_given_twice_at_once(tmp_path, slurm, monkeypatch):
    """The second one waits until the first has given its jobs, and follows them."""
    monkeypatch.setattr("supermask.lab.executors.slurm._follow", lambda *_: None)
    program(slurm, "sbatch", f'echo given >> {slurm}/given; sleep 0.5; echo "Submitted batch job 77"')

    def give():
        run_experiment(experiment(OWN), out=tmp_path / "runs", executor=Slurm())

    drivers = [threading.Thread(target=give) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert (slurm / "given").read_text() == "given\n", "though the cluster's book-keeping does not know the job yet"
    pickle_of_the_job = tmp_path / "runs" / "test" / ".slurm" / "77_submitted.pkl"
    os.utime(pickle_of_the_job, (1e9, 1e9))
    submitit.SlurmJob.watcher.clear()
    give()
    assert (slurm / "given").read_text() == "given\ngiven\n", "it was given long ago, and nobody knows it"
