"""Nodes of a graph become steps of a sparse program; what has no step is refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from supermask.deploy.graph import Node
from supermask.deploy.operations import ACTIVATIONS, BINARY
from supermask.deploy.shapes import Shape
from supermask.errors import ProgramError
from supermask.kernels import sparse
from supermask.kernels.sparse import Program, Step

Array = NDArray[Any]


class NoProgramError(Exception):
    """Why nodes cannot be a sparse program."""


@dataclass(frozen=True)
class Compiled:
    """A program over the values of a graph.

    Args:
        program: What runs.
        rows: Whether it works on the rows of its input (its last axis) one by one, whatever the other axes are.
    """

    program: Program
    rows: bool

    def __call__(self, x: Array, threads: int) -> Array:
        """Run it on a value of the graph, contiguous float32."""
        if not self.rows:
            return self.program.run(x, threads)
        out = self.program.run(x.reshape(-1, x.shape[-1]), threads)
        return out.reshape(*x.shape[:-1], -1)


def compile_nodes(nodes: Sequence[Node], shapes: Mapping[str, Shape], arrays: Mapping[str, Array]) -> Compiled:
    """A program of nodes that read one value and give one, the last node's.

    Args:
        nodes: In order; each reads the value that the first one reads, or values of nodes before it.
        shapes: Of all values.
        arrays: Of the graph.

    Raises:
        NoProgramError: One of them has no step; the message says which and why.
    """
    source = nodes[0].inputs[0]
    if source not in shapes:
        raise NoProgramError(f"its input, what {source} gives, is no tensor")
    rows = _works_on_rows(nodes, shapes, source)
    if not rows and (shapes[source][0] != -1 or len(shapes[source]) > 4 or min(shapes[source][1:], default=0) < 1):
        raise NoProgramError(f"its input has the shape {shapes[source]}")
    builder = _Builder(source, shapes, arrays, rows)
    for node in nodes:
        builder.append(node)
    if builder.numbers.get(nodes[-1].name) != len(builder.steps):
        raise NoProgramError(f"{nodes[-1].name} ({nodes[-1].op}) stands alone")
    try:
        return Compiled(Program(builder.steps, shapes[source][-1:] if rows else shapes[source][1:]), rows)
    except ProgramError as error:
        raise NoProgramError(str(error)) from error


def _works_on_rows(nodes: Sequence[Node], shapes: Mapping[str, Shape], source: str) -> bool:
    """Whether the nodes do the same to each row of a value that is no batch of vectors."""
    if len(shapes[source]) == 2 and shapes[source][0] == -1:
        return False
    return shapes[source][-1] > 0 and all(n.op in ("linear", "add", "multiply", *ACTIVATIONS) for n in nodes)


def codes_of(weight: Array) -> tuple[Array, Array] | None:
    """Ternary codes and a scale for each row of a weight whose rows have one magnitude each; None for other weights."""
    flat = weight.reshape(len(weight), -1)
    sizes = np.abs(flat)
    scale = sizes.max(1, initial=0.0)
    if not ((sizes == scale[:, None]) | (sizes == 0)).all():
        return None
    return np.sign(weight).astype(np.int8), np.where(scale == 0, 1, scale).astype(np.float32)


class _Builder:
    def __init__(self, source: str, shapes: Mapping[str, Shape], arrays: Mapping[str, Array], rows: bool) -> None:
        self.steps: list[Step] = []
        self.numbers: dict[str, int] = {source: 0}
        self.padded: dict[str, tuple[int, list[tuple[int, int]]]] = {}  # pad that a convolution takes over
        self.shapes = shapes
        self.arrays = arrays
        self.rows = rows

    def append(self, node: Node) -> None:
        refuse = f"{node.name} ({node.op})"
        rule = _STEPS.get(node.op)
        if rule is None:
            raise NoProgramError(f"{refuse} has no sparse form")
        if self.padded and node.op != "conv" and set(node.inputs) & self.padded.keys():
            raise NoProgramError(f"{refuse} reads a padded value")
        try:
            rule(self, node)
        except ProgramError as error:
            raise NoProgramError(f"{refuse}: {error}") from error
        except NoProgramError as error:
            raise NoProgramError(f"{refuse} {error}") from error

    def number(self, name: str) -> int:
        if name not in self.numbers:
            raise NoProgramError("reads another value")
        return self.numbers[name]

    def add(self, node: Node, step: Step) -> None:
        self.steps.append(step)
        self.numbers[node.name] = len(self.steps)

    def weighted(self, node: Node, weight: Array) -> dict[str, Any]:
        bias = None if node["bias"] is None else np.ascontiguousarray(self.arrays[node["bias"]], np.float32)
        found = codes_of(weight)
        if found is None:
            return {"weight": np.ascontiguousarray(weight, np.float32), "bias": bias}
        return {"weight": np.ascontiguousarray(found[0]), "scale": found[1], "bias": bias}


def _conv(b: _Builder, node: Node) -> None:
    weight, padding = b.arrays[node["weight"]], list(node["padding"])
    name = node.inputs[0]
    if name in b.padded:
        source, pairs = b.padded[name]
        if any(d != 1 for d in node["dilation"]) or any(padding):
            raise NoProgramError("stands behind a padding of unequal sides and has its own")
        # zeros of one width on both sides, and a kernel with zeros where that is too much: they cost nothing
        padding = [max(pair) for pair in pairs]
        grown = [(p - before, p - after) for p, (before, after) in zip(padding, pairs, strict=True)]
        weight = np.pad(weight, [(0, 0), (0, 0), *grown])
    else:
        source = b.number(name)
    options = b.weighted(node, weight) | {key: tuple(node[key]) for key in ("stride", "dilation")}
    b.add(node, sparse.SparseConv(**options, padding=tuple(padding), groups=node["groups"], source=source))


def _linear(b: _Builder, node: Node) -> None:
    b.add(node, sparse.SparseLinear(**b.weighted(node, b.arrays[node["weight"]]), source=b.number(node.inputs[0])))


def _activation(b: _Builder, node: Node) -> None:
    kind: Any = node.op
    alpha, beta = 1.0, 1.0
    if node.op == "elu":
        alpha = float(node["alpha"])
    elif node.op == "leaky_relu":
        alpha = float(node["slope"])
    elif node.op == "hardtanh":
        alpha, beta = float(node["low"]), float(node["high"])
    elif node.op == "gelu" and node["approximate"] != "none":
        raise NoProgramError("is approximated")
    b.add(node, sparse.Activation(kind=kind, alpha=alpha, beta=beta, source=b.number(node.inputs[0])))


def _max_pool(b: _Builder, node: Node) -> None:
    if any(d != 1 for d in node["dilation"]):
        raise NoProgramError("has a dilation")
    b.add(node, sparse.MaxPool(**_window(node), source=b.number(node.inputs[0])))


def _avg_pool(b: _Builder, node: Node) -> None:
    options = {**_window(node), "count_include_pad": node["count_include_pad"]}
    b.add(node, sparse.AvgPool(**options, source=b.number(node.inputs[0])))


def _window(node: Node) -> dict[str, Any]:
    sizes = {key: tuple(node[key]) for key in ("kernel", "stride", "padding")}
    return {**sizes, "ceil_mode": node["ceil"]}


def _adaptive(b: _Builder, node: Node) -> None:
    b.add(node, sparse.AdaptiveAvgPool(size=tuple(node["size"]), source=b.number(node.inputs[0])))


def _mean(b: _Builder, node: Node) -> None:
    shape = b.shapes[node.inputs[0]]
    if list(node["axes"]) != list(range(2, len(shape))) or len(shape) == 2:
        raise NoProgramError("is not over whole images")
    b.add(node, sparse.AdaptiveAvgPool(size=1, source=b.number(node.inputs[0])))
    if not node["keep"]:
        b.add(node, sparse.Flatten())


def _flatten(b: _Builder, node: Node) -> None:
    b.add(node, sparse.Flatten(source=b.number(node.inputs[0])))


def _scale_shift(b: _Builder, node: Node) -> None:
    scale, shift = (np.ascontiguousarray(b.arrays[node[key]], np.float32) for key in ("scale", "shift"))
    b.add(node, sparse.ScaleShift(scale=scale, shift=shift, source=b.number(node.inputs[0])))


def _binary(b: _Builder, node: Node) -> None:
    kind = {"add": sparse.Add, "multiply": sparse.Multiply}.get(node.op)
    if kind is None:
        raise NoProgramError("has no sparse form")
    first, second = (b.number(name) for name in node.inputs)
    b.add(node, kind(source=first, other=second))


def _concat(b: _Builder, node: Node) -> None:
    if node["axis"] != 1 or b.rows:
        raise NoProgramError("is along another axis")
    b.add(node, sparse.Concat(values=tuple(b.number(name) for name in node.inputs)))


def _slice(b: _Builder, node: Node) -> None:
    """Every so many-th row or column of an image: a pool of windows of one."""
    shape, axis = b.shapes[node.inputs[0]], node["axis"]
    if len(shape) < 3 or axis < 2 or node["start"] != 0 or node["stop"] != shape[axis]:
        raise NoProgramError("is more than a stride over images")
    stride = tuple(node["step"] if i == axis else 1 for i in range(2, len(shape)))
    b.add(node, sparse.MaxPool(kernel=(1,) * len(stride), stride=stride, source=b.number(node.inputs[0])))


def _pad(b: _Builder, node: Node) -> None:
    """Channels of zeros are a convolution 1x1 with a single 1 a channel; zeros around images wait for their convolution."""
    shape = b.shapes[node.inputs[0]]
    flat = node["padding"]
    pairs = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
    pairs = [(0, 0)] * (len(shape) - len(pairs)) + pairs
    source = b.number(node.inputs[0])
    if node["value"] != 0 or len(shape) < 3 or any(pairs[0]):
        raise NoProgramError("pads with something else than zeros around images")
    if any(map(any, pairs[2:])):
        if any(pairs[1]):
            raise NoProgramError("pads images and channels at once")
        b.padded[node.name] = (source, pairs[2:])
        return
    before, after = pairs[1]
    weight = np.zeros((before + shape[1] + after, shape[1], *[1] * (len(shape) - 2)), np.int8)
    weight[np.arange(shape[1]) + before, np.arange(shape[1])] = 1
    b.add(node, sparse.SparseConv(weight=weight, source=source))


_STEPS: Final[dict[str, Callable[[_Builder, Node], None]]] = {
    **dict.fromkeys(set(ACTIVATIONS) - {"hardsigmoid"}, _activation),
    **dict.fromkeys(BINARY, _binary),
    "conv": _conv,
    "linear": _linear,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive,
    "mean": _mean,
    "flatten": _flatten,
    "scale_shift": _scale_shift,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
}


def positions(node: Node, shapes: Mapping[str, Shape]) -> int:
    """How often each weight of a layer is used for one example."""
    shape = shapes[node.name]
    return math.prod(map(abs, shape)) // shape[1 if node.op == "conv" else -1]
