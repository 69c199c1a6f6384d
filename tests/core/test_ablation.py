"""From scores to masks before training: the guard, the ablations, and what is noted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from supermask import RandomMask
from supermask.core.ablation import Ablation, check_promise, check_pruning, choose_masks, install
from supermask.core.select import Scope, masks_by_score
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import find_targets
from supermask.errors import HyperparameterError

from .helpers import Sound, noise


@dataclass(frozen=True)
class Fields:
    """The shared fields alone."""

    density: float = 0.5
    scope: Scope = "global"
    ablation: Ablation = "none"
    min_per_layer: int = 0
    name: str = "some"


def model(bias: bool = False) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5, bias=bias), nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False))


SIZES = (30, 20, 12)


def bare(module: nn.Module, *names: str, seed: int = 0) -> Sparsifier:
    return Sparsifier(Sound(), module, find_targets(module, names or None), seed)


def counts(masks: list[Tensor]) -> list[int]:
    return [int(mask.sum()) for mask in masks]


def falling(s: Sparsifier) -> list[Tensor]:
    """Scores of which every one of an earlier target beats every one of a later."""
    return [noise(*t.shape, seed=i).sigmoid() + 10.0 * (len(s.targets) - i) for i, t in enumerate(s.targets)]


def test_starved_layers_are_topped_up_and_the_total_stays() -> None:
    s = bare(model())
    scores = falling(s)
    method = Fields(density=34 / 62, min_per_layer=3)
    masks = choose_masks(s, method, scores, method.density)
    assert counts(masks) == [28, 3, 3]  # without the guard 30, 4, 0
    for score, mask in zip(scores, masks, strict=True):
        kept, gone = score[mask], score[~mask]
        assert kept.min() > gone.max()
    assert s.notes == ["2.weight would have kept fewer than min_per_layer=3 weights by score: it was topped up"]


def test_a_guard_that_need_not_act_changes_nothing_and_says_nothing() -> None:
    s = bare(model())
    scores = [noise(*t.shape, seed=i).round() for i, t in enumerate(s.targets)]  # many ties
    masks = choose_masks(s, Fields(min_per_layer=2), scores, 0.5)
    for mask, plain in zip(masks, masks_by_score(s.targets, scores, 0.5, "global"), strict=True):
        assert torch.equal(mask, plain)
    assert not s.notes


@given(
    st.integers(1, 62), st.integers(0, 40), st.sampled_from(["global", "uniform", "erk"]), st.booleans(), st.integers(0, 9)
)  # fmt: skip
def test_minimum_and_total_hold_together(total: int, least: int, scope: Any, ties: bool, seed: int) -> None:
    s = bare(model())
    method = Fields(density=total / 62, min_per_layer=least, scope=scope)
    wanted = [min(least, size) for size in SIZES]
    if sum(wanted) > total:
        with pytest.raises(
            HyperparameterError, match=f"min_per_layer {least} asks for {sum(wanted)} weights in all layers"
        ):
            check_promise(method, s.targets)
        return
    check_promise(method, s.targets)
    scores = [noise(*t.shape, seed=seed + i) * 10.0**-i for i, t in enumerate(s.targets)]
    if ties:
        scores = [score.round() for score in scores]
    found = counts(choose_masks(s, method, scores, method.density))
    assert sum(found) == total
    assert all(count >= n for count, n in zip(found, wanted, strict=True))


def test_vectors_have_no_minimum() -> None:
    s = bare(model(bias=True), "*", "0.bias")
    assert [t.kind for t in s.targets] == ["linear", "other", "linear", "linear"]
    scores = [torch.zeros(t.shape) if t.kind == "other" else noise(*t.shape).abs() + 1 for t in s.targets]
    assert counts(choose_masks(s, Fields(min_per_layer=4), scores, 0.5))[1] == 0
    assert not s.notes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_per_layer": -1}, "some: min_per_layer must be a whole number of weights >= 0, got -1"),
        ({"min_per_layer": True}, "min_per_layer"),
        ({"min_per_layer": 1.5}, "min_per_layer"),
        ({"ablation": "shufle"}, "some: ablation must be one of none, shuffle, reinit, random; got 'shufle'"),
        ({"scope": "layer"}, "some: scope must be one of global"),
        ({"density": 0.0}, "some: density"),
    ],
)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        check_pruning(Fields(**fields))


def test_a_density_below_one_weight_is_refused_before_any_work() -> None:
    with pytest.raises(HyperparameterError, match="density 0.001 keeps none of 62 weights"):
        check_promise(Fields(density=0.001), bare(model()).targets)


# --------------------------------------------------------------------------------------------------------------- ablations


def installed(ablation: Ablation, density: float = 0.5, seed: int = 0) -> tuple[Sparsifier, list[Tensor], list[Tensor]]:
    """A sparsifier with masks by score, the masks as chosen, and the initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = model()
    s = bare(module, seed=seed)
    weights = [t.parameter.detach().clone() for t in s.targets]
    scores = [noise(*t.shape, seed=i).abs() * 1.2**-i for i, t in enumerate(s.targets)]
    method = Fields(density=density, ablation=ablation)
    masks = choose_masks(s, method, scores, density)
    with torch.no_grad():
        install(s, method, masks, scores)
    return s, masks, weights


def test_no_ablation() -> None:
    s, masks, weights = installed("none")
    for target, mask, weight in zip(s.targets, masks, weights, strict=True):
        assert torch.equal(target.mask, mask)
        assert torch.equal(target.weight, weight * mask)
        assert not target.redrawn


@pytest.mark.parametrize("ablation", ["shuffle", "random"])
def test_other_masks_of_the_same_counts(ablation: Any) -> None:
    s, masks, weights = installed(ablation)
    again, other = installed(ablation)[0], installed(ablation, seed=1)[0]
    for i, (target, mask, weight) in enumerate(zip(s.targets, masks, weights, strict=True)):
        assert int(target.mask.sum()) == int(mask.sum())
        assert not torch.equal(target.mask, mask)
        assert torch.equal(target.weight, weight * target.mask)
        assert torch.equal(target.mask, again.targets[i].mask)
        assert not torch.equal(target.mask, other.targets[i].mask)


def test_random_takes_the_numbers_of_the_random_method() -> None:
    few, many = installed("random", 0.2)[0], installed("random", 0.5)[0]
    for small, large in zip(few.targets, many.targets, strict=True):
        assert not bool((small.mask & ~large.mask).any())
    module = nn.Linear(6, 5, bias=False)
    s = bare(module)
    with torch.no_grad():
        mask = torch.zeros(5, 6, dtype=torch.bool)
        mask[:2] = True
        install(s, Fields(ablation="random"), [mask], [mask.float()])
    assert torch.equal(s.targets[0].mask, RandomMask(density=0.4).attach(nn.Linear(6, 5, bias=False)).targets[0].mask)


def test_reinit_keeps_the_mask_and_permutes_the_weights() -> None:
    s, masks, weights = installed("reinit")
    for target, mask, weight in zip(s.targets, masks, weights, strict=True):
        assert torch.equal(target.mask, mask)
        assert target.redrawn
        now = target.weight[mask]
        assert not torch.equal(now, weight[mask])
        assert set(now.tolist()) <= set(weight.flatten().tolist())
        assert len(set(now.tolist())) == int(mask.sum())


def test_reinit_permutes_in_any_memory_format() -> None:
    module = nn.Conv2d(4, 6, 3, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = module.weight.detach().clone()
    s = bare(module)
    with torch.no_grad():
        install(s, Fields(ablation="reinit"), [torch.ones(6, 4, 3, 3, dtype=torch.bool)], [torch.ones(6, 4, 3, 3)])
    assert not torch.equal(module.weight, before)
    assert torch.equal(module.weight.flatten().sort().values, before.flatten().sort().values)


# ------------------------------------------------------------------------------------------------------------------- notes


def test_an_arbitrary_choice_among_zeros_is_noted() -> None:
    for density, noted in ((0.25, False), (0.5, True), (1.0, False)):
        s = bare(model())
        scores = [torch.zeros(t.shape) for t in s.targets]
        scores[0].view(-1)[:20] = 1.0
        method = Fields(density=density)
        masks = choose_masks(s, method, scores, density)
        with torch.no_grad():
            install(s, method, masks, scores)
        assert s.remaining() == math.floor(62 * density + 0.5)
        assert (
            any(note.startswith("11 of the weights that remain have a score of exactly 0") for note in s.notes) is noted
        )
