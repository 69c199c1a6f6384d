"""The ternary kernels against a loop over the entries."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supermask.kernels.ternary import ternary, ternary_between, ternary_codes

TAU = 0.25
# a score exactly on a threshold is hidden; the neighbouring floats are not
EDGE = torch.tensor([0.25, -0.25, 0.0, -0.0, 0.3, -0.3], dtype=torch.float64)
CODES = [0, 0, 0, 0, 1, -1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_inequalities_are_strict(dtype: torch.dtype) -> None:
    scores = EDGE.to(dtype)
    inf = torch.tensor(math.inf, dtype=dtype)
    above = torch.nextafter(torch.tensor(TAU, dtype=dtype), inf)
    below = torch.nextafter(torch.tensor(TAU, dtype=dtype), -inf)
    low, high = torch.tensor(-TAU, dtype=dtype), torch.tensor(TAU, dtype=dtype)
    scores = torch.cat([scores, torch.stack([above, -above, below, -below])])
    expected = torch.tensor([*CODES, 1, -1, 0, 0])
    assert torch.equal(ternary_codes(scores, low, high), expected.to(torch.int8))
    assert torch.equal(ternary(scores, TAU, 3.0), 3.0 * expected.to(dtype))
    weight = torch.linspace(-2, 2, 10, dtype=dtype)
    assert torch.equal(ternary_between(scores, low, high, weight), weight * expected)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40), st.floats(0, 1, width=32))
def test_both_kernels_agree_for_symmetric_thresholds(values: list[float], tau: float) -> None:
    scores = torch.tensor(values)
    low, high = torch.tensor(-tau), torch.tensor(tau)
    codes = ternary_codes(scores, low, high)
    assert codes.tolist() == [(s > tau) - (s < -tau) for s in values]
    weight = torch.full_like(scores, 0.37)
    assert torch.equal(ternary(scores, tau, weight[0].item()), ternary_between(scores, low, high, weight))
    assert torch.equal(ternary(scores, tau, 1.0), codes.float())


def test_codes_are_exactly_minus_one_zero_and_one() -> None:
    """The trick ``hat + s - s.detach()`` would leave rounding noise (4e-3 in bfloat16)."""
    for dtype in (torch.float32, torch.bfloat16):
        scores = torch.linspace(-3, 3, 1001).to(dtype)
        assert set(ternary(scores, 0.7, 1.0).tolist()) == {-1.0, 0.0, 1.0}


def test_thresholds_need_not_be_symmetric() -> None:
    scores = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    never = torch.tensor(-math.inf)
    assert ternary_codes(scores, never, torch.tensor(0.5)).tolist() == [0, 0, 0, 1, 1]
    assert ternary_codes(scores, torch.tensor(-1.5), torch.tensor(0.0)).tolist() == [-1, 0, 0, 1, 1]


@pytest.mark.parametrize("n", [1, 7, 8, 33, 1000])
def test_nan_is_hidden(n: int) -> None:
    """Also where the vectorised part of a loop ends."""
    scores = torch.full((n,), math.nan)
    low, high = torch.tensor(-0.1), torch.tensor(0.1)
    assert not bool(ternary(scores, 0.1, 2.0).any())
    assert not bool(ternary_between(scores, low, high, torch.ones(n)).any())
    assert not bool(ternary_codes(scores, low, high).any())


def test_arguments_are_not_changed() -> None:
    scores, weight = torch.tensor([-1.0, 1.0]), torch.tensor([2.0, 3.0])
    ternary(scores, 0.5, 2.0)
    ternary_between(scores, torch.tensor(-0.5), torch.tensor(0.5), weight)
    assert scores.tolist() == [-1.0, 1.0]
    assert weight.tolist() == [2.0, 3.0]


def test_channels_last_stays_so() -> None:
    scores = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    out = ternary(scores, 0.5, 1.0)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, ternary(scores.contiguous(), 0.5, 1.0))
