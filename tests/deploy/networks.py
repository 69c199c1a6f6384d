"""Graphs with much that is dead, and what they should give."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from supermask.deploy.graph import Graph, Node

Arrays = dict[str, NDArray[Any]]


class Maker:
    """Writes down nodes with random arrays of few non-zeros."""

    def __init__(self, seed: int, input_shape: tuple[int, ...], density: float = 0.15) -> None:
        self.random = np.random.default_rng(seed)
        self.input_shape = input_shape
        self.density = density
        self.nodes: list[Node] = []
        self.arrays: Arrays = {}

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(Node(op, name, inputs, attributes))
        return name

    def array(self, name: str, *shape: int, dense: bool = False) -> str:
        values = self.random.normal(size=shape)
        if not dense:
            values *= self.random.random(shape) < self.density
        self.arrays[name] = values.astype(np.float32)
        return name

    def conv(self, source: str, before: int, after: int, *, kernel: int = 3, groups: int = 1, bias: bool = True) -> str:
        name = f"conv{len(self.nodes)}"
        return self.add(
            "conv",
            source,
            weight=self.array(f"{name}.weight", after, before // groups, kernel, kernel),
            bias=self.array(f"{name}.bias", after, dense=True) if bias else None,
            stride=[1, 1],
            padding=[int(self.random.integers(0, 2)) if kernel == 3 else 0] * 2,
            dilation=[1, 1],
            groups=groups,
        )

    def same(self, source: str, before: int, after: int, *, bias: bool = True) -> str:
        """A convolution that keeps the size of its maps."""
        name = self.conv(source, before, after, bias=bias)
        self.nodes[-1] = Node("conv", name, (source,), {**self.nodes[-1].attributes, "padding": [1, 1]})
        return name

    def linear(self, source: str, before: int, after: int, *, bias: bool = True) -> str:
        name = f"linear{len(self.nodes)}"
        weight = self.array(f"{name}.weight", after, before)
        return self.add(
            "linear", source, weight=weight, bias=self.array(f"{name}.bias", after, dense=True) if bias else None
        )

    def norm(self, source: str, channels: int) -> str:
        name = f"norm{len(self.nodes)}"
        arrays = {
            key: self.array(f"{name}.{key}", channels, dense=True) for key in ("weight", "bias", "mean", "variance")
        }
        self.arrays[f"{name}.variance"] = np.abs(self.arrays[f"{name}.variance"]) + 0.5
        return self.add("batch_norm", source, **arrays, epsilon=1e-3)

    def graph(self, output: str) -> Graph:
        graph = Graph(self.input_shape, tuple(self.nodes), output)
        graph = graph.with_nodes(graph.nodes)
        self.arrays = {name: self.arrays[name] for name in graph.tensors()}
        return graph


def pool(m: Maker, source: str) -> str:
    kind = m.random.choice(["max", "avg", "avg-padded"])
    options: dict[str, Any] = {
        "kernel": [2, 2],
        "stride": [2, 2],
        "padding": [int(kind == "avg-padded")] * 2,
        "ceil": False,
    }
    if kind == "max":
        return m.add("max_pool", source, **options, dilation=[1, 1])
    return m.add("avg_pool", source, **options, count_include_pad=bool(m.random.integers(2)))


def activation(m: Maker, source: str) -> str:
    op = str(m.random.choice(["relu", "elu", "sigmoid", "silu"]))
    return m.add(op, source, **({"alpha": 1.0} if op == "elu" else {}))


def residual(seed: int) -> tuple[Graph, Arrays]:
    """Convolutions with batch norm, two residual blocks (one depthwise), pools, linear layers."""
    m = Maker(seed, (3, 12, 12), density=0.15 if seed % 2 else 0.02)
    x = activation(m, m.norm(m.conv("input", 3, 8), 8))
    inner = activation(m, m.norm(m.same(x, 8, 10), 10))
    x = activation(m, m.add("add", m.norm(m.same(inner, 10, 8, bias=False), 8), x))
    depthwise = m.conv(x, 8, 8, groups=8, kernel=1)
    x = m.add(str(m.random.choice(["add", "multiply"])), x, activation(m, depthwise))
    x = pool(m, x)
    x = m.add("flatten", m.add("adaptive_avg_pool", x, size=[2, 2]))
    x = activation(m, m.norm(m.linear(x, 32, 12), 12))
    return m.graph(m.linear(x, 12, 5, bias=bool(m.random.integers(2)))), m.arrays


def branches(seed: int) -> tuple[Graph, Arrays]:
    """What keeps channels where they are: concatenation, groups, rows, softmax, a tied layer."""
    m = Maker(seed, (4, 6, 6))
    x = activation(m, m.same("input", 4, 6))
    both = m.add("concat", m.same(x, 6, 4), m.same(x, 6, 4), axis=1)
    grouped = m.conv(both, 8, 6, groups=2)
    size = 6 if m.nodes[-1]["padding"] == [1, 1] else 4
    rows = m.add("permute", grouped, axes=[0, 2, 3, 1])
    hidden = activation(m, m.linear(rows, 6, 9))
    tied = m.linear(hidden, 9, 9, bias=False)
    again = m.add("linear", tied, **{**m.nodes[-1].attributes})
    out = m.linear(m.add("softmax", again, axis=3), 9, 4)
    return m.graph(m.add("reshape", out, shape=[-1, size * size, 4])), m.arrays
