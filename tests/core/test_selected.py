"""Codes that a method chooses, and random masks: forward and gradient against hand-computed vectors in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from supermask import Sparsifier
from supermask.core.method import Method
from supermask.core.parametrizations import Sampled, Selected
from supermask.errors import AttachError

from .helpers import noise

W = torch.tensor([0.1, -0.2, 0.3, 0.4], dtype=torch.float64)
G = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
TAKEN = torch.tensor([True, False, True, False])


def gradient(parametrization: nn.Module, score: Tensor) -> tuple[Tensor, Tensor]:
    """(effective weight, gradient of the score) for dL/dweight = G."""
    score = score.clone().requires_grad_()
    weight = parametrization(score)
    (weight * G).sum().backward()
    assert score.grad is not None
    return weight.detach(), score.grad


def test_selected_follows_the_absolute_score() -> None:
    """Edge-popup: g * w * sign(s), for hidden weights too, and 0 at a score of 0."""
    selected = Selected(W)
    selected.select(TAKEN)
    weight, grad = gradient(selected, torch.tensor([0.5, -0.1, -0.7, 0.0], dtype=torch.float64))
    assert weight.tolist() == [0.1, 0.0, 0.3, 0.0]
    torch.testing.assert_close(grad, torch.tensor([0.1, 0.4, -0.9, 0.0], dtype=torch.float64), rtol=1e-15, atol=0)


def test_selected_without_the_absolute_value() -> None:
    selected = Selected(W, absolute=False)
    selected.select(TAKEN)
    assert torch.equal(gradient(selected, -W)[1], G * W)


def test_selected_with_a_slope_a_scale_and_a_factor() -> None:
    """The scale is in the weight but not in the gradient, which holds the slope; the factor is the other way round."""
    selected = Selected(W.sign(), slope=W, scaled=True, factor=3)
    selected.select(torch.tensor([2, 0, 1, 3]), 0.25)
    weight, grad = gradient(selected, torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64))
    assert weight.tolist() == [0.5, 0.0, 0.25, 0.75]
    torch.testing.assert_close(grad, 3 * G * W * torch.tensor([1.0, -1.0, 1.0, -1.0]).double(), rtol=1e-15, atol=0)
    assert torch.equal(selected.frozen_weight(), W)
    assert selected.remaining(W).tolist() == [True, False, True, True]


def test_a_released_weight_trains_under_its_mask() -> None:
    selected = Selected(W.sign(), slope=W, scaled=True)
    selected.select(TAKEN, 0.25)
    stored = selected.release()
    assert stored.tolist() == [0.25, 0.0, 0.25, 0.0]
    weight, grad = gradient(selected, stored + 1.0)
    assert weight.tolist() == [1.25, 0.0, 1.25, 0.0]
    assert grad.tolist() == [1.0, 0.0, 3.0, 0.0]
    other = Selected(W.sign(), slope=W, scaled=True)
    other.load_state_dict(selected.state_dict())
    assert other.released
    assert torch.equal(other(stored), selected(stored))


def test_only_hidden_weights_are_replaced() -> None:
    selected = Selected(W, redraws=True)
    selected.replace(torch.full((4,), 7.0, dtype=torch.float64), ~TAKEN)
    assert selected.frozen_weight().tolist() == [0.1, 7.0, 0.3, 7.0]
    assert W[1] == -0.2


@pytest.mark.parametrize(
    ("through", "expected"),
    [(True, [-0.8, -1.8, 0.8, 2.2]), (False, [0.2, -0.8, 1.8, 3.2])],
    ids=["through", "detached"],
)
def test_the_gradient_through_the_rescaling_factor(through: bool, expected: list[float]) -> None:
    """The published example: c = 2; both versions differ by c / sum(m) * sum(g w m) = 1. At s = 0, sigmoid' is 1/4."""
    sampled = Sampled(W, rescale=True, through=through)
    sampled.take(TAKEN)
    weight, grad = gradient(sampled, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(weight, 2.0 * W * TAKEN, rtol=1e-15, atol=0)
    torch.testing.assert_close(4.0 * grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)


def test_a_draw_has_the_gradient_of_the_probability() -> None:
    score = noise(4, dtype=torch.float64)
    sampled = Sampled(W)
    sampled.take(TAKEN)
    weight, grad = gradient(sampled, score)
    p = torch.sigmoid(score)
    assert torch.equal(weight, W * TAKEN)
    torch.testing.assert_close(grad, G * W * p * (1 - p), rtol=1e-14, atol=0)
    assert torch.equal(sampled.remaining(score), TAKEN)
    with torch.no_grad():
        assert torch.equal(sampled.eval()(score), W * TAKEN)  # tests see the mask of the step


def test_a_soft_mask_mixes_in_training_and_rounds_in_tests() -> None:
    score = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    p = torch.sigmoid(score)
    sampled = Sampled(W, soft=True)
    sampled.take(torch.tensor([True, True, False, False]))
    weight, grad = gradient(sampled, score)
    torch.testing.assert_close(weight, W * torch.tensor([p[0], p[1], 1.0, 1.0]), rtol=1e-15, atol=0)
    torch.testing.assert_close(grad, G * W * p * (1 - p) * torch.tensor([1, 1, 0, 0]), rtol=1e-14, atol=0)
    rounded = W * torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert torch.equal(sampled.eval()(score), rounded)
    sampled.train().rounded = True
    assert torch.equal(sampled(score), rounded)
    assert not bool(sampled.remaining(torch.zeros(4)).any())  # p = 0.5 is rounded to 0


def test_a_layer_of_which_nothing_was_drawn_is_zero_not_nan() -> None:
    sampled = Sampled(W, rescale=True)
    sampled.take(torch.zeros(4, dtype=torch.bool))
    weight, grad = gradient(sampled, torch.zeros(4, dtype=torch.float64))
    assert not bool(weight.any())
    assert bool(grad.isfinite().all())


def test_a_count_beyond_float16_is_right() -> None:
    sampled = Sampled(torch.ones(300, 300, dtype=torch.float16), rescale=True)
    half = torch.arange(90_000).reshape(300, 300) % 9 < 8  # 80,000 remain
    sampled.take(half)
    assert torch.equal(sampled(torch.zeros(300, 300, dtype=torch.float16)), half * torch.tensor(1.125).half())


class _Halves(Method):
    """Keeps every second weight, then trains them."""

    name = "halves"

    def setup(self, s: Sparsifier) -> None:
        for target in s.targets:
            installed = Selected(target.parameter.detach())
            s.install_score(target, installed, torch.zeros(target.shape))
            installed.select(torch.arange(target.size).reshape(target.shape) % 2)

    def next_round(self, s: Sparsifier) -> bool:
        if s.round > 0:
            return False
        for target in s.targets:
            s.train_weight(target)
        return True


def test_train_weight_turns_scores_into_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    before = model[0].weight.detach().clone()
    s = _Halves().attach(model)
    target = s.targets[0]
    for _ in s.rounds():
        optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, weight_decay=0.1)
        s.bind(optimizer, total_steps=2)
        effective = target.weight.detach().clone()
        optimizer.zero_grad()
        model(noise(5, 4)).pow(2).sum().backward()
        optimizer.step()
        if s.round == 0:
            assert "score trained" in s.summary()
            assert torch.equal(target.dense, before)
            assert torch.equal(target.weight, effective)
    assert "weight kept and trained, mask fixed" in s.summary()
    assert torch.equal(target.dense, target.parameter)
    assert not torch.equal(target.weight, effective)
    with pytest.raises(AttachError, match="0.weight has no score any more"):
        _ = target.score
    copied = copy.deepcopy(model)
    final = target.weight.detach().clone()
    masks = s.finalize()
    assert torch.equal(model[0].weight, final)
    assert masks.remaining() == 6
    assert torch.equal(copied[0].weight, final)
