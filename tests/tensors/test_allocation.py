"""Layer densities against published vectors, and counts that always sum up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supermask.tensors.allocation import counts, er, erk, uniform

LENET = [(300, 784), (100, 300), (10, 100)]
CONV4 = [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3), (256, 8192), (256, 256), (10, 256)]


def total(shapes: list[tuple[int, ...]], densities: list[float]) -> float:
    return sum(d * math.prod(s) for d, s in zip(densities, shapes, strict=True)) / sum(map(math.prod, shapes))


@pytest.mark.parametrize(
    ("density", "expected"), [(0.1, (0.079568, 0.230189, 1.0)), (0.02, (0.015394, 0.044534, 0.367403))]
)
def test_erk_of_lenet(density: float, expected: tuple[float, ...]) -> None:
    assert erk(LENET, density) == pytest.approx(expected, abs=5e-7)


def test_erk_of_conv4() -> None:
    expected = (1, 0.090634, 0.066961, 0.044302, 0.100441, 0.194795, 1)
    assert erk(CONV4, 0.1) == pytest.approx(expected, abs=3e-6)  # the vector was derived for a total 2 weights higher
    assert total(CONV4, erk(CONV4, 0.1)) == pytest.approx(0.1, rel=1e-12)


shapes = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6)
density = st.floats(0.001, 1.0)


@given(shapes, density)
def test_erk_meets_the_total(shapes: list[tuple[int, ...]], density: float) -> None:
    densities = erk(shapes, density)
    assert all(0 < d <= 1 for d in densities)
    assert total(shapes, densities) == pytest.approx(density, rel=1e-9)


def test_erk_of_full_density_is_dense() -> None:
    assert erk(CONV4, 1.0) == pytest.approx([1.0] * 7)


def test_er_is_erk_without_kernels() -> None:
    """On Conv4 by hand: 1/out + 1/in of the channels, the first and the last layer dense."""
    assert er(LENET, 0.1) == erk(LENET, 0.1)
    densities = er(CONV4, 0.1)
    raw = [1 / shape[0] + 1 / shape[1] for shape in CONV4]
    sparse = [i for i, d in enumerate(densities) if d < 1]
    assert sparse == [1, 2, 3, 4, 5]
    factor = densities[1] / raw[1]
    assert [densities[i] for i in sparse] == pytest.approx([factor * raw[i] for i in sparse])
    assert factor * raw[0] > 1
    assert factor * raw[6] > 1
    assert total(CONV4, densities) == pytest.approx(0.1, rel=1e-12)


def test_uniform() -> None:
    assert uniform(LENET, 0.3) == [0.3, 0.3, 0.3]


@given(shapes, density)
def test_counts_sum_to_the_total_and_stay_within_one(shapes: list[tuple[int, ...]], density: float) -> None:
    sizes = [math.prod(shape) for shape in shapes]
    wanted = math.floor(density * sum(sizes) + 0.5)
    for law in (uniform, erk):
        densities = law(shapes, density)
        result = counts(densities, sizes, wanted)
        assert sum(result) == wanted
        for k, d, n in zip(result, densities, sizes, strict=True):
            assert 0 <= k <= n
            assert abs(k - d * n) < 1 + 1e-6


def test_the_largest_remainder_is_served_first_and_ties_go_to_the_earlier() -> None:
    assert counts([0.5, 0.5, 0.5], [3, 5, 7], 8) == [2, 3, 3]
    assert counts([0.26, 0.29], [10, 10], 6) == [3, 3]
    assert counts([0.26, 0.29], [10, 10], 5) == [2, 3]


def test_one_weight_less_in_total_can_mean_one_more_in_a_layer_unless_limited() -> None:
    """The Alabama paradox of largest remainders."""
    sizes = [6, 6, 2]
    before = counts([11 / 14] * 3, sizes, 11)
    assert before == [5, 5, 1]
    assert counts([10 / 14] * 3, sizes, 10) == [4, 4, 2]
    assert counts([10 / 14] * 3, sizes, 10, limits=before) == [5, 4, 1]


@given(shapes, st.lists(density, min_size=2, max_size=6))
def test_limits_make_falling_densities_nested(shapes: list[tuple[int, ...]], densities: list[float]) -> None:
    sizes = [math.prod(shape) for shape in shapes]
    for law in (uniform, erk):
        limits = sizes
        for now in sorted(densities, reverse=True):
            wanted = math.floor(now * sum(sizes) + 0.5)
            shares = counts(law(shapes, now), sizes, wanted, limits)
            assert sum(shares) == wanted
            assert all(k <= limit for k, limit in zip(shares, limits, strict=True))
            limits = shares


def test_a_total_that_the_densities_do_not_stand_for_is_refused() -> None:
    with pytest.raises(ValueError, match=r"total must be in \[0, 20\], got 21"):
        counts([0.5, 0.5], [10, 10], 21)
    with pytest.raises(ValueError, match=r"total 18 is not what these densities stand for \(their sum is 10.000\)"):
        counts([0.5, 0.5], [10, 10], 18)
    with pytest.raises(ValueError, match="total 3 is not what"):
        counts([0.5, 0.5], [10, 10], 3)
