"""Processes of torchrun that are killed or stopped again and again: every run ends as if nothing had happened.

SOAK_KILLS (6) says how often one of three processes is killed; where there is a GPU, two processes share it, too.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from lab.drivers import wait_until
from lab.helpers import HERE, assert_same_run, experiment, run_here, timeless_metrics
from lab.ranks import ids, launch, run_together, write_digits

from supermask.core.masks import Masks
from supermask.lab.run import run_experiment
from supermask.lab.store import RunFolder, read_metrics

pytestmark = pytest.mark.soak
KILLS = int(os.environ.get("SOAK_KILLS", "6"))
METHODS = ("rigl", "bar", "zhou-supermask", "lottery-ticket", "dessilbi")


def setting(folder, method, **train):
    section = {"epochs": 4, "batch_size": 25, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}} | train
    file = folder / "digits.npz"
    return {
        "model": {"name": "rankparts:build_killed"},
        "data": {"name": "npz", "file": str(file if file.exists() else write_digits(file)), "augment": {"padding": 1}},
        "method": {"name": method},
        "train": section,
    }


def command(folder, patch, out):
    file = folder / "test.yaml"
    file.write_text(json.dumps({"name": "test", **patch}))
    return ["-m", "supermask", "run", file, "--out", out, "--checkpoint-seconds", "0", "--json"]


def only(patch, out):
    (run,) = ids(patch, {}).values()
    return RunFolder(out / "test" / run)


@pytest.mark.parametrize("method", METHODS)
def test_killed_again_and_again(method, tmp_path):
    """Three processes, any of which is killed at any step; the same command is given until the run is done."""
    patch = setting(tmp_path, method)
    code, _, err = launch(command(tmp_path, patch, tmp_path / "straight"), processes=3)
    assert code == 0, err
    draw, kills = random.Random(method), 0
    while kills < KILLS:
        kill = f"{draw.randrange(3)},{draw.randint(2, 9)}"
        code, _, err = launch(command(tmp_path, patch, tmp_path / "out"), processes=3, TEST_KILL=kill)
        if code == 0:  # it was done before the step came
            break
        assert "Signal 9 (SIGKILL)" in err, err  # and nothing else went wrong
        kills += 1
    assert kills
    code, _, err = launch(command(tmp_path, patch, tmp_path / "out"), processes=3)
    assert code == 0, err
    straight, killed = only(patch, tmp_path / "straight"), only(patch, tmp_path / "out")
    assert len(json.loads(killed.env.read_text())["starts"]) > 1
    assert_same_run(straight, killed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_run_take_a_checkpoint(number, tmp_path):
    patch = setting(tmp_path, "rigl", epochs=400)
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         *map(str, command(tmp_path, patch, tmp_path / "out"))],
        env=os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR"}, cwd=HERE, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    run = only(patch, tmp_path / "out")
    wait_until(lambda: run.metrics.exists() and len(read_metrics(run)) >= 3, seconds=300)
    process.send_signal(number)
    process.wait(timeout=120)
    assert run.checkpoint.exists()
    done = len(read_metrics(run))
    assert 3 <= done < 400
    assert not run.failed.exists()


def test_goes_on_with_another_number_of_processes(tmp_path):
    """To rounding: two processes begin, one of them is killed, one process ends the run."""
    patch = setting(tmp_path, "rigl") | {"model": {"name": "rankparts:build_killed", "dropout": 0.0}}
    code, _, _ = launch(command(tmp_path, patch, tmp_path / "out"), TEST_KILL="1,12")
    assert code != 0
    outcome = run_experiment(experiment(patch), out=tmp_path / "out", workers=0)
    assert not outcome.failed
    run_here(patch, tmp_path / "one")
    one, two = only(patch, tmp_path / "one"), only(patch, tmp_path / "out")
    assert [start["processes"] for start in json.loads(two.env.read_text())["starts"]] == [2, 1]
    masks = Masks.load(two.masks)
    assert all(torch.equal(masks[name], mask) for name, mask in Masks.load(one.masks).items())
    losses = [[line["train_loss"] for line in timeless_metrics(run)] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_a_process_that_hangs_is_waited_for_no_longer_than_was_asked(tmp_path):
    patch = setting(tmp_path, "dense") | {"model": {"name": "rankparts:build_hanging"}}
    begun = time.monotonic()
    code, events, err = run_together(patch, {}, tmp_path / "out", tmp_path / "driver.py", timeout=20)
    assert code != 0
    assert time.monotonic() - begun < 200
    assert events[-1][0] == "failed", err
    assert "a process that trains this run was lost" in events[-1][2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_on_one_gpu(method, tmp_path):
    patch = setting(tmp_path, method) | {"model": {"name": "rankparts:build"}}
    code, events, err = run_together(patch, {}, tmp_path / "two", tmp_path / "driver.py", device="cuda:0")
    assert code == 0, err
    assert [event[0] for event in events] == ["started", "done"]
    run_here(patch, tmp_path / "one", device="cuda:0")
    one, two = only(patch, tmp_path / "one"), only(patch, tmp_path / "two")
    masks = Masks.load(two.masks)
    assert all(torch.equal(masks[name], mask) for name, mask in Masks.load(one.masks).items())
