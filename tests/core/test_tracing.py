"""Channel groups of the reference networks, and of one-line networks with an operation that decides."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import supermask
from supermask import find_structure
from supermask.core.groups import Structure
from supermask.errors import StructureError
from supermask.measure.macs import macs
from supermask.models import MODELS, build

IMAGE = (2, 3, 8, 8)


def _zoo(name: str, **options: Any) -> tuple[nn.Module, Structure]:
    model = build(name, **options)
    return model, find_structure(model, torch.zeros(1, *MODELS[name].input_shape))


def _dense_macs(structure: Structure) -> int:
    return sum(torch.Size(structure.shapes[name]).numel() * times for name, times in structure.positions.items())


def _channels(structure: Structure, residual: bool) -> list[int]:
    return [group.channels for group in structure.removable() if group.residual == residual]


# the inner channels are MaskConvNet's masks; it does not mask the first convolution of the two pre-activation networks (16)
@pytest.mark.parametrize(
    ("name", "filters", "inner", "shared"),
    [
        ("vgg16-bn", 4224, 4224, []),
        ("vgg19-bn", 5504, 5504, []),
        ("resnet56", 2032, 1008, [16]),
        ("resnet164", 12_560, 4032 + 16, [64, 128, 256]),
        ("wrn-28-10", 10_096, 4480 + 16, [160, 320, 640]),
    ],
)
def test_published_numbers_of_channels(name: str, filters: int, inner: int, shared: list[int]) -> None:
    model, structure = _zoo(name)
    assert sum(len(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d)) == filters
    assert sum(_channels(structure, residual=False)) == inner
    assert _channels(structure, residual=True) == shared
    # every filter is in exactly one group
    owned = sum(m.entries.numel() for g in structure for m in g.of_role("out") if len(structure.shapes[m.tensor]) == 4)
    assert owned == filters
    assert all(group.quiet for group in structure)
    assert not structure.uncounted


def test_channels_of_zeros_that_a_shortcut_appends_stay() -> None:
    _, structure = _zoo("resnet20")
    kept = {group.name: (group.channels, group.kept) for group in structure if group.kept}
    why = "pad in layer{}.0.downsample puts a fixed number of zeros beside them"
    assert kept == {
        "layer2.0.conv2": (16, why.format(2)),
        "layer3.0.conv2": (32, why.format(3)),
        "fc": (10, "are the network's outputs"),
    }
    # the first 16 channels of all three stages are one stream
    stream = structure["conv1"]
    assert stream.residual
    assert {(m.tensor, m.axis) for m in stream.members} >= {("layer3.2.conv2.weight", 0), ("fc.weight", 1)}


@pytest.mark.parametrize(
    "name", ["lenet5-caffe", "lstm-s", "gru-s", "conv4", "resnet20", "resnet20-signed", "wrn-16-4"]
)
def test_positions_are_those_of_the_measure_and_of_torch(name: str) -> None:
    model, structure = _zoo(name)
    shape = MODELS[name].input_shape
    assert _dense_macs(structure) == macs(model, shape, {})["dense"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    assert _dense_macs(structure) == counter.get_total_flops() / 2


def test_a_network_as_data() -> None:
    _, structure = _zoo("lenet5-caffe")
    names = {group.name: [(m.tensor, m.axis, m.entries.shape[1], m.role) for m in group.members] for group in structure}
    assert names["conv2"] == [
        ("conv2.weight", 0, 1, "out"),
        ("conv2.bias", 0, 1, "out"),
        ("fc1.weight", 1, 16, "in"),
    ]
    assert structure["conv2"].members[2].entries[1].tolist() == list(range(16, 32))
    values = {value.name: value for value in structure.values}
    assert list(values) == ["input", "conv1", "pool1", "conv2", "pool2", "fc1", "act_fc1", "fc2"]
    assert values["input"].fixed == 28 * 28
    pool = values["pool1"]
    assert (pool.parts, pool.fixed, pool.window, pool.operation) == ((("conv1", 144),), 0, 4, "max_pool")
    assert pool.module == "pool1"
    assert values["conv1"].last == pool.born
    assert values["pool2"].last == values["fc1"].born  # the flatten is a view, no value of its own
    assert structure.example_shape == (1, 28, 28)
    assert structure.positions == {"conv1.weight": 576, "conv2.weight": 64, "fc1.weight": 1, "fc2.weight": 1}


def test_a_value_in_place_takes_the_place_of_the_other() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))
    _, conv, relu, last = find_structure(net, torch.zeros(IMAGE)).values
    assert conv.last < relu.born
    assert (relu.operation, relu.module, relu.last) == ("relu", "1", last.born)


def test_batch_norm_s_counter_is_eight_bytes() -> None:
    structure = find_structure(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), torch.zeros(IMAGE))
    assert structure.item_bytes == {"1.num_batches_tracked": 8}


class Net(nn.Module):
    """Modules a, b, …, and a function of them and the input."""

    def __init__(self, function: Callable[..., Any], **modules: Any) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def _convs(middle: int = 4, **more: Any) -> dict[str, Any]:
    return {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(middle, 2, 1), **more}


def _of(function: Callable[..., Any], *inputs: Tensor, **modules: Any) -> Structure:
    return find_structure(Net(function, **(modules or _convs())), inputs or torch.randn(IMAGE))


def _written(maps: Tensor, x: Tensor) -> Tensor:
    """Added to zeros, in place and through a view."""
    maps.flatten(2).add_(x.flatten(2))
    return maps


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda n, x: n.b(n.a(x).softmax(1)), "softmax in forward is taken over all of them"),
        (lambda n, x: n.b(n.a(x) - n.a(x).mean(1, keepdim=True)), "mean in forward is taken over all of them"),
        (lambda n, x: n.b(F.normalize(n.a(x), dim=1)), "linalg_vector_norm in forward is taken over all of them"),
        (lambda n, x: n.b(torch.einsum("nchw->nchw", n.a(x))), "einsum in forward is not known to pass channels on"),
        (lambda n, x: n.b(torch.fft.fft2(n.a(x)).real), "fft_fft2 in forward is not known to pass channels on"),
        (lambda n, x: n.b(n.a(x).sort(dim=2)[0]), "sort in forward is not known to pass channels on"),
        (lambda n, x: n.b(n.a(x) + x[:, :1].repeat(1, 4, 1, 1)), "combines them with values that are no channels"),
        (lambda n, x: n.b(n.a(x)[:, [3, 2, 1, 0]]), "index in forward is not known to pass channels on"),
        (lambda n, x: n.b(n.a(x).roll(1, 1)), "roll in forward moves them by a fixed number"),
        (lambda n, x: n.b(n.a(x).cumsum(1)), "cumsum in forward is taken over all of them"),
        (lambda n, x: n.b(F.pad(n.a(x)[:, :2], (0, 0, 0, 0, 1, 1))), "slice in forward cuts them at a fixed place"),
        (lambda n, x: n.b(torch.cat(n.a(x).split([2, 2], 1)[::-1], 1)), "cuts them at a fixed place"),
        (lambda n, x: n.b(torch.cat(n.a(x).chunk(3, 1), 1)), ""),
        (lambda n, x: n.b(F.layer_norm(n.a(x), [4, 8, 8])), "layer_norm in forward takes its statistics over all"),
        (lambda n, x: n.b(F.group_norm(n.a(x), 1)), "group_norm in forward takes its statistics over all of them"),
        (lambda n, x: n.b(F.pad(n.a(x), (0, 0, 0, 0, 1, 1), "circular")[:, :4]), "pad in forward"),
        (lambda n, x: n.b(n.a(x).view(torch.int32).view(torch.float32)), "view in forward is not known"),
        (
            lambda n, x: n.b(_written(torch.zeros(len(x), 4, 8, 8), n.a(x))),
            "add in forward writes them into a tensor that",
        ),
        (lambda n, x: (n.b(n.a(x)), n.a(x)), "are the network's outputs"),
        (lambda n, x: {"maps": n.a(x), "b": n.b(n.a(x))}, "are the network's outputs"),
    ],
)
def test_what_keeps_channels_and_why(function: Callable[..., Any], reason: str) -> None:
    structure = _of(function)
    if not reason:  # chunks of 2, 2: equal after all
        assert not structure["a"].kept
        return
    assert reason in structure["a"].kept
    assert "b" not in {group.name for group in structure.removable()}


@pytest.mark.parametrize(
    ("function", "quiet"),
    [
        (lambda n, x: n.b(F.relu(n.a(x)) * 3), True),
        (lambda n, x: n.b(torch.tanh(n.a(x)) / 2 - 0), True),
        (lambda n, x: n.b(n.a(x) * torch.sigmoid(n.a(x))), True),
        (lambda n, x: n.b(n.a(x).clamp(0, 6)), True),
        (lambda n, x: n.b(F.dropout(n.a(x))), True),
        (lambda n, x: n.b(n.a(x).clamp(1, 6)), False),
        (lambda n, x: n.b(torch.sigmoid(n.a(x))), False),
        (lambda n, x: n.b(n.a(x).exp()), False),
        (lambda n, x: n.b(n.a(x) + 1), False),
        (lambda n, x: n.b(n.a(x) + x.mean((1, 2, 3), keepdim=True)), False),
        (lambda n, x: n.b(torch.where(x[:, :1] > 0, n.a(x), 1.0)), False),
        (lambda n, x: n.b(n.a(x).masked_fill(x[:, :1] > 0, 0.0)), True),
        (lambda n, x: n.b(n.a(x).add_(1).relu_()), False),
        (
            lambda n, x: (lambda y: n.b(y.view(-1, 4, 8, 8)) if y.flatten(2).sigmoid_() is not None else y)(n.a(x)),
            False,
        ),
        (lambda n, x: n.b(torch.softmax(n.a(x), 2)), False),
        (lambda n, x: n.b(F.hardshrink(n.a(x) - 5, 2.0)), False),
        (lambda n, x: n.b((n.a(x).exp() * 10 > 2).float()), False),
        (lambda n, x: n.b(n.a(x) * n.a(x).sum().item()), True),
        (lambda n, x: n.b(n.a(x) + x.sum().item()), False),
        (lambda n, x: n.b(n.n(n.a(x))), False),
        (lambda n, x: n.b(F.pad(n.a(x), (1, 1), value=2.0)), False),
        (lambda n, x: n.b(F.pad(n.a(x), (1, 1, 1, 1))), True),
        (lambda n, x: n.b(torch.sigmoid(n.a(x)).sum((2, 3), keepdim=True)), False),
        (lambda n, x: n.b(x[:, :2]).mean() + n.a(x).sum(), True),
        (lambda n, x: n.b(x[:, :2]).mean() + torch.cos(n.a(x)).sum(), False),
    ],
)
def test_whether_zeros_reach_the_readers(function: Callable[..., Any], quiet: bool) -> None:
    middle = 2 if "x[:, :2]" in function.__code__.co_consts.__repr__() else 4
    net = Net(function, **_convs(n=nn.BatchNorm2d(4, affine=False)))
    net.b = nn.Conv2d(middle, 2, 1)
    try:
        structure = find_structure(net, torch.randn(IMAGE))
    except StructureError:
        net.b = nn.Conv2d(2, 2, 1)
        structure = find_structure(net, torch.randn(IMAGE))
    assert not structure["a"].kept
    assert structure["a"].quiet == quiet


def test_added_input_keeps_channels() -> None:
    structure = _of(lambda n, x: n.b(n.a(x) + x), a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 2, 1))
    assert structure["a"].kept == "add in forward combines them with values that are no channels"


def test_a_computed_weight_keeps_its_inputs() -> None:
    """Weight standardisation takes a mean over the inputs; the outputs go freely. How often it is used is not counted."""
    w = nn.Parameter(torch.randn(5, 4, 1, 1))
    structure = _of(
        lambda n, x: n.b(F.conv2d(n.a(x), n.w - n.w.mean((1, 2, 3), keepdim=True))), **_convs(middle=5, w=w)
    )
    assert structure["a"].kept == "mean in forward is taken over all of them"
    (middle,) = structure.removable()
    assert middle.channels == 5
    assert structure.uncounted == ("w",)


def test_a_buffer_that_is_not_saved_keeps_channels() -> None:
    net = Net(lambda n, x: n.b(n.a(x) * n.scale), **_convs())
    net.register_buffer("scale", torch.ones(4, 1, 1), persistent=False)
    structure = find_structure(net, torch.randn(IMAGE))
    assert structure["a"].kept == "mul in forward combines them with values that are no channels"
    assert "scale" not in structure.buffers


def test_torch_s_attention_keeps_its_heads() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    net = Net(lambda n, x: n.b(n.m(*[n.a(x)] * 3)[0]), a=nn.Linear(6, 8), m=attention, b=nn.Linear(8, 2))
    structure = find_structure(net, torch.randn(2, 5, 6))
    assert structure["m"].channels == 2
    assert not structure.removable()
    assert structure["a"].kept.startswith(
        "nn.MultiheadAttention (m) has embed_dim values in its input and in its heads"
    )


def test_a_transformer_layer_loses_hidden_values_only() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    structure = find_structure(nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3)), torch.randn(2, 5, 6))
    assert [(group.name, group.channels) for group in structure.removable()] == [("1.linear1", 16)]
    assert "layer_norm in 1.norm1" in structure["0"].kept


def test_code_that_fixes_the_batch_and_several_inputs() -> None:
    net = Net(lambda n, x: n.b(n.a(x).reshape(5, 256)), a=nn.Conv2d(3, 4, 1), b=nn.Linear(256, 2))
    structure = find_structure(net, torch.randn(5, 3, 8, 8))
    assert structure.positions == {"a.weight": 64, "b.weight": 1}
    two = Net(lambda n, x, y: n.b(torch.cat([n.a(x), y], 1)), **_convs(middle=6))
    structure = find_structure(two, (torch.randn(IMAGE), torch.randn(2, 2, 8, 8)))
    assert structure["a"].members[-1].entries.flatten().tolist() == [0, 1, 2, 3]
    assert structure.example_shape == (3, 8, 8)


def test_only_channels_that_are_made_are_groups() -> None:
    """Inputs, kernels and layers that are not called are none."""
    structure = _of(lambda n, x: n.b(n.a(x)), **_convs(unused=nn.Linear(3, 3)))
    assert [group.name for group in structure] == ["a", "b"]
    assert "unused.weight" in structure.shapes
    single = find_structure(nn.Linear(4, 3), torch.zeros(2, 4))
    assert [(group.name, group.kept) for group in single] == [("weight", "are the network's outputs")]


def test_refusals() -> None:
    branch = Net(lambda n, x: n.a(x) if x.sum() > 0 else x, **_convs())
    with pytest.raises(
        StructureError, match=r"cannot be traced with torch.export: .*data-dependent.*Structure.by_hand"
    ):
        find_structure(branch, torch.zeros(IMAGE))
    chosen = Net(lambda n, x: n.b(n.a(x)[x[:, 0, 0, 0] > 0]), **_convs())
    with pytest.raises(StructureError, match=r"index in forward: the shape of its result depends on the values"):
        find_structure(chosen, torch.zeros(IMAGE))
    with pytest.raises(StructureError, match=r"cannot be traced"):
        find_structure(nn.Conv2d(3, 4, 1), torch.zeros(2, 5, 8, 8))
    model = build("lenet5-caffe")
    supermask.RandomMask(density=0.5).attach(model)
    with pytest.raises(StructureError, match=r"conv1 carries a mask .* before attach, or after finalize\(\)"):
        find_structure(model, torch.zeros(1, 1, 28, 28))
    for example in ((), torch.zeros(()), torch.zeros(0, 3, 8, 8), (torch.zeros(IMAGE), 3)):
        with pytest.raises(StructureError, match=r"example: must be a batch"):
            find_structure(nn.Conv2d(3, 4, 1), example)  # type: ignore[arg-type]


def test_tracing_leaves_everything_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))
    net.train()
    net[1].eval()
    handle = net[0].register_forward_hook(lambda *_: None)
    example = torch.randn(IMAGE)
    tensors = [*net.parameters(), *net.buffers(), example]
    before = copy.deepcopy(tensors)
    identities, versions = [id(t) for t in tensors], [t._version for t in tensors]
    random, hooks, modes = torch.get_rng_state(), dict(net[0]._forward_hooks), [m.training for m in net.modules()]
    disabled = logging.root.manager.disable
    for _ in range(2):
        find_structure(net, example)
    assert torch.equal(random, torch.get_rng_state())
    assert [id(t) for t in [*net.parameters(), *net.buffers(), example]] == identities
    assert [t._version for t in tensors] == versions
    assert all(torch.equal(a, b) for a, b in zip(tensors, before))
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert dict(net[0]._forward_hooks) == hooks
    assert [m.training for m in net.modules()] == modes
    assert logging.root.manager.disable == disabled
    handle.remove()


def test_the_same_twice() -> None:
    model = build("resnet20")
    first, second = (find_structure(model, torch.zeros(1, 3, 32, 32)) for _ in range(2))
    assert first.values == second.values
    assert [(g.name, g.kept) for g in first] == [(g.name, g.kept) for g in second]
