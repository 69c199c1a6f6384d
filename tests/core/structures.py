"""Structures made by hand, and the networks that they describe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from supermask.core.groups import ChannelGroup, Member, Structure, Value


def member(tensor: str, axis: int, channels: int, role: str, m: int = 1) -> Member:
    """A member whose channels lie one after the other, ``m`` entries each."""
    return Member(tensor, axis, torch.arange(channels * m).reshape(channels, m), role)  # type: ignore[arg-type]


def chain_net(widths: Sequence[int], size: int = 8, inputs: int = 3, classes: int = 5) -> nn.Sequential:
    """Convolutions with batch norm and ReLU, maps of size x size, a 2x2 pool before a flatten, one linear layer."""
    layers: list[nn.Module] = []
    for before, width in zip([inputs, *widths], widths):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    pooled = (size // 2) ** 2
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(widths[-1] * pooled, classes))


def chain(widths: Sequence[int], size: int = 8, inputs: int = 3, classes: int = 5) -> Structure:
    """The structure of a :func:`chain_net`; its groups are named conv0, conv1, …"""
    area, pooled = size * size, (size // 2) ** 2
    shapes: dict[str, tuple[int, ...]] = {}
    buffers: dict[str, tuple[int, ...]] = {}
    positions: dict[str, int] = {}
    groups, values = [], [Value("input", inputs * area, (), 0, 1, "input")]
    head = f"{3 * len(widths) + 2}"
    for i, (before, width) in enumerate(zip([inputs, *widths], widths)):
        conv, norm = f"{3 * i}.weight", f"{3 * i + 1}"
        shapes |= {conv: (width, before, 3, 3), f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
        buffers |= {
            f"{norm}.running_mean": (width,),
            f"{norm}.running_var": (width,),
            f"{norm}.num_batches_tracked": (),
        }
        positions[conv] = area
        statistics = ("weight", "bias", "running_mean", "running_var")
        last = i == len(widths) - 1
        reader = member(f"{head}.weight", 1, width, "in", pooled) if last else None
        reader = reader or member(f"{3 * i + 3}.weight", 1, width, "in")
        norms = tuple(member(f"{norm}.{name}", 0, width, "norm") for name in statistics)
        groups.append(ChannelGroup(f"conv{i}", width, (member(conv, 0, width, "out"), *norms, reader)))
        for j, operation in enumerate(("convolution", "batch_norm", "relu")):
            born = 1 + 3 * i + j
            values.append(Value(f"{operation}{i}", 0, ((f"conv{i}", area),), born, born + 1, operation))
    born = 1 + 3 * len(widths)
    values.append(Value("pool", 0, ((groups[-1].name, pooled),), born, born + 1, "max_pool", window=4))
    values.append(Value("linear", classes, (), born + 1, born + 1, "linear"))
    shapes |= {f"{head}.weight": (classes, widths[-1] * pooled), f"{head}.bias": (classes,)}
    positions[f"{head}.weight"] = 1
    item_bytes = {name: 8 for name in buffers if name.endswith("num_batches_tracked")}
    return Structure(
        tuple(groups), shapes, buffers, positions, tuple(values), (inputs, size, size), item_bytes=item_bytes
    )


def added(width: int, inner: int) -> Structure:
    """Two writers of one residual stream of ``width`` channels, and one inner group that the second writer reads."""
    stream = ChannelGroup(
        "stem", width, (member("stem", 0, width, "out"), member("a", 1, width, "in"), member("b", 0, width, "out")),
        residual=True,
    )  # fmt: skip
    within = ChannelGroup("a", inner, (member("a", 0, inner, "out"), member("b", 1, inner, "in")))
    shapes = {"stem": (width, 3), "a": (inner, width), "b": (width, inner)}
    return Structure((stream, within), shapes, {}, {"stem": 10, "a": 10, "b": 10})
