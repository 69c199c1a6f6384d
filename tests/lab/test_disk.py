"""Disks that are full, read-only or in the way: a run fails with a message, nothing is lost, the same command goes on."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from supermask.core.arrays import atomic_write, sync_folder
from supermask.errors import RunError
from supermask.lab.checkpoint import load_checkpoint
from supermask.lab.failures import describe, record_failure
from supermask.lab.files import make_folder
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment
from supermask.lab.store import RunFolder, read_failures, read_metrics, read_results, run_folder

from .helpers import HERE, assert_same_run, experiment, only_run, run_here

OWN = {"model": {"name": "userparts:build"}, "train.epochs": 3, "train.batch_size": 400}  # 4 steps an epoch


def no_space(path):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


class FullDisk:
    """Lets some files reach the disk a number of times only; what is written then is there in half."""

    def __init__(self, monkeypatch, writes):
        self.left = dict(writes)
        self.fsync, self.open = os.fsync, Path.open
        monkeypatch.setattr(os, "fsync", self._fsync)
        monkeypatch.setattr(Path, "open", lambda path, *args, **options: self._open(path, *args, **options))

    def _refuses(self, name):
        for key in self.left:
            if re.fullmatch(rf"{re.escape(key)}|\.{re.escape(key)}\..*\.part", name):
                self.left[key] -= 1
                return self.left[key] < 0
        return False

    def _fsync(self, descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name != "metrics.jsonl" and self._refuses(path.name):
            os.truncate(path, path.stat().st_size // 2)
            raise no_space(path)
        self.fsync(descriptor)

    def _open(self, path, mode="r", *args, **options):
        file = self.open(path, mode, *args, **options)
        if path.name in ("metrics.jsonl", "lock") and mode.startswith("a") and self._refuses(path.name):
            file.write(b'{"epo' if "b" in mode else "")
            file.close()
            raise no_space(path)
        return file


pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")

# file -> how often it can be written before the disk is full; the checkpoint is written after every step
SITES = {
    "lock": 0,
    "spec.json": 0,
    "env.json": 0,
    "metrics.jsonl": 4,
    "last.pt": 6,
    "weights.safetensors": 0,
    "masks.safetensors": 0,
    "result.json": 0,
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    run_here(OWN, out)
    return only_run(out)


@pytest.mark.parametrize("site", SITES)
def test_nothing_is_lost_on_a_full_disk(site, straight, tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        FullDisk(context, {site: SITES[site]})
        (event,) = run_here(OWN, tmp_path, checkpoint_seconds=0).failed
    assert re.match(r"no disk space for .* \(No space left on device\): make room, or ", event.message)
    assert "give the same command again; the run resumes from its last checkpoint" in event.message
    assert list(tmp_path.rglob("*.part")) == list(tmp_path.rglob("result.json")) == []
    run = RunFolder(tmp_path / "test" / straight.path.name)
    if site != "lock":  # without a lock the folder is not ours to write into
        (record,) = read_failures(tmp_path)
        assert record["error"] == event.message
        assert "OSError" in record["traceback"]
    if run.checkpoint.exists():
        load_checkpoint(run.checkpoint, torch.device("cpu"))
    trained = site not in ("lock", "spec.json", "env.json")
    assert run.checkpoint.exists() == trained

    events = []
    again = run_here(OWN, tmp_path, on_event=events.append)
    assert events[0].kind == ("resumed" if trained else "started")
    assert len(again.done) == 1
    assert read_failures(tmp_path) == []
    assert_same_run(straight, run)


def test_half_a_line_of_metrics_is_no_epoch(tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        FullDisk(context, {"metrics.jsonl": 2})  # opened at the start and for the first epoch
        run_here(OWN, tmp_path, checkpoint_seconds=1000)
    run = only_run(tmp_path)
    assert run.metrics.read_bytes().endswith(b'\n{"epo')
    assert [line["epoch"] for line in read_metrics(run)] == [1]


def test_a_failure_that_cannot_be_written_down_is_told(tmp_path, monkeypatch):
    vary = {"variant": {"first": {}, "second": {"train.epochs": 4}}}
    with monkeypatch.context() as context:
        FullDisk(context, {"weights.safetensors": 0, "failed.json": 0})
        outcome = run_here(OWN, tmp_path, vary=vary, checkpoint_seconds=0)
    assert [event.label for event in outcome.failed] == ["first", "second"]
    for event in outcome.failed:
        assert event.message.endswith("(failed.json could not be written either: No space left on device)")
    assert read_failures(tmp_path) == []
    assert len(run_here(OWN, tmp_path, vary=vary).done) == 2


@pytest.mark.slow
def test_a_dead_worker_on_a_full_disk_does_not_stop_the_others(tmp_path, monkeypatch):
    vary = {"variant": {"deadly": {"model": {"name": "userparts:build_deadly"}}, "good": {}}}
    FullDisk(monkeypatch, {"failed.json": 0})  # in this process alone, which writes the record
    outcome = run_experiment(experiment(vary=vary), out=tmp_path, workers=1)
    (event,) = outcome.failed
    assert event.message.startswith("worker killed by signal 9; run the same command to resume (failed.json could not")
    assert [event.label for event in outcome.done] == ["good"]


@pytest.mark.slow
def test_a_file_size_limit(tmp_path, straight):
    """A real refusal of the system, in real workers: files may not grow over 16 kB."""
    script = tmp_path / "limited.py"
    script.write_text(LIMITED.format(tests=str(HERE.parent)))
    command = [sys.executable, str(script), json.dumps(OWN), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (message,) = json.loads(done.stdout)
    assert re.match(
        r"no disk space for \S+ \(File too large\): make room, or lift the quota or file size limit", message
    )
    (record,) = read_failures(tmp_path / "runs")
    assert record["error"] == message
    assert len(run_here(OWN, tmp_path / "runs").done) == 1
    assert_same_run(straight, only_run(tmp_path / "runs"))


LIMITED = """
import json, resource, sys
from pathlib import Path

sys.path.insert(0, {tests!r})

if __name__ == "__main__":
    from lab.helpers import experiment
    from supermask.lab.run import run_experiment

    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000))
    outcome = run_experiment(experiment(json.loads(sys.argv[1])), out=Path(sys.argv[2]), workers=1, checkpoint_seconds=0)
    print(json.dumps([event.message for event in outcome.failed]))
"""


def may_mount():
    """Whether this process may mount something in a name space of its own."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return False
    tried = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    )
    return tried.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not may_mount(), reason="needs a small file system of its own")
def test_a_file_system_that_runs_full(tmp_path):
    """A real file system of 2 MB, filled while two runs train; then there is room, and the same command is given."""
    patch = OWN | {"train.epochs": 6}
    script, out, kept = tmp_path / "full.py", tmp_path / "runs", tmp_path / "kept"
    out.mkdir()
    script.write_text(FULL.format(tests=str(HERE.parent)))
    command = ["unshare", "-rm", sys.executable, str(script), json.dumps(patch), str(out), str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["failed"]) == 2
    for message in told["failed"]:
        assert re.match(r"no disk space for \S+ \(No space left on device\): make room", message)
        assert message.endswith("(failed.json could not be written either: No space left on device)")
    assert told["leftovers"] == []
    assert told["again"] == ["resumed", "started"]
    assert told["done"] == 2
    run_here(patch, tmp_path / "straight", vary={"seed": 2})
    for path in (tmp_path / "straight" / "test").iterdir():
        assert_same_run(only_run(path), only_run(kept / "test" / path.name))


FULL = """
import json, os, shutil, subprocess, sys, threading
from pathlib import Path

sys.path.insert(0, {tests!r})


def fill(disk, full, stop):
    with (disk / "filler").open("ab", buffering=0) as file:
        while not stop.is_set():
            try:
                file.write(bytes(4096))
            except OSError:
                full.set()
                stop.wait(0.001)


if __name__ == "__main__":
    from lab.helpers import experiment
    from supermask.lab.run import run_experiment

    runs, out, kept = experiment(json.loads(sys.argv[1]), vary={{"seed": 2}}), Path(sys.argv[2]), Path(sys.argv[3])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(out)], check=True)
    full, stop = threading.Event(), threading.Event()
    filling = threading.Thread(target=fill, args=(out, full, stop))

    def on_event(event):
        if event.kind == "epoch" and filling.ident is None:
            filling.start()

    os.environ["TEST_SLEEP"] = "0.02"
    outcome = run_experiment(runs, out=out, workers=1, checkpoint_seconds=0, on_event=on_event)
    told = {{"failed": [event.message for event in outcome.failed]}}
    told["leftovers"] = [str(path) for path in out.rglob("*.part")]
    stop.set()
    filling.join()
    (out / "filler").unlink()
    events = []
    os.environ["TEST_SLEEP"] = "0"
    outcome = run_experiment(runs, out=out, workers=1, on_event=events.append)
    told["again"] = [event.kind for event in events if event.kind in ("started", "resumed")]
    told["done"] = len(outcome.done)
    shutil.copytree(out, kept)
    print(json.dumps(told))
"""


# ---------------------------------------------------------------------- what is in the way, and what is forbidden


def test_a_file_where_the_run_folder_should_be(tmp_path):
    bad, good = expand(experiment(vary={"seed": 2}))
    path = run_folder(tmp_path, "test", bad.id).path
    path.parent.mkdir()
    path.write_text("not a folder")
    outcome = run_here({}, tmp_path, vary={"seed": 2})
    (event,) = outcome.failed
    assert event.message == (
        f"{path} is in the way of the run folder {path} (File exists): move it, or choose another --out"
    )
    assert [event.run for event in outcome.done] == [good.id]
    path.unlink()
    assert len(run_here({}, tmp_path, vary={"seed": 2}).done) == 1


def test_a_file_where_the_results_folder_should_be(tmp_path):
    (tmp_path / "test").touch()
    with pytest.raises(RunError, match=r"test cannot be written \(File exists\): choose another by --out, or make"):
        run_here({}, tmp_path)


def test_a_results_folder_that_cannot_be_written(tmp_path, ordinary_user):
    out = tmp_path / "runs"
    run_here({}, out)
    for path in (out / "test", out / "test" / only_run(out).path.name):
        path.chmod(0o555)
    try:
        with ordinary_user():
            with pytest.raises(RunError, match=r"runs/test cannot be written \(Permission denied\): choose another by"):
                run_here({}, out, vary={"seed": 2})
            assert len(run_here({}, out).skipped) == 1, "what is finished can still be looked at"
            (event,) = run_here({}, out, vary={"variant": {"other label": {}}}).failed
        assert re.match(r"cannot use \S+ \(Permission denied\): change its permissions, or choose", event.message)
        assert [result["label"] for result in read_results(out)] == ["dense"]
    finally:
        for path in (out / "test", out / "test" / only_run(out).path.name):
            path.chmod(0o755)


def test_a_run_folder_that_cannot_be_written(tmp_path, ordinary_user):
    specs = expand(experiment(vary={"seed": 2}))
    path = run_folder(tmp_path, "test", specs[0].id).path
    path.mkdir(parents=True)
    path.chmod(0o555)
    with ordinary_user():
        outcome = run_here({}, tmp_path, vary={"seed": 2})
    path.chmod(0o755)
    (event,) = outcome.failed
    assert event.message == (
        f"cannot use {path / 'lock'} (Permission denied): change its permissions, or choose another results folder by --out"
    )
    assert len(outcome.done) == 1


def test_network_file_systems_that_cannot_flush_a_folder(tmp_path, monkeypatch):
    def refuse(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    atomic_write(tmp_path / "x", b"content")
    assert (tmp_path / "x").read_bytes() == b"content"
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)


def test_made_folders_are_flushed_to_the_disk(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr("supermask.lab.files.sync_folder", flushed.append)
    make_folder(tmp_path / "a" / "b")
    assert flushed == [tmp_path / "a", tmp_path]
    make_folder(tmp_path / "a" / "b")
    assert len(flushed) == 2


class UnspeakableError(Exception):
    def __str__(self):
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EIO, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"),
         "PermissionError: [Errno 13] Permission denied: '/data/x'"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no disk space for /runs/a (Disk quota exceeded): make room"),
        (OSError(errno.EROFS, "Read-only file system", "/runs/a/lock"), "cannot use /runs/a/lock (Read-only file system)"),
        (UnspeakableError(), "UnspeakableError: its message cannot be shown"),
    ],
)  # fmt: skip
def test_errors_in_words(error, message):
    assert describe(error, Path("/runs/a")).startswith(message)


def test_a_record_of_what_cannot_be_encoded(tmp_path):
    run = {"run": "0" * 12, "label": "x", "seed": 0}
    assert record_failure(RunFolder(tmp_path), run, "bad \udcff name", "") == "bad \udcff name"
    assert read_failures(tmp_path)[0]["error"] == "bad \udcff name"
