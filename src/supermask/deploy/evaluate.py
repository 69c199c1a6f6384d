"""Every operation in plain numpy: the reference, and what the run time without torch computes with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from supermask.deploy.graph import INPUT, Graph, Node
from supermask.deploy.operations import TORCH
from supermask.errors import GraphError

Array = NDArray[Any]
Tensors = Mapping[str, Array]


def evaluate(graph: Graph, tensors: Tensors, x: Array, keep: Sequence[str] = ()) -> Any:
    """Compute a graph.

    Args:
        graph: Without ``"torch"`` nodes.
        tensors: The arrays beside it; integers or floats.
        x: (N, *input_shape).
        keep: Names of values that are wanted as well.

    Returns:
        The output; with ``keep``, a dict of the kept values instead.

    Raises:
        GraphError: A node needs torch.
    """
    values: dict[str, Array] = {INPUT: np.asarray(x)}
    last = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    wanted = {graph.output, *keep}
    for index, node in enumerate(graph.nodes):
        values[node.name] = apply(node, tensors, [values[name] for name in node.inputs])
        for name in set(node.inputs) - wanted:
            if last[name] == index:
                del values[name]
    return {name: values[name] for name in keep} if keep else values[graph.output]


def apply(node: Node, tensors: Tensors, inputs: Sequence[Array]) -> Array:
    """Compute one node.

    Raises:
        GraphError: It is a ``"torch"`` node.
    """
    if node.op == TORCH:
        raise GraphError(f"{node.name} is {node['target']}, which only torch can run")
    if node.op == "constant":
        return tensors[node["tensor"]]
    if node.op == "number":
        return np.array(node["value"], np.float32)
    if node.op in _PLAIN:
        return _PLAIN[node.op](*inputs)
    if node.op in _SHAPED:
        return _SHAPED[node.op](node, inputs)
    return _WEIGHTED[node.op](node, tensors, inputs[0])


def _optional(node: Node, key: str, tensors: Tensors) -> Array | None:
    return None if node[key] is None else tensors[node[key]]


def _windows(x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Array:
    """(N, C, *moved, *kernel), a view of (N, C, *spatial)."""
    axes = tuple(range(2, x.ndim))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    seen = sliding_window_view(x, spans, axis=axes)
    moves = tuple(slice(None, None, s) for s in stride)
    taps = tuple(slice(None, None, d) for d in dilation)
    return seen[(slice(None), slice(None), *moves, *taps)]


def _padded(x: Array, padding: Sequence[int], value: float, extra: Sequence[int] | None = None) -> Array:
    extra = extra or [0] * len(padding)
    if not any(padding) and not any(extra):
        return x
    pads = [(0, 0), (0, 0), *((p, p + e) for p, e in zip(padding, extra, strict=True))]
    return np.pad(x, pads, constant_values=value)


def _conv(node: Node, tensors: Tensors, x: Array) -> Array:
    weight = tensors[node["weight"]]
    x = _padded(x, node["padding"], 0.0)
    seen = _windows(x, weight.shape[2:], node["stride"], node["dilation"])
    axes = weight.ndim - 2
    examples, moved, groups = len(x), seen.shape[2 : 2 + axes], node["groups"]
    inside = weight.shape[1]
    parts = []
    order = (0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))
    for part, rows in enumerate(np.split(weight, groups)):
        columns = seen[:, part * inside : (part + 1) * inside].transpose(order)
        flat = columns.reshape(examples * math.prod(moved), -1) @ rows.reshape(len(rows), -1).T
        parts.append(flat.reshape(examples, *moved, len(rows)))
    out = np.moveaxis(np.concatenate(parts, axis=-1), -1, 1)
    bias = _optional(node, "bias", tensors)
    return np.ascontiguousarray(out if bias is None else out + _per_channel(bias, out))


def _per_channel(vector: Array, x: Array) -> Array:
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def _linear(node: Node, tensors: Tensors, x: Array) -> Array:
    out: Array = x @ tensors[node["weight"]].T
    bias = _optional(node, "bias", tensors)
    return out if bias is None else out + bias


def _batch_norm(node: Node, tensors: Tensors, x: Array) -> Array:
    scale = 1 / np.sqrt(tensors[node["variance"]] + x.dtype.type(node["epsilon"]))
    weight, bias = _optional(node, "weight", tensors), _optional(node, "bias", tensors)
    scale = scale if weight is None else scale * weight
    shift = -tensors[node["mean"]] * scale
    shift = shift if bias is None else shift + bias
    return x * _per_channel(scale, x) + _per_channel(shift, x)


def _scale_shift(node: Node, tensors: Tensors, x: Array) -> Array:
    return x * _per_channel(tensors[node["scale"]], x) + _per_channel(tensors[node["shift"]], x)


def _layer_norm(node: Node, tensors: Tensors, x: Array) -> Array:
    axes = tuple(range(x.ndim - node["axes"], x.ndim))
    centred = x - x.mean(axes, keepdims=True)
    out: Array = centred / np.sqrt((centred * centred).mean(axes, keepdims=True) + x.dtype.type(node["epsilon"]))
    weight, bias = _optional(node, "weight", tensors), _optional(node, "bias", tensors)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _beyond(node: Node, size: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """How far the last windows reach beyond the padding, where ``ceil`` allows it."""
    extra = []
    for n, k, s, p, d in zip(size, node["kernel"], node["stride"], node["padding"], dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        count = (-(-room // s) if node["ceil"] else room // s) + 1
        count -= int(node["ceil"] and (count - 1) * s >= n + p)
        extra.append(max((count - 1) * s - room, 0))
    return extra


def _max_pool(node: Node, inputs: Sequence[Array]) -> Array:
    x = inputs[0]
    padded = _padded(x, node["padding"], -np.inf, _beyond(node, x.shape[2:], node["dilation"]))
    seen = _windows(padded, node["kernel"], node["stride"], node["dilation"])
    out: Array = seen.max(tuple(range(x.ndim, seen.ndim)))
    return out


def _avg_pool(node: Node, inputs: Sequence[Array]) -> Array:
    x = inputs[0]
    ones = [1] * (x.ndim - 2)
    extra = _beyond(node, x.shape[2:], ones)
    seen = _windows(_padded(x, node["padding"], 0.0, extra), node["kernel"], node["stride"], ones)
    inside = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if node["count_include_pad"]:
        inside = _padded(inside, node["padding"], 1.0)
        counted = _padded(inside, [0] * len(ones), 0.0, extra)
    else:
        counted = _padded(inside, node["padding"], 0.0, extra)
    axes = tuple(range(x.ndim, seen.ndim))
    out: Array = seen.sum(axes) / _windows(counted, node["kernel"], node["stride"], ones).sum(axes)
    return out


def _adaptive_avg_pool(node: Node, inputs: Sequence[Array]) -> Array:
    x = inputs[0]
    for axis, parts in enumerate(node["size"], start=2):
        size = x.shape[axis]
        bounds = [(i * size // parts, -(-(i + 1) * size // parts)) for i in range(parts)]
        x = np.stack([x.take(range(low, high), axis).mean(axis) for low, high in bounds], axis)
    return x


def _elu(node: Node, inputs: Sequence[Array]) -> Array:
    x = inputs[0]
    return np.where(x > 0, x, x.dtype.type(node["alpha"]) * np.expm1(np.minimum(x, 0)))


def _leaky_relu(node: Node, inputs: Sequence[Array]) -> Array:
    x = inputs[0]
    return np.where(x > 0, x, x * x.dtype.type(node["slope"]))


def _mean(node: Node, inputs: Sequence[Array]) -> Array:
    out: Array = inputs[0].mean(tuple(node["axes"]), keepdims=node["keep"])
    return out


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(x.dtype, copy=False)


def _gelu(node: Node, inputs: Sequence[Array]) -> Array:
    x = inputs[0]
    if node["approximate"] == "tanh":
        inner = x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x**3)
        out: Array = x * (1 + np.tanh(inner)) / 2
    else:
        out = x * (1 + _erf(x.astype(np.float64) / math.sqrt(2))) / 2
    return out.astype(x.dtype, copy=False)


def _erf(x: Array) -> Array:
    return np.array([math.erf(v) for v in x.flat], np.float64).reshape(x.shape)


def _normalized(x: Array, axis: int) -> Array:
    grown = np.exp(x - x.max(axis, keepdims=True))
    share: Array = grown / grown.sum(axis, keepdims=True)
    return share


def _attention(node: Node, inputs: Sequence[Array]) -> Array:
    query, key, value = inputs
    weights = (query @ np.swapaxes(key, -1, -2)) * query.dtype.type(node["scale"])
    if node["causal"]:
        weights = np.where(np.tri(*weights.shape[-2:], dtype=np.bool_), weights, -np.inf)
    return _normalized(weights.astype(query.dtype, copy=False), -1) @ value


def _reshape(node: Node, inputs: Sequence[Array]) -> Array:
    return inputs[0].reshape([n if n > 0 else -1 for n in node["shape"]])


def _slice(node: Node, inputs: Sequence[Array]) -> Array:
    part = slice(node["start"], node["stop"], node["step"])
    out: Array = inputs[0][(slice(None),) * node["axis"] + (part,)]
    return out


def _pad(node: Node, inputs: Sequence[Array]) -> Array:
    x, flat = inputs[0], node["padding"]
    pairs = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
    return np.pad(x, [(0, 0)] * (x.ndim - len(pairs)) + pairs, constant_values=node["value"])


#: Operations of their inputs alone.
_PLAIN: Final[dict[str, Callable[..., Array]]] = {
    "relu": lambda x: np.maximum(x, 0),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "matmul": np.matmul,
    "flatten": lambda x: x.reshape(len(x), math.prod(x.shape[1:])),
}
#: Operations with attributes.
_SHAPED: Final[dict[str, Callable[[Node, Sequence[Array]], Array]]] = {
    "elu": _elu,
    "leaky_relu": _leaky_relu,
    "gelu": _gelu,
    "hardtanh": lambda node, inputs: np.clip(inputs[0], node["low"], node["high"]),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive_avg_pool,
    "reshape": _reshape,
    "permute": lambda node, inputs: inputs[0].transpose(node["axes"]),
    "slice": _slice,
    "select": lambda node, inputs: np.take(inputs[0], node["index"], node["axis"]),
    "mean": _mean,
    "pad": _pad,
    "concat": lambda node, inputs: np.concatenate(inputs, node["axis"]),
    "softmax": lambda node, inputs: _normalized(inputs[0], node["axis"]),
    "attention": _attention,
}
#: Operations with arrays.
_WEIGHTED: Final[dict[str, Callable[[Node, Tensors, Array], Array]]] = {
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "scale_shift": _scale_shift,
}
