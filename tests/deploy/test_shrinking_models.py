"""Shrinking along the traced structure: this package's models, and modules as users write them, with random channels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from supermask import find_structure, models
from supermask.core.groups import Structure
from supermask.deploy import Shrunk, load_shrunk, shrink
from supermask.deploy.patching import named
from supermask.errors import StructureError

from .smaller import example, outputs, random_keeps, shake, without

REDUCED: dict[str, dict[str, Any]] = {
    "fcn": {"hidden": [20, 10]},
    "lenet-300-100": {"hidden": [20, 10]},
    "lenet5-caffe": {},
    "lenet5-dessilbi": {},
    "lstm-s": {"hidden": 5},
    "conv2": {"width": 0.1},
    "conv6": {"width": 0.1, "batchnorm": True},
    "vgg16-bn": {"width": 0.07},
    "vgg19-bn": {"width": 0.07},
    "resnet20": {"width": 0.25},
    "resnet20-signed": {"width": 0.25},
    "resnet56": {"width": 0.25},
    "wrn-16-4": {"width": 0.125},
    "wrn-28-10": {"width": 0.0625},
}
FULL = ("vgg16-bn", "vgg19-bn", "resnet56", "wrn-16-8", "resnet18")


class Concat(nn.Module):
    """Two branches joined, then a convolution; a third reader of one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 5, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(9)
        self.both = nn.Conv2d(9, 6, 3, padding=1)
        self.only = nn.Conv2d(5, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.left(x))
        both = F.relu(self.norm(torch.cat([left, F.relu(self.right(x))], 1)))
        return self.head(F.relu(self.both(both) + self.only(left)).mean((2, 3)))


class Depthwise(nn.Module):
    """An inverted residual block: wide, depthwise, narrow; and a grouped convolution behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        self.wide = nn.Conv2d(4, 8, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.narrow = nn.Conv2d(8, 4, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4)
        self.before = nn.Conv2d(4, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu6(self.norm1(self.wide(x)))
        x = x + self.norm3(self.narrow(F.relu6(self.norm2(self.depthwise(y)))))
        return self.head(F.relu(self.grouped(F.relu(self.before(x)))).amax((2, 3)))


class Shared(nn.Module):
    """One convolution called twice, with a projection around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.project = nn.Conv2d(6, 8, 1, stride=2)
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.inner(F.relu(self.inner(x))))
        return self.head(F.relu(self.down(x) + self.project(x)).mean((2, 3)))


class Sequence(nn.Module):
    """Convolutions over time, then an LSTM that reads their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.lstm = nn.LSTM(8, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = F.relu(self.norm(self.conv(x.flatten(2)))).transpose(1, 2)
        return self.head(self.lstm(rows)[0][:, -1])


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a skip that is joined; PReLU, which keeps zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.PReLU(6)
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 5, 2, stride=2)
        self.last = nn.Conv2d(11, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.act(self.first(x))
        return self.last(torch.cat([skip, F.relu(self.up(F.relu(self.down(skip))))], 1))


class Transformer(nn.Module):
    """torch's own encoder block: its hidden layer can lose units, its heads and its stream cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embed(x.flatten(2).transpose(1, 2))).mean(1))


class OwnHeads(nn.Module):
    """Attention of linear layers over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.query, self.key, self.value = (nn.Linear(3, 8) for _ in range(3))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)
        q, k, v = (f(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1)


USERS: dict[str, type[nn.Module]] = {
    cls.__name__: cls for cls in (Concat, Depthwise, Shared, Sequence, UNet, Transformer, OwnHeads)
}
FOLLOWS = {"OwnHeads": {"heads": "query"}}


@cache
def built(name: str, full: bool = False) -> tuple[nn.Module, Tensor, Structure]:
    """A model, an example and the structure."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = USERS[name]() if name in USERS else models.build(name, **({} if full else REDUCED[name]))
        shake(model)
    shape = (3, 8, 8) if name in USERS else models.MODELS[name].input_shape
    if name == "resnet18":
        shape = (3, 64, 64)
    x = example(2, shape)
    return model, x, find_structure(model, x)


def check(name: str, keeps: dict[str, Tensor], *, full: bool = False, examples: int = 4) -> Shrunk:
    """Shrink, and compare with the model's own channels set to zero."""
    model, x, structure = built(name, full)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    shrunk = shrink(model, x, keeps=keeps, structure=structure, zero=True, follows=FOLLOWS.get(name), examples=examples)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for key, tensor in named(shrunk.model).items():
        assert tuple(tensor.shape) == structure.lengths(key, keeps)
    assert shrunk.certificate.max_difference <= 1e-5
    assert shrunk.params.after == sum(p.numel() for p in shrunk.model.parameters())
    assert {n: shrunk.groups[n].after for n in keeps} == {n: int(keep.sum()) for n, keep in keeps.items()}
    return shrunk


@pytest.mark.parametrize("name", REDUCED)
def test_our_models(name: str) -> None:
    structure = built(name)[2]
    assert structure.removable()
    for seed, share in ((0, 0.5), (1, 0.9)):
        check(name, random_keeps(structure, seed, share))


@pytest.mark.parametrize("name", USERS)
@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0))
def test_modules_as_users_write_them(name: str, seed: int, share: float) -> None:
    check(name, random_keeps(built(name)[2], seed, share))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "vgg16-bn", "wrn-16-4", "lenet5-caffe"])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0))
def test_our_models_with_random_channels(name: str, seed: int, share: float) -> None:
    check(name, random_keeps(built(name)[2], seed, share), examples=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size(name: str) -> None:
    structure = built(name, True)[2]
    shrunk = check(name, random_keeps(structure, 0), full=True, examples=2)
    assert shrunk.macs is not None
    assert shrunk.macs.ratio < 0.6


def test_the_groups_of_users_modules() -> None:
    removable = {name: {g.name for g in built(name)[2].removable()} for name in USERS}
    assert removable["Concat"] == {"left", "right", "both"}
    assert removable["Depthwise"] == {"wide", "stem", "before"}
    assert removable["Shared"] == {"stem", "down"}
    assert removable["Sequence"] == {"conv", "lstm"}
    assert removable["UNet"] == {"first", "down", "up"}
    assert removable["Transformer"] == {"block.linear1"}
    assert built("OwnHeads")[2]["query"].channels == 4


def test_attributes_of_every_kind_follow() -> None:
    small = check("Depthwise", random_keeps(built("Depthwise")[2], 3)).model
    assert small.depthwise.groups == small.depthwise.in_channels == small.depthwise.out_channels
    assert small.depthwise.weight.shape[:2] == (small.depthwise.groups, 1)
    assert small.grouped.in_channels == 2 * small.grouped.groups
    up = check("UNet", random_keeps(built("UNet")[2], 3)).model
    assert (up.up.in_channels, up.up.out_channels) == tuple(up.up.weight.shape[:2])
    assert up.act.num_parameters == len(up.act.weight) == up.first.out_channels
    rows = check("Sequence", {"conv": without(8, 1, 2)}).model
    assert rows.lstm.input_size == rows.conv.out_channels == rows.norm.num_features == 6
    rows = check("Sequence", {"lstm": without(5, 0)}).model
    assert rows.lstm.hidden_size == rows.head.in_features == 4
    assert rows.lstm.weight_hh_l0.shape == (16, 4)
    heads = check("OwnHeads", {"query": without(4, 2)}).model
    assert (heads.heads, heads.query.out_features, heads.out.in_features) == (3, 6, 6)


def test_heads_of_torchs_attention_are_refused_by_name() -> None:
    model, x, structure = built("Transformer")
    kept = [group for group in structure if not group.removable]
    assert any("block" in member.tensor for group in kept for member in group.members)
    with pytest.raises(StructureError, match="no channel of .* can be removed"):
        shrink(model, x, keeps={kept[0].name: without(kept[0].channels, 0)}, structure=structure, zero=True)


def test_zeros_of_a_trained_model_are_found() -> None:
    model, x, structure = built("resnet20")
    model = copy.deepcopy(model)
    keeps = random_keeps(structure, 4, 0.4)
    with torch.no_grad():
        tensors = named(model)
        for name, keep in keeps.items():
            for member in structure[name].of_role("out", "norm"):
                if member.tensor in structure.shapes:
                    tensors[member.tensor].index_fill_(member.axis, member.entries[~keep].flatten(), 0.0)
    shrunk = shrink(model, x)  # traces it itself
    found = {name: change.after for name, change in shrunk.groups.items()}
    assert found == {name: int(keep.sum()) for name, keep in keeps.items()}
    torch.testing.assert_close(outputs(shrunk.model, x), outputs(model, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["wrn-16-4", "UNet"])
def test_files_of_traced_models(name: str, tmp_path: Any) -> None:
    shrunk = check(name, random_keeps(built(name)[2], 2))
    make: Callable[[], nn.Module] = USERS[name] if name in USERS else lambda: models.build(name, **REDUCED[name])
    back = load_shrunk(shrunk.save(tmp_path / "small.safetensors"), make)
    assert repr(back) == repr(shrunk.model)
    x = built(name)[1]
    assert torch.equal(outputs(back, x), outputs(shrunk.model, x))
