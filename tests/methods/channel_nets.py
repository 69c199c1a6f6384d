"""A small convolutional network for the tests of methods that remove channels, and a loop that trains it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask import Method, Sparsifier
from supermask.core.groups import Structure
from supermask.core.tracing import find_structure


def conv_net(*widths: int, bias: bool = False, norm: bool = True, seed: int = 0) -> nn.Sequential:
    """3x3 convolutions named conv1, conv2, … with batch norm and ReLU on 3x6x6 inputs, an average, four classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential()
        for number, (before, width) in enumerate(zip([3, *widths], widths), start=1):
            net.add_module(f"conv{number}", nn.Conv2d(before, width, 3, padding=1, bias=bias))
            if norm:
                net.add_module(f"bn{number}", nn.BatchNorm2d(width))
            net.add_module(f"relu{number}", nn.ReLU())
        net.add_module("pool", nn.AdaptiveAvgPool2d(1))
        net.add_module("flatten", nn.Flatten())
        net.add_module("head", nn.Linear(widths[-1], 4))
    return net


def example() -> Tensor:
    """One input."""
    return torch.zeros(1, 3, 6, 6)


def structure_of(net: nn.Module) -> Structure:
    """The groups of a :func:`conv_net`."""
    return find_structure(net, example())


def attached(method: Method, net: nn.Module, *, seed: int = 0) -> Sparsifier:
    """The method on the network."""
    return method.attach(net, example=example(), seed=seed)


def train(s: Sparsifier, steps: int, *, lr: float = 0.1, total_steps: int | None = None, first: int = 0) -> None:
    """SGD with momentum and decay, on batches by number; each call is a fresh optimizer."""
    optimizer = torch.optim.SGD(s.param_groups(), lr=lr, momentum=0.9, weight_decay=1e-3)
    s.bind(optimizer, total_steps=total_steps or steps)
    for step in range(first, first + steps):
        x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        F.cross_entropy(s.model(x), torch.arange(8) % 4).backward()
        optimizer.step()


def counts(s: Sparsifier) -> dict[str, int]:
    """Remaining channels of each group acted on."""
    return {name: int(keep.sum()) for name, keep in s.channels().items()}
