"""Channel groups as data, and groups named by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import supermask
from supermask import find_structure
from supermask.core.groups import ChannelGroup, Member, Structure
from supermask.errors import StructureError
from supermask.models import build

SHAPES = {"a.weight": (3, 2), "a.bias": (3,), "b.weight": (4, 6)}


def _member(tensor: str = "a.weight", axis: int = 0, entries: Any = ((0,), (1,), (2,)), role: str = "out") -> Member:
    return Member(tensor, axis, torch.as_tensor(entries), role)  # type: ignore[arg-type]


def _structure(**changes: Any) -> Structure:
    reader = _member("b.weight", 1, ((0, 1), (2, 3), (4, 5)), "in")
    group = ChannelGroup("a", 3, (_member(), _member("a.bias"), reader), **changes)
    return Structure((group,), SHAPES, {"mean": (3,)}, {"a.weight": 1, "b.weight": 1})


def test_lengths_and_indices() -> None:
    structure = _structure()
    keeps = {"a": torch.tensor([True, False, True])}
    assert structure.lengths("a.weight", keeps) == (2, 2)
    assert structure.lengths("b.weight", keeps) == (4, 4)
    assert structure.lengths("mean", keeps) == (3,)
    assert structure.index("b.weight", 1, keeps).tolist() == [0, 1, 4, 5]
    assert structure.index("b.weight", 0, keeps).tolist() == [0, 1, 2, 3]
    assert structure.lengths("a.weight", {}) == (3, 2)
    assert [member.role for _, member in structure.of_tensor("b.weight")] == ["in"]
    assert structure.of_tensor("c") == ()
    assert [group.name for group in structure] == ["a"] == [group.name for group in structure.removable()]


def test_channels_are_found_in_zeros() -> None:
    structure = _structure()
    tensors = {"a.weight": torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), "a.bias": torch.tensor([0.0, 0.0, 2.0])}
    assert structure.found(tensors)["a"].tolist() == [False, True, True]
    assert structure.found({"a.weight": tensors["a.weight"]})["a"].tolist() == [False, True, False]
    assert structure.found({"a.weight": torch.zeros(3, 2)})["a"].tolist() == [True, False, False]
    assert structure.found({"b.weight": torch.zeros(4, 6)}) == {}
    assert _structure(kept="because").found(tensors) == {}
    with pytest.raises(
        StructureError, match=r"a.weight has shape \(2, 2\), the structure was made of a model with \(3, 2\)"
    ):
        structure.found({"a.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((_member("c.weight"),), r"group 'a', c.weight, axis 0: the model has no parameter or buffer of this name"),
        ((_member(axis=2),), r"axis 2: the tensor has shape \(3, 2\)"),
        (
            (_member(entries=((0,), (1,))),),
            r"entries must be int64 of shape \(3, m\), got torch.int64 of shape \(2, 1\)",
        ),
        ((_member(entries=((0.0,), (1.0,), (2.0,))),), r"entries must be int64"),
        ((_member(entries=((0,), (1,), (3,))),), r"entries must lie in \[0, 3\)"),
        ((_member(entries=((0,), (1,), (1,))),), r"an entry belongs to two channels"),
        ((_member(), _member()), r"an entry belongs to two channels"),
    ],
)
def test_members_that_do_not_fit(members: tuple[Member, ...], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        Structure((ChannelGroup("a", 3, members),), SHAPES, {}, {})


def test_choices_that_do_not_fit() -> None:
    structure = _structure()
    keep = torch.ones(3, dtype=torch.bool)
    with pytest.raises(StructureError, match=r"no channel group 'b'; the groups are a"):
        structure.check({"b": keep})
    with pytest.raises(StructureError, match=r"must be bool of shape \(3,\), got torch.float32"):
        structure.check({"a": keep.float()})
    with pytest.raises(StructureError, match=r"must be bool of shape \(3,\), got torch.bool of shape \(2,\)"):
        structure.check({"a": keep[:2]})
    with pytest.raises(StructureError, match=r"no channel of 'a' would remain"):
        structure.check({"a": ~keep})
    with pytest.raises(StructureError, match=r"no channel of 'a' can be removed: because"):
        _structure(kept="because").check({"a": torch.arange(3) > 0})
    _structure(kept="because").check({"a": keep})
    with pytest.raises(StructureError, match=r"two channel groups have the name 'a'"):
        Structure((ChannelGroup("a", 3, ()), ChannelGroup("a", 3, ())), SHAPES, {}, {})


# ---------------------------------------------------------------------- by hand


def _net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.ConvTranspose2d(4, 5, 2),
        nn.PReLU(5),
        nn.Flatten(),
        nn.Linear(5 * 25, 2),
    )


GROUPS = {
    "first": {"out": ["0", "2"], "norm": ["1"], "in": ["3"]},
    "up": {"out": ["3"], "norm": ["4"], "in": [("6", 25)]},
}


def test_groups_by_hand_are_those_of_the_graph() -> None:
    net, example = _net(), torch.zeros(2, 3, 6, 6)
    by_hand = Structure.by_hand(net, GROUPS, example)
    traced = find_structure(net, example)

    def content(structure: Structure) -> list[Any]:
        groups = structure.removable()
        return [(g.channels, sorted((m.tensor, m.axis, m.role, m.entries.tolist()) for m in g.members)) for g in groups]

    assert content(by_hand) == content(traced)
    assert by_hand.positions == traced.positions
    assert (by_hand.shapes, by_hand.buffers) == (traced.shapes, traced.buffers)
    assert by_hand.item_bytes == traced.item_bytes
    assert by_hand.example_shape == traced.example_shape
    assert by_hand.uncounted == ()


def test_by_hand_without_an_example_counts_nothing() -> None:
    structure = Structure.by_hand(_net(), GROUPS)
    assert structure.positions == {}
    assert structure.uncounted == ("0.weight", "2.weight", "3.weight", "6.weight")
    assert structure.example_shape is None


def test_by_hand_takes_offsets_members_and_options() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(7, 3)
            self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 4)
            self.own = nn.Parameter(torch.ones(6))
            self.last = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.words(x)
            return self.last(torch.cat([self.left(x), self.right(x)], -1) * self.own)

    own = Member("own", 0, torch.arange(2, 6)[:, None], "norm")
    structure = Structure.by_hand(
        Joined(),
        {
            "words": {"out": ["words"], "in": ["left", "right"], "kept": "they are shared"},
            "right": {"out": ["right"], "norm": [own], "in": [("last", 1, 2)], "residual": True, "quiet": False},
            "left": {"out": ["left"], "in": [("last", 1, 0)]},
        },
        torch.zeros(1, 5, dtype=torch.int64),
    )
    right = structure["right"]
    assert (right.residual, right.quiet) == (True, False)
    assert right.of_role("in")[0].entries.flatten().tolist() == [2, 3, 4, 5]
    assert structure["words"].kept == "they are shared"
    assert structure["left"].channels == 2
    assert structure.positions == {"left.weight": 5, "right.weight": 5, "last.weight": 5}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"g": ["0"]}, r"group 'g': must be a dict with out, norm and in"),
        ({"g": {"outs": ["0"]}}, r"'outs' is none of out, norm, in, kept, residual, quiet; did you mean 'out'\?"),
        ({"g": {"norm": ["1"]}}, r"group 'g': out must name the layers that make the channels"),
        ({"g": {"out": "0"}}, r"out must be a list of module names, got '0'"),
        ({"g": {"out": ["0"], "kept": True}}, r"kept must be a str, got True"),
        ({"g": {"out": ["00"]}}, r"group 'g': out: the model has no module '00'; did you mean '0'\?"),
        ({"g": {"out": [("0", 0)]}}, r"an entry must be a module name, .* got \('0', 0\)"),
        ({"g": {"out": [3]}}, r"an entry must be a module name, .* got 3"),
        ({"g": {"out": ["5"]}}, r"not known which entries of 5 \(Flatten\) these are; give Member"),
        ({"g": {"out": ["0"], "norm": ["6"]}}, r"norm: it is not known which entries of 6 \(Linear\)"),
        ({"g": {"out": ["0"], "in": ["2"]}}, r"in: 2 is a grouped convolution"),
        (
            {"g": {"out": ["0"], "in": ["6"]}},
            r"in: 6.weight has 125 entries along axis 1, 4 channels of 1 from entry 0",
        ),
        ({"g": {"out": ["0"], "in": [("6", 30, 6)]}}, r"4 channels of 30 from entry 6 do not fit"),
        ({"g": {"out": ["0"]}, "h": {"out": ["0"]}}, r"group 'h', 0.weight, axis 0: an entry belongs to two channels"),
    ],
)
def test_groups_by_hand_that_do_not_fit(groups: Any, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        Structure.by_hand(_net(), groups)


def test_by_hand_needs_a_plain_model_and_an_example_that_it_takes() -> None:
    net = _net().train()
    with pytest.raises(StructureError, match=r"example: the model does not take \(1, 2, 6, 6\)"):
        Structure.by_hand(net, GROUPS, torch.zeros(4, 2, 6, 6))
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    model = build("lenet5-caffe")
    supermask.RandomMask(density=0.5).attach(model)
    with pytest.raises(StructureError, match=r"conv1 carries a mask .* name its groups before attach"):
        Structure.by_hand(model, {"conv1": {"out": ["conv1"], "in": ["conv2"]}})
