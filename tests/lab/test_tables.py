"""Tables of settings: from what runs were told and from the models, beside quoted cells."""

import dataclasses

import pytest

from supermask import models
from supermask.errors import ConfigError
from supermask.lab.annotations import parse_table
from supermask.lab.plan import expand
from supermask.lab.tables import batchnorm, convolutions, linear, settings_rows, weights

from .helpers import experiment


def rows(table, patch=None, **options):
    made = dataclasses.replace(experiment(patch, **options), table=parse_table({"kind": "settings", **table}))
    return settings_rows(made, expand(made))


VARY = {
    "seed": 2,
    "variant": {"plain": {}, "signed": {"method": {"name": "signed-supermask"}, "train.optimizer.lr": 0.2}},
}


def test_one_row_a_label():
    columns = {"rate": "train.optimizer.lr", "threshold": "method.threshold"}
    assert rows({"columns": columns}, vary=VARY) == (
        ["label", "rate", "threshold"],
        [["plain", 0.05, None], ["signed", 0.2, 0.01]],
    )


def test_quoted_cells_stand_beside_their_column():
    columns = {"rate": "train.optimizer.lr", "epochs": "train.epochs"}
    quoted = {"signed": {"rate": ".2"}}
    assert rows({"columns": columns, "quoted": quoted, "source": "table 8"}, vary=VARY) == (
        ["label", "rate", "rate (table 8)", "epochs"],
        [["plain", 0.05, None, 2], ["signed", 0.2, ".2", 2]],
    )


def test_defaults_are_shown_and_lists_are_text():
    columns = {"shuffle": "train.shuffle", "hidden": "model.hidden", "augment": "data.augment"}
    assert rows({"columns": columns}) == (["label", *columns], [["dense", True, "[16]", None]])


def test_a_column_that_no_run_has():
    with pytest.raises(
        ConfigError, match=r"table\.columns\.rate: no run has the key 'train\.optimizer\.lrr'; did you mean"
    ):
        rows({"columns": {"rate": "train.optimizer.lrr"}})


def test_models_are_counted():
    columns = {key: f"model.{key}" for key in ("weights", "convolutions", "linear", "batchnorm")}
    _, (row,) = rows({"columns": columns}, {"model": {"name": "conv2", "classes": 7}, "data": {"name": "cifar10"}})
    assert row == ["dense", 4_300_224, "64, 64, pool", "256, 256, 7", 0]


def test_strides_and_biases_are_counted():
    columns = {key: f"model.{key}" for key in ("strides", "weights", "weights-and-biases")}
    model = {"name": "alexnet-s", "size": 64, "stride": 4, "classes": 7}
    _, (row,) = rows({"columns": columns}, {"model": model, "data": {"name": "tiny-imagenet"}})
    assert row == ["dense", "4, 2 x 4", 5_066_784 - 3 * 1024, 5_070_218 - 3 * 1025]
    _, (row,) = rows({"columns": columns}, {"model": {"name": "resnet20"}, "data": {"name": "cifar10"}})
    assert row[1] == "1 x 7, 2, 1 x 5, 2, 1 x 5"


def test_a_model_by_reference_is_counted():
    _, (row,) = rows({"columns": {"weights": "model.weights"}}, {"model": {"name": "userparts:build", "hidden": 8}})
    assert row == ["dense", 64 * 8 + 8 * 10]


def test_names_of_layers():
    model = models.build("resnet20-signed")
    stages = ["16 (1x1), 16, 16 (1x1), 16 x 4", "32 (1x1), 32, 32 (1x1), 32 x 4", "64 (1x1), 64, 64 (1x1), 64 x 4"]
    assert convolutions(model) == ", ".join(["16, pool", *stages])
    assert linear(model) == "10"
    assert (weights(model), batchnorm(model)) == (248_624, 1_600)
