"""How a weight is made from what is stored, and its gradient, against explicit autograd in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from supermask.core.parametrizations import Masked, Selected, Thresholded
from supermask.tensors.philox import Stream

from .helpers import noise

SHAPE = torch.Size((5, 7))
TAU = 0.6


def constant(c: float = 0.3) -> Tensor:
    return torch.from_numpy(Stream(2, "weights", "w").signs(35)).reshape(SHAPE).double() * c


FROZEN: dict[str, Callable[[], Tensor]] = {
    "signed constant": constant,
    "uniform": lambda: torch.rand(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5,
    "normal": lambda: noise(*SHAPE, seed=1, dtype=torch.float64),
    "with zeros": lambda: noise(*SHAPE, seed=1, dtype=torch.float64).round(),
}
THRESHOLDS = {"symmetric": (-TAU, TAU), "binary": (-math.inf, TAU), "lopsided": (-0.2, 0.9)}


def scores() -> Tensor:
    """Some exactly on the thresholds."""
    values = noise(*SHAPE, seed=3, dtype=torch.float64)
    values[0, :4] = torch.tensor([TAU, -TAU, 0.9, -0.2])
    return values


def code(values: Tensor, low: float, high: float) -> Tensor:
    """Entry by entry, as the paper has it."""
    listed = [1.0 if v > high else -1.0 if v < low else 0.0 for v in values.flatten().tolist()]
    return torch.tensor(listed, dtype=torch.float64).reshape(values.shape)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("thresholds", THRESHOLDS)
@pytest.mark.parametrize("frozen", FROZEN)
def test_forward_and_straight_through_gradient(frozen: str, thresholds: str, fixed: bool) -> None:
    weight, (low, high), score = FROZEN[frozen](), THRESHOLDS[thresholds], scores()
    scored = Thresholded(weight, low, high, fixed_thresholds=fixed)
    stored = scored.stored_score(score).clone().requires_grad_()

    effective = scored(stored)
    assert torch.equal(effective, weight * code(score, low, high))

    upstream = noise(*SHAPE, seed=4, dtype=torch.float64)  # dL/dW_eff
    (effective * upstream).sum().backward()
    assert stored.grad is not None
    assert torch.equal(scored.stored_score(stored.grad), upstream * weight)  # everywhere, also where hidden

    assert torch.equal(scored.relative_score(stored), score)
    assert torch.equal(scored.sign_mask(stored), code(score, low, high).to(torch.int8))
    assert torch.equal(scored.remaining(stored), code(score, low, high) != 0)
    assert torch.equal(scored.frozen_weight(), weight)
    assert torch.equal(scored.signs(), weight.sign().to(torch.int8))


def test_the_sign_is_absorbed_only_where_that_is_exact() -> None:
    w = constant()
    assert Thresholded(w, -TAU, TAU).absorbed
    assert not Thresholded(w, -TAU, TAU, fixed_thresholds=False).absorbed
    assert not Thresholded(w, -math.inf, TAU).absorbed
    assert not Thresholded(FROZEN["uniform"](), -TAU, TAU).absorbed
    assert not Thresholded(torch.zeros(SHAPE), -TAU, TAU).absorbed
    almost = constant()
    almost[-1, -1] *= 1 + 1e-15
    assert not Thresholded(almost, -TAU, TAU).absorbed


def test_what_is_kept_of_a_frozen_weight() -> None:
    """Nothing when the seed knows the signs, a byte a weight when they were given, all of it otherwise."""

    def kept(scored: Thresholded) -> int:
        buffers = {name: b for name, b in scored.named_buffers() if name not in ("low", "high")}
        return sum(b.numel() * b.element_size() for b in buffers.values())

    assert kept(Thresholded(constant(), -TAU, TAU, origin=(2, "w"))) == 0
    assert kept(Thresholded(constant(), -TAU, TAU)) == 35
    assert kept(Thresholded(constant(), -math.inf, TAU, origin=(2, "w"))) == 35
    assert kept(Thresholded(FROZEN["normal"](), -TAU, TAU)) == 35 * 8


def test_signs_drawn_again_are_those_that_were_given() -> None:
    drawn, given = Thresholded(constant(), -TAU, TAU, origin=(2, "w")), Thresholded(constant(), -TAU, TAU)
    assert torch.equal(drawn.signs(), given.signs())
    assert torch.equal(drawn.frozen_weight(), constant())


def test_state_holds_scale_and_thresholds() -> None:
    saved = Thresholded(constant(0.3), -TAU, TAU).state_dict()
    other = Thresholded(-constant(0.1), -0.1, 0.1)
    other.load_state_dict(saved)
    assert torch.equal(other.frozen_weight(), constant(0.3))
    values = scores()
    assert torch.equal(other(other.stored_score(values)), constant(0.3) * code(values, -TAU, TAU))


def test_a_loaded_threshold_acts_in_the_forward_pass() -> None:
    """It is read from the state, not computed again."""
    scored = Thresholded(constant(), -0.1, 0.1)
    scored.load_state_dict(scored.state_dict() | {"low": torch.tensor(-2.0), "high": torch.tensor(2.0)})
    assert not bool(scored(torch.full(SHAPE, 1.9, dtype=torch.float64)).any())
    assert bool(scored(torch.full(SHAPE, 2.1, dtype=torch.float64)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_code_is_exactly_minus_one_zero_or_one(dtype: torch.dtype) -> None:
    for low in (-TAU, -math.inf):
        scored = Thresholded(torch.ones(SHAPE, dtype=dtype), low, TAU)
        assert set(scored(scores().to(dtype)).unique().tolist()) <= {-1.0, 0.0, 1.0}
        drawn = Thresholded(constant().to(dtype), low, TAU)
        assert set(drawn(scores().to(dtype)).abs().unique().tolist()) <= {0.0, drawn.scale}


def test_the_threshold_is_compared_in_the_dtype_of_the_score() -> None:
    """0.01 is not a float32: a score of the nearest float32 lies exactly on tau, and is hidden on every path."""
    score = torch.tensor([[0.01, -0.01]], dtype=torch.float32)
    weight = torch.tensor([[0.5, -0.5]])
    for fixed in (True, False):
        scored = Thresholded(weight, -0.01, 0.01, fixed_thresholds=fixed)
        assert not bool(scored(scored.stored_score(score)).any())
        assert not bool(scored.remaining(scored.stored_score(score)).any())


def test_masked() -> None:
    mask = torch.tensor([[True, False, True]])
    dense = torch.tensor([[2.0, 3.0, -4.0]], requires_grad=True)
    upstream = torch.tensor([[5.0, 6.0, 7.0]])
    for options, weight, gradient in (
        ({}, [2.0, 0.0, -4.0], [5.0, 0.0, 7.0]),
        ({"dense_grad": True}, [2.0, 3.0, -4.0], [5.0, 6.0, 7.0]),  # the sparsifier keeps the hidden 3 at 0
        ({"applied": False}, [2.0, 3.0, -4.0], [5.0, 6.0, 7.0]),
    ):
        dense.grad = None
        out = Masked(mask, **options)(dense)
        assert out.tolist() == [weight]
        (out * upstream).sum().backward()
        assert dense.grad is not None
        assert dense.grad.tolist() == [gradient]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_masked_keeps_the_dtype(dtype: torch.dtype) -> None:
    dense = torch.ones(3, dtype=dtype)
    mask = torch.tensor([True, False, True])
    assert Masked(mask)(dense).dtype == dtype
    assert Masked(mask, dense_grad=True)(dense).dtype == dtype


@pytest.mark.parametrize("absolute", [True, False])
def test_selected_codes_and_their_straight_through_gradient(absolute: bool) -> None:
    base, score = noise(*SHAPE, seed=1, dtype=torch.float64), scores()
    score[1, 0] = 0.0
    selected = Selected(base, absolute=absolute)
    assert torch.equal(selected(score), base)  # all codes are 1 at first
    codes = (torch.arange(35) % 3).reshape(SHAPE)
    selected.select(codes)
    stored = score.clone().requires_grad_()
    effective = selected(stored)
    assert torch.equal(effective, base * codes)
    upstream = noise(*SHAPE, seed=4, dtype=torch.float64)
    (effective * upstream).sum().backward()
    sign = score.sign() if absolute else torch.ones_like(score)
    assert stored.grad is not None
    assert torch.equal(stored.grad, upstream * base * sign)
    assert torch.equal(selected.remaining(stored), codes != 0)
    assert torch.equal(selected.frozen_weight(), base)


def test_selected_with_a_scale_and_another_slope() -> None:
    """As MPT uses it: the sign of a weight times one magnitude forward, the weight itself backward."""
    weight, score = noise(*SHAPE, seed=1, dtype=torch.float64), scores().requires_grad_()
    selected = Selected(weight.sign(), slope=weight, absolute=False, scaled=True)
    mask = scores() > 0
    selected.select(mask, 0.25)
    upstream = noise(*SHAPE, seed=4, dtype=torch.float64)
    effective = selected(score)
    assert torch.equal(effective, weight.sign() * mask * 0.25)
    (effective * upstream).sum().backward()
    assert score.grad is not None
    assert torch.equal(score.grad, upstream * weight)
    assert torch.equal(selected.frozen_weight(), weight)
    other = Selected(torch.ones_like(weight), slope=torch.ones_like(weight), absolute=False, scaled=True)
    other.load_state_dict(selected.state_dict())
    assert torch.equal(other(score), effective)
