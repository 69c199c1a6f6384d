"""What shape every value of a graph has, found without computing it; and with it, whether a graph fits its tensors.

A shape holds the batch: an axis that grows with it is negative, -k meaning k times the number of examples. At most one
axis of a value is negative; a constant has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from supermask.deploy.graph import INPUT, MOST_AXES, Graph, Node
from supermask.deploy.operations import ACTIVATIONS, BINARY, LARGEST, TORCH
from supermask.errors import GraphError

Shape = tuple[int, ...]


class _MisfitError(Exception):
    """What does not fit, in words; the caller knows at which node."""


def infer(graph: Graph, tensors: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes of all values.

    Args:
        graph: A network.
        tensors: Name -> shape of the arrays beside it.

    Returns:
        Value -> shape, with ``"input"``. What is no tensor (a ``"torch"`` node may give a tuple) has no entry, and only
        other ``"torch"`` nodes can read it.

    Raises:
        GraphError: A tensor is missing or does not fit, or a value would be too large; the message names the node.
    """
    shapes: dict[str, Shape] = {INPUT: (-1, *graph.input_shape)}
    for node in graph.nodes:
        try:
            if node.op == TORCH:
                if node["shape"] is not None:
                    shapes[node.name] = tuple(node["shape"])
                continue
            if lacking := [name for name in node.tensors() if name not in tensors]:
                raise _MisfitError(f"there is no tensor {lacking[0]!r}")
            if lacking := [name for name in node.inputs if name not in shapes]:
                raise _MisfitError(f"{lacking[0]} is not a tensor")
            inputs = [shapes[name] for name in node.inputs]
            if node.op in _RULES:
                found = _RULES[node.op](node, inputs)
            else:
                found = _WEIGHTED[node.op](node, inputs, tensors)
            if len(found) > MOST_AXES or sum(n < 0 for n in found) > 1 or any(n == 0 for n in found):
                raise _MisfitError(f"its result would have the shape {found}")
            if math.prod(map(abs, found)) > LARGEST:
                raise _MisfitError(f"its result would have the shape {found}: more than {LARGEST} numbers an example")
        except _MisfitError as misfit:
            raise GraphError(f"graph: {node.name} ({node.op}): {misfit}") from None
        shapes[node.name] = found
    return shapes


def _need(good: bool, problem: str) -> None:
    if not good:
        raise _MisfitError(problem)


def _axis(node: Node, shape: Shape, key: str = "axis") -> int:
    axis: int = node[key]
    _need(axis < len(shape), f"{key} {axis} is not an axis of a value of shape {shape}")
    return axis


def _maps(node: Node, shape: Shape, axes: int) -> Shape:
    """The spatial part of a value (-1, C, *spatial)."""
    _need(len(shape) == axes + 2 and shape[0] < 0, f"needs a value of {axes} spatial axes, got the shape {shape}")
    for key in ("kernel", "stride", "padding", "dilation"):
        value = node.attributes.get(key)
        _need(value is None or len(value) == axes, f"{key} must have {axes} entries, got {value}")
    return shape[2:]


def _moved(
    size: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil: bool,
) -> Shape:
    """How often a window fits along each axis, as torch counts."""
    out = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        _need(room >= 0, f"a window of {k} (dilation {d}) does not fit an axis of {n} with padding {p}")
        count = (-(-room // s) if ceil else room // s) + 1
        out.append(count - int(ceil and (count - 1) * s >= n + p))  # the last window starts inside, or in the padding
    return tuple(out)


def _conv(node: Node, inputs: Sequence[Shape], tensors: Mapping[str, Shape]) -> Shape:
    weight = tensors[node["weight"]]
    _need(len(weight) in (3, 4) and all(n > 0 for n in weight), f"its weight must have 3 or 4 axes, got {weight}")
    size = _maps(node, inputs[0], len(weight) - 2)
    channels, groups = inputs[0][1], node["groups"]
    _need(weight[1] * groups == channels, f"a weight of shape {weight} in {groups} groups gets {channels} channels")
    _need(weight[0] % groups == 0, f"{groups} groups do not divide {weight[0]} channels")
    _vector(node, "bias", weight[0], tensors)
    moved = _moved(size, weight[2:], node["stride"], node["padding"], node["dilation"], False)
    return (inputs[0][0], weight[0], *moved)


def _vector(node: Node, key: str, length: int, tensors: Mapping[str, Shape]) -> None:
    if node[key] is not None:
        shape = tensors[node[key]]
        _need(shape == (length,), f"{key} must have the shape ({length},), got {shape}")


def _linear(node: Node, inputs: Sequence[Shape], tensors: Mapping[str, Shape]) -> Shape:
    weight = tensors[node["weight"]]
    _need(len(weight) == 2, f"its weight must have 2 axes, got {weight}")
    _need(len(inputs[0]) >= 2 and inputs[0][-1] == weight[1], f"a weight of shape {weight} gets the shape {inputs[0]}")
    _vector(node, "bias", weight[0], tensors)
    return (*inputs[0][:-1], weight[0])


def _channels(node: Node, inputs: Sequence[Shape], tensors: Mapping[str, Shape]) -> Shape:
    shape = inputs[0]
    _need(len(shape) >= 2 and shape[1] > 0, f"needs a value with channels, got the shape {shape}")
    for key in ("weight", "bias", "mean", "variance", "scale", "shift"):
        if key in node.attributes:
            _vector(node, key, shape[1], tensors)
    return shape


def _layer_norm(node: Node, inputs: Sequence[Shape], tensors: Mapping[str, Shape]) -> Shape:
    last = inputs[0][-node["axes"] :]
    _need(node["axes"] <= len(inputs[0]) and min(last) > 0, f"cannot normalise {node['axes']} axes of {inputs[0]}")
    for key in ("weight", "bias"):
        if node[key] is not None:
            _need(tensors[node[key]] == last, f"{key} must have the shape {last}, got {tensors[node[key]]}")
    return inputs[0]


def _pool(node: Node, inputs: Sequence[Shape]) -> Shape:
    size = _maps(node, inputs[0], len(node["kernel"]))
    halves = all(2 * p <= k for p, k in zip(node["padding"], node["kernel"], strict=True))
    _need(halves, f"padding {node['padding']} is more than half of the kernel {node['kernel']}")
    dilation = node.attributes.get("dilation", [1] * len(size))
    return (*inputs[0][:2], *_moved(size, node["kernel"], node["stride"], node["padding"], dilation, node["ceil"]))


def _adaptive(node: Node, inputs: Sequence[Shape]) -> Shape:
    _maps(node, inputs[0], len(node["size"]))
    return (*inputs[0][:2], *node["size"])


def _flatten(inputs: Sequence[Shape]) -> Shape:
    _need(len(inputs[0]) >= 1 and inputs[0][0] < 0, f"needs a batch in front, got the shape {inputs[0]}")
    return (inputs[0][0], math.prod(inputs[0][1:]))


def _reshape(node: Node, inputs: Sequence[Shape]) -> Shape:
    shape = tuple(node["shape"])
    before, after = (sum(n < 0 for n in s) for s in (inputs[0], shape))
    good = before == after and math.prod(map(abs, shape)) == math.prod(map(abs, inputs[0]))
    _need(good, f"cannot give the shape {inputs[0]} the shape {shape}")
    return shape


def _permute(node: Node, inputs: Sequence[Shape]) -> Shape:
    _need(sorted(node["axes"]) == list(range(len(inputs[0]))), f"{node['axes']} are not the axes of {inputs[0]}")
    return tuple(inputs[0][axis] for axis in node["axes"])


def _slice(node: Node, inputs: Sequence[Shape]) -> Shape:
    axis = _axis(node, inputs[0])
    start, stop, step = node["start"], node["stop"], node["step"]
    _need(0 <= start < stop <= inputs[0][axis], f"{start}:{stop} does not lie in axis {axis} of {inputs[0]}")
    return (*inputs[0][:axis], -(-(stop - start) // step), *inputs[0][axis + 1 :])


def _select(node: Node, inputs: Sequence[Shape]) -> Shape:
    axis = _axis(node, inputs[0])
    _need(node["index"] < inputs[0][axis], f"{node['index']} does not lie in axis {axis} of {inputs[0]}")
    return (*inputs[0][:axis], *inputs[0][axis + 1 :])


def _mean(node: Node, inputs: Sequence[Shape]) -> Shape:
    axes, shape = node["axes"], inputs[0]
    good = len(set(axes)) == len(axes) and all(axis < len(shape) and shape[axis] > 0 for axis in axes)
    _need(good, f"cannot take the mean of {shape} over {axes}")
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if node["keep"] or i not in axes)


def _pad(node: Node, inputs: Sequence[Shape]) -> Shape:
    shape, padding = list(inputs[0]), node["padding"]
    axes = range(len(shape) - 1, len(shape) - 1 - len(padding) // 2, -1)
    for axis, before, after in zip(axes, padding[::2], padding[1::2], strict=True):
        _need(axis >= 0 and shape[axis] > 0, f"cannot pad {inputs[0]} by {padding}")
        shape[axis] += before + after
    return tuple(shape)


def _concat(node: Node, inputs: Sequence[Shape]) -> Shape:
    axis = _axis(node, inputs[0])
    rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in inputs if len(shape) == len(inputs[0])}
    good = len(rest) == 1 and all(len(s) == len(inputs[0]) and s[axis] > 0 for s in inputs)
    _need(good, f"cannot put {list(inputs)} one after the other along axis {axis}")
    return (*inputs[0][:axis], sum(shape[axis] for shape in inputs), *inputs[0][axis + 1 :])


def _softmax(node: Node, inputs: Sequence[Shape]) -> Shape:
    axis = _axis(node, inputs[0])
    _need(inputs[0][axis] > 0, f"axis {axis} of {inputs[0]} is the batch")
    return inputs[0]


def _broadcast(*shapes: Shape) -> Shape:
    """The shape that values of these shapes have together, as numpy does it."""
    out: list[int] = []
    for axes in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        kinds = set(axes) - {1}
        _need(len(kinds) <= 1, f"the shapes {', '.join(map(str, shapes))} do not fit each other")
        out.append(kinds.pop() if kinds else 1)
    return tuple(reversed(out))


def _matmul(inputs: Sequence[Shape]) -> Shape:
    first, second = inputs
    good = len(first) >= 2 and len(second) >= 2 and first[-1] == second[-2] and first[-1] > 0
    _need(good, f"cannot multiply {first} by {second}")
    return (*_broadcast(first[:-2], second[:-2]), first[-2], second[-1])


def _attention(inputs: Sequence[Shape]) -> Shape:
    query, key, value = inputs
    good = len({len(query), len(key), len(value)}) == 1 and len(query) >= 3
    good = good and query[:-2] == key[:-2] == value[:-2] and min(*query[-2:], *key[-2:], *value[-2:]) > 0
    good = good and query[-1] == key[-1] and key[-2] == value[-2]
    _need(good, f"query, key and value do not fit: {query}, {key}, {value}")
    return (*query[:-1], value[-1])


#: What the shape of the result follows from: the inputs' shapes and the attributes.
_RULES: Final[dict[str, Callable[[Node, Sequence[Shape]], Shape]]] = {
    **dict.fromkeys(ACTIVATIONS, lambda node, inputs: inputs[0]),  # noqa: ARG005
    **dict.fromkeys(BINARY, lambda node, inputs: _broadcast(*inputs)),  # noqa: ARG005
    "number": lambda node, inputs: (),  # noqa: ARG005
    "max_pool": _pool,
    "avg_pool": _pool,
    "adaptive_avg_pool": _adaptive,
    "flatten": lambda node, inputs: _flatten(inputs),  # noqa: ARG005
    "reshape": _reshape,
    "permute": _permute,
    "slice": _slice,
    "select": _select,
    "mean": _mean,
    "pad": _pad,
    "concat": _concat,
    "softmax": _softmax,
    "matmul": lambda node, inputs: _matmul(inputs),  # noqa: ARG005
    "attention": lambda node, inputs: _attention(inputs),  # noqa: ARG005
}
#: And where it follows from the arrays' shapes as well.
_WEIGHTED: Final[dict[str, Callable[[Node, Sequence[Shape], Mapping[str, Shape]], Shape]]] = {
    "constant": lambda node, inputs, tensors: tensors[node["tensor"]],  # noqa: ARG005
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _channels,
    "layer_norm": _layer_norm,
    "scale_shift": _channels,
}


def shapes_of(tensors: Mapping[str, Any]) -> dict[str, Shape]:
    """Name -> shape of arrays or tensors."""
    return {name: tuple(value.shape) for name, value in tensors.items()}
