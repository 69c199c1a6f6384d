from __future__ import annotations

import pytest
import torch
from torch import nn

from supermask.methods.edge_popup import EdgePopup
from supermask.methods.mpt import MPT
from supermask.tensors.topk import keep_count

from .helpers import bare, batch, train


def test_alpha_and_the_gradient_by_hand() -> None:
    model = bare(3, 2, dtype=torch.float64)
    weights = {"0.weight": [[0.5, -1.0, 2.0], [0.0, 1.5, -0.5]]}
    scores = {"0.weight": [[0.3, -0.9, 0.1], [-0.8, 0.4, 0.0]]}
    s = MPT(density=0.5).attach(model, weights=weights, scores=scores)
    target = s.targets[0]
    alpha = (1.0 + 0.0 + 1.5) / 3  # the mean |w| of what is kept; a weight of 0 counts as positive
    expected = torch.tensor([[0.0, -alpha, 0.0], [alpha, alpha, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(target.weight, expected, rtol=1e-15, atol=0)
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    model(x).sum().backward()
    assert target.parameter.grad is not None
    w, score = torch.tensor(weights["0.weight"]).double(), torch.tensor(scores["0.weight"]).double()
    assert torch.equal(target.parameter.grad, x * w * score.sign())


def test_its_gradient_is_that_of_edge_popup_for_the_same_gradient_of_the_weight() -> None:
    given = {"0.weight": torch.randn(5, 9, generator=torch.Generator().manual_seed(1))}
    scores = {"0.weight": torch.randn(5, 9, generator=torch.Generator().manual_seed(2))}
    gradients = []
    for method in (MPT(density=0.3), EdgePopup(density=0.3)):
        model = bare(9, 5)
        s = method.attach(model, weights=given, scores=scores)
        x, _ = batch(model)
        model(x).sum().backward()
        gradients.append(s.targets[0].parameter.grad)
    assert torch.equal(gradients[0], gradients[1])  # type: ignore[arg-type]


def test_alpha_is_the_mean_over_the_exact_count() -> None:
    """k = .07 of 1,000: the published denominators are one off here."""
    s = MPT(density=0.07).attach(nn.Linear(50, 20, bias=False), seed=1)
    target = s.targets[0]
    assert int(target.mask.sum()) == 70
    kept = target.dense[target.mask].abs().double()
    assert float(target.weight.detach().abs().max()) == pytest.approx(float(kept.mean()), rel=1e-6)


def test_alpha_follows_the_mask() -> None:
    s = MPT(density=0.3).attach(bare(9, 8, 5))
    train(s, 4)
    for target in s.targets:
        alpha = target.dense.abs()[target.mask].mean()
        sign = torch.where(target.dense < 0, -1.0, 1.0)
        torch.testing.assert_close(target.weight, alpha * sign * target.mask)


def test_the_published_ramp() -> None:
    """Ten epochs of a hundred; in the published code each value holds for one epoch."""
    method = MPT(density=0.1, scope="global")
    expected = [0.5, 0.392, 0.305, 0.237, 0.186, 0.15, 0.126, 0.111, 0.103, 0.1, 0.1, 0.1]
    for epoch, density in enumerate(expected):
        assert method._density(epoch / 100) == pytest.approx(density, abs=5.1e-4)
    assert MPT(density=0.1)._density(0.0) == 0.1
    assert MPT(density=0.7, scope="global")._density(0.0) == 0.7
    assert MPT(density=0.1, scope="global", ramp=0.0)._density(0.0) == 0.1


def test_the_ramp_ends_at_the_density_exactly() -> None:
    s = MPT(density=0.1, scope="global", ramp=0.5).attach(bare(30, 20, 10))
    size = 800
    assert s.remaining() == keep_count(0.5, size)
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
    s.bind(optimizer, total_steps=8)
    counts = []
    for step in range(8):
        train(s, 1, first=step, optimizer=optimizer)
        counts.append(s.remaining())
    assert counts[3:] == [80] * 5
    assert counts[0] == keep_count(0.1 + 0.4 * 0.75**3, size)


def test_a_layer_without_weights_is_zero_not_nan() -> None:
    scores = {"0.weight": torch.ones(8, 9), "2.weight": torch.full((5, 8), 0.1)}
    s = MPT(density=0.5, scope="global", ramp=0.0).attach(bare(9, 8, 5), scores=scores)
    assert not bool(s.targets[1].mask.any())
    assert not bool(s.targets[1].weight.any())


def test_a_sum_beyond_float16_is_right() -> None:
    """80,000 weights of 1 remain; float16 ends at 65,504."""
    model = nn.Linear(300, 300, bias=False).half()
    s = MPT(density=8 / 9).attach(model, weights={"weight": torch.ones(300, 300)})
    assert s.remaining() == 80_000
    assert torch.equal(s.targets[0].weight, s.targets[0].mask.half())
