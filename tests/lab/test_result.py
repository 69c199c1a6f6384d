"""Last, best and validation-selected values."""

import pytest

from supermask import models
from supermask.core.masks import Masks
from supermask.lab.plan import expand
from supermask.lab.result import make_result

from .helpers import experiment

FACTS = {
    "n_train": 8, "n_test": 2, "n_validation": 2, "input_shape": (64,),
    "seconds": {"total": 1.0, "train": 1.0, "evaluate": 0.0}, "memory": {}, "threads": 1, "device": "cpu",
}  # fmt: skip
TEST, HELD_OUT = [0.5, 0.9, 0.7, 0.9, 0.6], [0.8, 0.2, 0.8, 0.2, 0.3]


def judge(patch, key, **facts):
    """The result of five epochs."""
    (spec,) = expand(experiment(patch))
    lines = [
        {
            "epoch": index + 1,
            "step": 6,
            "train_loss": 1.0,
            "test_loss": 1.0,
            f"test_{key}": test,
            f"validation_{key}": held,
        }
        for index, (test, held) in enumerate(zip(TEST, HELD_OUT, strict=True))
    ]
    model = models.build("fcn", inputs=64, hidden=[16], classes=10)
    return make_result(spec, spec.config().train, Masks({}, {}), model, lines, FACTS | facts)


def test_higher_is_better_and_the_earliest_epoch_wins_ties():
    result = judge({}, "accuracy")
    assert result["accuracy"] == {
        "last": 0.6, "best": 0.9, "best_epoch": 2, "validation_selected": 0.5, "validation": 0.3, "validation_epoch": 1,
    }  # fmt: skip
    assert result["metric"] == {"name": "accuracy", "better": "higher", **result["accuracy"]}
    assert result["precision"] == "float32"


def test_lower_is_better():
    result = judge({"train.metric": "userparts:mean_rank", "train.better": "lower"}, "metric")
    assert result["metric"] == {
        "name": "userparts:mean_rank", "better": "lower", "last": 0.6, "best": 0.5, "best_epoch": 1,
        "validation_selected": 0.9, "validation": 0.3, "validation_epoch": 2,
    }  # fmt: skip
    assert set(result["accuracy"].values()) == {None}


@pytest.mark.parametrize("key", ["validation_selected", "validation", "validation_epoch"])
def test_nothing_is_selected_without_a_validation_split(key):
    assert judge({}, "accuracy", n_validation=0)["accuracy"][key] is None


def test_multiply_accumulates_are_counted():
    counted = judge({}, "accuracy")["macs"]
    assert counted["dense"] == counted["remaining"] == 64 * 16 + 16 * 10
    assert "multiply-accumulates" in counted["convention"]
