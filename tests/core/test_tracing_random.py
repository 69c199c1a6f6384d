"""Small networks drawn at random: what is found there can be removed, and the outputs say so."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from tests.core.removal import check_removal, random_keeps, shaken, smaller
from torch import Tensor, nn

from supermask import find_structure

Step = tuple[Callable[..., Tensor], tuple[int, ...]]  # what is done, and to which of the values so far

_KEEP_ZERO = (F.relu, torch.tanh, F.hardswish, F.gelu, lambda x: x * 2, lambda x: F.max_pool2d(x, 3, 1, 1))
_LOUD = (torch.sigmoid, lambda x: x + 1, torch.cos)


class Drawn(nn.Module):
    """Steps one after the other, each on values that are there already; then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.steps: list[Step] = []

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step, inputs in self.steps:
            values.append(step(*(values[i] for i in inputs)))
        return values[-1]


def _network(draw: random.Random, loud: bool) -> nn.Module:
    net = Drawn()
    shapes = [(3, 6)]  # channels and size of every value so far

    def layer(module: nn.Module) -> nn.Module:
        net.layers.append(module)
        return module

    def add(step: Callable[..., Tensor], inputs: tuple[int, ...], shape: tuple[int, int]) -> int:
        net.steps.append((step, inputs))
        shapes.append(shape)
        return len(shapes) - 1

    def pick() -> int:  # one of the last values, so that networks are deep
        return draw.randint(max(0, len(shapes) - 4), len(shapes) - 1)

    def conv(source: int, width: int, **options: Any) -> int:
        module = layer(nn.Conv2d(shapes[source][0], width, bias=draw.random() < 0.5, **options))
        return add(module, (source,), (width, shapes[source][1]))

    add(layer(nn.Conv2d(3, 4, 3, padding=1)), (0,), (4, 6))
    if loud:
        conv(add(draw.choice(_LOUD), (1,), shapes[1]), draw.randint(2, 6), kernel_size=1)
    kinds = ["conv", "norm", "act", "add", "cat", "depth", "excite", "halves", "again", "group norm", "grouped", "flat"]
    for kind in draw.choices(kinds, k=draw.randint(2, 9)):
        source = pick()
        channels, size = shapes[source]
        if kind == "conv":
            add(F.relu, (conv(source, draw.randint(2, 6), kernel_size=3, padding=1),), shapes[-1])
        elif kind == "norm":
            add(layer(nn.BatchNorm2d(channels)), (source,), shapes[source])
        elif kind == "act":
            add(draw.choice(_KEEP_ZERO * 3 + _LOUD), (source,), shapes[source])
        elif kind == "add":
            other = pick()
            if shapes[other] != shapes[source]:
                other = conv(other, channels, kernel_size=1)
            add(lambda a, b: a + b, (source, other), (channels, max(size, shapes[other][1])))
        elif kind == "cat":
            other = draw.choice([i for i in range(len(shapes)) if shapes[i][1] == size])
            add(lambda a, b: torch.cat([a, b], 1), (source, other), (channels + shapes[other][0], size))
        elif kind == "depth":
            conv(source, channels, kernel_size=3, padding=1, groups=channels)
        elif kind == "excite":
            gate = conv(add(lambda x: x.mean((2, 3), keepdim=True), (source,), (channels, 1)), 3, kernel_size=1)
            gate = add(torch.sigmoid, (conv(gate, channels, kernel_size=1),), (channels, 1))
            add(lambda x, g: x * g, (source, gate), shapes[source])
        elif kind == "halves" and channels % 2 == 0:
            add(lambda x: torch.mul(*x.chunk(2, 1)), (source,), (channels // 2, size))
        elif kind == "again":
            fitting = [m for m in net.layers if isinstance(m, nn.Conv2d) and m.in_channels == channels]
            if fitting:
                module = draw.choice(fitting)
                add(module, (source,), (module.out_channels, size))
        elif kind == "group norm" and channels % 2 == 0:
            add(layer(nn.GroupNorm(2, channels)), (source,), shapes[source])
        elif kind == "grouped" and channels % 2 == 0:
            conv(source, 6, kernel_size=1, groups=2)
        elif kind == "flat":
            swap = lambda x: x.flatten(2).transpose(1, 2).unflatten(1, (6, 6)).permute(0, 3, 1, 2)  # noqa: E731
            if size == 6:
                add(swap, (source,), shapes[source])
    last = len(shapes) - 1
    channels, size = shapes[last]
    if draw.random() < 0.5:
        add(layer(nn.Linear(channels * size**2, 2)), (add(lambda x: x.flatten(1), (last,), shapes[last]),), (2, 1))
    else:
        add(layer(nn.Linear(channels, 2)), (add(lambda x: x.mean((2, 3)), (last,), shapes[last]),), (2, 1))
    return net


def _drawn(seed: int, loud: bool = False) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = shaken(_network(random.Random(seed), loud), seed)
        return model, torch.randn(2, 3, 6, 6, dtype=torch.float64)


@settings(max_examples=40, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(st.integers(0, 2**31))
def test_removal_from_drawn_networks_is_exact(seed: int) -> None:
    model, example = _drawn(seed)
    structure = find_structure(model, example)
    keeps = random_keeps(structure, seed)
    assume(keeps)
    check_removal(model, structure, example, keeps, may_be_silent=True)


@settings(max_examples=20, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(st.integers(0, 2**31))
def test_channels_that_are_not_quiet_can_be_taken_out_as_well(seed: int) -> None:
    """The smaller network fits together; only its outputs are others than with zeros."""
    model, example = _drawn(seed, loud=True)
    structure = find_structure(model, example)
    assert not structure["layers.0"].quiet
    with torch.no_grad():
        small = smaller(model, structure, random_keeps(structure, seed, quiet_only=False))
        assert small(example).shape == (2, 2)
