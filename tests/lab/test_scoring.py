"""Methods that score weights before training, in the lab."""

import json

import pytest
import torch

from supermask.core.masks import Masks
from supermask.errors import ConfigError, DataError
from supermask.lab.train import _ScoringBatches

from .helpers import assert_same_run, only_run, run_here
from .test_train import DIGITS, trainer

AUGMENT = {"data.augment": {"padding": 2}}


@pytest.mark.parametrize("shuffle", [True, False])
def test_scoring_batches_are_those_of_the_first_pass_without_augmentation(shuffle):
    made = trainer({**AUGMENT, "train.shuffle": shuffle})
    batches, plain = _ScoringBatches(made), trainer({"train.shuffle": shuffle})
    order = plain._order(1)
    for _ in range(2):  # any number of times
        seen = list(batches)
        assert len(seen) == len(batches) == made.batches
        for index, (x, y) in enumerate(seen):
            expected = plain._load(order, index, 1)
            assert torch.equal(x, expected[0])
            assert torch.equal(y, expected[1])
    x, y = seen[0]
    x.zero_()  # a copy: the data is left alone
    assert bool(DIGITS.train.x[:256].any())
    assert not torch.equal(made._load(made._order(1), 0, 1)[0], next(iter(batches))[0])


def test_augmentation_does_not_change_a_mask():
    method = {"method": {"name": "snip", "density": 0.2}}
    for left, right in zip(
        trainer(method).sparsifier.targets, trainer({**method, **AUGMENT}).sparsifier.targets, strict=True
    ):
        assert torch.equal(left.mask, right.mask)


METHODS = {
    "snip": {"name": "snip", "density": 0.2},
    "published": {
        "name": "snip", "density": 0.2, "biases": True, "reuse_init": False,
        "score_init": {"distribution": "uniform", "rule": "xavier"},
    },
    "force": {"name": "force", "density": 0.2, "steps": 4, "ablation": "shuffle"},
    "grasp": {"name": "grasp", "density": 0.2, "classes": 10},
    "plain": {"name": "grasp", "density": 0.2, "per_class": None, "batch_size": 300, "min_per_layer": 5},
    "synflow": {"name": "synflow", "density": 0.2, "iterations": 10, "input_shape": [1, 8, 8]},
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_runs(name, tmp_path):
    patch = {"method": METHODS[name], "model.bias": name == "published", "train.optimizer.lr": 0.3, "train.epochs": 4}
    run_here(patch, tmp_path)
    run = only_run(tmp_path)
    masks, result = Masks.load(run.masks), json.loads(run.result.read_text())
    assert masks.remaining() == int(0.2 * masks.total() + 0.5)
    assert masks.total() == 64 * 16 + 16 * 10 + (26 if name == "published" else 0)
    assert result["accuracy"]["last"] > 0.5


def test_the_shape_of_an_image_comes_from_the_data(tmp_path):
    shape = {"method": METHODS["synflow"]}
    run_here(shape, tmp_path / "a")
    run_here({"method": {k: v for k, v in METHODS["synflow"].items() if k != "input_shape"}}, tmp_path / "b")
    left, right = only_run(tmp_path / "a"), only_run(tmp_path / "b")
    assert left.weights.read_bytes() == right.weights.read_bytes()


def test_the_same_run_twice(tmp_path):
    for name in ("a", "b"):
        run_here({"method": METHODS["force"]}, tmp_path / name)
    assert_same_run(only_run(tmp_path / "a"), only_run(tmp_path / "b"))


def test_too_many_examples():
    with pytest.raises(DataError, match="batch_size asks for 2000 examples, but data holds 1437"):
        trainer({"method": {"name": "snip", "batch_size": 2000}})


def test_a_field_that_is_wrong():
    with pytest.raises(ConfigError, match=r"method.*score_init is the draw"):
        trainer({"method": {"name": "snip", "score_init": {"distribution": "normal", "rule": "he"}}})
