"""Signed Supermask against the paper's formulas and numbers, computed by hand in float64."""

from __future__ import annotations

import copy
import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask import Initializer, SignedSupermask, Sparsifier, load_arrays, save_arrays
from supermask.core.parametrizations import Thresholded
from supermask.core.zoo import ZOO
from supermask.errors import AttachError, MaskError
from supermask.tensors.philox import Stream

from .helpers import bare, batch, fcn, forward, train

RELATIVE = {"threshold_rule": "relative", "threshold": 0.4}


def installed(s: Sparsifier) -> list[Thresholded]:
    found = [target.parametrization for target in s.targets]
    assert all(isinstance(p, Thresholded) for p in found)
    return found  # type: ignore[return-value]


def drawn(distribution: str, rule: str = "he") -> Initializer:
    return Initializer(distribution=distribution, rule=rule)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- published figures of the initial state


def test_fcn_constants_bounds_and_thresholds() -> None:
    """Section 11 of the specification (c for ELUS with its paper gain)."""
    method = SignedSupermask(**RELATIVE, weights=drawn("signed-constant", "elus"))
    s = method.attach(fcn())
    assert [p.scale for p in installed(s)] == pytest.approx([0.06186, 0.1, 0.17321], abs=5e-6)
    largest = [t.score.abs().max().item() for t in s.targets]
    assert largest == pytest.approx([0.07440, 0.12247, 0.23355], rel=2e-3)  # b
    assert all(m < b for m, b in zip(largest, [0.07441, 0.12248, 0.23356], strict=True))
    assert [p.high.item() for p in installed(s)] == pytest.approx([0.02976, 0.04899, 0.09342], rel=2e-3)
    assert [p.high.item() for p in installed(s)] == pytest.approx([0.4 * m for m in largest], rel=1e-6)
    assert [p.low.item() for p in installed(s)] == [-p.high.item() for p in installed(s)]


def test_the_default_is_the_calibrated_one() -> None:
    s = SignedSupermask().attach(fcn())
    wanted = [math.sqrt(6 / 784), math.sqrt(6 / 300), math.sqrt(6 / 100)]
    assert [p.scale for p in installed(s)] == pytest.approx(wanted, rel=1e-6)
    assert [p.high.item() for p in installed(s)] == pytest.approx([0.01] * 3, rel=1e-6)
    assert all(p.absorbed and p.frozen is None and p.sign is None for p in installed(s))


@pytest.mark.parametrize(
    ("options", "shares"),
    [(RELATIVE, [0.6, 0.6, 0.6]), ({"threshold": 0.01}, [0.866, 0.918, 0.957])],
    ids=["relative", "absolute"],
)
def test_initial_share_of_remaining_weights_in_fcn(options: dict[str, Any], shares: list[float]) -> None:
    s = SignedSupermask(**options).attach(fcn())
    got = [t.mask.float().mean().item() for t in s.targets]
    sigmas = [math.sqrt(p * (1 - p) / t.size) for p, t in zip(shares, s.targets, strict=True)]
    for share, wanted, sigma in zip(got, shares, sigmas, strict=True):
        assert abs(share - wanted) < 4 * sigma + 1e-3


def test_initial_share_in_the_big_layer_of_conv2() -> None:
    s = SignedSupermask().attach(nn.Linear(16384, 256, bias=False))
    assert s.density() == pytest.approx(0.473, abs=1e-3)


def test_keep_and_invert_are_balanced() -> None:
    s = SignedSupermask(**RELATIVE).attach(fcn())
    for entry in s.masks().signed.values():
        kept, inverted = (entry.sign_mask == 1).sum().item(), (entry.sign_mask == -1).sum().item()
        assert abs(kept - inverted) < 5 * math.sqrt(kept + inverted)


# ---------------------------------------------------------------------- forward, gradient, training

WEIGHTS: dict[str, dict[str, Any]] = {
    "signed constant": {},
    "uniform": {"weights": drawn("uniform")},
    "normal": {"weights": drawn("normal")},
    "truncated normal": {"weights": drawn("truncated-normal", "lecun")},
    "binary": {"signed": False},
    "binary uniform": {"signed": False, "weights": drawn("uniform")},
    "variable": {"threshold_rule": "variable"},
    "variable normal": {"threshold_rule": "variable", "linear_fraction": 0.3, "weights": drawn("normal")},
}


def reference_weight(weight: Tensor, score: Tensor, low: float, high: float) -> Tensor:
    """W times the code, with the straight-through gradient dL/dM = dL/dW_eff * W, all by plain autograd."""
    code = (score > high).double() - (score < low).double()
    return weight * (code + (score - score.detach()))


@pytest.mark.parametrize("case", WEIGHTS)
def test_training_follows_explicit_weights_and_masks(case: str) -> None:
    """Losses, gradients and scores over 20 steps of SGD with momentum and decay, in float64."""
    options = ({} if "variable" in case else RELATIVE) | WEIGHTS[case]
    s = SignedSupermask(**options).attach(bare(9, 8, 7, 5, dtype=torch.float64), seed=2)
    frozen = [t.dense.clone() for t in s.targets]
    scores = [t.score.clone().requires_grad_() for t in s.targets]
    reference = torch.optim.SGD(scores, lr=0.1, momentum=0.9, weight_decay=1e-3)
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    s.bind(optimizer, total_steps=20)
    for step in range(20):
        x, y = batch(s.model, step)  # type: ignore[arg-type]
        bounds = [(p.low.item(), p.high.item()) for p in installed(s)]
        weights = [reference_weight(w, m, *b) for w, m, b in zip(frozen, scores, bounds, strict=True)]
        loss, expected = F.cross_entropy(s.model(x), y), F.cross_entropy(forward(weights, x), y)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        optimizer.zero_grad()
        reference.zero_grad()
        loss.backward()
        expected.backward()
        optimizer.step()
        reference.step()
        for target, score in zip(s.targets, scores, strict=True):
            torch.testing.assert_close(target.score, score.detach(), rtol=1e-10, atol=1e-13)
    assert all(torch.equal(t.dense, w) for t, w in zip(s.targets, frozen, strict=True))


def test_the_gradient_of_a_score_is_that_of_the_weight_times_the_frozen_weight() -> None:
    """Also where the weight is hidden, and nowhere clipped."""
    model = bare(9, 8, 5, dtype=torch.float64)
    s = SignedSupermask(**RELATIVE).attach(model)
    effective = [t.weight.detach().clone().requires_grad_() for t in s.targets]
    x, y = batch(model)
    F.cross_entropy(forward(effective, x), y).backward()
    F.cross_entropy(model(x), y).backward()
    for target, weight in zip(s.targets, effective, strict=True):
        assert target.parameter.grad is not None
        assert weight.grad is not None
        relative = target.parameter.grad * target.dense.sign()  # stored score = sign * score
        torch.testing.assert_close(relative, weight.grad * target.dense, rtol=1e-12, atol=1e-16)
        assert bool(relative[~target.mask].all())


def test_a_score_on_the_threshold_is_hidden() -> None:
    model = bare(2, 3, dtype=torch.float64)
    given = torch.tensor([[0.01, -0.01], [0.010001, -0.010001], [0.0, 1.0]], dtype=torch.float64)
    for options in ({}, {"weights": drawn("uniform")}, {"threshold_rule": "relative"}):  # the largest score is 1
        s = SignedSupermask(**options).attach(copy.deepcopy(model), scores={"0.weight": given})
        (entry,) = s.masks().signed.values()
        assert entry.sign_mask.tolist() == [[0, 0], [1, -1], [0, 1]]
        assert torch.equal(s.targets[0].weight, s.targets[0].dense * entry.sign_mask)


def test_absorbing_the_sign_changes_nothing() -> None:
    """Fifty steps with and without a stored frozen tensor, momentum and decay included, are bitwise the same."""
    runs = []
    for absorb in (True, False):
        model = bare(9, 8, 7, 5, dtype=torch.float64)
        s = SignedSupermask(**RELATIVE).attach(model, seed=4)
        if not absorb:
            for target in s.targets:
                old, score = target.parametrization, target.score
                assert isinstance(old, Thresholded)
                high = old.high.item()
                target.module.parametrizations.weight[0] = Thresholded(  # type: ignore[union-attr, index]
                    target.dense, -high, high, fixed_thresholds=False
                )
                target.parameter.data.copy_(score)
        assert [p.absorbed for p in installed(s)] == [absorb] * 3
        start = s.masks()
        train(s, 50)
        runs.append(s)
        assert not all(torch.equal(start[name], mask) for name, mask in s.masks().items())
    for a, b in zip(runs[0].targets, runs[1].targets, strict=True):
        assert torch.equal(a.score, b.score)
        assert torch.equal(a.weight, b.weight)
        assert torch.equal(a.dense, b.dense)


@pytest.mark.parametrize("case", WEIGHTS)
def test_finalize_bakes_frozen_weight_times_sign_mask(case: str) -> None:
    s = SignedSupermask(**(({} if "variable" in case else RELATIVE) | WEIGHTS[case])).attach(bare(9, 8, 5))
    train(s, 5)
    codes = [p.sign_mask(t.parameter) for p, t in zip(installed(s), s.targets, strict=True)]
    dense = [t.dense.clone() for t in s.targets]
    assert bool(any((code < 0).any() for code in codes)) == ("binary" not in case)
    masks = s.finalize()
    assert (masks.signed == {}) == ("binary" in case)
    for name, code, weight in zip(masks, codes, dense, strict=True):
        assert torch.equal(s.model.get_parameter(name), weight * code)
        assert torch.equal(masks[name], code != 0)


# ---------------------------------------------------------------------- thresholds


def test_thresholds_do_not_move_and_are_not_computed_again_on_load() -> None:
    s = SignedSupermask(**RELATIVE).attach(bare(9, 8, 5))
    before = [p.high.item() for p in installed(s)]
    train(s, 20)
    assert [p.high.item() for p in installed(s)] == before
    largest = [t.score.abs().max().item() for t in s.targets]
    assert any(abs(0.4 * m - tau) > 1e-3 * tau for m, tau in zip(largest, before, strict=True))  # would have moved
    saved = copy.deepcopy(s.model.state_dict())

    other = SignedSupermask(**RELATIVE).attach(bare(9, 8, 5), seed=1)
    assert [p.high.item() for p in installed(other)] != before
    other.model.load_state_dict(saved)
    assert [p.high.item() for p in installed(other)] == before
    for a, b in zip(s.targets, other.targets, strict=True):
        assert torch.equal(a.weight, b.weight)  # stored scores carry the signs of the saved run


@pytest.mark.parametrize("signed", [True, False])
def test_a_variable_threshold_keeps_and_inverts_the_promised_counts(signed: bool) -> None:
    """k rounded half up, for convolutions and for all else; after every step."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.ELU(), nn.Flatten(), nn.Linear(3, 5, bias=False))
    method = SignedSupermask(threshold_rule="variable", conv_fraction=0.25, linear_fraction=0.3, signed=signed)
    s = method.attach(model)
    optimizer = torch.optim.SGD(s.param_groups(), lr=0.5)
    s.bind(optimizer, total_steps=6)
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        for target, k in zip(s.targets, (14, 5), strict=True):  # .25 * 54 = 13.5, .3 * 15 = 4.5
            code = installed(s)[s.targets.index(target)].sign_mask(target.parameter)
            assert int((code == 1).sum()) == k, step
            assert int((code == -1).sum()) == (k if signed else 0), step
            ranked = target.score.flatten().sort().values
            assert torch.equal(target.score[code == 1].sort().values, ranked[-k:])
            assert not signed or torch.equal(target.score[code == -1].sort().values, ranked[:k])
        optimizer.zero_grad()
        model(torch.randn(4, 2, 3, 3, generator=generator)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(("size", "kept", "inverted"), [(4, 2, 2), (5, 3, 2), (1, 1, 0), (2, 1, 1)])
def test_half_of_each_side_splits_a_layer_without_overlap(size: int, kept: int, inverted: int) -> None:
    s = SignedSupermask(threshold_rule="variable", linear_fraction=0.5).attach(nn.Linear(size, 1, bias=False))
    code = installed(s)[0].sign_mask(s.targets[0].parameter)
    assert (int((code == 1).sum()), int((code == -1).sum())) == (kept, inverted)


def test_ties_at_a_variable_threshold_are_hidden() -> None:
    """Rather too few than an arbitrary choice: a threshold cannot tell equal scores apart."""
    method = SignedSupermask(threshold_rule="variable", linear_fraction=0.25)
    s = method.attach(nn.Linear(4, 2, bias=False), scores={"weight": torch.ones(2, 4)})
    assert s.density() == 0.0


# ---------------------------------------------------------------------- initial state: pinned, saved, given back


def digest(*tensors: Tensor) -> str:
    data = b"".join(t.detach().contiguous().numpy().astype("<f4").tobytes() for t in tensors)
    return hashlib.sha256(data).hexdigest()[:16]


def test_pinned_initial_state() -> None:
    """What seed 7 stands for on a small network; changing it breaks every shipped "seed + mask"."""
    s = SignedSupermask().attach(bare(8, 6, 4), seed=7)
    assert digest(*(t.dense for t in s.targets)) == "b29467cd32fbc9ea"
    assert digest(*(t.score for t in s.targets)) == "f3c646d9d6d67b04"
    other = SignedSupermask(weights=drawn("normal"), scores=drawn("uniform", "elu")).attach(bare(8, 6, 4), seed=7)
    assert digest(*(t.dense for t in other.targets)) == "8a46f886a0bbb5da"
    assert digest(*(t.score for t in other.targets)) == "f8f0370eee54c266"


def test_the_initial_state_needs_no_more_than_seed_and_name() -> None:
    s = SignedSupermask().attach(bare(8, 6, 4, dtype=torch.float64), seed=9)
    for target in s.targets:
        signs = torch.from_numpy(Stream(9, "weights", target.name).signs(target.size)).reshape(target.shape)
        assert torch.equal(target.dense, signs.double() * (math.sqrt(6) / math.sqrt(target.shape[1])))
        b = math.sqrt(6 / sum(target.shape))
        u = torch.from_numpy(Stream(9, "scores", target.name).uniform(target.size)).reshape(target.shape)
        torch.testing.assert_close(target.score, (2 * u - 1) * b, rtol=1e-14, atol=0)


def test_seeds_differ() -> None:
    a, b = (SignedSupermask().attach(bare(8, 6, 4), seed=seed) for seed in (0, 1))
    assert not torch.equal(a.targets[0].dense, b.targets[0].dense)
    assert not torch.equal(a.targets[0].score, b.targets[0].score)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("zoo", ["conv+bn", "tied", "lstm"])
@pytest.mark.parametrize("options", [{}, RELATIVE, {"signed": False}, {"weights": drawn("normal")}])
def test_a_saved_initial_state_trains_bitwise_as_the_drawn_one(
    tmp_path: Path, ending: str, zoo: str, options: dict[str, Any]
) -> None:
    method = SignedSupermask(**options)

    def run(**initial: Any) -> Sparsifier:
        s = method.attach(ZOO[zoo].build(), seed=5, **initial)
        optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        s.bind(optimizer, total_steps=3)
        if not initial:
            save_arrays(tmp_path / f"w{ending}", {t.name: t.dense for t in s.targets})
            save_arrays(tmp_path / f"m{ending}", {t.name: t.score for t in s.targets})
        for step in range(3):
            optimizer.zero_grad()
            x, y = ZOO[zoo].batch(step)
            F.cross_entropy(s.model(x), y).backward()
            optimizer.step()
        return s

    fresh = run()
    given = run(weights=load_arrays(tmp_path / f"w{ending}"), scores=load_arrays(tmp_path / f"m{ending}"))
    for a, b in zip(fresh.targets, given.targets, strict=True):
        assert torch.equal(a.score, b.score)
        assert torch.equal(a.weight, b.weight)
    plain, other = fresh.finalize(), given.finalize()
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    for a, b in zip(fresh.model.parameters(), given.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert {entry.seed for entry in other.signed.values()} <= {None}  # given, so no seed stands for them


def test_only_scores_or_only_weights_may_be_given() -> None:
    s = SignedSupermask().attach(bare(8, 6), seed=1)
    scores, weights = {"0.weight": s.targets[0].score}, {"0.weight": s.targets[0].dense}
    a = SignedSupermask().attach(bare(8, 6), seed=1, scores=scores)
    b = SignedSupermask().attach(bare(8, 6), seed=1, weights={k: v.numpy() for k, v in weights.items()})
    for other in (a, b):
        assert torch.equal(other.targets[0].weight, s.targets[0].weight)
        assert torch.equal(other.targets[0].score, s.targets[0].score)


def test_the_users_own_weights_can_be_kept() -> None:
    model = bare(8, 6)
    mine = model[0].weight.detach().clone()
    s = SignedSupermask().attach(model, weights="keep")
    assert torch.equal(s.targets[0].dense, mine)
    assert "weight kept and frozen, score trained" in s.summary()
    assert s.masks().signed["0.weight"].scale is None


@pytest.mark.parametrize(
    ("initial", "error", "message"),
    [
        (
            {"scores": {"weight": torch.ones(6, 8)}},
            MaskError,
            "the scores do not fit .*missing: 0.weight; unknown: weight",
        ),
        (
            {"scores": {"0.weight": torch.ones(8, 6)}},
            MaskError,
            r"must have shape \(6, 8\), got \(8, 6\); .*layout='tf'",
        ),
        (
            {"weights": {"0.weight": torch.ones(48)}},
            MaskError,
            r"the weights of 0.weight must have shape \(6, 8\), got",
        ),
        ({"weights": "draw"}, AttachError, "weights must be 'redraw', 'keep' or a mapping"),
    ],
)
def test_initial_values_that_do_not_fit(initial: Any, error: type[Exception], message: str) -> None:
    model = bare(8, 6)
    before = model[0].weight.detach().clone()
    with pytest.raises(error, match=message):
        SignedSupermask().attach(model, **initial)
    assert torch.equal(model[0].weight, before)


def test_arrays_in_tensorflows_layout(tmp_path: Path) -> None:
    """(in, out) and (height, width, in, out), as the authors' files have them."""
    zoo = ZOO["conv+bn"]
    s = SignedSupermask().attach(zoo.build(), seed=1)
    order = {"conv1.weight": (2, 3, 1, 0), "conv2.weight": (2, 3, 1, 0), "head.weight": (1, 0)}
    for name, values in (("w.npz", "dense"), ("m.npz", "score")):
        save_arrays(tmp_path / name, {t.name: getattr(t, values).permute(order[t.name]) for t in s.targets})
    weights, scores = (load_arrays(tmp_path / name, layout="tf") for name in ("w.npz", "m.npz"))
    other = SignedSupermask().attach(zoo.build(2), weights=weights, scores=scores)
    for a, b in zip(s.targets, other.targets, strict=True):
        assert torch.equal(a.weight, b.weight)


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize(("options", "extra"), [({}, 0), ({"threshold_rule": "variable"}, 1), ({"signed": False}, 1)])
def test_training_state_is_at_most_one_byte_a_weight_over_dense(options: dict[str, Any], extra: int) -> None:
    model = bare(64, 64)
    s = SignedSupermask(**options).attach(model)
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(t.numel() * t.element_size() for t in tensors)
    assert size - 4 * 64 * 64 <= extra * 64 * 64 + 16
    assert s.targets[0].parameter.numel() == 64 * 64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    for options in WEIGHTS.values():
        s = SignedSupermask(**options).attach(bare(8, 6, dtype=dtype))
        target = s.targets[0]
        assert target.weight.dtype == dtype
        assert target.score.dtype == torch.promote_types(dtype, torch.float32)
        assert torch.equal(target.weight != 0, target.mask)


def test_signs_of_variable_thresholds_follow_from_the_seed_too() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    masks = SignedSupermask(threshold_rule="variable").attach(model, seed=5).masks()
    assert masks.signed["0.weight"].seed == 5
    assert masks.signed["0.weight"].generator == "philox4x32/weights/0.weight"
