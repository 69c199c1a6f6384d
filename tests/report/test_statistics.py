from __future__ import annotations

import pytest

from supermask.report.statistics import Spread


def test_hand_computed_quantiles() -> None:
    # four values: position of the q quantile is 3 q; 5 % -> 0.15 of the way from 1 to 2, 95 % -> 0.85 from 4 to 8
    spread = Spread.of([8.0, 1.0, 4.0, 2.0])
    assert spread is not None
    assert spread.mean == pytest.approx(15 / 4)
    assert spread.low == pytest.approx(1.15)
    assert spread.high == pytest.approx(4 + 0.85 * 4)
    # deviations -2.75, -1.75, .25, 4.25: squares sum to 28.75
    assert spread.std == pytest.approx((28.75 / 3) ** 0.5)
    assert spread.n == 4


def test_quantiles_of_twenty_one_values_are_values() -> None:
    spread = Spread.of(float(value) for value in range(21))
    assert spread is not None
    assert (spread.low, spread.high) == (1.0, 19.0)


def test_one_value_has_no_deviation() -> None:
    assert Spread.of([3.0]) == Spread(mean=3.0, low=3.0, high=3.0, std=None, n=1)


@pytest.mark.parametrize("values", [[], [None], [1.0, None]])
def test_unknown_values_give_no_spread(values: list[float | None]) -> None:
    assert Spread.of(values) is None
