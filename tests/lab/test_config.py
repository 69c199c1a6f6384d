"""Judging sections: every message names the key, the value and the way out."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest

from supermask.errors import ConfigError
from supermask.lab.config import parse_run
from supermask.lab.plan import expand
from supermask.lab.train_section import Clip
from supermask.lab.validate import build, check, describe, non_default, plain
from supermask.optim import Exponential, WarmUp

from .helpers import BASE, HERE, experiment


def parse(patch):
    (spec,) = expand(experiment(patch))
    return spec.config()


def refuse(patch, message):
    with pytest.raises(ConfigError, match=message):
        parse(patch)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (float, "0.1"),
        (float, True),
        (int, True),
        (int, 1.5),
        (int, 2.0),
        (bool, 1),
        (bool, "yes"),
        (str, 3),
        (float | None, "none"),
        (tuple[int, ...], [1, "2"]),
        (tuple[float, float], [0.9]),
        (Literal["a", "b"], "c"),
        (bool | Literal["once"], "twice"),
    ],
)
def test_wrong_types_are_refused(hint, value):
    with pytest.raises(ConfigError, match=r"^a\.b: expected .*, got "):
        check(hint, value, "a.b")


@pytest.mark.parametrize(
    ("hint", "value", "result"),
    [
        (float, 1, 1.0),
        (float | None, None, None),
        (tuple[int, ...], [1, 2], (1, 2)),
        (bool | Literal["once"], "once", "once"),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
    ],
)
def test_right_types(hint, value, result):
    found = check(hint, value, "a")
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (float, "a number"),
        (int | None, "a whole number or null"),
        (bool | Literal["once"], "true or false or 'once'"),
        (tuple[int, ...], "a list, each item a whole number"),
        (tuple[float, float], "a list of 2: a number, a number"),
    ],
)
def test_types_in_words(hint, words):
    assert describe(hint) == words


@dataclass(frozen=True)
class Inner:
    size: int = 3
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner = Inner(size=4)
    other: Inner | None = None
    hidden: object = field(default=None, metadata={"config": False})


def test_nested_dataclasses_and_back():
    outer = build(Outer, {"count": 1, "other": {"share": 1}}, "outer")
    assert outer == Outer(1, other=Inner(share=1.0))
    assert plain(outer) == {"count": 1, "inner": {"size": 4, "share": 0.5}, "other": {"size": 3, "share": 1.0}}
    assert build(Outer, plain(outer), "outer") == outer


def test_non_default_values_at_every_depth():
    assert non_default(Outer(1)) == {"count": 1}
    assert non_default(Outer(1, Inner())) == {"count": 1, "inner": {}}
    assert non_default(Outer(1, other=Inner(share=0.1))) == {"count": 1, "other": {"share": 0.1}}


def test_errors_in_nested_dataclasses_name_the_path():
    with pytest.raises(ConfigError, match=r"outer\.inner\.siez: unknown key; did you mean 'size'\?"):
        build(Outer, {"count": 1, "inner": {"siez": 3}}, "outer")
    with pytest.raises(ConfigError, match=r"outer\.inner: expected a section with size, share, got 3"):
        build(Outer, {"count": 1, "inner": 3}, "outer")


def test_fields_that_no_file_can_hold_are_unknown():
    with pytest.raises(ConfigError, match=r"outer\.hidden: unknown key"):
        build(Outer, {"count": 1, "hidden": 3}, "outer")


def test_a_value_that_json_does_not_have():
    with pytest.raises(ConfigError, match=r"a: .* is not a value of an experiment file"):
        check(int, {1, 2}, "a")


@pytest.mark.parametrize(
    ("augment", "section", "changed"),
    [
        ({"padding": 4}, {"padding": 4, "flip": True}, {}),
        ({"name": "crop-flip", "flip": False}, {"padding": 4, "flip": False}, {"flip": False}),
        (
            {"name": "random-resized-crop", "size": 224, "scale": [0.25, 1]},
            {"name": "random-resized-crop", "size": 224, "scale": [0.25, 1.0], "ratio": [3 / 4, 4 / 3], "flip": True},
            {"name": "random-resized-crop", "size": 224, "scale": [0.25, 1.0]},
        ),
        ({"name": "subset-crop-flip"}, {"name": "subset-crop-flip", "padding": 4}, {"name": "subset-crop-flip"}),
    ],
)
def test_augmentations_by_name(augment, section, changed):
    config = parse({"data.augment": augment})
    assert config.to_sections()["data"]["augment"] == section
    assert config.to_sections(defaults=False)["data"]["augment"] == changed
    assert parse_run(config.to_sections(), HERE) == config


def test_a_schedule_is_held_against_the_full_set_only():
    schedule = {"train.schedule": {"name": "warm-up", "steps": 10_000, "then": {"name": "cosine"}}, "train.epochs": 1}
    refuse({"data": {"name": "tiny-imagenet"}, **schedule}, r"train\.schedule: .*10,?000")
    assert parse({"data": {"name": "tiny-imagenet", "classes": 300}, **schedule}).data.options == {"classes": 300}


def test_parse_and_write_agree():
    patch = {
        "train.schedule": {"name": "step", "milestones": [10, 20]},
        "train.optimizer": {"name": "adamw", "lr": 1},
        "train.shuffle": "once",
        "data.augment": {"padding": 1},
        "init": {"rule": "he", "distribution": "normal"},
        "method": {"name": "signed-supermask", "scores": {"distribution": "normal", "rule": "fixed", "gain": 1}},
    }
    config = parse(patch)
    assert config.train.optimizer.lr == 1.0
    assert config.train.schedule.milestones == (10, 20)
    assert config.data.augment.padding == 1
    assert config.method.scores.gain == 1.0
    assert parse_run(config.to_sections(), HERE) == config


def test_what_comes_after_a_warm_up_is_read_and_written():
    inner = {"name": "warm-up", "steps": 2, "then": {"name": "exponential", "every": 5}, "start": 0.5}
    config = parse({"train.schedule": {"name": "warm-up", "steps": 3, "then": inner}})
    assert config.train.schedule == WarmUp(3, WarmUp(2, Exponential(every=5), 0.5))
    assert parse_run(config.to_sections(), HERE) == config
    assert config.to_sections(defaults=False)["train"]["schedule"] == {"name": "warm-up", "steps": 3, "then": inner}
    assert config.to_sections()["train"]["schedule"]["then"]["then"] == {
        "name": "exponential", "rate": 0.96, "every": 5, "staircase": True,
    }  # fmt: skip
    constant = parse({"train.schedule": {"name": "warm-up", "steps": 3, "then": {"name": "constant"}}})
    assert constant.to_sections(defaults=False)["train"]["schedule"]["then"] == {"name": "constant"}


def test_how_to_train_and_judge_is_read_and_written():
    patch = {
        "train.precision": "float16", "train.clip": {"norm": 1}, "train.passes": 3, "data.validation": 7,
        "train.metric": "userparts:hinge", "train.better": "lower",
    }  # fmt: skip
    config = parse(patch)
    assert config.train.clip == Clip(norm=1.0, over="all")
    assert parse_run(config.to_sections(), HERE) == config
    assert config.references() == {"train.metric": "userparts:hinge"}
    written = config.to_sections(defaults=False)
    assert written["train"]["clip"] == {"norm": 1.0}
    assert written["data"] == {"name": "digits", "validation": 7}


@pytest.mark.parametrize(
    ("metric", "better"), [("accuracy", "higher"), ("mae", "lower"), ("rmse", "lower"), ("r2", "higher")]
)
def test_which_of_two_values_is_better(metric, better):
    assert parse({"train.metric": metric}).train.better_is == better
    assert parse({"train.metric": metric, "train.better": better}).train.better_is == better


def test_only_what_differs_from_defaults():
    assert parse({}).to_sections(defaults=False) == {
        "model": {"name": "fcn", "inputs": 64, "hidden": [16]},
        "init": {},
        "data": {"name": "digits"},
        "method": {"name": "dense"},
        "train": {"epochs": 2, "batch_size": 256, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}},
    }


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"train.epoch": 3}, r"train\.epoch: unknown key; did you mean 'epochs'\?"),
        ({"train.epochs": "3"}, r"train\.epochs: expected a whole number, got '3' \(text\)"),
        ({"train.epochs": True}, r"train\.epochs: expected a whole number, got true"),
        ({"train.epochs": 0}, r"train: epochs must be at least 1, got 0"),
        ({"train.batch_size": 0}, r"train: batch_size must be at least 1, got 0"),
        ({"train.shuffle": "twice"}, r"train\.shuffle: expected true or false or 'once', got 'twice' \(text\)"),
        ({"train.data_order": "own"}, r"train\.data_order: expected 'per-seed' or 'shared', got 'own' \(text\)"),
        ({"train.loss": "huber"}, r"train: loss must be one of cross-entropy, mse or a reference .* got 'huber'"),
        ({"train.optimizer.lr": "0.1"}, r"train\.optimizer\.lr: expected a number, got '0\.1' \(text\)"),
        ({"train.optimizer.lr": True}, r"train\.optimizer\.lr: expected a number, got true"),
        ({"train.optimizer.lr": -1}, r"train\.optimizer: lr must be .*, got -1\.0"),
        ({"train.optimizer.momentun": 0.9}, r"train\.optimizer\.momentun: unknown key; did you mean 'momentum'\?"),
        ({"train.optimizer": {"name": "sdg", "lr": 1}}, r"train\.optimizer\.name: .*'sdg'; did you mean 'sgd'\?"),
        ({"train.optimizer": {"name": "sgdw"}}, r"train\.optimizer\.lr: missing; it has no default"),
        ({"train.optimizer.name": 3}, r"train\.optimizer\.name: expected text, got 3 \(a whole number\)"),
        ({"train.schedule": "cosine"}, r"train\.schedule: expected a section of keys and values, got 'cosine'"),
        ({"train.schedule": {"name": "cosin"}}, r"train\.schedule\.name: .*did you mean 'cosine'"),
        ({"train.schedule": {"name": "exponential", "rate": 2}}, r"train\.schedule: rate must be in \(0, 1\], got 2\.0"),
        ({"model.name": "fnc"}, r"model\.name: no model is called 'fnc'; did you mean 'fcn'\?"),
        ({"model.hiden": [3]}, r"model\.hiden: unknown key; did you mean 'hidden'\?"),
        ({"model.hidden": "16"}, r"model: hidden must be a list of widths such as \[300, 100\], got '16'"),
        ({"model.classes": 0}, r"model: classes must be .*got 0"),
        ({"data.name": "digit"}, r"data\.name: no data set is called 'digit'; did you mean 'digits'\?"),
        ({"data.normalise": "image"}, r"data\.normalise: unknown key; did you mean 'normalize'\?"),
        ({"data.normalize": "images"}, r"data\.normalize: expected 'image' or 'dataset' or 'imagenet' or 'none', got"),
        ({"data.augment": {"padding": -1}}, r"data\.augment: padding must be an integer >= 0"),
        ({"data.augment": {"name": "random-crop"}}, r"data\.augment\.name: expected crop-flip or .* got 'random-crop'"),
        ({"data.augment": {"name": "random-resized-crop"}}, r"data\.augment\.size: missing; it has no default"),
        ({"data.augment": {"name": "subset-crop-flip", "flip": True}}, r"data\.augment\.flip: unknown key"),
        ({"data": {"name": "imagenet", "clases": 10}}, r"data\.clases: unknown key; did you mean 'classes'\?"),
        ({"data": {"name": "webdataset", "classes": 10}}, r"data\.shards: missing; the data set 'webdataset' needs it"),
        ({"data.validation": -1}, r"data: validation must be a number of training examples >= 0, got -1"),
        ({"data.validation": 0.1}, r"data\.validation: expected a whole number, got 0\.1 \(a number\)"),
        ({"data": {"name": "npz"}}, r"data\.file: missing; the data set 'npz' needs it"),
        ({"data": {"name": "npz", "file": "none.npz"}}, r"data\.file: no such file: .*none\.npz; relative paths"),
        ({"method.name": "densee"}, r"method\.name: no method is called 'densee'; did you mean 'dense'\?"),
        ({"method.density": 0.1}, r"method\.density: unknown key"),
        ({"method": {"name": "random", "density": 90}}, r"method: .*density must be .*got 90\.0; did you mean 0\.9\?"),
        ({"method": {"name": "random", "density": 0}}, r"method: .*density must be .*got 0"),
        ({"method": {"name": "random", "density": float("nan")}}, r"method: .*density must be .*got nan"),
        ({"method": {"name": "random", "density": "0.1"}}, r"method\.density: expected a number, got '0\.1' \(text\)"),
        ({"method": {"name": "random", "scope": "all"}}, r"method\.scope: expected .*'erk'.*, got 'all' \(text\)"),
        ({"method": {"name": "signed-supermask", "weights": {"distribution": "normal", "rule": "fixed"}}},
         r"method\.weights: initializer rule 'fixed' needs a gain"),
        ({"method": {"name": "fixed-mask", "masks": {}}}, r"method\.masks: unknown key"),
        ({"method": {"name": "fixed-mask", "file": "no.npz"}}, r"method\.file: no such file"),
        ({"init": {"rule": "she"}}, r"init\.rule: expected 'he' or .*, got 'she' \(text\)"),
        ({"init": {"rule": "fixed"}}, r"init: initializer rule 'fixed' needs a gain"),
        ({"init": {"keep": True, "rule": "he"}}, r"init: keep: true leaves the model's own weights; remove"),
        ({"init": {"weights": "no.npz"}}, r"init\.weights: no such file: .*no\.npz"),
        ({"model": {"name": "userparts:buidl"}}, r"model\.name: .*userparts\.py has no .*'buidl'; did you mean 'build"),
        ({"model": {"name": "nomodule:build"}}, r"model\.name: cannot import 'nomodule' \(ModuleNotFoundError"),
        ({"train.precision": "half"}, r"train\.precision: expected 'float32' or 'bfloat16' or 'float16', got 'half'"),
        ({"train.passes": 0}, r"train: passes must be at least 1, got 0"),
        ({"train.clip": {"norm": 0}}, r"train\.clip: norm must be a finite number > 0 \(1 is usual\), got 0\.0"),
        ({"train.clip": {"norm": 1, "over": "layer"}}, r"train\.clip\.over: expected 'all' or 'tensor', got 'layer'"),
        ({"train.clip": {}}, r"train\.clip\.norm: missing; it has no default \(expected a number\)"),
        ({"train.clip": 1.0}, r"train\.clip: expected a section with norm, over or null, got 1\.0"),
        ({"train.metric": "mea"}, r"train: metric must be one of accuracy, mae, rmse, r2 or a reference .* got 'mea'"),
        ({"train.better": "lower"}, r"train: better is 'lower', but for accuracy higher is better; remove it"),
        ({"train.metric": "userparts:hinge"}, r"train: better is missing: say whether higher or lower .* userparts:hinge"),
        ({"train.metric": "userparts:hing", "train.better": "lower"},
         r"train\.metric: .* has no function or class 'hing'; did you mean 'hinge'\?"),
        ({"train.schedule": {"name": "warm-up", "steps": 3}},
         r"train\.schedule\.then: missing; it has no default \(a section whose name is constant or"),
        ({"train.schedule": {"name": "warm-up", "then": {"name": "cosine"}}}, r"train\.schedule\.steps: missing"),
        ({"train.schedule": {"name": "warm-up", "steps": 3, "then": {"name": "cosin"}}},
         r"train\.schedule\.then\.name: .*'cosin'; did you mean 'cosine'\?"),
        ({"train.schedule": {"name": "warm-up", "steps": 3, "then": "cosine"}},
         r"train\.schedule\.then: expected a section of keys and values, got 'cosine'"),
        ({"train.schedule": {"name": "warm-up", "steps": 3, "then": {"name": "cosine", "step": 4}}},
         r"train\.schedule\.then\.step: unknown key; did you mean 'steps'\?"),
        ({"train.schedule": {"name": "warm-up", "steps": 3,
                             "then": {"name": "plateau", "factor": 0.5, "patience": 3, "max_cuts": 2}}},
         r"train\.schedule: then must be a schedule of the steps, got the plateau rule"),
        ({"train.schedule": {"name": "cosine", "then": {"name": "cosine"}}}, r"train\.schedule\.then: unknown key"),
        ({"train.loss": "userparts:hing"}, r"train\.loss: .* has no function or class 'hing'; did you mean 'hinge'\?"),
    ],
)  # fmt: skip
def test_wrong_sections(patch, message):
    refuse(patch, message)


@pytest.mark.parametrize("section", ["model", "data", "method", "train"])
def test_missing_sections(section):
    raw = {key: value for key, value in BASE.items() if key != section}
    with pytest.raises(ConfigError, match=f"{section}: this section is missing"):
        parse_run(raw, HERE)


def test_missing_optimizer():
    raw = {**BASE, "train": {"epochs": 1}}
    with pytest.raises(
        ConfigError, match=r"train\.optimizer: missing; it has no default \(a section whose name is sgd"
    ):
        parse_run(raw, HERE)


def test_optimizer_without_a_name():
    raw = {**BASE, "train": {"epochs": 1, "optimizer": {"lr": 1}}}
    with pytest.raises(ConfigError, match=r"train\.optimizer\.name: missing; it says which optimizer is meant"):
        parse_run(raw, HERE)


def test_files_are_found_beside_the_experiment(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    raw = {**BASE, "init": {"weights": "w.npz"}}
    config = parse_run(raw, tmp_path)
    assert config.init.weights == str((tmp_path / "w.npz").resolve())
    assert list(config.files()) == ["init.weights"]


def test_a_whole_number_and_its_float_are_one_run(tmp_path):
    """The default decides the type, so that both have the id that `2.0` always had."""
    runs = [expand(experiment({"model": {"name": "conv2", "width": width}}))[0] for width in (2, 2.0)]
    assert runs[0].id == runs[1].id == "3c51cbca4a88"
    assert isinstance(runs[0].sections["model"]["width"], float)
    assert isinstance(runs[0].sections["model"]["channels"], int)
    np.savez(tmp_path / "own.npz", images=np.zeros((4, 2, 2)), labels=np.arange(4))
    own = {"data": {"name": "npz", "file": str(tmp_path / "own.npz"), "split_seed": 1}}
    assert isinstance(parse(own).data.options["split_seed"], int)


@pytest.mark.parametrize(
    ("patch", "steps"),
    [
        ({}, 12),  # 1437 images: 6 batches, 2 epochs
        ({"train.passes": 2}, 24),
        ({"data.validation": 414}, 8),  # 1023 images
    ],
)
def test_a_warm_up_as_long_as_the_training_is_refused_before_it(patch, steps):
    warm_up = {"name": "warm-up", "then": {"name": "cosine"}}
    refuse(
        patch | {"train.schedule": warm_up | {"steps": steps}},
        rf"^train\.schedule: steps of the warm-up must be below those of the training, got {steps} of {steps}; shorten",
    )
    parse(patch | {"train.schedule": warm_up | {"steps": steps - 1}})


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"train.schedule": "cosine"}, r"train\.schedule: .* got 'cosine' \(text\); write {name: cosine}$"),
        ({"train.clip": 0.5}, r"train\.clip: .* got 0\.5 \(a number\); write {norm: 0\.5}$"),
        ({"train.precision": "fp16"}, r"train\.precision: .*; did you mean 'float16'\?$"),
        ({"method": {"name": "magnitude", "density": "20%"}}, r"method\.density: .*; did you mean 0\.2\?$"),
        ({"data.augment": True}, r"data\.augment: .*, got true$"),
    ],
)
def test_wrong_types_come_with_a_way_out(patch, message):
    refuse(patch, message)
