from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from supermask import SignedSupermask, models
from supermask.core.groups import Structure
from supermask.core.tracing import find_structure
from supermask.errors import MaskError, StructureError
from supermask.measure.macs import CONVENTION, author_flops, macs


def counts(model: nn.Module, shape: tuple[int, ...], masks: dict[str, Tensor] | None = None) -> tuple[int, int]:
    result = macs(model, shape, masks or {})
    assert list(result) == ["dense", "remaining", "layers", "convention"]
    assert result["convention"] == CONVENTION
    assert [sum(parts) for parts in zip(*result["layers"].values())] in ([result["dense"], result["remaining"]], [])
    return result["dense"], result["remaining"]


def first(shape: tuple[int, ...], remaining: int) -> Tensor:
    return (torch.arange(torch.Size(shape).numel()) < remaining).reshape(shape)


def test_fcn_is_its_weights() -> None:
    assert counts(models.build("fcn"), (1, 28, 28)) == (266_200, 266_200)
    assert counts(models.build("fcn"), (784,)) == (266_200, 266_200)


def test_conv2_by_hand() -> None:
    # two 3x3 convolutions at 32x32, pool, then linear layers: each weight once
    by_hand = (3 * 64 * 9 + 64 * 64 * 9) * 32 * 32 + (64 * 16 * 16) * 256 + 256 * 256 + 256 * 10
    assert by_hand == 43_780_608
    assert counts(models.build("conv2"), (3, 32, 32)) == (by_hand, by_hand)
    assert counts(models.build("conv2", batchnorm=True), (3, 32, 32))[0] == by_hand


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(3, 8, 3, stride=2), (3, 9, 9), 8 * 3 * 9 * 16),  # 4x4 outputs
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 9, 9), 8 * 3 * 9 * 25),  # 5x5, zeros counted
        (nn.Conv2d(4, 8, 3, groups=4, padding=1), (4, 5, 6), 8 * 1 * 9 * 30),
        (nn.Conv2d(4, 8, (1, 3), dilation=2), (4, 5, 9), 8 * 4 * 3 * 5 * 5),  # 9 - 2 * 2 = 5 columns
        (nn.Conv1d(2, 3, 5), (2, 12), 3 * 2 * 5 * 8),
        (nn.Conv3d(1, 2, 2), (1, 3, 3, 3), 2 * 8 * 8),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 4 * 6 * 9 * 25),  # one use for each input position
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, padding=1), (4, 5, 5), 4 * 3 * 9 * 25),
        (nn.ConvTranspose1d(2, 3, 4), (2, 7), 2 * 3 * 4 * 7),
        (nn.Linear(6, 5), (6,), 30),
        (nn.Linear(6, 5), (7, 6), 7 * 30),  # seven vectors
    ],
    ids=lambda value: repr(value) if isinstance(value, nn.Module) else "",
)
def test_single_layers_by_hand(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert counts(layer, shape) == (expected, expected)
    mask = first(tuple(layer.weight.shape), 5)  # type: ignore[operator,arg-type]
    assert counts(layer, shape, {"weight": mask}) == (expected, expected // mask.numel() * 5)


def test_masks_count_layer_by_layer() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    masks = {"0.weight": first((2, 1, 3, 3), 7), "0.bias": first((2,), 1)}
    # 18 weights at 2x2 positions and a linear layer without a mask; the bias does not count
    assert counts(model, (1, 4, 4), masks) == (18 * 4 + 24, 7 * 4 + 24)
    masks["3.weight"] = torch.zeros(3, 8, dtype=torch.bool)
    assert counts(model, (1, 4, 4), masks) == (18 * 4 + 24, 7 * 4)


class Twice(nn.Module):
    """One layer called twice, and another that shares its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(self.a(x)))
        return out


def test_shared_layers_count_at_every_use() -> None:
    assert counts(Twice(), (4,), {"a.weight": first((4, 4), 3)}) == (48, 9)
    assert counts(Twice(), (4,), {"b.weight": first((4, 4), 3)}) == (48, 9)


def test_a_finalized_supermask() -> None:
    model = models.build("fcn", inputs=16, hidden=(8,), classes=3)
    sparsifier = SignedSupermask().attach(model)
    with pytest.raises(MaskError, match=r"counted on a plain model; call finalize\(\) first"):
        macs(model, (16,), {})
    masks = sparsifier.finalize()
    assert counts(model, (16,), dict(masks)) == (16 * 8 + 8 * 3, masks.remaining())


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.matrix = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x) @ self.matrix
        return out


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.fc.weight)


@pytest.mark.parametrize(
    ("model", "shape", "names"),
    [
        (nn.LSTM(3, 5, batch_first=True), (7, 3), "weight_ih_l0, weight_hh_l0"),
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            (5, 8),
            "self_attn.in_proj_weight, self_attn.out_proj.weight",
        ),
        (Own(), (4,), "matrix"),
        (Hidden(), (4,), "fc.weight"),
    ],
    ids=["lstm", "attention", "own", "functional"],
)
def test_weights_that_are_used_otherwise_are_named(model: nn.Module, shape: tuple[int, ...], names: str) -> None:
    result = macs(model, shape, {})
    assert (result["dense"], result["remaining"], result["layers"]) == (None, None, {})
    why = f"{CONVENTION}; not counted here: no convolution or linear layer that is called uses {names}"
    assert result["convention"].startswith(why)


def test_normalisation_and_embeddings_are_free() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm((5, 6)), nn.Flatten(), nn.Linear(30, 2))
    assert counts(model, (5, 6)) == (5 * 36 + 60, 5 * 36 + 60)


def test_a_model_without_layers_counts_nothing() -> None:
    assert counts(nn.Flatten(), (2, 3)) == (0, 0)


def test_a_model_that_takes_no_batch_of_one_is_no_error() -> None:
    result = macs(nn.Linear(3, 2), (4,), {})
    assert result["dense"] is None
    assert "not counted here: the model takes no batch of one (RuntimeError: mat1 and mat2" in result["convention"]


def test_single_layers_of_a_network() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[4].weight = model[3].weight  # used twice
    masks = {"0.weight": first((2, 1, 3, 3), 5), "3.weight": first((2, 2), 1)}
    assert macs(model, (1, 4, 4), masks)["layers"] == {
        "0.weight": [18 * 4, 5 * 4],
        "2.weight": [16, 16],
        "3.weight": [2 * 4, 2 * 1],
    }


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(8, 2)).train()
    model[1].eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    counts(model, (1, 4, 4))
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_masks_must_fit() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(MaskError, match="there is a mask of a.weight, but the model has no such parameter"):
        macs(model, (3,), {"a.weight": torch.ones(2, 3, dtype=torch.bool)})
    with pytest.raises(MaskError, match=r"mask of weight must be bool of shape \(2, 3\), got torch.bool of shape \(3,"):
        macs(model, (3,), {"weight": torch.ones(3, 2, dtype=torch.bool)})
    with pytest.raises(MaskError, match="got torch.float32"):
        macs(model, (3,), {"weight": torch.ones(2, 3)})


@functools.cache
def structure_of(name: str, **options: object) -> Structure:
    return find_structure(models.build(name, **options), torch.zeros(1, 3, 32, 32))


def test_the_count_of_maskconvnets_authors_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    )
    found = find_structure(net, torch.zeros(1, 3, 8, 8))
    entries, pooled = 4 * 36, 4 * 9
    dense = 2 * (27 * entries + 72) + entries + 2 + 2 * entries + 4 * pooled  # biases, norm, ReLU, pool
    assert author_flops(found)({}) == dense
    half = {"0": torch.tensor([True, False, False, True])}
    assert author_flops(found)(half) == (dense - 2) / 2 + 2
    assert author_flops(found, elementwise=3)({}) == dense + entries
    assert author_flops(found, multiply_add=1, elementwise=1, pools=())({}) == 27 * entries + 72 + 2 * entries + 2
    with pytest.raises(StructureError, match="it knows no activations"):
        author_flops(Structure((), {"w": (2, 3)}, {}, {"w": 1}))


def test_the_published_counts_of_maskconvnet() -> None:
    """Table 1 of the paper prints 7.97e8, 3.15e8, 2.52e8; the first is known to the last digit."""
    assert author_flops(structure_of("vgg19-bn"))({}) == 797_001_738
    vgg16 = find_structure(models.build("vgg16-bn", hidden=[512]), torch.zeros(1, 3, 32, 32))
    assert author_flops(vgg16, multiply_add=1, elementwise=4)({}) == pytest.approx(3.147e8, abs=5e4)
    assert author_flops(structure_of("resnet56", shortcut="average"))({}) == pytest.approx(2.520e8, abs=5e4)


@pytest.mark.slow
def test_the_published_counts_of_maskconvnets_large_networks() -> None:
    assert author_flops(structure_of("resnet164"))({}) == pytest.approx(5.016e8, abs=5e4)
    assert author_flops(structure_of("wrn-28-10", stride_conv=2), elementwise=1)({}) == pytest.approx(
        1.1905e10, abs=5e5
    )


@pytest.mark.parametrize("name", ["vgg16-bn", "resnet20", "wrn-16-4", "resnet164"])
def test_dense_counts_agree_with_torch(name: str) -> None:
    model = models.build(name, width=0.25).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    assert counts(model, (3, 32, 32))[0] == counter.get_total_flops() / 2
