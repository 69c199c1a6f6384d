"""A run that is killed and started again ends bitwise as if nothing had happened."""

import contextlib
import functools
import json
import shutil

import pytest
import torch

from supermask.core.registry import methods
from supermask.errors import CheckpointError
from supermask.lab.checkpoint import load_checkpoint, save_checkpoint
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment
from supermask.lab.runner import Job, Runner
from supermask.lab.store import read_metrics, run_folder

from .helpers import assert_same_run, experiment, only_run, run_here
from .userparts import build

MODEL = {"model": {"name": "userparts:build"}, "train.epochs": 3, "train.batch_size": 128}  # 12 steps an epoch
KILL_AT = 18  # in the middle of epoch 2


@functools.cache
def built_in_methods():
    """Method sections with defaults; plug-ins that other tests register are left out."""
    return [name for name, cls in methods().items() if cls.__module__.startswith("supermask.")]


def section(name, folder, build=build):
    if name == "fixed-mask":
        masks = methods()[name].examples(build())[0].masks
        folder.mkdir()
        masks.save(folder / "masks.npz")
        return {"name": name, "file": str(folder / "masks.npz")}
    return {"name": name}


def fitting(name):
    """The model that a method is run on: those that remove channels need convolutions."""
    return {
        "model": {"name": "userparts:build_convolutional" if methods()[name].needs_structure else "userparts:build"}
    }


def kill_in_mid_epoch(patch, out, monkeypatch, *, checkpoint_seconds):
    """Run in a worker that kills itself with SIGKILL after some steps."""
    with monkeypatch.context() as context:
        context.setenv("TEST_KILL_AT", str(KILL_AT))
        outcome = run_experiment(experiment(patch), out=out, workers=1, checkpoint_seconds=checkpoint_seconds)
    (event,) = outcome.failed
    assert event.message == "worker killed by signal 9; run the same command to resume"
    run = only_run(out)
    assert json.loads(run.failed.read_text())["error"] == event.message
    assert not run.result.exists()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", built_in_methods())
def test_killed_in_mid_epoch(name, tmp_path, monkeypatch):
    patch = MODEL | fitting(name) | {"method": section(name, tmp_path / "files")}
    run_here(patch, tmp_path / "straight")
    run = kill_in_mid_epoch(patch, tmp_path / "killed", monkeypatch, checkpoint_seconds=0)
    state = load_checkpoint(run.checkpoint, torch.device("cpu"))["trainer"]
    assert (state["epoch"], state["batch"]) == (2, KILL_AT - 12 - 1)
    events = []
    run_here(patch, tmp_path / "killed", on_event=events.append)
    assert events[0].kind == "resumed"
    assert (events[0].epoch, events[0].batch) == (2, KILL_AT - 12 - 1)
    assert not run.checkpoint.parent.exists()
    assert not run.failed.exists()
    assert len(json.loads(run.env.read_text())["starts"]) == 2
    assert_same_run(only_run(tmp_path / "straight"), run)


@pytest.mark.parametrize(
    "patch",
    [
        {"train.optimizer": {"name": "sgdw", "lr": 0.05, "weight_decay": 1e-3},
         "train.schedule": {"name": "exponential", "rate": 0.9, "every": 5, "staircase": False}},
        {"train.optimizer": {"name": "adamw", "lr": 0.01}, "train.schedule": {"name": "cosine"}},
        {"train.schedule": {"name": "plateau", "factor": 0.5, "patience": 3, "max_cuts": 2, "start": 0}},
        {"data.augment": {"padding": 1}, "train.shuffle": "once"},
        {"train.precision": "float16", "train.passes": 2, "data.validation": 200, "data.augment": {"padding": 1},
         "train.clip": {"norm": 0.1}, "train.metric": "userparts:mean_rank", "train.better": "lower",
         "train.schedule": {"name": "warm-up", "steps": 7, "then": {"name": "one-cycle"}}},
        {"train.precision": "bfloat16", "method": {"name": "signed-supermask"}, "train.clip": {"norm": 1, "over": "tensor"}},
    ],
)  # fmt: skip
def test_stopped_at_every_step(patch, tmp_path):
    stop_at_every_step({"model.hidden": [8], "train.epochs": 3, "train.batch_size": 400} | patch, tmp_path)


@pytest.mark.parametrize("name", built_in_methods())
def test_every_method_stopped_at_every_step(name, tmp_path):
    own = fitting(name) | {"train.epochs": 3, "train.batch_size": 400}
    stop_at_every_step(own | {"method": section(name, tmp_path / "files")}, tmp_path)


def stop_at_every_step(patch, tmp_path):
    """Stop after each step, as Ctrl-C does, start again, and compare with a run that was left alone."""
    run_here(patch, tmp_path / "straight")
    spec = expand(experiment(patch))[0]
    job = Job(spec, run_folder(tmp_path / "stopped", "test", spec.id))
    runner = Runner(checkpoint_seconds=0)
    events = []
    starts = 0
    while not job.folder.result.exists():
        starts += 1
        stop_now = iter([False, True])  # let one look pass, so that each start makes one step
        with contextlib.suppress(KeyboardInterrupt):
            runner(job, events.append, functools.partial(next, stop_now))
    assert starts > 5
    assert [event.kind for event in events].count("resumed") == starts - 1
    assert {event.kind for event in events} == {"started", "resumed", "epoch", "done"}
    assert_same_run(only_run(tmp_path / "straight"), job.folder)


def test_killed_before_the_first_checkpoint(tmp_path, monkeypatch):
    run_here(MODEL, tmp_path / "straight")
    run = kill_in_mid_epoch(MODEL, tmp_path / "killed", monkeypatch, checkpoint_seconds=1000)
    assert not run.checkpoint.exists()
    assert len(read_metrics(run)) == 1
    events = []
    run_here(MODEL, tmp_path / "killed", on_event=events.append)
    assert events[0].kind == "started"
    assert_same_run(only_run(tmp_path / "straight"), run)


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory):
    out = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_in_mid_epoch(MODEL, out, monkeypatch, checkpoint_seconds=0)
    return out


@pytest.fixture
def killed(killed_once, tmp_path):
    shutil.copytree(killed_once, tmp_path, dirs_exist_ok=True)
    return only_run(tmp_path)


def test_damaged_checkpoint(killed, tmp_path):
    content = bytearray(killed.checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    killed.checkpoint.write_bytes(content)
    (event,) = run_here(MODEL, tmp_path).failed
    assert "is damaged (its checksum differs): put back a copy of it, or delete the folder" in event.message
    assert killed.checkpoint.read_bytes() == content, "it must not be replaced silently"
    # the way out that the message names
    killed.checkpoint.unlink()
    killed.checkpoint.parent.rmdir()
    assert len(run_here(MODEL, tmp_path).done) == 1


def test_lost_metrics(killed, tmp_path):
    killed.metrics.unlink()
    (event,) = run_here(MODEL, tmp_path).failed
    assert "does not hold the epochs that the checkpoint beside it knows" in event.message


def test_checkpoint_of_another_run(killed, tmp_path):
    state = load_checkpoint(killed.checkpoint, torch.device("cpu"))
    save_checkpoint(killed.checkpoint, state | {"run": "0" * 12})
    (event,) = run_here(MODEL, tmp_path).failed
    assert "belongs to the run 000000000000" in event.message


def test_a_run_that_an_earlier_version_began(killed, tmp_path):
    state = load_checkpoint(killed.checkpoint, torch.device("cpu"))
    del state["trainer"]["scaler"]
    lines = [json.loads(line) for line in killed.metrics.read_bytes()[: state["metrics_bytes"]].splitlines()]
    for line in lines:
        for key in ("test_metric", "validation_loss", "validation_accuracy", "validation_metric"):
            del line[key]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    killed.metrics.write_bytes(content)
    save_checkpoint(killed.checkpoint, state | {"metrics_bytes": len(content)})
    assert len(run_here(MODEL, tmp_path).done) == 1
    curve = [line["test_accuracy"] for line in read_metrics(killed)]
    assert len(curve) == 3
    result = json.loads(killed.result.read_text())
    assert (result["accuracy"]["last"], result["accuracy"]["best"]) == (curve[-1], max(curve))


@pytest.mark.parametrize("content", [b"", b"supermask checkpoint 1\n", b"\x80\x04N."])
def test_files_that_are_no_checkpoints(tmp_path, content):
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path, torch.device("cpu"))


def test_metrics_are_cut_back(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append({"epoch": 1})
    size = metrics.sync()
    metrics.append({"epoch": 2})
    again = MetricsFile(metrics.path)
    again.restart(size)
    assert again.lines == read_metrics(tmp_path) == [{"epoch": 1}]
    with pytest.raises(CheckpointError):
        again.restart(size + 3)
