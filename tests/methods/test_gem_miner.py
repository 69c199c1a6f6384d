from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from supermask import Method, Sparsifier
from supermask.errors import HyperparameterError, MaskError
from supermask.methods.gem_miner import GemMiner
from supermask.tensors.topk import keep_count

from .helpers import bare, batch, train


def left(s: Sparsifier) -> int:
    return sum(int(mask.sum()) for mask in s.state.values())


@pytest.mark.parametrize(
    ("density", "share"), [(0.0144, 0.136037), (0.0059, 0.162215), (0.0372, 0.107294), (0.5, 0.023618)]
)
def test_the_published_shares_of_one_freezing(density: float, share: float) -> None:
    """150 epochs with a freezing every 5: 29 of them. What is left after each, of a million weights."""
    model = nn.Linear(1000, 1000, bias=False)
    method = GemMiner(density=density)
    s = method.attach(model)
    before = 1_000_000
    for event in (1, 2, 3):
        method._freeze(s, event)
        assert left(s) == keep_count(density ** (event / 29), 1_000_000)
        assert 1 - left(s) / before == pytest.approx(share, abs=2e-6)
        before = left(s)
    method._freeze(s, 29)
    assert left(s) == keep_count(density, 1_000_000)


@pytest.mark.parametrize("total", [1, 2, 7, 30, 61])
def test_freezings_are_evenly_spaced_and_all_done_at_the_end(total: int) -> None:
    method = GemMiner(freezings=29)
    due = [method._due(step, total) for step in range(total + 1)]
    assert due[0] == 0
    assert due[-1] == 29
    assert due == sorted(due)
    if total == 30:
        assert due == [*range(30), 29]


def test_what_is_left_shrinks_and_ends_exact() -> None:
    """With a strong penalty, nearly all scores are clamped to 0: ties everywhere."""
    method = GemMiner(density=0.13, freezings=4, strength=5.0, finetune=False)
    s = method.attach(bare(9, 8, 5))
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1)
    s.bind(optimizer, total_steps=10)
    before = {name: mask.clone() for name, mask in s.state.items()}
    for step in range(10):
        train(s, 1, first=step, optimizer=optimizer)
        assert left(s) == keep_count(0.13 ** (method._due(step + 1, 10) / 4), 112)
        for target in s.targets:
            assert float(target.score.min()) >= 0.0
            assert float(target.score.max()) <= 1.0
            now = s.state[f"left/{target.name}"]
            assert not bool((now & ~before[f"left/{target.name}"]).any())
            if step < 9:
                assert torch.equal(target.mask, now & (target.score > 0.5))
        before = {name: mask.clone() for name, mask in s.state.items()}
    assert s.remaining() == 15  # .13 * 112 = 14.56
    assert not s.notes
    train(s, 1, first=10, optimizer=optimizer)  # one step too many
    assert s.remaining() == 15


def test_without_unflag_fewer_remain_and_a_note_says_so() -> None:
    s = GemMiner(density=0.3, freezings=2, strength=0.1, unflag=False).attach(bare(9, 8, 5))
    train(s, 6)
    assert left(s) == 34
    assert 0 < s.remaining() < 34
    assert f"{s.remaining()} weights remain of the 34 that density allows" in s.notes[0]
    s.finalize()  # no warning: the density is not promised


@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_the_gradient_by_hand(kind: str) -> None:
    model = bare(3, 2, dtype=torch.float64)
    weights = {"0.weight": [[0.5, -1.0, 2.0], [1.0, 1.5, -0.5]]}
    scores = {"0.weight": [[0.625, 0.375, 0.875], [0.5, 1.0, 0.0]]}
    method = GemMiner(density=0.5, regularization=kind, strength=0.1)  # type: ignore[arg-type]
    s = method.attach(model, weights=weights, scores=scores)
    target = s.targets[0]
    assert target.mask.int().tolist() == [[1, 0, 1], [0, 1, 0]]  # 0.5 is rounded to 0
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    seen = []
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.0)
    s.bind(optimizer, total_steps=100)
    optimizer.register_step_pre_hook(lambda *_: seen.append(target.parameter.grad.clone()))  # type: ignore[union-attr]
    model(x).sum().backward()
    optimizer.step()
    p, w = (torch.tensor(v["0.weight"], dtype=torch.float64) for v in (scores, weights))
    penalty = 0.1 * (2 * p if kind == "l2" else torch.ones_like(p))
    torch.testing.assert_close(seen[0], x * w + penalty, rtol=1e-14, atol=0)


def _search_and_tune(method: Method, stop: int | None = None) -> Sparsifier:
    """Two rounds of four steps; ``stop``: save after that step of the second round, go on in fresh objects."""
    s = method.attach(bare(9, 8, 5), seed=1)
    for _ in s.rounds():
        optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        s.bind(optimizer, total_steps=4)
        for step in range(4):
            if s.round == 1 and step == stop:
                saved = copy.deepcopy((s.model.state_dict(), optimizer.state_dict(), s.state_dict()))
                s = method.attach(bare(9, 8, 5), seed=1)
                s.model.load_state_dict(saved[0])
                s.load_state_dict(saved[2])
                optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9, weight_decay=1e-3)
                s.bind(optimizer, total_steps=4)
                optimizer.load_state_dict(saved[1])
            train(s, 1, first=step, optimizer=optimizer)
        if stop is not None and s.round == 1:
            break
    return s


def test_the_second_round_trains_the_weights_that_are_left() -> None:
    method = GemMiner(density=0.3)
    searched = _search_and_tune(GemMiner(density=0.3, finetune=False))
    tuned = _search_and_tune(method)
    assert (searched.round, tuned.round) == (0, 1)
    for before, after in zip(searched.targets, tuned.targets, strict=True):
        assert torch.equal(before.mask, after.mask)
        assert not bool(after.weight[~after.mask].any())
        constant = math.sqrt(2 / before.fans[0])
        torch.testing.assert_close(before.weight[before.mask].abs(), torch.full((int(before.mask.sum()),), constant))
        assert not torch.equal(before.weight, after.weight)
    tuned.model.eval()
    output = tuned.model(batch(tuned.model)[0])  # type: ignore[arg-type]
    masks = tuned.finalize()
    assert masks.remaining() == keep_count(0.3, 112)
    assert torch.equal(tuned.model(batch(tuned.model)[0]), output)  # type: ignore[arg-type]
    assert list(tuned.model.state_dict()) == ["0.weight", "2.weight"]


def test_a_resume_in_the_second_round_is_bitwise() -> None:
    method = GemMiner(density=0.3)
    whole, resumed = _search_and_tune(method), _search_and_tune(method, stop=2)
    assert resumed.round == 1
    for a, b in zip(whole.targets, resumed.targets, strict=True):
        assert torch.equal(a.weight, b.weight)


def test_scores_outside_the_unit_interval_are_refused() -> None:
    scores = {"0.weight": torch.full((5, 9), 1.5)}
    with pytest.raises(MaskError, match=r"scores of 0.weight must lie in \[0, 1\]"):
        GemMiner().attach(bare(9, 5), scores=scores)


def test_the_search_ends_with_the_masks_it_trained_and_hidden_weights_come_back_before_the_second_round() -> None:
    s = GemMiner(density=0.3, freezings=2, strength=0.1).attach(bare(9, 8, 5))
    train(s, 6)
    for target in s.targets:
        assert torch.equal(target.mask, s.state[f"left/{target.name}"] & (target.score > 0.5))
    assert s.remaining() < 34
    assert s.method.next_round(s)
    assert s.remaining() == 34
    for target in s.targets:
        assert torch.equal(target.mask, s.state[f"left/{target.name}"])
        assert bool(target.weight[target.mask].all())


def test_a_density_below_one_weight_is_refused_before_training() -> None:
    for unflag in (True, False):
        with pytest.raises(HyperparameterError, match="density 0.001 keeps none of 112 weights"):
            GemMiner(density=0.001, unflag=unflag).attach(bare(9, 8, 5))
