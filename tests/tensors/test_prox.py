"""Proximal maps against hand-computed vectors, their definition, and plain loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from supermask.tensors.prox import Grouping, shrink_groups, soft_threshold


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_soft_threshold_by_hand() -> None:
    v = vector(-3.0, -1.0, -0.25, 0.0, 0.5, 1.0, 2.5)
    assert soft_threshold(v, 1.0).tolist() == [-2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.5]
    assert soft_threshold(v, 0.0).tolist() == v.tolist()
    assert bool(soft_threshold(vector(math.nan), 1.0).isnan())


def test_group_shrink_by_hand() -> None:
    """Norms 5, 0 and exactly the threshold."""
    v = torch.stack([vector(3.0, 4.0), vector(0.0, 0.0), vector(0.0, 1.0)])
    assert torch.allclose(shrink_groups(v, 1.0, (1,))[0], vector(2.4, 3.2), rtol=1e-15)
    assert shrink_groups(v, 1.0, (1,))[1:].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert torch.equal(shrink_groups(v, 0.0, (1,)), v)  # a zero group under no threshold is not 0 / 0
    v[1, 0] = math.nan
    assert shrink_groups(v, 1.0, (1,)).isnan().tolist() == [[False, False], [True, True], [False, False]]


def test_results_can_go_into_a_given_tensor() -> None:
    v = noise(4, 3, 2, 2)
    for grouping in (Grouping(), Grouping("filter"), Grouping("filter", transposed=True, groups=2)):
        out = torch.full_like(v, 7.0)
        assert grouping.prox(v, 0.5, out=out) is out
        assert torch.equal(out, grouping.prox(v, 0.5))


@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=2),
    st.floats(0.01, 2),
    st.lists(st.floats(-3, 3), min_size=2, max_size=2),
)
def test_the_prox_minimises_its_definition(v: list[float], t: float, other: list[float]) -> None:
    """1/2 ||g - v||^2 + t * penalty(g) is no smaller anywhere else."""
    x, away = vector(*v), vector(*other)
    for prox, norm in ((soft_threshold(x, t), 1), (shrink_groups(x, t, (0,)), 2)):
        best, there = (
            float(0.5 * (g - x).square().sum() + t * torch.linalg.vector_norm(g, norm)) for g in (prox, away)
        )
        assert best <= there + 1e-12


def members(
    unit: str, shape: tuple[int, ...], *, transposed: bool = False, groups: int = 1
) -> list[list[tuple[int, ...]]]:
    """The index sets of the groups, by name of the output and input channel."""
    found: dict[Any, list[tuple[int, ...]]] = {}
    for index in itertools.product(*map(range, shape)):
        out, inp = index[:2]
        if transposed:
            part = index[0] // (shape[0] // groups)
            out, inp = part * shape[1] + index[1], index[0]
        key = {"elementwise": index, "kernel": (out, inp), "filter": out, "layer": 0}[unit]
        found.setdefault(key, []).append(index)
    return list(found.values())


@pytest.mark.parametrize("shape", [(4, 3, 2), (4, 2, 3, 2), (4, 2, 2, 1, 3)])
@pytest.mark.parametrize(("transposed", "groups"), [(False, 1), (True, 1), (True, 2)])
@pytest.mark.parametrize("unit", ["elementwise", "kernel", "filter", "layer"])
@pytest.mark.parametrize("normalised", [False, True])
def test_groups_of_convolutions(shape: Any, transposed: bool, groups: int, unit: Any, normalised: bool) -> None:
    """Of any dimension, transposed ones with the output channels of each group of inputs: a plain loop over the groups."""
    v, move = noise(*shape), noise(*shape[::-1]).reshape(shape)
    if len(shape) == 4:
        v = v.to(memory_format=torch.channels_last)
    grouping = Grouping(unit, transposed, groups)
    shrunk, norms, rms, wait = (torch.zeros(shape, dtype=torch.float64) for _ in range(4))
    for group in members(unit, shape, transposed=transposed, groups=groups):
        norm = math.sqrt(sum(float(v[i]) ** 2 for i in group))
        pace = math.sqrt(sum(float(move[i]) ** 2 for i in group))
        t = 0.6 * math.sqrt(len(group)) if normalised else 0.6
        for i in group:
            shrunk[i] = v[i] * max(0.0, 1.0 - t / norm)
            norms[i], rms[i], wait[i] = norm, norm / math.sqrt(len(group)), max(t - norm, 0.0) / pace
    assert torch.allclose(grouping.prox(v, 0.6, normalised), shrunk, atol=1e-14)
    assert torch.allclose(grouping.norms(v), norms, atol=1e-14)
    assert torch.allclose(grouping.rms(v), rms, atol=1e-14)
    assert torch.allclose(grouping.wait(v, move, 0.6, normalised), wait, atol=1e-12)


def test_waiting_without_movement_is_long_but_finite() -> None:
    wait = Grouping().wait(vector(0.5, 2.0), vector(0.0, 0.0), 1.0)
    assert wait[0] > 1e20
    assert bool(wait.isfinite().all())
    assert wait[1] == 0.0
