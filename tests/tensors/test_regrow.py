"""Dropping and growing by hand, exact counts, and subsets that are equally likely."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supermask.tensors.philox import Stream
from supermask.tensors.regrow import (
    active_positions,
    drop_count,
    grow_largest,
    grow_random,
    keep_largest,
    keep_largest_by_sign,
    random_subset,
)


@pytest.mark.parametrize(
    ("fraction", "active", "count"),
    [
        (0.3, 10, 3),
        (0.29, 100, 29),
        (0.256066, 1000, 256),
        (0.15, 1000, 150),
        (0.043934, 1000, 43),
        (0.3, 3, 0),
        (1.0, 7, 7),
    ],
)
def test_counts_are_rounded_down(fraction: float, active: int, count: int) -> None:
    """``int(0.29 * 100)`` would be 28."""
    assert drop_count(fraction, active) == count


def test_one_event_by_hand() -> None:
    weight = torch.tensor([[0.5, 0.0, -0.1], [0.0, 0.2, -0.9]], dtype=torch.float64)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    active = active_positions(mask)
    assert active.tolist() == [0, 2, 4, 5]
    kept = keep_largest(weight, active, 2)
    assert kept.tolist() == [0, 5]
    gradient = torch.tensor([[9.0, 0.3, -2.0], [0.3, 0.1, 9.0]], dtype=torch.float64)
    # 2 was just dropped and comes back; of the equal 1 and 3 the earlier is taken
    assert grow_largest(gradient, kept, 2).tolist() == [[True, True, True], [False, False, True]]
    assert grow_largest(gradient, kept, 4).all()
    assert grow_largest(gradient, kept, 0).flatten().nonzero().flatten().tolist() == [0, 5]


def test_equal_magnitudes_keep_the_earlier_and_a_weight_of_zero_may_be_active() -> None:
    weight = torch.tensor([1.0, -1.0, 0.0, 1.0, 0.0])
    active = torch.tensor([0, 1, 2, 3])
    assert keep_largest(weight, active, 1).tolist() == [0, 1, 3]
    assert keep_largest(weight, active, 2).tolist() == [0, 1]


def test_by_sign() -> None:
    weight = torch.tensor([0.1, -0.1, 0.2, -0.2, 0.3, 0.4, 0.0])
    active = torch.tensor([0, 1, 2, 3, 4, 5])
    # half of four positive ones: 0.1 and 0.2; half of two negative ones: -0.1
    assert keep_largest_by_sign(weight, active, 0.5).tolist() == [3, 4, 5]
    # with the zero five are not negative, of which two go: it is the smallest
    assert keep_largest_by_sign(weight, torch.arange(7), 0.5).tolist() == [2, 3, 4, 5]
    assert keep_largest_by_sign(weight, active, 0.49).tolist() == [1, 2, 3, 4, 5]


def test_nan_is_refused() -> None:
    weight = torch.tensor([1.0, math.nan])
    with pytest.raises(ValueError, match="NaN"):
        keep_largest(weight, torch.arange(2), 1)
    with pytest.raises(ValueError, match="NaN"):
        keep_largest_by_sign(weight, torch.arange(2), 0.5)
    with pytest.raises(ValueError, match="NaN"):
        grow_largest(weight, torch.tensor([0]), 1)


@given(st.integers(1, 60), st.data())
def test_growing_at_random_is_exact_and_keeps_what_is_kept(size: int, data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.integers(0, size - 1), unique=True).map(sorted))
    n = data.draw(st.integers(0, size - len(kept)))
    mask = grow_random(
        torch.Size((size,)), torch.tensor(kept, dtype=torch.int64), n, Stream(data.draw(st.integers(0, 9)), "t")
    )
    assert int(mask.sum()) == len(kept) + n
    assert bool(mask[kept].all())


@given(st.permutations(range(5)), st.permutations(range(4)), st.integers(0, 99), st.integers(0, 6))
def test_permuting_a_layer_permutes_its_mask(rows: list[int], columns: list[int], seed: int, n: int) -> None:
    """Outputs and inputs; where no scores are equal."""
    generator = torch.Generator().manual_seed(seed)
    weight, gradient = (torch.randn(5, 4, generator=generator) for _ in range(2))
    mask = torch.rand(5, 4, generator=generator) < 0.5
    mask[:2] = True  # so that six can be dropped

    def event(w: torch.Tensor, m: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return grow_largest(g, keep_largest(w, active_positions(m), n), n)

    moved = [x[rows][:, columns] for x in (weight, mask, gradient)]
    assert torch.equal(event(moved[0], moved[1], moved[2]), event(weight, mask, gradient)[rows][:, columns])


@given(st.integers(0, 200), st.data())
def test_a_subset_has_different_numbers_in_range(size: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, size))
    chosen = random_subset(Stream(1, "t"), size, n).tolist()
    assert len(chosen) == n
    assert chosen == sorted(set(chosen))
    assert not chosen or 0 <= chosen[0] <= chosen[-1] < size


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_subset_is_equally_likely(n: int) -> None:
    """Pearson's statistic against its expectation plus five standard deviations."""
    draws = 3000
    seen = Counter(tuple(random_subset(Stream(seed, "t"), 5, n).tolist()) for seed in range(draws))
    subsets = list(combinations(range(5), n))
    expected = draws / len(subsets)
    statistic = sum((seen[subset] - expected) ** 2 / expected for subset in subsets)
    freedom = len(subsets) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)
