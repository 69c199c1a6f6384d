"""Last, best and validation-selected values."""

import pytest
import torch

from supermask import models
from supermask.core.masks import Masks
from supermask.lab.plan import expand
from supermask.lab.result import describe_setting, make_result

from .helpers import experiment

FACTS = {
    "n_train": 8, "n_test": 2, "n_validation": 2, "input_shape": (64,),
    "seconds": {"total": 1.0, "train": 1.0, "evaluate": 0.0}, "memory": {}, "threads": 1, "device": "cpu", "processes": 1,
    "starts": [{"cpu": "a processor", "cores": 2, "device": "cpu", "python": "3.11"}], "rounds": 1,
    "notes": [], "channels": None,
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
        "last": 0.6, "best": 0.9, "best_epoch": 2, "best_remaining": None,
        "validation_selected": 0.5, "validation": 0.3, "validation_epoch": 1,
    }  # fmt: skip
    assert result["metric"] == {"name": "accuracy", "better": "higher", **result["accuracy"]}
    assert result["precision"] == "float32"


def test_lower_is_better():
    result = judge({"train.metric": "userparts:mean_rank", "train.better": "lower"}, "metric")
    assert result["metric"] == {
        "name": "userparts:mean_rank", "better": "lower", "last": 0.6, "best": 0.5, "best_epoch": 1,
        "best_remaining": None,
        "validation_selected": 0.9, "validation": 0.3, "validation_epoch": 2,
    }  # fmt: skip
    assert set(result["accuracy"].values()) == {None}


def lines_of(*values, **more):
    """Epochs of (round, remaining, test accuracy, held-out accuracy)."""
    return [
        {"epoch": i, "step": 6 * i, "train_loss": 1.0, "test_loss": 1.0, "round": number, "remaining": remaining,
         "test_accuracy": test, "validation_accuracy": held, **{key: value[i - 1] for key, value in more.items()}}
        for i, (number, remaining, test, held) in enumerate(values, start=1)
    ]  # fmt: skip


def result_of(method, lines, remaining=0):
    """The result of a run of these epochs whose masks leave so many weights."""
    (spec,) = expand(experiment({"method": method}))
    masks = Masks({"fc1.weight": (torch.arange(16 * 64) < remaining).reshape(16, 64)}, {})
    model = models.build("fcn", inputs=64, hidden=[16], classes=10)
    return make_result(spec, spec.config(), masks, model, lines, FACTS)


# three rounds, the masks of the last one are cut between its epochs
ROUNDS = [(0, 9, 0.9, 0.9), (1, 3, 0.8, 0.8), (2, 9, 0.7, 0.7), (2, 3, 0.5, 0.4), (2, 3, 0.6, 0.1), (2, 3, 0.4, 0.3)]


def test_epochs_with_other_masks_than_the_final_ones_are_not_chosen():
    chosen = result_of({"name": "random", "density": 0.3}, lines_of(*ROUNDS), 3)["accuracy"]
    assert (chosen["best"], chosen["best_epoch"], chosen["best_remaining"]) == (0.6, 5, 3)
    assert (chosen["validation_selected"], chosen["validation_epoch"], chosen["validation"]) == (0.5, 4, 0.3)
    # no epoch has as many as remain at the end: the last one
    assert result_of({"name": "random", "density": 0.2}, lines_of(*ROUNDS), 2)["accuracy"]["best_epoch"] == 6


def test_without_a_promised_density_every_epoch_of_the_last_round_can_be_chosen():
    chosen = result_of({"name": "dense"}, lines_of(*ROUNDS), 3)["accuracy"]
    assert (chosen["best"], chosen["best_epoch"], chosen["best_remaining"]) == (0.7, 3, 9)
    assert (chosen["validation_selected"], chosen["validation_epoch"]) == (0.7, 3)
    earlier = [{k: v for k, v in line.items() if k not in ("round", "remaining")} for line in lines_of(*ROUNDS)]
    assert result_of({"name": "dense"}, earlier)["accuracy"]["best_epoch"] == 1


def test_the_full_model_at_its_end_and_at_its_best():
    tracked = [0.2, 0.1, None, None, None, None]
    accuracy = [0.95, 0.93, None, None, None, None]
    lines = lines_of(*ROUNDS, full_loss=tracked, full_accuracy=accuracy, full_metric=accuracy)
    assert result_of({"name": "dense"}, lines)["full"] == {
        "loss": 0.1, "accuracy": 0.93, "metric": 0.93, "best": 0.95, "best_epoch": 1,
    }  # fmt: skip
    assert result_of({"name": "dense"}, lines_of(*ROUNDS))["full"] is None


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
    tuned = judge({"train.epochs": 7, "train.rounds": {"2": {"epochs": 1}}}, "accuracy", rounds=3)
    assert (tuned["epochs_planned"], tuned["epochs_by_round"]) == (15, [7, 7, 1])


def test_multiply_accumulates_of_removed_channels_are_those_of_the_network_without_them():
    told = {"groups": [], "costs": {"macs": {"remaining": 100.0}}, "shrunk": {}, "latency": None}
    found = judge({}, "accuracy", channels=told)["macs"]
    assert (found["dense"], found["remaining"]) == (64 * 16 + 16 * 10, 100)
    assert found["convention"].endswith("; removed channels are taken out")


def test_every_machine_that_trained_is_told_once():
    here, there = FACTS["starts"][0], {"host": "b", "cpu": "another", "cores": 4, "device": "H200", "threads": 1}
    machines = judge({}, "accuracy", starts=[here, there, here])["conditions"]["machines"]
    assert machines == [
        {"cpu": "a processor", "cores": 2, "device": "cpu"},
        {"host": "b", "cpu": "another", "cores": 4, "device": "H200"},
    ]
