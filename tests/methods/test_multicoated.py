from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from supermask import Initializer
from supermask.core.select import selected
from supermask.errors import HyperparameterError
from supermask.methods.edge_popup import EdgePopup
from supermask.methods.multicoated import MulticoatedSupermask

from .helpers import bare, train


def codes(s):  # type: ignore[no-untyped-def]
    return [selected(target).codes for target in s.targets]


def test_the_shipped_three_coats() -> None:
    """Pruned shares .7, .9212 and .9685 of 10,000 weights; c = sqrt(2 / (fan_in (1 - p1)))."""
    s = MulticoatedSupermask().attach(nn.Linear(100, 100, bias=False))
    counts = [int((codes(s)[0] >= coat).sum()) for coat in (1, 2, 3)]
    assert counts == [3000, 788, 315]
    c = math.sqrt(2 / (100 * 0.3))
    magnitudes = s.targets[0].weight.abs().unique()
    torch.testing.assert_close(magnitudes, torch.tensor([0.0, c, 2 * c, 3 * c]), rtol=1e-6, atol=0)
    assert s.remaining() == 3000


def test_forward_and_gradient_by_hand() -> None:
    model = bare(3, 2, dtype=torch.float64)
    weights = {"0.weight": [[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]]}
    scores = {"0.weight": [[0.3, -0.9, 0.1], [-0.8, 0.4, 0.0]]}
    method = MulticoatedSupermask(density=4 / 6, inner=(0.5, 0.25), scale="none")
    s = method.attach(model, weights=weights, scores=scores)
    target = s.targets[0]
    assert codes(s)[0].tolist() == [[1, 3, 0], [2, 1, 0]]
    w = torch.tensor(weights["0.weight"], dtype=torch.float64)
    assert torch.equal(target.weight, w * codes(s)[0])
    assert torch.equal(target.dense, w)
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    model(x).sum().backward()
    assert target.parameter.grad is not None
    assert torch.equal(target.parameter.grad, 3 * x * w * torch.tensor(scores["0.weight"]).sign())


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.2, 1.0),
    st.lists(st.floats(0.2, 1.0), max_size=3),
    st.integers(0, 99),
    st.booleans(),
)
def test_coats_are_nested_and_exact(density: float, shares: list[float], seed: int, ties: bool) -> None:
    inner = tuple(sorted(shares, reverse=True))
    model = bare(5, 3, 7)
    score = {
        name: torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        for name, p in model.named_parameters()
    }
    if ties:
        score = {name: value.round() for name, value in score.items()}
    s = MulticoatedSupermask(density=density, inner=inner).attach(model, scores=score)
    for coat, share in enumerate((1.0, *inner), start=1):
        count = sum(int((code >= coat).sum()) for code in codes(s))
        assert count == math.floor(share * density * 36 + 0.5)
    for code, target in zip(codes(s), s.targets, strict=True):  # who has more coats has the higher score
        rank = target.score.abs()
        for coat in range(1, len(inner) + 2):
            inside, outside = rank[code >= coat], rank[code < coat]
            assert not len(inside) or not len(outside) or inside.min() >= outside.max()


def test_one_coat_is_edge_popup_with_its_mask() -> None:
    initializers = {"weights": Initializer(distribution="normal", rule="he"), "batchnorm": "trained", "scale": "kept"}
    scores = MulticoatedSupermask.scores
    both = [
        MulticoatedSupermask(density=0.4, inner=(), **initializers).attach(bare(9, 8, 5), seed=3),
        EdgePopup(density=0.4, scores=scores, **initializers).attach(bare(9, 8, 5), seed=3),
    ]
    for s in both:
        train(s, 5)
    for coated, popped in zip(*(s.targets for s in both), strict=True):
        assert torch.equal(coated.score, popped.score)
        assert torch.equal(coated.mask, popped.mask)
        assert torch.equal(coated.weight, popped.weight)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ((1.0,) * 127, "inner must have at most 126 shares, got 127"),
        ((0.2, 0.5), "inner must not increase"),
        ((1.5,), "inner must be a number in"),
        ([0.5], "inner must be a tuple"),
    ],
)
def test_bad_coats(inner: object, message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        MulticoatedSupermask(inner=inner)  # type: ignore[arg-type]


def test_as_many_coats_as_a_byte_counts() -> None:
    s = MulticoatedSupermask(density=0.5, inner=(1.0,) * 126).attach(bare(9, 8, 5))
    assert {int(v) for code in codes(s) for v in code.unique()} == {0, 127}


def test_a_coat_of_less_than_one_weight_is_refused_by_name() -> None:
    message = (
        r"inner 0.01 of density 0.3 is less than one of 112 weights; leave this coat out, or raise it to 0.0149 or more"
    )
    with pytest.raises(HyperparameterError, match=message):
        MulticoatedSupermask(inner=(0.5, 0.01)).attach(bare(9, 8, 5))
    s = MulticoatedSupermask(inner=(0.5, 0.0149)).attach(bare(9, 8, 5))
    assert sum(int((code == 3).sum()) for code in codes(s)) == 1
