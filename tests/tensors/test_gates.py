from __future__ import annotations

import math

import pytest
import torch

from supermask.tensors.gates import barrier, chance_open, hard_concrete, hard_sigmoid, moments, opening

DOUBLE = torch.float64


def test_the_table_of_the_paper() -> None:
    m = torch.tensor([-0.6, -0.3, -0.5, 0.0, 0.5], dtype=DOUBLE)
    expected = torch.tensor([0.0, 0.2, 0.0, 0.5, 1.0], dtype=DOUBLE)
    torch.testing.assert_close(hard_sigmoid(m, None), expected, rtol=0, atol=1e-15)
    assert hard_sigmoid(m, None)[2] == 0.0  # exactly, so that the channel goes


def test_the_gradient_is_the_slope_inside_and_nothing_at_the_ends() -> None:
    m = torch.tensor([-0.6, -0.5, -0.49, 0.0, 0.49, 0.5, 0.6], dtype=DOUBLE, requires_grad=True)
    hard_sigmoid(m, None).sum().backward()
    assert m.grad is not None
    assert m.grad.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    steep = torch.tensor([-0.26, -0.24, 0.24, 0.26], dtype=DOUBLE, requires_grad=True)
    hard_sigmoid(steep, None, slope=2.0).sum().backward()
    assert steep.grad is not None
    assert steep.grad.tolist() == [0.0, 2.0, 2.0, 0.0]


def test_noise_is_added_before_the_slope() -> None:
    m, noise = torch.tensor([0.1], dtype=DOUBLE), torch.tensor([-0.2], dtype=DOUBLE)
    assert float(hard_sigmoid(m, noise, slope=2.0)) == pytest.approx(0.3, abs=1e-15)


def test_hard_concrete_by_hand() -> None:
    options = {"temperature": 2.0 / 3.0, "stretch": 0.1}
    m = torch.tensor([0.0, 0.7, -2.5, 3.0], dtype=DOUBLE)
    u = torch.tensor([0.5, 0.2, 0.9, 0.99], dtype=DOUBLE)
    expected = []
    for a, v in zip(m.tolist(), u.tolist(), strict=True):
        s = 1.0 / (1.0 + math.exp(-(math.log(v) - math.log(1.0 - v) + a) / (2.0 / 3.0)))
        expected.append(min(1.0, max(0.0, s * 1.2 - 0.1)))
    values = hard_concrete(m, torch.logit(u), **options)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=DOUBLE), rtol=1e-12, atol=0)
    steady = torch.clamp(torch.sigmoid(m) * 1.2 - 0.1, 0.0, 1.0)  # without the temperature
    torch.testing.assert_close(hard_concrete(m, None, **options), steady, rtol=1e-15, atol=0)
    closed = torch.tensor([math.log(1.0 / 11.0) - 1e-9, math.log(1.0 / 11.0) + 1e-9], dtype=DOUBLE)
    assert (hard_concrete(closed, None, **options) > 0).tolist() == [False, True]


def test_the_chance_to_be_open_is_that_of_the_noise() -> None:
    """u at which a gate just opens, from the definition: the chance is what lies above it."""
    temperature, stretch = 2.0 / 3.0, 0.1
    for m in (-2.0, 0.0, 1.3):
        s = stretch / (1.0 + 2.0 * stretch)
        edge = 1.0 / (1.0 + math.exp(-(temperature * math.log(s / (1.0 - s)) - m)))
        chance = chance_open(torch.tensor(m, dtype=DOUBLE), temperature=temperature, stretch=stretch)
        assert float(chance) == pytest.approx(1.0 - edge, rel=1e-12)
        above = hard_concrete(
            torch.full((2,), m, dtype=DOUBLE),
            torch.logit(torch.tensor([edge - 1e-6, edge + 1e-6], dtype=DOUBLE)),
            temperature=temperature,
            stretch=stretch,
        )
        assert (above > 0).tolist() == [False, True]


def test_moments_are_mean_and_unbiased_variance_over_mean() -> None:
    factors = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=DOUBLE)
    mean, spread = moments(factors, torch.ones(4, dtype=torch.int64))
    assert float(mean) == pytest.approx(0.425, rel=1e-15)
    assert float(spread) == pytest.approx(float(factors.var()) / (0.425 + 1e-8), rel=1e-14)
    counts = torch.tensor([3, 1, 2, 5])
    repeated = factors.repeat_interleave(counts)
    mean, spread = moments(factors, counts)
    assert float(mean) == pytest.approx(float(repeated.mean()), rel=1e-14)
    assert float(spread) == pytest.approx(float(repeated.var()) / (float(repeated.mean()) + 1e-8), rel=1e-14)


def test_moments_of_nothing_open_and_of_one_gate_are_finite() -> None:
    assert [float(x) for x in moments(torch.zeros(3), torch.ones(3))] == [0.0, 0.0]
    assert [float(x) for x in moments(torch.ones(1), torch.ones(1))] == [1.0, 0.0]


@pytest.mark.parametrize("kind", ["sigmoidal", "exponential"])
def test_an_opening_goes_from_0_to_1(kind: str) -> None:
    values = [opening(p / 20, kind, steepness=10.0) for p in range(21)]  # type: ignore[arg-type]
    assert values[0] == 0.0
    assert values[-1] == pytest.approx(1.0, abs=1e-15)
    assert values == sorted(values)


def test_openings_by_hand() -> None:
    c = 1.0 / (1.0 + math.exp(5.0))
    expected = (1.0 / (1.0 + math.exp(2.5)) - c) / (1.0 - 2.0 * c)
    assert opening(0.25, "sigmoidal", steepness=10.0) == pytest.approx(expected, rel=1e-12)
    assert opening(0.5, "sigmoidal", steepness=10.0) == pytest.approx(0.5, rel=1e-12)
    expected = (1.0 - math.exp(-2.0)) / (1.0 - math.exp(-4.0))
    assert opening(0.5, "exponential", steepness=4.0) == pytest.approx(expected, rel=1e-12)


def test_the_barrier_by_hand() -> None:
    assert barrier(0.4, 0.5, 1.0, cap=1e10) == 0.0
    assert barrier(0.5, 0.5, 1.0, cap=1e10) == 0.0
    assert barrier(0.75, 0.5, 1.0, cap=1e10) == pytest.approx(0.5)  # t = 1/2
    assert barrier(0.9, 0.5, 1.0, cap=1e10) == pytest.approx(0.8**2 / 0.2)
    assert barrier(1.0, 0.5, 1.0, cap=1e10) == 1e10
    assert barrier(1.2, 0.5, 1.0, cap=1e10) == 1e10
    assert barrier(1.0 - 1e-15, 0.5, 1.0, cap=7.0) == 7.0
