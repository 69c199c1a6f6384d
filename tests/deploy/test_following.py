"""Attributes follow the tensors of every module of torch that can, and the others are refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from supermask.core.groups import ChannelGroup, Member
from supermask.deploy.following import follow
from supermask.errors import StructureError

from .smaller import own, structure_of, without


def changes(module: nn.Module, channels: int, members: tuple[Member, ...], *gone: int) -> dict[str, tuple[int, int]]:
    """What follows in a module when channels of its one group go."""
    structure = structure_of(nn.Sequential(module), (ChannelGroup("all", channels, members),), {})
    return follow(nn.Sequential(module), structure, {"all": without(channels, *gone)}).get("0", {})


def rows(tensor: str, channels: int, axis: int = 0, width: int = 1) -> Member:
    return own(f"0.{tensor}", channels, axis, "out", width)


def test_convolutions() -> None:
    plain = nn.Conv2d(3, 8, 3)
    assert changes(plain, 8, (rows("weight", 8), rows("bias", 8)), 1) == {"out_channels": (8, 7)}
    assert changes(plain, 3, (rows("weight", 3, 1),), 1) == {"in_channels": (3, 2)}
    turned = nn.ConvTranspose1d(4, 6, 2)
    assert changes(turned, 6, (rows("weight", 6, 1), rows("bias", 6)), 0, 2) == {"out_channels": (6, 4)}
    grouped = nn.Conv3d(8, 12, 1, groups=4)
    whole = (rows("weight", 4, 0, 3), rows("bias", 4, 0, 3))
    assert changes(grouped, 4, whole, 2) == {"in_channels": (8, 6), "out_channels": (12, 9), "groups": (4, 3)}
    one_of_each = torch.arange(12).view(4, 3).T.contiguous()
    members = tuple(Member(f"0.{name}", 0, one_of_each, "out") for name in ("weight", "bias"))
    assert changes(grouped, 3, members, 1) == {"out_channels": (12, 8)}
    with pytest.raises(StructureError, match=r"0 \(Conv3d\) .* different numbers of channels: \[2, 3, 3, 3\]"):
        changes(grouped, 12, (rows("weight", 12), rows("bias", 12)), 1)
    with pytest.raises(StructureError, match=r"bias would have the shape \(8,\), its other tensors need \(7,\)"):
        changes(plain, 8, (rows("weight", 8),), 1)


def test_linear_layers_norms_and_embeddings() -> None:
    assert changes(nn.Linear(4, 5), 4, (rows("weight", 4, 1),), 0) == {"in_features": (4, 3)}
    assert changes(nn.Bilinear(2, 3, 4), 3, (rows("weight", 3, 2),), 0) == {"in2_features": (3, 2)}
    statistics = tuple(rows(name, 5) for name in ("running_mean", "running_var"))
    assert changes(nn.BatchNorm1d(5, affine=False), 5, statistics, 0) == {"num_features": (5, 4)}
    affine = (rows("weight", 5), rows("bias", 5))
    assert changes(nn.InstanceNorm2d(5, affine=True), 5, affine, 0, 1) == {"num_features": (5, 3)}
    with pytest.raises(StructureError, match=r"running_mean would have the shape \(5,\)"):
        changes(nn.BatchNorm2d(5), 5, affine, 0)
    assert changes(nn.PReLU(5), 5, (rows("weight", 5),), 0) == {"num_parameters": (5, 4)}
    assert changes(nn.Embedding(9, 4), 4, (rows("weight", 4, 1),), 0) == {"embedding_dim": (4, 3)}
    with pytest.raises(StructureError, match="its rows are looked up by number"):
        changes(nn.Embedding(9, 4), 9, (rows("weight", 9),), 0)


def test_norms_over_several_channels() -> None:
    norm = nn.GroupNorm(3, 6)
    assert changes(norm, 3, (rows("weight", 3, 0, 2), rows("bias", 3, 0, 2)), 1) == {
        "num_channels": (6, 4),
        "num_groups": (3, 2),
    }
    with pytest.raises(
        StructureError, match=r"a group of 2 channels has one mean, so only whole groups can go; kept: \[1, 2"
    ):
        changes(norm, 6, (rows("weight", 6), rows("bias", 6)), 1)
    for whole in (nn.LayerNorm(6), nn.RMSNorm(6)):
        affine = tuple(rows(name, 6) for name, _ in whole.named_parameters())
        with pytest.raises(StructureError, match="its mean is over all channels"):
            changes(whole, 6, affine, 1)


def test_recurrent_layers() -> None:
    lstm = nn.LSTM(5, 4, 2, bidirectional=True)
    inputs = tuple(rows(f"weight_ih_l0{end}", 5, 1) for end in ("", "_reverse"))
    assert changes(lstm, 5, inputs, 0) == {"input_size": (5, 4)}
    with pytest.raises(StructureError, match="weight_ih_l0_reverse would have the shape"):
        changes(lstm, 5, inputs[:1], 0)
    gru = nn.GRU(5, 4)
    gates = torch.arange(12).view(3, 4).T.contiguous()
    made = [
        Member(f"0.{name}", 0, gates, "out") for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    ]
    hidden = (*made, rows("weight_hh_l0", 4, 1))
    assert changes(gru, 4, hidden, 3) == {"hidden_size": (4, 3)}
    with pytest.raises(StructureError, match="weight_hh_l0 would read 4 hidden values of 3"):
        changes(gru, 4, tuple(made), 3)
    projected = nn.LSTM(5, 4, proj_size=3)
    given = (rows("weight_hr_l0", 3), rows("weight_hh_l0", 3, 1))
    assert changes(projected, 3, given, 0) == {"proj_size": (3, 2)}
    cell = nn.RNNCell(5, 4)
    units = tuple(rows(name, 4) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    assert changes(cell, 4, (*units, rows("weight_hh", 4, 1)), 0) == {"hidden_size": (4, 3)}
    assert changes(cell, 5, (rows("weight_ih", 5, 1),), 0) == {"input_size": (5, 4)}


def test_attention() -> None:
    narrow = nn.MultiheadAttention(4, 2, kdim=3, vdim=6)
    assert changes(narrow, 3, (rows("k_proj_weight", 3, 1),), 0) == {"kdim": (3, 2)}
    assert changes(narrow, 6, (rows("v_proj_weight", 6, 1),), 0) == {"vdim": (6, 5)}
    with pytest.raises(
        StructureError, match=r"0 \(MultiheadAttention\) cannot be made smaller: in_proj_weight would have"
    ):
        changes(nn.MultiheadAttention(4, 2), 4, (rows("in_proj_weight", 4, 1),), 0)


class Own(nn.Module):
    """Parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.list = nn.ParameterList([nn.Parameter(torch.ones(4))])


def test_other_modules() -> None:
    assert changes(Own(), 4, (rows("weight", 4), rows("list.0", 4)), 0) == {}
    table = nn.AdaptiveLogSoftmaxWithLoss(4, 8, [2], head_bias=True)
    table.register_parameter("bias", nn.Parameter(torch.ones(8)))
    with pytest.raises(StructureError, match="it is not known how a AdaptiveLogSoftmaxWithLoss follows"):
        changes(table, 8, (rows("bias", 8),), 0)
    weightless = nn.Linear(3, 4)
    weightless.register_parameter("weight_v", weightless.weight)
    del weightless.weight
    with pytest.raises(StructureError, match="it has no weight of its own; take off what makes"):
        changes(weightless, 4, (rows("weight_v", 4), rows("bias", 4)), 0)
