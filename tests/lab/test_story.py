"""What a run keeps of how it went: right numbers, exact continuation, and that looking changes nothing."""

import contextlib
import functools
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from supermask import data
from supermask.core.arrays import load_arrays_and_metadata
from supermask.errors import RunError
from supermask.lab import story
from supermask.lab.checkpoint import load_checkpoint, save_checkpoint
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.runner import Job, Runner
from supermask.lab.store import RunFolder, read_masks, read_result, read_story, read_weights, run_folder
from supermask.lab.story import BINS, Story, predict
from supermask.lab.train import Trainer

from .helpers import assert_same_run, experiment, only_run, run_here

SIGNED = {"method": {"name": "signed-supermask", "threshold": 0.3}}
METHODS = {
    "signed": SIGNED,
    "edge-popup": {"method": {"name": "edge-popup", "density": 0.3}},
    "zhou": {"method": {"name": "zhou-supermask"}},
    "dessilbi": {"method": {"name": "dessilbi", "nu": 1.0, "linear_lambda": 1e-3}},
    "rigl": {"method": {"name": "rigl", "density": 0.3, "every": 2}},
    "lottery": {"method": {"name": "lottery-ticket", "density": 0.3, "rounds": 2}},
    "dense": {},
}


@pytest.fixture
def every_step(monkeypatch):
    """Compare masks at every step: 1437 examples in 6 batches."""
    monkeypatch.setattr(story, "EXAMPLES", 100)


def trainer_of(patch, tmp_path):
    spec = expand(experiment(patch))[0]
    config = spec.config()
    dataset = data.load("digits")
    return Trainer(config, spec.seed, dataset, spec.folder, torch.device("cpu"), MetricsFile(tmp_path / "m.jsonl"))


def watched(trainer):
    """Train; the churn of every epoch as it is counted by hand, one row an epoch, and of the steps that were written to."""
    trainer.look_every = 0.0
    rows, before = [], {}

    def snapshot():
        return {target.name: target.mask.clone() for target in trainer.sparsifier.targets}

    after_step, begin = trainer.story.after_step, trainer.story.begin_epoch

    def at_start(steps):
        begin(steps)
        before.update(snapshot())
        rows.append({name: [] for name in before})

    def at_step():
        after_step()
        now = snapshot()
        for name, mask in now.items():
            rows[-1][name].append(int((mask != before[name]).sum()) / mask.numel())
        before.update(now)

    trainer.story.begin_epoch, trainer.story.after_step = at_start, at_step
    trainer.run()
    return rows


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dense"])
def test_churn_is_the_mean_share_of_changes_a_step(name, every_step, tmp_path):
    trainer = trainer_of(METHODS[name] | {"train.epochs": 2}, tmp_path)
    rows = watched(trainer)
    found = trainer.story.arrays()
    total = 0.0
    for target in rows[0]:
        by_hand = [sum(row[target]) / len(row[target]) for row in rows]
        assert found[f"churn/{target}"].tolist() == pytest.approx(by_hand)
        total += sum(by_hand)
    assert total > 0 or name == "lottery"  # which prunes between its rounds, not in a step


def test_few_steps_are_compared_and_spread_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(story, "EXAMPLES", 700)  # two of an epoch's six steps
    trainer = trainer_of(SIGNED | {"train.epochs": 3}, tmp_path)
    rows = watched(trainer)
    found = trainer.story.arrays()
    for target in rows[0]:
        assert found[f"counted/{target}"].tolist() == [3, 2, 2]  # the first epoch has one more
        of_two = [(row[target][0] + row[target][3]) / 2 for row in rows[1:]]
        assert found[f"churn/{target}"].tolist()[1:] == pytest.approx(of_two)


def test_short_epochs_have_a_comparison_now_and_then(tmp_path):
    trainer = trainer_of(SIGNED | {"train.epochs": 6}, tmp_path)
    trainer.run()
    found = trainer.story.arrays()
    counted = found["counted/fc1.weight"].tolist()
    assert counted == [1, 0, 0, 0, 0, 1]  # 1437 examples an epoch, one for each 8000
    assert [math.isnan(value) for value in found["churn/fc1.weight"].tolist()] == [count == 0 for count in counted]
    assert found["score_epochs"].tolist() == [1, 6]


def test_a_mask_that_nobody_writes_to_is_known_not_to_change(tmp_path):
    trainer = trainer_of({"method": {"name": "random", "density": 0.5}, "train.epochs": 3}, tmp_path)
    trainer.run()
    found = trainer.story.arrays()
    assert found["churn/fc1.weight"].tolist() == [0.0, 0.0, 0.0]
    assert found["counted/fc1.weight"].tolist() == [0, 0, 0]
    assert not [name for name in found if name.startswith("scores/")]


def test_rare_changes_are_all_counted_once_their_number_is_known(tmp_path, monkeypatch):
    """RigL moves weights at two of six steps: with two comparisons an epoch none is missed."""
    monkeypatch.setattr(story, "EXAMPLES", 700)
    patch = {"method": {"name": "rigl", "density": 0.3, "every": 3, "end": 1.0}, "train.epochs": 3}
    trainer = trainer_of(patch, tmp_path)
    rows = watched(trainer)
    for target in rows[0]:
        by_hand = [sum(row[target]) / 6 for row in rows]
        assert trainer.story.arrays()[f"churn/{target}"].tolist()[1:] == pytest.approx(by_hand[1:])


@pytest.mark.parametrize("name", METHODS)
def test_looking_changes_nothing(name, every_step, tmp_path, monkeypatch):
    with_story = run_here(METHODS[name], tmp_path / "with")
    for method in ("begin_epoch", "after_step", "end_epoch", "finish", "predictions"):
        monkeypatch.setattr(Story, method, lambda *_: None)
    without = run_here(METHODS[name], tmp_path / "without")
    assert (len(with_story.done), len(without.done)) == (1, 1)
    assert_same_run(only_run(tmp_path / "with"), only_run(tmp_path / "without"))


@pytest.mark.parametrize(  # 100 examples: every step is compared; 700: some; 8000: one
    ("name", "examples"),
    [*((name, 700) for name in METHODS), ("signed", 100), ("rigl", 100), ("dense", 8000), ("signed", 8000)],
)
def test_an_interrupted_run_tells_the_same_story(name, examples, tmp_path, monkeypatch):
    monkeypatch.setattr(story, "EXAMPLES", examples)
    run_here(METHODS[name], tmp_path / "straight")
    spec = expand(experiment(METHODS[name]))[0]
    job, runner = Job(spec, run_folder(tmp_path / "parts", "test", spec.id)), Runner(checkpoint_seconds=0)
    starts = 0
    while not job.folder.result.exists():
        assert not job.folder.failed.exists(), job.folder.failed.read_text()
        stop_now = iter([False, True])
        starts += 1
        with contextlib.suppress(KeyboardInterrupt):
            runner(job, lambda event: None, functools.partial(next, stop_now))
    assert starts > 6
    assert only_run(tmp_path / "straight").story.read_bytes() == job.folder.story.read_bytes()


def test_a_checkpoint_from_before_stories_goes_on(tmp_path):
    spec = expand(experiment(SIGNED))[0]
    folder = run_folder(tmp_path, "test", spec.id)
    job, runner = Job(spec, folder), Runner(checkpoint_seconds=0)
    stops = iter([False] * 8 + [True])
    with contextlib.suppress(KeyboardInterrupt):
        runner(job, lambda event: None, functools.partial(next, stops))
    state = load_checkpoint(folder.checkpoint, torch.device("cpu"))
    assert state["trainer"]["epoch"] == 2
    del state["trainer"]["story"]
    save_checkpoint(folder.checkpoint, state)
    runner(job, lambda event: None, lambda: False)
    churn = read_story(folder)["churn/fc1.weight"]
    assert churn.shape == (2,)
    assert np.isnan(churn[0])
    assert churn[1] > 0


# ---------------------------------------------------------------------- scores


def test_scores_are_those_of_the_network(tmp_path):
    run_here(SIGNED | {"train.epochs": 2}, tmp_path)
    found, masks = read_story(only_run(tmp_path)), read_masks(only_run(tmp_path))
    assert found["score_epochs"].tolist() == [1, 2]  # the last epoch in any case
    for name, mask in masks.items():
        row, edges = found[f"scores/{name}"][-1], found[f"edges/{name}"]
        assert (row.dtype, edges.dtype, row.shape, edges.shape) == (np.int32, np.float32, (BINS,), (BINS + 1,))
        assert row.sum() == mask.size  # so small that every weight is looked at
        middle = (edges[:-1] + edges[1:]) / 2
        assert row[middle > 0.3 + edges[-1] / BINS].sum() <= (mask > 0).sum() <= row[edges[1:] > 0.3].sum()
        assert row[middle < -0.3 - edges[-1] / BINS].sum() <= (mask < 0).sum() <= row[edges[:-1] < -0.3].sum()


class Grows:
    """A target whose scores are set by the test."""

    def __init__(self, tmp_path):
        self.trainer = trainer_of(SIGNED, tmp_path)
        self.scores = self.trainer.story._scores[0]
        self.parameter = self.trainer.sparsifier.targets[0].parameter

    def add(self, values):
        signs = self.trainer.sparsifier.targets[0].parametrization.signs()
        self.parameter.data.copy_(values.reshape(self.parameter.shape) * signs)
        self.scores.add()


def test_the_range_doubles_as_scores_grow(tmp_path):
    case = Grows(tmp_path)
    first = torch.linspace(-0.9, 0.9, 1024)
    for factor in (1.0, 3.0, 0.0):
        case.add(first * factor)
    edges = case.scores.edges()
    assert float(edges[-1]) == 4.0
    for row, factor in zip(case.scores.rows, (1.0, 3.0, 0.0), strict=True):
        assert torch.equal(row, torch.histc(first * factor, BINS, -4.0, 4.0).int())


def test_scores_that_are_all_zero(tmp_path):
    case = Grows(tmp_path)
    case.add(torch.zeros(1024))
    assert int(case.scores.rows.sum()) == 1024


def test_a_large_layer_is_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(story, "SAMPLE", 100)
    case = Grows(tmp_path)
    case.add(torch.ones(1024))
    assert int(case.scores.rows.sum()) == 94  # every eleventh


def test_long_runs_keep_a_bounded_number_of_rows(tmp_path, monkeypatch, every_step):
    monkeypatch.setattr(story, "ROWS", 4)
    trainer = trainer_of(SIGNED | {"train.epochs": 12}, tmp_path)
    trainer.run()
    found = trainer.story.arrays()
    assert found["score_epochs"].tolist() == [1, 5, 9, 12]
    assert found["scores/fc1.weight"].shape == (4, BINS)


def test_weights_that_are_trained_in_a_later_round_have_no_scores(tmp_path, every_step):
    patch = {"method": {"name": "gem-miner", "density": 0.3, "finetune": True}, "train.epochs": 1}
    run_here(patch, tmp_path)
    found = read_story(only_run(tmp_path))
    assert found["score_epochs"].tolist() == [1, 2]
    assert (found["scores/fc1.weight"].sum(axis=1) > 0).tolist() == [True, False]


# ---------------------------------------------------------------------- predictions


@pytest.mark.parametrize("name", ["signed", "dense", "dessilbi", "lottery"])
def test_predictions_give_the_accuracy_of_the_result(name, tmp_path):
    run_here(METHODS[name], tmp_path)
    run = only_run(tmp_path)
    found = read_story(run)
    assert (found["predictions"].dtype, found["confidence"].dtype) == (np.uint8, np.float16)
    assert len(found["predictions"]) == len(found["confidence"]) == 360
    targets = data.load("digits").test.y.numpy()
    np.testing.assert_array_equal(found["targets"], targets)
    assert (found["predictions"] == targets).mean() == pytest.approx(read_result(run)["accuracy"]["last"])
    assert ((found["confidence"] > 0.1) & (found["confidence"] <= 1)).all()
    metadata = load_arrays_and_metadata(run.story)[1]
    assert metadata == {"schema": "1"}


def test_runs_that_are_not_judged_by_accuracy_have_none(tmp_path):
    run_here({"train.metric": "userparts:mean_rank", "train.better": "lower"}, tmp_path)
    assert not only_run(tmp_path).story.exists()
    assert read_story(only_run(tmp_path)) == {}


@pytest.mark.parametrize(
    ("classes", "kind"), [(256, torch.uint8), (257, torch.uint16), (65_536, torch.uint16), (65_537, torch.int32)]
)
def test_a_class_is_kept_in_as_many_bytes_as_it_needs(classes, kind):
    outputs = torch.zeros(3, classes)
    outputs[:, classes - 1] = 5.0
    kept = Story.__new__(Story)
    kept.predictions([predict(outputs), predict(outputs)], torch.full((6,), classes - 1))
    for name in ("predictions", "targets"):
        assert kept._predicted[name].dtype == kind
        assert kept._predicted[name].tolist() == [classes - 1] * 6


# ---------------------------------------------------------------------- files


def test_a_damaged_file_and_one_of_another_version_are_told(tmp_path):
    run = RunFolder(tmp_path)
    assert (read_story(run), read_masks(run), read_weights(run)) == ({}, {}, {})
    run.story.write_bytes(b"none")
    with pytest.raises(RunError, match=r"story\.safetensors: damaged"):
        read_story(run)
    save_file({"a": np.zeros(1)}, run.story, metadata={"schema": "2"})
    with pytest.raises(RunError, match=r"schema '2', this version reads '1'"):
        read_story(run)


def test_finished_weights_are_read_without_torch(tmp_path):
    run_here({"train.epochs": 1}, tmp_path)
    assert list(read_weights(only_run(tmp_path))) == ["fc1.weight", "fc2.weight"]
