"""Experiments in worker processes: failures, deaths, Ctrl-C, two drivers."""

import json
import os
import signal

import pytest

from supermask.errors import RunError
from supermask.lab.executors import local
from supermask.lab.executors.local import run_jobs
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment
from supermask.lab.store import read_failures, read_results

from .drivers import epochs_done, group_is_alive, start_driver, wait_until
from .helpers import HERE, assert_same_run, experiment, only_run, run_here

OWN = {"name": "userparts:build"}


def test_workers_make_what_this_process_makes(tmp_path):
    vary = {"seed": 2, "variant": {"dense": {}, "signed": {"method": {"name": "signed-supermask"}}}}
    events = []
    made = run_experiment(experiment(vary=vary), out=tmp_path / "workers", workers=2, on_event=events.append)
    run_here({}, tmp_path / "here", vary=vary)
    assert len(made.done) == 4
    assert made.folder == tmp_path / "workers" / "test"
    for event in made.done:
        left, right = (only_run(tmp_path / where / "test" / event.run) for where in ("workers", "here"))
        assert_same_run(left, right)
    assert {event.kind for event in events} == {"started", "epoch", "done"}
    start = json.loads(left.env.read_text())["starts"][0]
    assert start["OMP_WAIT_POLICY"] == "passive"
    assert start["threads"] == 1


def test_one_failed_and_one_killed_run_among_good_ones(tmp_path):
    vary = {
        "variant": {
            "first": {},
            "broken": {"model": {"name": "userparts:build_broken"}},
            "deadly": {"model": {"name": "userparts:build_deadly"}},
            "diverging": {"train.loss": "userparts:diverging"},
            "last": {"train.epochs": 1},
        }
    }
    outcome = run_experiment(experiment(vary=vary), out=tmp_path, workers=1)
    assert [event.label for event in outcome.done] == ["first", "last"]
    messages = {event.label: event.message for event in outcome.failed}
    assert messages["broken"] == (
        f"RuntimeError: this model cannot be built ({HERE / 'userparts.py'}, line 80, in build_broken)"
    )
    assert messages["deadly"] == "worker killed by signal 9; run the same command to resume"
    assert "training diverged" in messages["diverging"]
    assert {failure["label"]: failure["error"] for failure in read_failures(tmp_path)} == messages
    assert len(read_results(tmp_path)) == 2


def test_finished_runs_never_run_again(tmp_path):
    first = run_here({}, tmp_path, vary={"seed": 2})
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    second = run_here({}, tmp_path, vary={"seed": 3})
    assert [event.seed for event in second.skipped] == [0, 1]
    assert {event.message for event in second.skipped} == {"finished already"}
    assert [event.seed for event in second.done] == [2]
    assert {event.run for event in first.done} == {event.run for event in second.skipped}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_a_skipped_run_takes_the_label_of_the_experiment(tmp_path):
    run_here({}, tmp_path)
    run_here({}, tmp_path, vary={"variant": {"baseline": {}}})
    assert [result["label"] for result in read_results(tmp_path)] == ["baseline"]


def test_a_failed_run_is_tried_again(tmp_path, monkeypatch):
    patch = {"model": OWN}
    expand(experiment(patch))  # imports it
    with monkeypatch.context() as context:
        context.setattr("userparts.Classifier", None)
        assert len(run_here(patch, tmp_path).failed) == 1
    assert len(run_here(patch, tmp_path).done) == 1
    assert read_failures(tmp_path) == []


def test_folder_of_another_spec(tmp_path):
    run_here({}, tmp_path)
    run = only_run(tmp_path)
    spec = json.loads(run.spec.read_text())
    spec["train"]["batch_size"] = 64
    run.spec.write_text(json.dumps(spec))
    content = run.spec.read_text()
    outcome = run_here({}, tmp_path, vary={"seed": 2})
    (event,) = outcome.failed
    assert event.seed == 0
    message = "whose full spec differs: train.batch_size (64 there, 256 now). A default has changed since; move or"
    assert message in event.message
    assert [event.seed for event in outcome.done] == [1], "the others go on"
    assert run.spec.read_text() == content
    assert read_failures(tmp_path) == [], "nothing is written into the folder"


def test_a_spec_written_before_a_key_existed_is_the_same_run(tmp_path):
    run_here({}, tmp_path)
    run = only_run(tmp_path)
    spec = json.loads(run.spec.read_text())
    del spec["data"]["validation"], spec["train"]["data_order"]
    run.spec.write_text(json.dumps(spec))
    assert len(run_here({}, tmp_path).skipped) == 1
    del spec["train"]["batch_size"]  # which is not at its default, so that the old run had another one
    run.spec.write_text(json.dumps(spec))
    (event,) = run_here({}, tmp_path).failed
    assert "full spec differs: train.batch_size (None there, 256 now). A default" in event.message


@pytest.mark.parametrize(("name", "value"), [("workers", -1), ("threads", 0), ("checkpoint_seconds", -1)])
def test_numbers_out_of_range(tmp_path, name, value):
    with pytest.raises(RunError, match=f"{name} must be at least"):
        run_experiment(experiment(), out=tmp_path, **{name: value})


def test_unknown_device(tmp_path):
    (event,) = run_here({}, tmp_path, device="quantum").failed
    assert "device 'quantum' cannot be used here" in event.message


def test_missing_data_is_a_failed_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SUPERMASK_DATA", raising=False)
    patch = {"data": {"name": "cifar100"}, "model": {"name": "fcn", "inputs": 3072}}
    (event,) = run_here(patch, tmp_path / "runs", data_dir=tmp_path / "empty").failed
    assert event.message.startswith("the files of data set 'cifar100' were not found")


# ---------------------------------------------------------------------- Ctrl-C and two drivers

SLOW = {"model": OWN, "train.epochs": 12}


@pytest.mark.slow
def test_ctrl_c_keeps_everything(tmp_path):
    out = tmp_path / "stopped"
    driver = start_driver(SLOW, out, tmp_path / "driver.py", sleep=0.03)
    with driver:
        wait_until(lambda: len(done := epochs_done(out)) == 2 and min(done) >= 2)
        os.killpg(driver.pid, signal.SIGINT)  # what a terminal does
        _, errors = driver.communicate(timeout=30)
    assert driver.returncode != 0
    assert errors.count("Traceback") == 1, errors  # the driver's KeyboardInterrupt alone
    wait_until(lambda: not group_is_alive(driver.pid), seconds=5)
    assert len(list(out.rglob("last.pt"))) == 2
    assert read_failures(out) == read_results(out) == []

    events = []
    run_here(SLOW, out, vary={"seed": 2}, on_event=events.append)
    assert next(event.kind for event in events if event.epoch and event.epoch > 1) == "resumed"
    assert len(read_results(out)) == 2
    run_here(SLOW, tmp_path / "straight", vary={"seed": 2})
    for path in (tmp_path / "straight" / "test").iterdir():
        assert_same_run(only_run(path), only_run(out / "test" / path.name))


@pytest.mark.slow
def test_two_drivers_never_train_one_run_twice(tmp_path):
    out = tmp_path / "runs"
    driver = start_driver(SLOW, out, tmp_path / "driver.py", sleep=0.05)
    with driver:
        wait_until(lambda: len(epochs_done(out)) == 2)
        outcome = run_here(SLOW, out, vary={"seed": 3})
        output, errors = driver.communicate(timeout=60)
    assert [event.message for event in outcome.skipped] == ["another process is training this run"] * 2
    assert [event.seed for event in outcome.done] == [2]
    assert driver.returncode == 0, errors
    assert output.count("done") == 2
    assert len(read_results(out)) == 3


# ---------------------------------------------------------------------- the pool alone


def square(job, send, stopping):
    if job == 3:
        os._exit(7)
    send(job * job)


def pid(job, send, stopping):
    send((job, os.getpid()))


def test_pool(tmp_path):
    seen, dead = [], []
    run_jobs(square, range(6), workers=2, threads=1, on_message=seen.append, on_death=lambda *args: dead.append(args))
    assert sorted(seen) == [0, 1, 4, 16, 25]
    assert dead == [(3, "worker ended with exit code 7; run the same command to resume")]


def test_a_worker_that_dies_between_two_jobs_has_failed_no_job(monkeypatch):
    give, pids, dead = local._Worker.give, [], []

    def kill_first(worker, job):
        if job == 2 and not dead:
            worker.process.kill()
            worker.process.join()
            dead.append(worker.process.pid)
        give(worker, job)

    monkeypatch.setattr(local._Worker, "give", kill_first)
    run_jobs(
        pid, [1, 2, 4], workers=1, threads=1, on_message=pids.append, on_death=lambda *args: pytest.fail(str(args))
    )
    assert [job for job, _ in pids] == [1, 2, 4]
    assert pids[0][1] == dead[0] != pids[1][1] == pids[2][1]


class Unreadable:
    """A job that kills the worker which reads it."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_job_that_kills_every_worker_before_it_begins_is_given_up():
    seen, dead = [], []
    run_jobs(
        square,
        [1, Unreadable(), 2],
        workers=1,
        threads=1,
        on_message=seen.append,
        on_death=lambda *args: dead.append(args),
    )
    assert seen == [1, 4]
    assert [why for _, why in dead] == ["worker ended with exit code 9; run the same command to resume"]


def test_pool_leaves_the_environment_alone(tmp_path):
    before = dict(os.environ)
    run_jobs(square, [1], workers=1, threads=3, on_message=lambda _: None, on_death=lambda *_: None)
    assert dict(os.environ) == before


def test_an_error_in_the_driver_stops_the_workers(tmp_path):
    def fail(message):
        raise ValueError("the driver's own error")

    with pytest.raises(ValueError, match="the driver's own error"):
        run_jobs(square, range(4), workers=2, threads=1, on_message=fail, on_death=lambda *_: None)
