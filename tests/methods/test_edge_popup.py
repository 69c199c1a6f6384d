from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from supermask import Initializer, Method, SignedSupermask
from supermask.core.select import SCOPES, masks_by_score
from supermask.core.targets import Target
from supermask.errors import HyperparameterError
from supermask.methods.edge_popup import EdgePopup
from supermask.methods.gem_miner import GemMiner
from supermask.methods.iterand import IteRand
from supermask.methods.mpt import MPT
from supermask.methods.multicoated import MulticoatedSupermask
from supermask.methods.zhou import ZhouSupermask
from supermask.tensors.topk import keep_count

from .helpers import bare, batch, train

CONVS = {
    "conv2": [(64, 3), (64, 64)],
    "conv4": [(64, 3), (64, 64), (128, 64), (128, 128)],
    "conv6": [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256)],
    "conv8": [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (512, 256), (512, 512)],
}
SIZES = {"fcn": 266_200, "conv2": 4_300_992, "conv4": 2_425_024, "conv6": 2_261_184, "conv8": 5_275_840}
SINGLE = [  # those whose weights remain where a score ranks high
    EdgePopup(density=0.4),
    EdgePopup(density=0.4, absolute=False),
    MPT(density=0.4),
    IteRand(density=0.4),
    MulticoatedSupermask(density=0.4),
]


def layers(network: str) -> list[Target]:
    """Targets with the shapes of a network, and nothing behind them."""
    if network == "fcn":
        shapes: list[tuple[int, ...]] = [(300, 784), (100, 300), (10, 100)]
    else:
        convs = CONVS[network]
        side = 32 // 2 ** (len(convs) // 2)
        shapes = [(a, b, 3, 3) for a, b in convs]
        shapes += [(256, convs[-1][0] * side * side), (256, 256), (10, 256)]
    return [Target(f"{i}.weight", (), "linear", torch.Size(shape), True) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("network", SIZES)
def test_exact_counts_on_the_papers_layers(network: str) -> None:
    """All layers of all networks, with ties (16 levels of score in every second layer)."""
    targets = layers(network)
    assert sum(t.size for t in targets) == SIZES[network]
    scores = [torch.rand(t.shape, generator=torch.Generator().manual_seed(i)) for i, t in enumerate(targets)]
    scores = [(16 * score).floor() if i % 2 else score for i, score in enumerate(scores)]
    for density in (0.01, 0.05, 0.1, 0.3, 0.5, 0.9):
        masks = masks_by_score(targets, scores, density, "uniform")
        counts = [int(torch.count_nonzero(mask)) for mask in masks]
        assert sum(counts) == math.floor(density * SIZES[network] + 0.5)
        for mask, score, count, target in zip(masks, scores, counts, targets, strict=True):
            assert abs(count - density * target.size) < 1
            assert score[mask].min() >= score[~mask].max()


@pytest.mark.parametrize("absolute", [True, False])
def test_the_kept_edges_and_the_gradient_by_hand(absolute: bool) -> None:
    model = bare(3, 2, dtype=torch.float64)
    weights = {"0.weight": [[0.5, -1.0, 2.0], [1.0, 1.5, -0.5]]}
    scores = {"0.weight": [[0.3, -0.9, 0.1], [-0.2, 0.4, 0.0]]}
    s = EdgePopup(density=0.5, absolute=absolute).attach(model, weights=weights, scores=scores)
    target = s.targets[0]
    kept = [[1, 1, 0], [0, 1, 0]] if absolute else [[1, 0, 1], [0, 1, 0]]
    assert target.mask.int().tolist() == kept
    w = torch.tensor(weights["0.weight"], dtype=torch.float64)
    assert torch.equal(target.weight, w * target.mask)
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    model(x).sum().backward()  # dL/dweight = x in both rows
    expected = x * w * (torch.tensor(scores["0.weight"]).sign() if absolute else 1.0)
    assert target.parameter.grad is not None
    assert torch.equal(target.parameter.grad, expected)


def test_initial_weights_and_scores() -> None:
    """Conv4's second layer at 30 %: c = 0.0589, 0.1076 scaled, 0.0704 with the published bug; scores within 1/24."""
    expected = {"none": 0.0589, "kept": 0.1076, "pruned-bug": 0.0704}
    for scale, constant in expected.items():
        s = EdgePopup(density=0.3, scale=scale).attach(nn.Conv2d(64, 64, 3, bias=False))  # type: ignore[arg-type]
        magnitudes = s.targets[0].dense.abs()
        assert float(magnitudes.min()) == float(magnitudes.max()) == pytest.approx(constant, abs=5e-5)
        assert 0.99 / 24 < float(s.targets[0].score.abs().max()) <= 1 / 24
    normal = Initializer(distribution="normal", rule="he")
    s = EdgePopup(weights=normal).attach(nn.Conv2d(64, 64, 3, bias=False))
    assert float(s.targets[0].dense.std()) == pytest.approx(0.0589, rel=0.02)


def test_the_bug_has_no_scale_for_a_dense_network() -> None:
    with pytest.raises(HyperparameterError, match="density must be below 1"):
        EdgePopup(density=1.0, scale="pruned-bug")


@pytest.mark.parametrize("scope", SCOPES)
def test_the_density_is_met_at_every_step(scope: Any) -> None:
    s = EdgePopup(density=0.37, scope=scope).attach(bare(9, 8, 5))
    optimizer = torch.optim.SGD(s.param_groups(), lr=1.0)
    s.bind(optimizer, total_steps=4)
    for step in range(4):
        assert s.remaining() == keep_count(0.37, 112)
        train(s, 1, first=step, optimizer=optimizer)


def test_masks_follow_the_step_not_the_forward() -> None:
    s = EdgePopup(density=0.3).attach(bare(9, 8, 5))
    train(s, 3)
    for target in s.targets:
        ranked = masks_by_score([target], [target.score.abs()], int(target.mask.sum()) / target.size, "global")
        assert torch.equal(target.mask, ranked[0])


def test_a_network_of_all_its_weights_learns_nothing_and_one_weight_says_nothing() -> None:
    """The author's remark: best in between. One weight of two layers leaves a constant output, so chance."""
    centres = torch.eye(4).repeat(1, 3) * 2.0
    y = torch.arange(64) % 4
    x = centres[y] + 0.3 * torch.randn(64, 12, generator=torch.Generator().manual_seed(0))

    def accuracy(density: float) -> tuple[float, bool]:
        model = bare(12, 40, 4)
        s = EdgePopup(density=density).attach(model)
        first = model(x).detach()
        optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9)
        s.bind(optimizer, total_steps=60)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        last = model(x).detach()
        return float((last.argmax(1) == y).float().mean()), torch.equal(first, last)

    assert accuracy(1 / 640)[0] == 0.25
    assert accuracy(1.0)[1]
    assert accuracy(1.0)[0] < 0.7
    assert accuracy(0.5)[0] > 0.95


@pytest.mark.parametrize("method", SINGLE, ids=lambda m: m.name)
@settings(max_examples=10, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 99))
def test_permuting_outputs_permutes_the_mask(method: Method, order: list[int], seed: int) -> None:
    score = torch.randn(6, 7, generator=torch.Generator().manual_seed(seed))
    weight = torch.randn(6, 7, generator=torch.Generator().manual_seed(seed + 100))

    def attach(rows: list[int]) -> Tensor:
        s = method.attach(nn.Linear(7, 6, bias=False), weights={"weight": weight[rows]}, scores={"weight": score[rows]})
        return s.targets[0].weight.detach()

    torch.testing.assert_close(attach(list(order)), attach(list(range(6)))[list(order)], rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", SINGLE, ids=lambda m: m.name)
def test_memory_format_and_precision_do_not_change_the_mask(method: Method) -> None:
    """Scores that every format represents exactly, with ties."""
    score = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1)).mul(16).round().div(16)
    masks = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            model = nn.Conv2d(4, 8, 3, bias=False).to(dtype).to(memory_format=memory_format)
            s = method.attach(model, scores={"weight": score})
            masks.append((s.targets[0].weight != 0, s.targets[0].mask))
    for used, mask in masks:
        assert torch.equal(mask, masks[0][1])
        assert torch.equal(used, mask)
    assert int(masks[0][1].sum()) == keep_count(0.4, 288)


@pytest.mark.parametrize("method", SINGLE, ids=lambda m: m.name)
def test_compiled_code_uses_the_same_mask(method: Method) -> None:
    s = method.attach(bare(9, 8, 5))
    x, _ = batch(s.model)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own notices about its compiler
        torch._dynamo.reset()
        compiled = torch.compile(s.model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), s.model(x))


def test_batch_norm_is_not_trained_but_counts() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4))
    s = EdgePopup().attach(model)
    assert [p for group in s.param_groups() for p in group["params"]] == [s.targets[0].parameter]
    model(torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0)))
    assert int(model[1].num_batches_tracked) == 1  # type: ignore[arg-type]
    assert bool(model[1].running_mean.any())  # type: ignore[union-attr]
    s.finalize()
    assert model[1].weight.requires_grad
    assert len(EdgePopup(batchnorm="trained").attach(model).param_groups()[0]["params"]) == 3


def test_a_scale_is_that_of_the_layers_own_density() -> None:
    """Erdős-Rényi leaves the second layer dense; uniform and global scales are those of the whole."""
    constants = [math.sqrt(2 / 100), math.sqrt(2 / 50)]
    for scope in SCOPES:
        s = EdgePopup(density=0.1, scope=scope, scale="kept").attach(bare(100, 50, 2))
        for target, constant in zip(s.targets, constants, strict=True):
            share = int(target.mask.sum()) / target.size if scope in ("erk", "er") else 0.1
            assert float(target.dense.abs().max()) == pytest.approx(constant / math.sqrt(share), rel=1e-6)
    assert int(EdgePopup(density=0.1, scope="erk").attach(bare(100, 50, 2)).targets[1].mask.sum()) == 100
    with pytest.raises(
        HyperparameterError, match="edge-popup: scale 'pruned-bug' .* 2.weight stays dense under scope erk"
    ):
        EdgePopup(density=0.1, scope="erk", scale="pruned-bug").attach(bare(100, 50, 2))


@pytest.mark.parametrize("cls", [EdgePopup, MPT, MulticoatedSupermask])
def test_given_weights_are_not_scaled(cls: Any) -> None:
    model = bare(9, 8, 5)
    start = [p.detach().clone() for p in model.parameters()]
    given = dict(model.named_parameters())
    for weights in ("keep", {name: p.detach().clone() for name, p in given.items()}):
        s = cls(density=0.4, scale="kept").attach(bare(9, 8, 5), weights=weights)
        assert all(torch.equal(target.dense, old) for target, old in zip(s.targets, start, strict=True))


def test_an_empty_layer_is_noted() -> None:
    scores = {"0.weight": torch.ones(8, 9), "2.weight": torch.full((5, 8), 0.1)}
    s = EdgePopup(density=0.5, scope="global").attach(bare(9, 8, 5), scores=scores)
    assert s.notes == ["no weight of 2.weight remains before the first step"]
    s.finalize()
    assert s.notes[1:] == ["no weight of 2.weight remains at the end"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "method", [*SINGLE, ZhouSupermask(), SignedSupermask(), GemMiner(density=0.4, unflag=False)], ids=lambda m: m.name
)
def test_small_steps_add_up_in_half_precision(method: Method, dtype: torch.dtype) -> None:
    """A thousandth of a score is less than bfloat16 can add to it; the model still computes in its own precision."""
    model = bare(9, 8, 5, dtype=dtype)
    s = method.attach(model)
    target = s.targets[0]
    assert target.weight.dtype == dtype
    before = target.parameter.detach().clone()
    assert before.dtype == torch.float32
    x, y = batch(model)
    F.cross_entropy(model(x).float(), y).backward()
    gradient = target.parameter.grad
    assert gradient is not None
    assert gradient.dtype == torch.float32
    moved = before - 1e-4 * gradient
    optimizer = torch.optim.SGD(s.param_groups(), lr=1e-4)
    s.bind(optimizer, total_steps=9)
    optimizer.step()
    if not isinstance(method, GemMiner):  # whose penalty has a gradient as well
        torch.testing.assert_close(target.parameter.detach(), moved, rtol=2e-7, atol=0)
    assert not torch.equal(target.parameter, before)
    s.finalize()
    assert model[0].weight.dtype == dtype
