"""Processes that are killed, folders that others wrote, runs that fail: what is told, what is kept, what goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from supermask.core import registry
from supermask.core.locking import locked
from supermask.errors import CheckpointError
from supermask.lab.checkpoint import load_checkpoint, save_checkpoint
from supermask.lab.executors.local import run_jobs
from supermask.lab.files import write_json
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment
from supermask.lab.runner import after_death
from supermask.lab.store import read_failures, read_results, run_folder

from .drivers import epochs_done, group_is_alive, kill, start_driver, wait_until, workers_of
from .helpers import HERE, assert_same_run, experiment, jobs_of, only_run, run_here, stop_after

OWN = {"model": {"name": "userparts:build"}, "train.epochs": 3, "train.batch_size": 400}  # 4 steps an epoch
SLOW = {"model": {"name": "userparts:build"}, "train.epochs": 12}
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")


# ---------------------------------------------------------------------- kill -9


@pytest.mark.slow
@on_linux
def test_a_worker_killed_from_outside(tmp_path):
    out = tmp_path / "runs"
    driver = start_driver(SLOW, out, tmp_path / "driver.py", sleep=0.03, checkpoint_seconds=0.2)
    with driver:
        wait_until(lambda: len(done := epochs_done(out)) == 2 and min(done) >= 4)
        kill(workers_of(driver.pid)[0])
        output, errors = driver.communicate(timeout=60)
    assert driver.returncode == 0, errors
    assert output.count("worker killed by signal 9; run the same command to resume") == 1
    assert output.count("done") == 1, "the other run goes on"
    assert len(read_failures(out)) == len(read_results(out)) == 1
    assert_resumed_as_if_never_stopped(out, tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGHUP])
def test_a_driver_that_is_ended(tmp_path, end):
    """By kill -9, or by a closed terminal, which all of the group hear of."""
    out = tmp_path / "runs"
    driver = start_driver(SLOW, out, tmp_path / "driver.py", sleep=0.02)
    with driver:
        wait_until(lambda: len(done := epochs_done(out)) == 2 and min(done) >= 2)
        (os.killpg if end == signal.SIGHUP else os.kill)(driver.pid, end)
        driver.communicate(timeout=30)
    assert driver.returncode == -end
    wait_until(lambda: not group_is_alive(driver.pid), seconds=20)
    assert len(list(out.rglob("last.pt"))) == 2, "every worker took a checkpoint before it ended"
    assert read_failures(out) == read_results(out) == []
    assert_resumed_as_if_never_stopped(out, tmp_path / "straight")


@pytest.mark.slow
def test_a_driver_without_workers_takes_a_checkpoint_at_ctrl_c(tmp_path):
    out = tmp_path / "runs"
    driver = start_driver(SLOW, out, tmp_path / "driver.py", sleep=0.02, workers=0)
    with driver:
        wait_until(lambda: epochs_done(out) and min(epochs_done(out)) >= 2)
        driver.send_signal(signal.SIGINT)
        _, errors = driver.communicate(timeout=30)
    assert errors.rstrip().endswith("KeyboardInterrupt: stopped after a checkpoint"), errors
    assert len(list(out.rglob("last.pt"))) == 1
    assert read_failures(out) == []
    assert_resumed_as_if_never_stopped(out, tmp_path / "straight")


def assert_resumed_as_if_never_stopped(out, straight):
    events = []
    run_here(SLOW, out, vary={"seed": 2}, on_event=events.append)
    assert "resumed" in {event.kind for event in events}
    run_here(SLOW, straight, vary={"seed": 2})
    for path in (straight / "test").iterdir():
        assert_same_run(only_run(path), only_run(out / "test" / path.name))


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom supermask.core.locking import locked\n"
        "with locked(Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], check=False)
    assert done.returncode == -signal.SIGKILL
    with locked(tmp_path / "lock", wait=False) as held:
        assert held


def test_killed_between_its_result_and_its_end(tmp_path, monkeypatch):
    """The result is there, the checkpoint not yet cleared away: the run is done, and was not done twice."""
    (job,) = jobs_of(tmp_path, OWN)
    monkeypatch.setattr("supermask.lab.runner.remove_checkpoint", lambda _: None)
    run_here(OWN, tmp_path, checkpoint_seconds=0)
    monkeypatch.undo()
    event = after_death(job, "worker killed by signal 9")
    (result,) = read_results(tmp_path)
    assert (event.kind, event.accuracy, event.epochs) == ("done", result["accuracy"]["last"], 3)
    assert not job.folder.failed.exists()
    assert job.folder.checkpoint.exists()
    assert len(run_here(OWN, tmp_path).skipped) == 1
    assert not job.folder.checkpoint.exists()


def test_the_death_of_a_worker_says_nothing_about_a_run_in_other_hands(tmp_path):
    (job,) = jobs_of(tmp_path)
    with locked(job.folder.lock):
        assert after_death(job, "worker killed").kind == "failed"
    assert not job.folder.failed.exists(), "it would lie beside the result of the other process"
    assert after_death(job, "worker killed").kind == "failed"
    assert job.folder.failed.exists()


# ---------------------------------------------------------------------- damaged and foreign files


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """A run that was stopped in its second epoch."""
    out = tmp_path_factory.mktemp("stopped")
    stop_after(6, *jobs_of(out, OWN))
    return out


@pytest.fixture
def stopped(stopped_once, tmp_path):
    shutil.copytree(stopped_once, tmp_path, dirs_exist_ok=True)
    return only_run(tmp_path)


def test_damaged_checkpoints(stopped, tmp_path):
    sound = stopped.checkpoint.read_bytes()
    damaged = [sound[:length] for length in (0, 1, 22, 23, 60, 90, len(sound) // 2, len(sound) - 1)]
    damaged += [sound + b"\0", b"\0" * len(sound)]
    for place in (0, 25, 87, 88, len(sound) // 3, len(sound) - 1):
        flipped = bytearray(sound)
        flipped[place] ^= 0x40
        damaged.append(bytes(flipped))
    for content in damaged:
        stopped.checkpoint.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"is damaged \(its checksum differs\): put back a copy of it, or delete"
        ):
            load_checkpoint(stopped.checkpoint, torch.device("cpu"))
    (event,) = run_here(OWN, tmp_path).failed
    assert f"delete the folder {stopped.checkpoint.parent} to train this run again" in event.message
    assert stopped.checkpoint.read_bytes() == damaged[-1]
    stopped.checkpoint.write_bytes(sound)  # the copy that the message asks for
    run_here(OWN, tmp_path / "straight")
    assert len(run_here(OWN, tmp_path).done) == 1
    assert_same_run(only_run(tmp_path / "straight"), stopped)


def test_checkpoints_of_other_versions(stopped, tmp_path):
    sound = stopped.checkpoint.read_bytes()
    state = load_checkpoint(stopped.checkpoint, torch.device("cpu"))
    way = f"finish the run with that version, or delete the folder {stopped.checkpoint.parent} to train this run again"

    stopped.checkpoint.write_bytes(sound.replace(b"supermask checkpoint 1\n", b"supermask checkpoint 2\n", 1))
    (event,) = run_here(OWN, tmp_path).failed
    assert "was written by another version (format 2): " + way in event.message

    save_checkpoint(stopped.checkpoint, state | {"format": 99})
    (event,) = run_here(OWN, tmp_path).failed
    assert "was written by another version (format 99): " + way in event.message

    del state["trainer"]["optimizer"]
    save_checkpoint(stopped.checkpoint, state)
    (event,) = run_here(OWN, tmp_path).failed
    assert "was written by another version (format " in event.message
    assert "KeyError: 'optimizer'" in event.message


def test_metrics_longer_than_the_checkpoint_knows(stopped, tmp_path):
    with stopped.metrics.open("ab") as file:
        file.write(b'{"epoch": 2, "train_loss": 0.5}\n{"epo')
    run_here(OWN, tmp_path / "straight")
    assert len(run_here(OWN, tmp_path).done) == 1
    assert_same_run(only_run(tmp_path / "straight"), stopped)


def test_a_clock_that_was_set_back(stopped, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 0.0)
    os.utime(stopped.checkpoint, (2e9, 2e9))
    assert len(run_here(OWN, tmp_path).done) == 1
    (result,) = read_results(tmp_path)
    assert 0 < result["seconds"]["train"] < result["seconds"]["total"] < 60


def test_an_environment_of_another_version(stopped, tmp_path):
    write_json(stopped.env, {"schema": 2})
    (event,) = run_here(OWN, tmp_path).failed
    assert (
        f"{stopped.env} is not of this version (schema 2, not 1): finish the run with the version that" in event.message
    )


def test_a_spec_of_another_version(stopped, tmp_path):
    spec = json.loads(stopped.spec.read_text())
    write_json(stopped.spec, spec | {"schema": 2})
    (event,) = run_here(OWN, tmp_path).failed
    assert "spec.json: schema 2, this version knows 1; use the version that wrote it, move" in event.message
    stopped.spec.write_text('{"schema": 1')
    outcome = run_here(OWN, tmp_path, vary={"seed": 2})
    (event,) = outcome.failed
    assert re.search(r"spec\.json: damaged \(.*\); delete the run folder to train this run again", event.message)
    assert [event.seed for event in outcome.done] == [1], "the others go on"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"schema": 2, "accuracy": {"mean": 1}},
            r"result\.json: schema 2, this version reads 1; use the version that wrote",
        ),
        ({"schema": 1, "run": "x"}, r"result\.json: 'experiment' should be str, is missing; delete the file to redo"),
    ],
)
def test_a_result_of_another_version_is_left_alone(content, message, tmp_path):
    vary = {"variant": {"first": {}, "second": {"train.epochs": 3}}}
    bad, good = expand(experiment(vary=vary))
    folder = run_folder(tmp_path, "test", bad.id)
    write_json(folder.result, content)
    outcome = run_here({}, tmp_path, vary=vary)
    (event,) = outcome.failed
    assert event.run == bad.id
    assert re.search(message, event.message)
    assert [event.run for event in outcome.done] == [good.id], "the others go on"
    assert json.loads(folder.result.read_text()) == content
    assert [path.name for path in folder.path.iterdir()] == ["result.json"]


def test_what_a_killed_process_left_half_written_is_cleared_away(stopped, tmp_path):
    for folder in (stopped.path, stopped.checkpoint.parent):
        (folder / ".result.json.abc.part").write_bytes(b"{")
    run_here(OWN, tmp_path)
    assert list(tmp_path.rglob(".*")) == []


# ---------------------------------------------------------------------- failing runs among good ones

HALF_A_PLUGIN = """
import multiprocessing

if multiprocessing.parent_process() is not None:
    raise ImportError("libworker.so: cannot open shared object file")
"""


METHOD = """
from supermask.core.method import Method
from supermask.core.registry import register


@register
class Nothing(Method):
    \"\"\"Does nothing.\"\"\"

    name = "half-a-plugin"

    def setup(self, s):
        pass
"""


@pytest.mark.slow
def test_code_that_cannot_be_imported_in_a_worker(tmp_path):
    (tmp_path / "half.py").write_text(HALF_A_PLUGIN + "\nfrom userparts import build\n")
    base = {"model": {"name": "userparts:build"}, "train.epochs": 1}
    vary = {"variant": {"bad": {"train.loss": "half:build"}, "good": {}}}
    runs = experiment(base, vary=vary)
    sys.path.append(str(tmp_path))
    try:
        outcome = run_experiment(runs, out=tmp_path / "runs", workers=1)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("half", None)
    (event,) = outcome.failed
    assert event.message.startswith(
        "train.loss: cannot import 'half' (ImportError: libworker.so: cannot open shared object file); looked in /"
    )
    assert [event.label for event in outcome.done] == ["good"]


@pytest.mark.slow
def test_a_plug_in_that_cannot_be_imported_in_a_worker(tmp_path):
    (tmp_path / "plugin.py").write_text(HALF_A_PLUGIN + METHOD)
    before = dict(registry._METHODS)
    try:
        runs = experiment(vary={"seed": 2}, plugins=[tmp_path / "plugin.py"])
        outcome = run_experiment(runs, out=tmp_path / "runs", workers=1)
    finally:
        registry._METHODS.clear()
        registry._METHODS.update(before)
    assert len(outcome.failed) == 2
    for event, record in zip(outcome.failed, read_failures(tmp_path / "runs"), strict=True):
        assert "plugin.py" in event.message
        assert "libworker.so: cannot open shared object file" in event.message
        assert record["error"] == event.message


def test_a_model_that_leaves_the_process(tmp_path):
    vary = {"variant": {"leaving": {"model": {"name": "userparts:build_leaving"}}, "good": {}}}
    outcome = run_here({}, tmp_path, vary=vary)
    assert [event.message for event in outcome.failed] == [
        f"SystemExit: no licence ({HERE / 'userparts.py'}, line 84, in build_leaving)"
    ]
    assert [event.label for event in outcome.done] == ["good"]


def test_an_error_of_the_listener_is_not_the_runs_fault(tmp_path):
    def closed(event):
        raise BrokenPipeError("nobody reads this")

    with pytest.raises(BrokenPipeError, match="nobody reads this"):
        run_here({}, tmp_path, on_event=closed)
    assert read_failures(tmp_path) == []
    assert len(run_here({}, tmp_path).done) == 1


def test_a_script_that_starts_workers_while_it_is_imported(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from supermask.lab.executors.local import run_jobs\n"
        "def task(job, send, stopping): send(job)\n"
        "run_jobs(task, range(9), workers=1, threads=1, on_message=print, on_death=print)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.startswith(
        "supermask.errors.RunError: a worker process could not start (exit code 1, its error is above)"
    )
    assert "needs `if __name__ == '__main__':` around what it does, or workers=0" in last
    assert done.stdout == "", "one message, not one for each of the nine jobs"


def linger(job, send, stopping):
    """Leaves a thread behind that keeps the process from ending."""
    threading.Thread(target=time.sleep, args=(60,)).start()
    send(job)


def test_a_worker_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr("supermask.lab.executors.local.STOP_SECONDS", 0.2)
    seen = []
    run_jobs(linger, [1, 2], workers=1, threads=1, on_message=seen.append, on_death=lambda *_: None)
    assert seen == [1, 2]
