"""Initial values against the formulas of the papers, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from supermask.errors import HyperparameterError
from supermask.tensors.initializers import Initializer, density_factor, fans
from supermask.tensors.philox import Stream

FCN = [(300, 784), (100, 300), (10, 100)]
SIZE = (200, 300)


def draw(shape: tuple[int, ...] = SIZE, **fields: Any) -> Tensor:
    return Initializer(**fields).draw(shape, fans(shape), Stream(1, "test"))


@pytest.mark.parametrize(
    ("shape", "transposed", "expected"),
    [
        ((10, 20), False, (20, 10)),
        ((64, 3, 3, 3), False, (27, 576)),
        ((3, 64, 3, 3), True, (27, 576)),
        ((8, 4, 5), False, (20, 40)),
        ((2, 3, 1, 2, 2), False, (12, 8)),
        ((7,), False, (7, 7)),
    ],
)
def test_fans(shape: tuple[int, ...], transposed: bool, expected: tuple[int, int]) -> None:
    assert fans(shape, transposed=transposed) == expected


def test_a_published_table_of_constants_for_fcn() -> None:
    """Section 11 of the specification: c for ELUS weights, b for Xavier uniform scores."""
    elus = Initializer(distribution="signed-constant", rule="elus")
    xavier = Initializer(distribution="uniform", rule="xavier")
    c = [elus.std(*fans(shape)) for shape in FCN]
    b = [math.sqrt(3.0) * xavier.std(*fans(shape)) for shape in FCN]
    assert c == pytest.approx([0.06186, 0.1, 0.17321], abs=5e-6)
    assert b == pytest.approx([0.07440, 0.12247, 0.23355], abs=5e-6)


@pytest.mark.parametrize(
    ("rule", "gain", "constant"),
    [
        ("he", None, math.sqrt(2 / 300)),
        ("xavier", None, math.sqrt(2 / (300 + 200))),
        ("elu", None, math.sqrt(1.5 / 300)),
        ("elus", None, math.sqrt(3 / 300)),
        ("elus", math.sqrt(2.6), math.sqrt(2.6 / 300)),  # "reduced ELUS"
        ("elus", math.sqrt(6.0), math.sqrt(6 / 300)),  # the default of SignedSupermask
        ("lecun", None, math.sqrt(1 / 300)),
        ("fixed", 0.05, 0.05),
    ],
)
def test_signed_constants(rule: str, gain: float | None, constant: float) -> None:
    values = draw(distribution="signed-constant", rule=rule, gain=gain)
    assert values.dtype == torch.float64
    assert values.abs().unique().numel() == 1
    assert values.abs()[0, 0].item() == pytest.approx(constant, rel=1e-15)
    assert torch.equal(values.sign().flatten(), torch.from_numpy(Stream(1, "test").signs(60_000)).double())


@pytest.mark.parametrize(
    ("rule", "bound"),
    [
        ("he", math.sqrt(6 / 300)),
        ("xavier", math.sqrt(6 / (300 + 200))),
        ("elu", math.sqrt(4.5 / 300)),
        ("elus", math.sqrt(9 / 300)),
    ],
)
def test_uniform_bounds(rule: str, bound: float) -> None:
    values = draw(distribution="uniform", rule=rule)
    assert values.abs().max().item() < bound
    assert values.max().item() == pytest.approx(bound, rel=1e-3)
    assert values.min().item() == pytest.approx(-bound, rel=1e-3)
    assert torch.equal(values.flatten() > 0, torch.from_numpy(Stream(1, "test").uniform(60_000)) > 0.5)


@pytest.mark.parametrize(("rule", "std"), [("he", math.sqrt(2 / 300)), ("xavier", math.sqrt(2 / 500))])
def test_normal_std(rule: str, std: float) -> None:
    assert draw(distribution="normal", rule=rule).std().item() == pytest.approx(std, rel=0.01)


def test_fixed_normal_is_the_same_for_every_shape() -> None:
    """SNIP's RN: a normal of one variance whatever the fan."""
    for shape in ((500, 10), (10, 500)):
        assert draw(shape, distribution="normal", rule="fixed", gain=0.1).std().item() == pytest.approx(0.1, rel=0.03)


def test_fixed_truncated_normal_is_cut_at_two_widths() -> None:
    """SNIP's TN: the gain is the width before the cut."""
    values = draw(distribution="truncated-normal", rule="fixed", gain=0.1)
    assert 0.199 < values.abs().max().item() < 0.2
    assert values.std().item() == pytest.approx(0.1 * 0.87962566103423978, rel=0.01)


def test_variance_scaling_corrects_for_the_cut() -> None:
    """SNIP's VS, TensorFlow's default: width sqrt(1 / fan_in) / .87962566, cut at two widths."""
    values = draw(distribution="truncated-normal", rule="lecun")
    width = math.sqrt(1 / 300) / 0.87962566103423978
    assert 1.99 * width < values.abs().max().item() < 2 * width
    assert values.std().item() == pytest.approx(math.sqrt(1 / 300), rel=0.01)


def test_entries_follow_row_major_order() -> None:
    one = draw((6, 4), distribution="normal", rule="fixed", gain=1.0)
    other = Initializer(distribution="normal", rule="fixed", gain=1.0).draw((24,), (1, 1), Stream(1, "test"))
    assert torch.equal(one.flatten(), other)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"distribution": "gauss", "rule": "he"}, "distribution must be one of uniform, normal.*got 'gauss'"),
        ({"distribution": "normal", "rule": "kaiming"}, "rule must be one of he, he-out, xavier.*got 'kaiming'"),
        ({"distribution": "normal", "rule": "fixed"}, "'fixed' needs a gain"),
        *(
            ({"distribution": "normal", "rule": "he", "gain": gain}, "gain must be a positive number, got")
            for gain in (0.0, -1.0, math.nan, math.inf, "2", True)
        ),
    ],
)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        Initializer(**fields)


def test_he_by_fan_out() -> None:
    assert Initializer(distribution="normal", rule="he-out").std(100, 50) == math.sqrt(2 / 50)


@pytest.mark.parametrize(("scale", "factor"), [("none", 1.0), ("kept", 0.3**-0.5), ("pruned-bug", 0.7**-0.5)])
def test_the_factor_of_a_density(scale: Any, factor: float) -> None:
    assert density_factor(scale, 0.3) == pytest.approx(factor, rel=1e-15)
