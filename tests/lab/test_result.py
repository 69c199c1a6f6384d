"""Last, best and validation-selected values."""

import pytest

from supermask import models
from supermask.core.masks import Masks
from supermask.lab.plan import expand
from supermask.lab.result import describe_setting, make_result

from .helpers import experiment

FACTS = {
    "n_train": 8, "n_test": 2, "n_validation": 2, "input_shape": (64,),
    "seconds": {"total": 1.0, "train": 1.0, "evaluate": 0.0}, "memory": {}, "threads": 1, "device": "cpu",
    "starts": [{"cpu": "a processor", "cores": 2, "device": "cpu", "python": "3.11"}], "rounds": 1,
        "notes": [],
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
    return make_result(spec, spec.config(), Masks({}, {}), model, lines, FACTS | facts)


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


def described(patch=None, **vary):
    return [describe_setting(spec, spec.config()) for spec in expand(experiment(patch, vary=vary))]


def test_runs_of_one_setting_differ_in_nothing_but_the_seed():
    first, second = described(seed=2)
    assert first == second
    (written,) = described({"train.shuffle": True, "data.normalize": "image"})
    assert written["setting"] == first["setting"]
    patches = [{"train.epochs": 3}, {"method": {"name": "random"}}, {"train.batch_size": 8}, {"model.hidden": [17]}]
    settings = {first["setting"], *(described(patch)[0]["setting"] for patch in patches)}
    assert len(settings) == 5
    # pinned: results that are there already are grouped with those to come
    assert first["setting"] == "f391e50435a1"


def test_conditions_are_all_but_the_method():
    (dense,) = described()
    assert dense["conditions"] == {
        "model": {"name": "fcn", "inputs": 64, "hidden": [16]}, "data": {"name": "digits"}, "batch_size": 256, "passes": 1,
        "precision": "float32",
    }  # fmt: skip
    (masked,) = described({"method": {"name": "random"}, "train.epochs": 3, "train.optimizer.lr": 0.2})
    assert masked["conditions"] == dense["conditions"]
    (halved,) = described({"train.precision": "bfloat16", "train.passes": 2})
    assert (halved["conditions"]["precision"], halved["conditions"]["passes"]) == ("bfloat16", 2)


def test_files_of_the_data_are_known_by_their_content(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "cat").mkdir(parents=True)
        (tmp_path / name / "cat" / "x.png").write_bytes(b"same")
    told = [
        describe_setting(spec, spec.config())
        for name in ("one", "two")
        for spec in expand(experiment({"data": {"name": "folder", "path": name}}, folder=tmp_path))
    ]
    assert told[0] == told[1]
    assert told[0]["conditions"]["data"]["path"].startswith("sha256:")


def test_planned_epochs_are_those_of_all_rounds():
    result = judge({"train.epochs": 7}, "accuracy")
    assert (result["epochs"], result["epochs_planned"]) == (5, 7)
    assert judge({"train.epochs": 7}, "accuracy", rounds=3)["epochs_planned"] == 21


def test_every_machine_that_trained_is_told_once():
    here, there = FACTS["starts"][0], {"host": "b", "cpu": "another", "cores": 4, "device": "H200", "threads": 1}
    machines = judge({}, "accuracy", starts=[here, there, here])["conditions"]["machines"]
    assert machines == [
        {"cpu": "a processor", "cores": 2, "device": "cpu"},
        {"host": "b", "cpu": "another", "cores": 4, "device": "H200"},
    ]
