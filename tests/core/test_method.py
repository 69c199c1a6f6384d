"""attach and the hyper-parameters: what is refused, and with which words."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from supermask import Dense, FixedMask, Initializer, Magnitude, Masks, Method, RandomMask, SignedSupermask
from supermask.core.registry import methods
from supermask.errors import (
    AttachError,
    HyperparameterError,
    MaskError,
    SupermaskError,
    UnsupportedModuleError,
)

from .helpers import mlp, noise
from .test_checks import OnlyLinear, ScoresOnData

DENSITIES: dict[str, Callable[[Any], Method]] = {
    "random: density": lambda value: RandomMask(density=value),
    "magnitude: density": lambda value: Magnitude(density=value),
    "magnitude: initial_density": lambda value: Magnitude(initial_density=value),
}


@pytest.mark.parametrize("field", DENSITIES)
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 "),
        (0.0, "0.0 "),
        (90, "90; did you mean 0.9? "),
        (1.5, "1.5; did you mean 0.015? "),
        (101, "101 "),
        (-0.1, "-0.1 "),
        (math.nan, "nan "),
        (math.inf, "inf "),
        ("0.1", "'0.1' "),
        (True, "True "),
        (None, "None "),
        ([0.1], "[0.1] "),
        (torch.tensor(0.1), "tensor(0.1000) "),
    ],
)
def test_bad_densities(field: str, value: object, shown: str) -> None:
    with pytest.raises(HyperparameterError) as caught:
        DENSITIES[field](value)
    assert str(caught.value) == (
        f"{field} must be a number in (0, 1], got {shown}(density is the fraction that remains)"
    )


@pytest.mark.parametrize("density", [1, 1.0, 5e-324, np.float64(0.3)])
def test_good_densities(density: float) -> None:
    for make in DENSITIES.values():
        if density >= Magnitude().density or make is not DENSITIES["magnitude: initial_density"]:
            make(density)


BAD: list[tuple[Callable[[], Method], str]] = [
    (lambda: RandomMask(scope="layer"), "random: scope must be one of global, uniform, erk, er; got 'layer'"),
    (lambda: RandomMask(scope=["erk"]), r"random: scope must be one of .*; got \['erk'\]"),
    (lambda: Magnitude(schedule="cubic"), "magnitude: schedule must be one of one-shot, gradual; got 'cubic'"),
    (lambda: Magnitude(begin=-0.1), r"magnitude: begin must be a number in \[0, 1\], got -0.1"),
    (lambda: Magnitude(end=0), r"magnitude: end must be a number in \(0, 1\], got 0"),
    (lambda: Magnitude(end=75), r"magnitude: end must be a number in \(0, 1\], got 75"),
    (lambda: Magnitude(begin=0.8), "magnitude: begin must be before end, got begin=0.8, end=0.75"),
    (lambda: Magnitude(schedule="one-shot", begin=1.0), "magnitude: begin must be before end, got begin=1.0"),
    (lambda: Magnitude(every=0), "magnitude: every must be a whole number of steps >= 1, got 0"),
    (lambda: Magnitude(every=2.5), "magnitude: every must be a whole number of steps >= 1, got 2.5"),
    (lambda: Magnitude(every=True), "magnitude: every must be a whole number of steps >= 1, got True"),
    (
        lambda: Magnitude(density=0.5, initial_density=0.4),
        r"magnitude: initial_density must be at least density \(0.5\), got 0.4",
    ),
    (lambda: SignedSupermask(threshold=-0.1), r"signed-supermask: threshold must be a number in \[0, inf\], got -0.1"),
    (lambda: SignedSupermask(threshold=math.nan), r"threshold must be a number in \[0, inf\], got nan"),
    (lambda: SignedSupermask(threshold=math.inf), "threshold must be below inf, got inf"),
    (lambda: SignedSupermask(threshold="0.01"), r"threshold must be a number in \[0, inf\], got '0.01'"),
    (lambda: SignedSupermask(threshold=True), r"threshold must be a number in \[0, inf\], got True"),
    (
        lambda: SignedSupermask(threshold_rule="relative", threshold=1.0),
        "signed-supermask: threshold must be below 1, got 1.0",
    ),
    (lambda: SignedSupermask(threshold_rule="relative", threshold=40), r"number in \[0, 1\], got 40"),
    (
        lambda: SignedSupermask(threshold_rule="fixed"),
        "threshold_rule must be one of absolute, relative, variable; got",
    ),
    (lambda: SignedSupermask(batchnorm="keep"), "batchnorm must be one of frozen, trained; got 'keep'"),
    (lambda: SignedSupermask(conv_fraction=0), r"conv_fraction must be a number in \(0, 0.5\], got 0"),
    (lambda: SignedSupermask(linear_fraction=0.6), r"linear_fraction must be a number in \(0, 0.5\], got 0.6"),
    (lambda: SignedSupermask(signed=1), "signed-supermask: signed must be true or false, got 1"),
    (lambda: SignedSupermask(weights="he"), "signed-supermask: weights must be an Initializer, got 'he'"),
    (lambda: SignedSupermask(scores=None), "signed-supermask: scores must be an Initializer, got None"),
    (lambda: FixedMask(), r"fixed-mask: give exactly one of file \(a path\) and masks \(an object\)"),
    (lambda: FixedMask(file="a.npz", masks={}), "fixed-mask: give exactly one of file"),
    (lambda: FixedMask(file=3), "fixed-mask: file must be a path as text, got 3"),
    (lambda: FixedMask(masks=[1]), "fixed-mask: masks must map names to bool tensors, got list"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message[:60] for _, message in BAD])
def test_bad_hyperparameters(make: Callable[[], Method], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, SupermaskError)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": -1}, HyperparameterError, r"seed must be an integer in \[0, 2\*\*63\), got -1"),
        ({"seed": 2**63}, HyperparameterError, "seed must be an integer"),
        ({"seed": 1.0}, HyperparameterError, "got 1.0"),
        ({"seed": True}, HyperparameterError, "got True"),
        ({"seed": "0"}, HyperparameterError, "got '0'"),
        ({"weights": "drawn"}, AttachError, "weights must be 'redraw', 'keep' or a mapping of arrays, got 'drawn'"),
        ({"weights": 3}, AttachError, "weights must be 'redraw', 'keep' or a mapping of arrays, got 3"),
        ({"weights": [torch.ones(1)]}, AttachError, "or a mapping of arrays, got"),
        ({"weights": "redraw"}, AttachError, "random has no initialiser of its own: use weights='keep' or pass arrays"),
        ({"weights": {}}, MaskError, "the weights do not fit the model's targets; missing: 0.weight, 2.weight"),
        ({"scores": "xavier"}, AttachError, "scores must be a mapping of arrays, got str"),
        ({"scores": {}}, MaskError, "the scores do not fit the model's targets; missing: 0.weight, 2.weight"),
    ],
)
def test_bad_arguments_of_attach(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RandomMask().attach(mlp(), **options)


@pytest.mark.parametrize("model", [None, "mlp", nn.Parameter(torch.ones(2)), [nn.Linear(2, 2)], nn.Linear])
def test_a_model_is_a_module(model: object) -> None:
    with pytest.raises(AttachError, match=r"model must be a torch.nn.Module, got \w+"):
        Dense().attach(model)  # type: ignore[arg-type]


def test_the_largest_seed_works() -> None:
    entries = SignedSupermask().attach(mlp(), seed=2**63 - 1).masks().signed
    assert {entry.seed for entry in entries.values()} == {2**63 - 1}


def test_a_method_that_scores_on_data_says_so() -> None:
    model = mlp()
    for options in ({}, {"data": [noise(2, 12)]}, {"loss_fn": lambda model, batch: model(batch).sum()}):
        with pytest.raises(
            AttachError, match=r"test-sound scores weights on data: attach\(model, data=batches, loss_fn=f\)"
        ):
            ScoresOnData().attach(model, **options)
    s = ScoresOnData().attach(model, data=[noise(2, 12)], loss_fn=lambda model, batch: model(batch).square().sum())
    assert s.data is None
    assert s.loss_fn is None
    assert 0.4 < s.density() < 0.6


def test_supports_refuses_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    with pytest.raises(UnsupportedModuleError, match="test-sound does not support this model: 0 is not a linear layer"):
        OnlyLinear().attach(model)
    assert type(model[0]) is nn.Conv2d


def test_config_is_json_and_says_all() -> None:
    method = SignedSupermask(weights=Initializer(distribution="uniform", rule="fixed", gain=0.1))
    config = json.loads(json.dumps(method.config()))
    assert config["name"] == "signed-supermask"
    assert config["version"] == 1
    assert config["weights"] == {"distribution": "uniform", "rule": "fixed", "gain": 0.1}
    assert config.keys() == {"name", "version"} | {f.name for f in dataclasses.fields(method)}
    rest = {k: v for k, v in config.items() if k not in ("name", "version")}
    rest |= {key: Initializer(**rest[key]) for key in ("weights", "scores")}
    assert SignedSupermask(**rest) == method


def test_masks_given_as_an_object_are_not_in_the_config() -> None:
    masks = Masks({"weight": torch.ones(2, 2, dtype=torch.bool)})
    assert FixedMask(masks=masks).config() == {"name": "fixed-mask", "version": 1, "file": None}
    assert "tensor" not in repr(FixedMask(masks=masks))


@pytest.mark.parametrize("cls", methods().values(), ids=methods())
def test_methods_hold_no_state_and_cannot_be_changed(cls: type[Method]) -> None:
    method = cls.examples(mlp())[0]
    for field in dataclasses.fields(method):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, field.name, 1)
    with pytest.raises(TypeError):
        cls(1)  # keywords only
