"""Run folders that were copied in part, or while their run trained: finished, resumed, begun again or named, never wrong."""

import shutil

import pytest

from supermask.lab.runner import Runner
from supermask.lab.store import read_results

from .helpers import assert_same_run, jobs_of, only_run, run_here, stop_after

OWN = {"model": {"name": "userparts:build"}, "train.epochs": 3, "train.batch_size": 400}  # 4 steps an epoch
WEIGHT = ("weights.safetensors", "masks.safetensors", "story.safetensors", "env.json", "metrics.jsonl", "lock")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    run_here(OWN, out)
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped in its second epoch."""
    out = tmp_path_factory.mktemp("stopped")
    stop_after(6, *jobs_of(out, OWN))
    return out


def copy(source, target, name, how):
    """Copy a results folder but for one file of its run, which is left out or cut in half."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    (path,) = target.rglob(name)
    content = path.read_bytes()
    path.unlink()
    if how == "half":
        path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize("how", ["missing", "half"])
@pytest.mark.parametrize("name", WEIGHT)
def test_a_finished_run_without_what_stands_beside_its_result(name, how, finished, tmp_path):
    """Weights may also be deleted to save space."""
    path = copy(finished, tmp_path, name, how)
    assert len(run_here(OWN, tmp_path).skipped) == 1
    assert read_results(tmp_path) == read_results(finished)
    assert path.exists() == (how == "half"), "left as it is"


def test_a_run_whose_result_was_not_copied(finished, tmp_path):
    copy(finished, tmp_path, "result.json", "missing")
    assert len(run_here(OWN, tmp_path).done) == 1
    assert_same_run(only_run(finished), only_run(tmp_path))


@pytest.mark.parametrize("name", ["result.json", "spec.json"])
def test_half_a_file_that_says_what_a_run_is(name, finished, tmp_path):
    path = copy(finished, tmp_path, name, "half")
    before = path.read_bytes()
    (event,) = run_here(OWN, tmp_path).failed
    assert event.message.startswith(f"{path}: damaged (")
    assert "delete the run folder to train this run again" in event.message
    assert path.read_bytes() == before
    assert not path.with_name("failed.json").exists()


@pytest.mark.parametrize(
    ("name", "how", "begins"),
    [
        ("last.pt", "missing", "started"),
        ("spec.json", "missing", "resumed"),
        ("env.json", "missing", "resumed"),
        ("lock", "missing", "resumed"),
    ],
)
def test_an_unfinished_run_is_resumed_or_begun_again(name, how, begins, stopped, finished, tmp_path):
    copy(stopped, tmp_path, name, how)
    events = []
    assert len(run_here(OWN, tmp_path, on_event=events.append).done) == 1
    assert events[0].kind == begins
    left, right = only_run(finished), only_run(tmp_path)
    assert left.weights.read_bytes() == right.weights.read_bytes()
    assert read_results(tmp_path)[0]["accuracy"] == read_results(finished)[0]["accuracy"]


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("last.pt", "half", "is damaged (its checksum differs): put back a copy of it, or delete"),
        (
            "metrics.jsonl",
            "missing",
            "does not hold the epochs that the checkpoint beside it knows; put the file back, or",
        ),
        (
            "metrics.jsonl",
            "half",
            "does not hold the epochs that the checkpoint beside it knows; put the file back, or",
        ),
        ("env.json", "half", "damaged ("),
    ],
)
def test_an_unfinished_run_that_cannot_go_on(name, how, message, stopped, tmp_path):
    path = copy(stopped, tmp_path, name, how)
    (event,) = run_here(OWN, tmp_path).failed
    assert message in event.message
    assert str(path) in event.message
    assert read_results(tmp_path) == []


def test_a_copy_made_while_the_run_trained(tmp_path):
    """At any moment between two steps: what is there resumes, or is begun again."""
    copies = []
    (job,) = jobs_of(tmp_path / "runs", OWN)

    def look_about():
        copies.append(tmp_path / f"copy-{len(copies)}")
        shutil.copytree(tmp_path / "runs", copies[-1])
        return False

    Runner(checkpoint_seconds=0)(job, lambda _: None, look_about)
    assert len(copies) == 15
    for place in copies[::4]:
        assert len(run_here(OWN, place).done) == 1
        assert_same_run(job.folder, only_run(place))
