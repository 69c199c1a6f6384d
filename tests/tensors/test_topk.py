"""Exact counts, whatever the scores."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from supermask.tensors.topk import holds_nan, keep_count, kth_largest, topk_mask, topk_masks, topk_masks_by_keys

few_values = st.lists(st.integers(-2, 2), min_size=1, max_size=40)  # many ties


@given(few_values, st.data())
def test_the_count_is_exact_and_ties_go_to_the_lower_index(values: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(values)))
    mask = topk_mask(torch.tensor(values, dtype=torch.float32), k)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert mask.nonzero().flatten().tolist() == sorted(expected)


@given(few_values, few_values, st.data())
def test_over_several_tensors_the_earlier_one_wins_ties(a: list[int], b: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(a) + len(b)))
    masks = topk_masks([torch.tensor(a).float(), torch.tensor(b).float().view(1, -1)], k)
    whole = topk_mask(torch.tensor(a + b).float(), k)
    assert torch.equal(torch.cat([mask.flatten() for mask in masks]), whole)
    assert masks[1].shape == (1, len(b))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_every_real_dtype(dtype: torch.dtype) -> None:
    scores = torch.tensor([3, -1, 2, 2, 5, 0]).to(dtype)
    assert topk_mask(scores, 3).tolist() == [True, False, True, False, True, False]
    assert kth_largest(scores, 2).item() == 3
    assert kth_largest(scores, 2).dtype == dtype


def test_infinities_are_ranked() -> None:
    scores = torch.tensor([float("-inf"), 0.0, float("inf")])
    assert topk_mask(scores, 1).tolist() == [False, False, True]
    assert topk_mask(scores, 2).tolist() == [False, True, True]


def test_a_channels_last_score_gives_the_mask_of_its_logical_order() -> None:
    scores = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    mask = topk_mask(scores.to(memory_format=torch.channels_last), 17)
    assert torch.equal(mask, scores >= 103)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_by_magnitude(dtype: torch.dtype) -> None:
    """The masks of the absolute values, of one tensor and of several."""
    scores = (torch.randn(3, 500, generator=torch.Generator().manual_seed(0)) * 8).round().to(dtype)
    for k in (0, 1, 700, 1_499, 1_500):
        assert torch.equal(topk_mask(scores, k, magnitude=True), topk_mask(scores.abs(), k))
        ours = topk_masks([scores[0], scores[1:]], k, magnitude=True)
        assert all(map(torch.equal, ours, topk_masks([scores[0].abs(), scores[1:].abs()], k)))


def test_scores_that_lie_apart_in_memory() -> None:
    scores = torch.tensor([3.0, 9.0, 1.0, 9.0, 2.0, 9.0])[::2]
    assert topk_mask(scores, 2).tolist() == [True, False, True]
    assert kth_largest(scores, 2) == 2
    assert topk_mask(torch.ones(1).expand(4), 3).tolist() == [True, True, True, False]
    negative = torch.complex(scores, scores).conj().imag
    assert topk_mask(negative, 1).tolist() == [False, True, False]


def test_masks_of_several_tensors_do_not_share_memory() -> None:
    first, second = topk_masks([torch.ones(4), torch.ones(4)], 8)
    first.zero_()
    assert bool(second.all())


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="a score is NaN"):
        topk_mask(torch.tensor([1.0, float("nan")]), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("k", [0, 1, 250, 499, 500])
def test_nan_is_found_wherever_it_is(k: int, dtype: torch.dtype) -> None:
    scores = torch.randn(500, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert not holds_nan(scores)
    for place in (0, 77, 499):
        for nan in (float("nan"), -float("nan")):
            bad = scores.clone()
            bad[place] = nan
            assert holds_nan(bad)
            with pytest.raises(ValueError, match="a score is NaN"):
                topk_mask(bad, k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_many_scores_with_few_or_many_ties(scale: float, dtype: torch.dtype) -> None:
    """Against a stable sort, on sizes at which the selection is vectorised."""
    scores = (torch.randn(20_000, generator=torch.Generator().manual_seed(1)) * scale).round().to(dtype)
    scores[::7] = -0.0  # equal to 0
    order = scores.sort(descending=True, stable=True).indices
    for k in (1, 100, 9_999, 10_000, 19_999):
        mask = topk_mask(scores, k)
        assert torch.equal(mask.nonzero().flatten(), order[:k].sort().values)


@pytest.mark.parametrize("k", [-1, 4])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"k must be in \[0, 3\].*got {k}"):
        topk_mask(torch.zeros(3), k)


@pytest.mark.parametrize(
    ("density", "size", "count"),
    [(0.5, 5, 3), (0.5, 3, 2), (0.25, 2, 1), (0.24, 2, 0), (0.1, 5, 1), (0.29, 100, 29), (1.0, 7, 7), (0.7, 10, 7)],
)
def test_counts_are_rounded_half_up(density: float, size: int, count: int) -> None:
    """``int(density * size)`` would give 28 for 0.29 of 100; Python's round() 2 for a half of 5."""
    assert keep_count(density, size) == count


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_fraction_of_the_size_is_met_exactly(size: int, k: int) -> None:
    k = min(k, size)
    assert keep_count(k / size, size) == k
    assert abs(Fraction(keep_count(0.37, size)) - Fraction(37, 100) * size) <= Fraction(1, 2)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), st.data())
def test_kth_largest_against_sorting(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    scores: Tensor = torch.tensor(values)
    assert kth_largest(scores, k) == scores.sort(descending=True).values[k - 1]


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 2)), min_size=1, max_size=30), st.data())
def test_several_keys_rank_lexicographically(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    """Over two tensors; the second key decides among ties of the first, the position among ties of both."""
    cut, k = data.draw(st.integers(0, len(pairs))), data.draw(st.integers(0, len(pairs)))
    first, second = torch.tensor([a for a, _ in pairs], dtype=torch.int32), torch.tensor([float(b) for _, b in pairs])
    keys = [[key[:cut], key[cut:].view(1, -1)] for key in (first, second)]
    masks = topk_masks_by_keys(keys, k)
    expected = sorted(range(len(pairs)), key=lambda i: (-pairs[i][0], -pairs[i][1], i))[:k]
    assert torch.cat([mask.flatten() for mask in masks]).nonzero().flatten().tolist() == sorted(expected)
    assert masks[1].shape == (1, len(pairs) - cut)
