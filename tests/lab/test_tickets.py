"""A lottery ticket in an experiment: rounds, exact continuation, and what the report says."""

import contextlib
import functools
import json

import pytest
from typer.testing import CliRunner

from supermask.cli import app
from supermask.lab.plan import expand
from supermask.lab.runner import Job, Runner
from supermask.lab.store import read_metrics, read_result, run_folder

from .helpers import assert_same_run, experiment, only_run, run_here

PATCH = {
    "method": {"name": "lottery-ticket", "density": 0.2, "rounds": 3, "rewind": "step", "rewind_step": 4},
    "model.hidden": [8],
    "train.epochs": 2,
    "train.batch_size": 400,  # 4 steps an epoch
    "train.schedule": {"name": "cosine"},
}
SIZE = 64 * 8 + 8 * 10


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    assert len(run_here(PATCH, out).done) == 1
    return out


def test_rounds_and_counts(straight):
    lines = read_metrics(only_run(straight))
    assert [line["round"] for line in lines] == [0, 0, 1, 2]  # later rounds begin after the first epoch
    assert [line["remaining"] for line in lines] == [SIZE, SIZE, round(0.2**0.5 * SIZE), round(0.2 * SIZE)]
    assert lines[2]["lr"] == lines[3]["lr"] == lines[1]["lr"] < lines[0]["lr"]
    result = read_result(only_run(straight))
    assert (result["rounds"], result["counts"]["weights_remaining"]) == (3, 118)
    assert result["accuracy"]["last"] == lines[-1]["test_accuracy"]


def test_stopped_at_every_step(straight, tmp_path):
    spec = expand(experiment(PATCH))[0]
    job = Job(spec, run_folder(tmp_path / "stopped", "test", spec.id))
    runner, starts = Runner(checkpoint_seconds=0), 0
    while not job.folder.result.exists():
        starts += 1
        stop_now = iter([False, True])
        with contextlib.suppress(KeyboardInterrupt):
            runner(job, lambda event: None, functools.partial(next, stop_now))
    assert starts > 8
    assert_same_run(only_run(straight), job.folder)


def test_report(straight):
    shown = CliRunner().invoke(app, ["report", str(straight), "--json"])
    (row,) = json.loads(shown.stdout)["rows"]
    assert row["method"] == "lottery-ticket"
    assert (row["density"]["mean"], row["rounds"]["mean"]) == (118 / SIZE, 3)


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_connections_that_move_resume_too(method, tmp_path):
    patch = PATCH | {"method": {"name": method, "density": 0.2, "every": 2, "end": 1.0}, "train.epochs": 3}
    run_here(patch, tmp_path / "straight")
    spec = expand(experiment(patch))[0]
    job = Job(spec, run_folder(tmp_path / "stopped", "test", spec.id))
    runner = Runner(checkpoint_seconds=0)
    while not job.folder.result.exists():
        stop_now = iter([False, True])
        with contextlib.suppress(KeyboardInterrupt):
            runner(job, lambda event: None, functools.partial(next, stop_now))
    assert_same_run(only_run(tmp_path / "straight"), job.folder)
    assert [line["remaining"] for line in read_metrics(job.folder)] == [118] * 3
