"""Metrics and targets that are numbers."""

import json

import numpy as np
import pytest
import torch

from supermask import data
from supermask.errors import ConfigError
from supermask.lab import parts
from supermask.lab.plan import expand
from supermask.lab.store import read_metrics

from .helpers import experiment, only_run, run_here

OUTPUTS = torch.tensor([[1.0, 0.0], [2.0, 4.0], [6.0, 2.0]])
TARGETS = torch.tensor([[2.0, 0.0], [2.0, 2.0], [5.0, 4.0]])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mae", (1 + 0 + 0 + 2 + 1 + 2) / 6),
        ("rmse", ((1 + 0 + 0 + 4 + 1 + 4) / 6) ** 0.5),
        ("r2", ((1 - 2 / 6) + (1 - 8 / 8)) / 2),  # around the means 3 and 2: 1 + 1 + 4 and 4 + 0 + 4
    ],
)
def test_metrics_by_hand(name, value):
    assert parts.build_metric(name, folder=None)(OUTPUTS, TARGETS) == pytest.approx(value, rel=1e-12)


def test_r2_of_equal_targets():
    with pytest.raises(ConfigError, match=r"r2 is undefined where all targets of a split are equal.*mae or rmse"):
        parts.build_metric("r2", folder=None)(OUTPUTS, torch.ones(3, 2))


def test_squared_error_to_numbers():
    loss = parts.build_loss("mse", folder=None)
    assert loss(OUTPUTS, TARGETS) == pytest.approx(10 / 6)


@pytest.fixture
def line(tmp_path):
    """Two numbers to predict from four pixels, exactly linear in them."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(200, 2, 2)).astype(np.float32)
    weights = np.array([[1, -2, 0.5, 0], [0, 1, 1, -1]], np.float32)
    np.savez(tmp_path / "line.npz", images=images, labels=images.reshape(200, 4) @ weights.T)
    return {
        "data.name": "npz",
        "data.file": str(tmp_path / "line.npz"),
        "data.normalize": "none",
        "data.validation": 40,
        "model.inputs": 4,
        "model.hidden": [],
        "model.classes": 2,
        "train.loss": "mse",
        "train.metric": "mae",
        "train.epochs": 30,
        "train.batch_size": 10,
    }


def test_regression_end_to_end(line, tmp_path):
    run_here(line, tmp_path / "runs")
    run = only_run(tmp_path / "runs")
    result, metrics = json.loads(run.result.read_text()), read_metrics(run)
    errors = [entry["test_metric"] for entry in metrics]
    held_out = [entry["validation_metric"] for entry in metrics]
    assert all(entry["test_accuracy"] is None and entry["validation_accuracy"] is None for entry in metrics)
    assert result["accuracy"] == dict.fromkeys(
        ["last", "best", "best_epoch", "best_remaining", "validation_selected", "validation", "validation_epoch"]
    )
    chosen = held_out.index(min(held_out))
    assert result["metric"] == {
        "name": "mae", "better": "lower", "last": errors[-1], "best": min(errors),
        "best_epoch": errors.index(min(errors)) + 1, "best_remaining": 8, "validation_selected": errors[chosen],
        "validation": held_out[-1], "validation_epoch": chosen + 1,
    }  # fmt: skip
    assert errors[-1] < 1e-3 < 0.1 < errors[0]
    assert result["macs"]["dense"] == 8


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"train.loss": "cross-entropy"}, "train.loss is cross-entropy, but the targets of npz are numbers: set it to mse"),
        ({"train.metric": "accuracy"},
         "train.metric is accuracy, but the targets of npz are numbers: set it to mae, rmse, r2 or a reference"),
        ({"model.classes": 10}, "the model gives 10 outputs, but npz has 2 numbers to predict: set model.classes"),
        ({"model.classes": 1, "train.loss": "userparts:mean_rank"},
         "the model gives 1 outputs, but npz has 2 numbers to predict: set model.classes"),
        ({"data.validation": 160}, "data.validation must leave images to train on: got 160, but there are 160"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_numbers(line, patch, message, tmp_path):
    (event,) = run_here(line | patch, tmp_path / "runs").failed
    assert event.message.startswith(message)


def test_a_metric_of_numbers_for_classes(tmp_path):
    (event,) = run_here({"train.metric": "r2"}, tmp_path).failed
    assert event.message == "train.metric is r2, but the targets of digits are classes: set it to accuracy"


def test_a_loss_and_a_metric_of_ones_own_for_numbers(line, tmp_path):
    own = {
        "train.loss": "userparts:median_error_loss",
        "train.metric": "userparts:median_error",
        "train.better": "lower",
    }
    run_here(line | own, tmp_path / "runs")
    metric = json.loads(only_run(tmp_path / "runs").result.read_text())["metric"]
    assert (metric["name"], metric["better"]) == ("userparts:median_error", "lower")
    assert metric["best"] == min(entry["test_metric"] for entry in read_metrics(only_run(tmp_path / "runs")))


def test_a_metric_of_ones_own_sees_whole_splits(tmp_path):
    patch = {
        "train.metric": "userparts:mean_rank", "train.better": "lower", "data.validation": 100,
        "train.eval_batch_size": 7, "train.precision": "bfloat16",
    }  # fmt: skip
    run_here(patch, tmp_path)
    last = read_metrics(only_run(tmp_path))[-1]
    for name, count in (("test", 360), ("validation", 100)):
        assert last[f"{name}_metric"] * count == pytest.approx(round(last[f"{name}_metric"] * count))
        assert last[f"{name}_accuracy"] is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_number", r"train.metric must return one number, got shape (360, 10)"),
        ("text", "train.metric must return one number, got str"),
        (
            "not_finite",
            "the test userparts:not_finite is nan in epoch 1, though the loss is finite; look at what the metric does",
        ),
    ],
)
def test_metrics_that_return_no_number(name, message, tmp_path):
    (event,) = run_here({"train.metric": f"userparts:{name}", "train.better": "higher"}, tmp_path).failed
    assert event.message.startswith(message)


def test_the_code_of_a_metric_is_part_of_the_run(tmp_path):
    patch = {"train.metric": "userparts:mean_rank", "train.better": "lower"}
    (spec,) = expand(experiment(patch))
    assert spec.to_dict()["code"].keys() == {"train.metric"}
    assert spec.id != expand(experiment({}))[0].id


def test_splits_of_numbers_have_a_column_for_each(line):
    loaded = data.load("npz", file=line["data.file"], normalize="none")
    assert loaded.train.y.shape == (160, 2)
    assert loaded.train.y.dtype == torch.float32
    assert loaded.classes == ()
