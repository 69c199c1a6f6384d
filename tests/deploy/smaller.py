"""Networks to shrink, and channel groups written by hand."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask.core.groups import ChannelGroup, Member, Role, Structure

EXAMPLE = (3, 8, 8)


def own(tensor: str, channels: int, axis: int, role: Role, width: int = 1) -> Member:
    """Entries 0, 1, 2, … along an axis, ``width`` a channel."""
    return Member(tensor, axis, torch.arange(channels * width).view(channels, width), role)


def behind_norm(name: str, norm: str, channels: int) -> tuple[Member, ...]:
    """What a convolution with a bias and its batch norm hold of their channels."""
    made = (own(f"{name}.weight", channels, 0, "out"), own(f"{name}.bias", channels, 0, "out"))
    scaled = tuple(
        own(f"{norm}.{key}", channels, 0, "norm") for key in ("weight", "bias", "running_mean", "running_var")
    )
    return made + scaled


def small_net(seed: int = 0) -> nn.Sequential:
    """Two convolutions with batch norm, two linear layers; every number is random, statistics included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, 8, 3, padding=1),
                bn1=nn.BatchNorm2d(8),
                act1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(8, 6, 3, padding=1),
                bn2=nn.BatchNorm2d(6),
                act2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(24, 5),
                act3=nn.ReLU(),
                fc2=nn.Linear(5, 4),
            )
        )
        shake(net)
    return net


def shake(model: nn.Module) -> None:
    """Give batch norms statistics, scales and shifts as training would."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)


def small_structure(net: nn.Module) -> Structure:
    """The groups of :func:`small_net`, by hand."""
    groups = (
        ChannelGroup("conv1", 8, (*behind_norm("conv1", "bn1", 8), own("conv2.weight", 8, 1, "in"))),
        ChannelGroup("conv2", 6, (*behind_norm("conv2", "bn2", 6), own("fc1.weight", 6, 1, "in", 4))),
        ChannelGroup(
            "fc1", 5, (own("fc1.weight", 5, 0, "out"), own("fc1.bias", 5, 0, "out"), own("fc2.weight", 5, 1, "in"))
        ),
        ChannelGroup("fc2", 4, (own("fc2.weight", 4, 0, "out"), own("fc2.bias", 4, 0, "out")), kept="the output"),
    )
    return structure_of(net, groups, {"conv1.weight": 64, "conv2.weight": 16, "fc1.weight": 1, "fc2.weight": 1})


def structure_of(net: nn.Module, groups: tuple[ChannelGroup, ...], positions: dict[str, int]) -> Structure:
    """A structure with a module's own shapes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in net.named_parameters()}
    buffers = {name: tuple(tensor.shape) for name, tensor in net.named_buffers()}
    return Structure(groups, shapes, buffers, positions, example_shape=EXAMPLE)


class Tied(nn.Module):
    """Two linear layers with one weight, in a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.middle = nn.Linear(6, 6, bias=False)
        self.again = nn.Linear(6, 6, bias=False)
        self.again.weight = self.middle.weight
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.relu(x + self.middle(x))
        return self.last(F.relu(x + self.again(x)))


def tied_structure(net: nn.Module) -> Structure:
    members = (
        own("first.weight", 6, 0, "out"),
        own("first.bias", 6, 0, "out"),
        own("middle.weight", 6, 0, "out"),
        own("middle.weight", 6, 1, "in"),
        own("last.weight", 6, 1, "in"),
    )
    return structure_of(net, (ChannelGroup("first", 6, members, residual=True),), {})


class Heads(nn.Module):
    """Attention of linear layers; how many heads there are is a number of the module."""

    def __init__(self, width: int = 6, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def heads_structure(net: nn.Module) -> Structure:
    made = [own(f"{name}.{key}", 3, 0, "out", 2) for name in ("query", "key", "value") for key in ("weight", "bias")]
    return structure_of(net, (ChannelGroup("query", 3, (*made, own("out.weight", 3, 1, "in", 2))),), {})


class Rows(nn.Module):
    """A linear layer, two layers of a bidirectional LSTM, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 5)
        self.lstm = nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.lstm(F.relu(self.embed(x)))[0][:, -1])


def rows_structure(net: nn.Module) -> Structure:
    read = [own(f"lstm.weight_ih_l0{end}", 5, 1, "in") for end in ("", "_reverse")]
    members = (own("embed.weight", 5, 0, "out"), own("embed.bias", 5, 0, "out"), *read)
    return structure_of(net, (ChannelGroup("embed", 5, members),), {})


def example(number: int = 2, shape: tuple[int, ...] = EXAMPLE, seed: int = 5) -> Tensor:
    return torch.randn(number, *shape, generator=torch.Generator().manual_seed(seed))


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    """What a copy of a model gives in evaluation mode."""
    with torch.no_grad():
        out: Tensor = copy.deepcopy(model).eval()(x)
    return out


def without(channels: int, *gone: int) -> Tensor:
    """All channels but these."""
    keep = torch.ones(channels, dtype=torch.bool)
    keep[list(gone)] = False
    return keep


def random_keeps(structure: Structure, seed: int, share: float = 0.5) -> dict[str, Tensor]:
    """A random choice: each group loses about ``share`` of its channels and keeps one at least."""
    generator = torch.Generator().manual_seed(seed)
    keeps = {}
    for group in structure.removable():
        keep = torch.rand(group.channels, generator=generator) >= share
        if not bool(keep.any()):
            keep[int(torch.randint(group.channels, (), generator=generator))] = True
        keeps[group.name] = keep
    return keeps
