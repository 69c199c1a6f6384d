from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask import Sparsifier
from supermask.errors import DataError, HyperparameterError
from supermask.methods import Force, Snip, force
from supermask.tensors.topk import keep_count

from .helpers import bare, batch, forward

SIZE = 112  # weights of 9-8-5


def cross_entropy(model: nn.Module, given: Any) -> Tensor:
    return F.cross_entropy(model(given[0]), given[1])


def model() -> nn.Sequential:
    return bare(9, 8, 5, dtype=torch.float64)


def batches(n: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [batch(model(), step) for step in range(n)]


def attach(method: Force | Snip, module: nn.Module | None = None, data: Any = None) -> Sparsifier:
    return method.attach(
        model() if module is None else module, data=batches() if data is None else data, loss_fn=cross_entropy
    )


def history(method: Force, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The masks of all steps, each one flat tensor."""
    choose, seen = force.choose_masks, []

    def noted(*arguments: Any) -> Any:
        masks = choose(*arguments)
        seen.append(torch.cat([mask.flatten() for mask in masks]))
        return masks

    monkeypatch.setattr(force, "choose_masks", noted)
    attach(method)
    return seen


@pytest.mark.parametrize("resurrect", [True, False])
@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
@pytest.mark.parametrize("batchnorm", ["inference", "training"])
def test_one_step_is_snip(resurrect: bool, scope: Any, batchnorm: Any) -> None:
    def normed() -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)).double()

    for density in (0.05, 0.4, 1.0):
        shared = {"density": density, "scope": scope, "batchnorm": batchnorm, "batch_size": 20}
        one = attach(Force(steps=1, resurrect=resurrect, **shared), normed())
        snip = attach(Snip(**shared), normed())
        for a, b in zip(one.targets, snip.targets, strict=True):
            assert torch.equal(a.mask, b.mask)
            assert torch.equal(a.weight, b.weight)


@pytest.mark.parametrize("resurrect", [True, False])
@pytest.mark.parametrize("schedule", ["exponential", "linear"])
def test_the_recursion_written_out(resurrect: bool, schedule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, density = 6, 0.1
    seen = history(
        Force(density=density, steps=steps, resurrect=resurrect, schedule=schedule, batch_size=16), monkeypatch
    )
    weights = [p.detach() for p in model().parameters()]
    flat = torch.cat([w.flatten() for w in weights])
    mask = torch.ones(SIZE, dtype=torch.bool)
    for t in range(1, steps + 1):
        x, y = batches()[(t - 1) % 4]
        parts = (flat * mask).split([72, 40])
        leaves = [p.reshape(w.shape).requires_grad_(True) for p, w in zip(parts, weights, strict=True)]
        gradients = torch.autograd.grad(F.cross_entropy(forward(leaves, x), y), leaves)
        score = (flat * torch.cat([g.flatten() for g in gradients])).abs()
        if not resurrect:
            score[~mask] = -1.0
        now = density ** (t / steps) if schedule == "exponential" else 1 - t * (1 - density) / steps
        k = keep_count(now, SIZE)
        mask = torch.zeros(SIZE, dtype=torch.bool)
        mask[score.argsort(descending=True, stable=True)[:k]] = True
        assert torch.equal(seen[t - 1], mask), t
    assert len(seen) == steps
    assert int(mask.sum()) == 11


def test_masks_of_iterative_snip_are_nested_and_those_of_force_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def returning(masks: list[Tensor]) -> int:
        return sum(int((after & ~before).sum()) for before, after in zip(masks, masks[1:], strict=False))

    for scope in ("global", "uniform", "erk"):
        for least in (0, 2):
            fields: dict[str, Any] = {
                "density": 0.1,
                "steps": 12,
                "batch_size": 16,
                "scope": scope,
                "min_per_layer": least,
            }
            nested = history(Force(resurrect=False, **fields), monkeypatch)
            assert returning(nested) == 0
            monkeypatch.undo()
    assert returning(history(Force(density=0.1, steps=12, batch_size=16), monkeypatch)) > 0


def test_weights_that_returned_have_their_initial_value() -> None:
    s = attach(Force(density=0.3, steps=10, batch_size=16))
    for target, weight in zip(s.targets, model().parameters(), strict=True):
        assert torch.equal(target.weight, weight * target.mask)


def test_each_step_takes_the_next_examples() -> None:
    seen: list[list[float]] = []

    def loss(module: nn.Module, given: Any) -> Tensor:
        seen.append(given[0][:, 0].tolist())
        return cross_entropy(module, given)

    x = torch.zeros(12, 9, dtype=torch.float64)
    x[:, 0] = torch.arange(12)
    data = list(zip(x.split(4), (torch.arange(12) % 5).split(4), strict=True))
    Force(steps=4, batch_size=4, density=0.5).attach(model(), data=data, loss_fn=loss)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]]
    with pytest.raises(DataError, match="data is an iterator and has ended"):
        Force(steps=4, batch_size=4, density=0.5).attach(model(), data=iter(data), loss_fn=loss)


def test_a_batch_that_is_larger_than_a_step_is_used_up() -> None:
    seen: list[list[float]] = []

    def loss(module: nn.Module, given: Any) -> Tensor:
        seen.append(given[0][:, 0].tolist())
        return cross_entropy(module, given)

    x = torch.zeros(10, 9, dtype=torch.float64)
    x[:, 0] = torch.arange(10)
    Force(steps=4, batch_size=3, density=0.5).attach(model(), data=[(x, torch.arange(10) % 5)], loss_fn=loss)
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 1, 2]]  # one is left, which is too few


def test_the_guard_and_small_steps_keep_layers_from_collapse() -> None:
    def deep() -> nn.Sequential:
        return bare(64, 4, 64, 64, 4, dtype=torch.float64)

    def kept(**fields: Any) -> tuple[list[int], list[str]]:
        s = attach(Force(density=0.005, batch_size=16, resurrect=False, **fields), deep(), [batch(deep())])
        return [int(t.mask.sum()) for t in s.targets], s.notes

    counts, notes = kept(steps=1)
    assert counts == [5, 13, 0, 6]
    assert notes == ["no weight of 4.weight remains before the first step"]
    counts, notes = kept(steps=1, min_per_layer=3)
    assert sum(counts) == 24
    assert counts[2] == 3
    assert notes == ["4.weight would have kept fewer than min_per_layer=3 weights by score: it was topped up"]
    counts, notes = kept(steps=20)
    assert sum(counts) == 24
    assert min(counts) > 1
    assert not notes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "force: steps must be a whole number of pruning steps >= 1, got 0"),
        ({"resurrect": "yes"}, "force: resurrect must be true or false"),
        ({"schedule": "cubic"}, "force: schedule must be one of exponential, linear; got 'cubic'"),
        ({"batch_size": 1.5}, "force: batch_size must be a whole number of examples >= 1, got 1.5"),
        ({"batchnorm": "eval"}, "force: batchnorm must be one of inference, training"),
    ],
)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        Force(**fields)
