from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from supermask import Initializer
from supermask.core.parametrizations import Sampled
from supermask.errors import AttachError, HyperparameterError
from supermask.methods.zhou import ZhouSupermask
from supermask.tensors.philox import Stream

from .helpers import bare, batch, fcn, train


def test_the_constant_is_the_deviation_of_the_drawn_weights_and_stays() -> None:
    s = ZhouSupermask().attach(bare(30, 20, 10, dtype=torch.float64), seed=5)
    initializer = Initializer(distribution="truncated-normal", rule="xavier")
    for target in s.targets:
        drawn = initializer.draw(target.shape, target.fans, Stream(5, "weights", target.name))
        constant = (drawn - drawn.mean()).square().mean().sqrt()
        torch.testing.assert_close(target.dense, constant * drawn.sign(), rtol=1e-14, atol=0)
    before = [target.dense.clone() for target in s.targets]
    train(s, 5)
    assert all(torch.equal(target.dense, old) for target, old in zip(s.targets, before, strict=True))


def test_the_models_weights_can_be_kept() -> None:
    model = bare(9, 8, 5)
    weights = [p.detach().clone() for p in model.parameters()]
    s = ZhouSupermask(values="drawn", rescale="none").attach(model, weights="keep")
    for target, weight in zip(s.targets, weights, strict=True):
        assert torch.equal(target.dense, weight)
        assert torch.equal(target.weight, weight * target.mask)


def test_every_step_has_one_draw_of_its_own() -> None:
    s = ZhouSupermask().attach(bare(40, 30))
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
    s.bind(optimizer, total_steps=3)
    seen = []
    for step in range(3):
        mask = s.targets[0].mask.clone()
        first, second = s.targets[0].weight, s.targets[0].weight
        assert torch.equal(first, second)
        c = mask.numel() / int(mask.sum())
        torch.testing.assert_close(first, s.targets[0].dense * mask * c)
        seen.append(mask)
        train(s, 1, first=step, optimizer=optimizer)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_the_density_is_that_of_the_probabilities(p: float) -> None:
    """Mean over ten draws of 266,200 entries, within five standard deviations; drawing them does not change the mask."""
    s = ZhouSupermask(initial_probability=p).attach(fcn())
    before = [target.mask.clone() for target in s.targets]
    densities = [s.density() for _ in s.draws()]
    assert len(densities) == 10
    assert len(set(densities)) == 10
    expected = sum(float(x.double().sum()) for x in s.method.results(s).values()) / 266_200
    assert expected == pytest.approx(p, abs=1e-6)
    assert abs(sum(densities) / 10 - expected) < 5 * (p * (1 - p) / 2_662_000) ** 0.5
    assert all(torch.equal(target.mask, old) for target, old in zip(s.targets, before, strict=True))


def test_ten_draws_are_averaged() -> None:
    s = ZhouSupermask(draws=4).attach(bare(9, 8, 5))
    x, _ = batch(s.model)  # type: ignore[arg-type]
    outputs = []
    for _ in s.draws():
        outputs.append(s.model(x).detach())
    assert len(outputs) == 4
    assert all(not torch.equal(outputs[0], other) for other in outputs[1:])
    again = [s.model(x).detach() for _ in s.draws()]
    assert all(torch.equal(a, b) for a, b in zip(outputs, again, strict=True))


def test_the_rounded_final_mask() -> None:
    s = ZhouSupermask(final="rounded").attach(bare(9, 8, 5))
    assert s.method.test_draws(s) == 10
    train(s, 4)
    assert s.method.test_draws(s) == 1
    assert s.total_steps == 4
    s.bind(optimizer := torch.optim.SGD(s.param_groups(), lr=0.1), total_steps=4)
    train(s, 1, first=4, optimizer=optimizer)  # one step too many
    assert s.method.test_draws(s) == 1
    scores = [target.score.clone() for target in s.targets]
    masks = s.finalize()
    assert all(torch.equal(mask, score > 0) for mask, score in zip(masks.values(), scores, strict=True))


def test_round_mode_is_soft_in_training_and_rounded_in_tests() -> None:
    model = bare(9, 8, 5, dtype=torch.float64)
    s = ZhouSupermask(mode="round", rescale="none", values="drawn", initial_probability=0.7).attach(model)
    target = s.targets[0]
    softened = (target.weight / target.dense).detach() < 0.9
    torch.testing.assert_close(target.weight.detach(), target.dense * torch.where(softened, 0.7, 1.0).double())
    assert 15 < int(softened.sum()) < 57  # of 72, with probability 1/2
    assert s.method.test_draws(s) == 1
    with s.sparse():
        assert torch.equal(target.weight, target.dense)
    assert not torch.equal(target.weight, target.dense)
    model.eval()
    assert torch.equal(target.weight, target.dense)


def test_equal_weights_are_refused_by_name() -> None:
    model = bare(9, 8, 5)
    nn.init.zeros_(model[2].weight)
    with pytest.raises(AttachError, match="the weights of 2.weight are all equal"):
        ZhouSupermask().attach(model, weights="keep")
    ZhouSupermask(values="drawn").attach(model, weights="keep")


def test_a_probability_of_one_is_refused() -> None:
    with pytest.raises(HyperparameterError, match="initial_probability must be below 1"):
        ZhouSupermask(initial_probability=1.0)


def test_the_whole_gradient_against_autograd() -> None:
    """The network's loss as a function of the mask, by autograd, times the derivative of the sigmoid."""
    model = bare(9, 8, 5, dtype=torch.float64)
    s = ZhouSupermask(values="drawn", initial_probability=0.6).attach(model)
    x, y = batch(model)
    F.cross_entropy(model(x), y).backward()
    masks = [target.mask.double().requires_grad_() for target in s.targets]
    effective = [t.dense * m * (m.numel() / m.sum()) for t, m in zip(s.targets, masks, strict=True)]
    F.cross_entropy(F.elu(x @ effective[0].t()) @ effective[1].t(), y).backward()
    for target, mask in zip(s.targets, masks, strict=True):
        assert target.parameter.grad is not None
        assert mask.grad is not None
        torch.testing.assert_close(target.parameter.grad, mask.grad * 0.24, rtol=1e-12, atol=1e-15)  # .6 * .4


def test_half_precision_draws() -> None:
    model = bare(9, 8, 5).to(torch.bfloat16)
    s = ZhouSupermask().attach(model)
    train(s, 2)
    assert isinstance(s.targets[0].parametrization, Sampled)
    assert s.targets[0].weight.dtype == torch.bfloat16
