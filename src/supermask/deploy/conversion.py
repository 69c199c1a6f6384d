"""Which operation of torch is which node. What is not here, or is used in a way that a node cannot say, stays with torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import torch
from torch import fx

from supermask.deploy.shapes import Shape

_aten = torch.ops.aten


class RefusedError(Exception):
    """A node cannot say this; torch shall run it."""


class Builder(Protocol):
    """What a rule needs of the tracer."""

    def add(self, op: str, source: fx.Node, inputs: tuple[str, ...], **attributes: Any) -> str:
        """Append a node, named after the module that it comes from, and return its name."""

    def value(self, argument: Any) -> str:
        """Name of the value of an argument: something computed, a parameter, or a number."""

    def tensor(self, argument: Any) -> str:
        """Name of the array of an argument that is a parameter or a buffer."""

    def shape(self, argument: Any) -> Shape:
        """Shape of an argument; () of a number."""


Rule = Callable[[Builder, fx.Node, Shape, Any], str]


def convert(builder: Builder, node: fx.Node, shape: Shape) -> str:
    """Append the nodes of one operation.

    Args:
        builder: Takes the nodes.
        node: The operation.
        shape: Of its result.

    Returns:
        Name of the value that is its result.

    Raises:
        RefusedError: There is no node for it.
    """
    rule = _RULES.get(node.target)
    if rule is None or not isinstance(node.target, torch._ops.OpOverload):
        if getattr(node.target, "__name__", "") == "getitem":
            return _first_of_many(builder, node, shape)
        raise RefusedError(str(node.target))
    return rule(builder, node, shape, _Arguments(node))


class _Arguments:
    """Arguments of an operation by name, defaults filled in."""

    def __init__(self, node: fx.Node) -> None:
        assert isinstance(node.target, torch._ops.OpOverload)
        self._values: dict[str, Any] = {}
        for index, argument in enumerate(node.target._schema.arguments):
            default = argument.default_value if argument.has_default_value() else None
            given = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name, default)
            self._values[argument.name] = given

    def __getattr__(self, name: str) -> Any:
        return self._values[name]


def _need(good: bool, why: str) -> None:
    if not good:
        raise RefusedError(why)


def _axis(axis: int, shape: Sequence[int]) -> int:
    return axis + len(shape) if axis < 0 else axis


def _spread(value: Any, axes: int, default: Sequence[int] | None = None) -> list[int]:
    """A size for each spatial axis: torch lets one stand for all, and none for a default."""
    sizes: list[int] = list(value) if isinstance(value, list | tuple) else [value]
    if not sizes and default is not None:
        return list(default)
    sizes = sizes * axes if len(sizes) == 1 else sizes
    _need(len(sizes) == axes and all(isinstance(v, int) for v in sizes), f"{value} are not {axes} sizes")
    return sizes


def _number(value: Any) -> float:
    _need(isinstance(value, int | float) and math.isfinite(value), f"{value} is not a plain number")
    return float(value)


def _identity(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
    return builder.value(node.args[0])


def _dropout(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
    _need(not a.train, "dropout that drops")
    return builder.value(a.input)


def _activation(op: str, **names: str) -> Rule:
    def rule(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
        attributes = {ours: _number(getattr(a, theirs)) for ours, theirs in names.items()}
        return builder.add(op, node, (builder.value(node.args[0]),), **attributes)

    return rule


def _elu(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
    _need(a.scale == 1 and a.input_scale == 1, "an ELU with scales")
    return builder.add("elu", node, (builder.value(a.self),), alpha=_number(a.alpha))


def _gelu(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
    return builder.add("gelu", node, (builder.value(a.self),), approximate=a.approximate)


def _relu6(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
    return builder.add("hardtanh", node, (builder.value(a.self),), low=0.0, high=6.0)


def _clamp(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
    return builder.add("hardtanh", node, (builder.value(a.self),), low=_number(a.min), high=_number(a.max))


def _conv(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:
    weight = builder.shape(a.weight)
    axes = len(weight) - 2
    _need(len(shape) == axes + 2 and shape[0] < 0 and axes in (1, 2), "a convolution of other axes")
    x, dilation = builder.value(a.input), _spread(a.dilation, axes)
    padding = a.padding
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight[2:], strict=True)]
        padding = [t // 2 for t in total]
        if any(t % 2 for t in total):
            flat = [n for t in reversed(total) for n in (t // 2, t - t // 2)]
            x, padding = builder.add("pad", node, (x,), padding=flat, value=0.0), 0
    return builder.add(
        "conv",
        node,
        (x,),
        weight=builder.tensor(a.weight),
        bias=None if a.bias is None else builder.tensor(a.bias),
        stride=_spread(a.stride, axes),
        padding=_spread(padding, axes),
        dilation=dilation,
        groups=a.groups,
    )


def _linear(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:
    _need(len(shape) >= 2, "a linear layer without a batch")
    bias = None if a.bias is None else builder.tensor(a.bias)
    return builder.add("linear", node, (builder.value(a.input),), weight=builder.tensor(a.weight), bias=bias)


def _first_of_many(builder: Builder, node: fx.Node, shape: Shape) -> str:  # noqa: ARG001
    """The normalised value of an evaluating batch norm, which torch gives with two more."""
    source, index = node.args
    assert isinstance(source, fx.Node)
    assert isinstance(index, int)
    _need(str(source.target) == "aten._native_batch_norm_legit_no_training.default" and index == 0, "a part of a tuple")
    a = _Arguments(source)
    return builder.add(
        "batch_norm",
        source,
        (builder.value(a.input),),
        weight=None if a.weight is None else builder.tensor(a.weight),
        bias=None if a.bias is None else builder.tensor(a.bias),
        mean=builder.tensor(a.running_mean),
        variance=builder.tensor(a.running_var),
        epsilon=_number(a.eps),
    )


def _layer_norm(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
    return builder.add(
        "layer_norm",
        node,
        (builder.value(a.input),),
        weight=None if a.weight is None else builder.tensor(a.weight),
        bias=None if a.bias is None else builder.tensor(a.bias),
        axes=len(a.normalized_shape),
        epsilon=_number(a.eps),
    )


def _pool(op: str, axes: int) -> Rule:
    def rule(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:
        _need(len(shape) == axes + 2 and shape[0] < 0, "a pool without a batch")
        kernel = _spread(a.kernel_size, axes)
        options: dict[str, Any] = {
            "kernel": kernel,
            "stride": _spread(a.stride, axes, kernel),
            "padding": _spread(a.padding, axes),
            "ceil": bool(a.ceil_mode),
        }
        if op == "max_pool":
            options["dilation"] = _spread(a.dilation, axes)
        else:
            _need(axes == 1 or a.divisor_override is None, "an average over another number")
            options["count_include_pad"] = bool(a.count_include_pad)
        return builder.add(op, node, (builder.value(a.self),), **options)

    return rule


def _adaptive(axes: int) -> Rule:
    def rule(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:
        _need(len(shape) == axes + 2 and shape[0] < 0, "a pool without a batch")
        return builder.add("adaptive_avg_pool", node, (builder.value(a.self),), size=list(shape[2:]))

    return rule


def _reshape(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:
    before, x = builder.shape(a.self), builder.value(a.self)
    if before == shape:
        return x
    if len(shape) == 2 and len(before) >= 1 and before[0] == shape[0] and shape[0] < 0:
        return builder.add("flatten", node, (x,))
    return builder.add("reshape", node, (x,), shape=list(shape))


def _permute(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:
    axes = [_axis(axis, shape) for axis in a.dims]
    return builder.add("permute", node, (builder.value(a.self),), axes=axes)


def _transpose(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:
    axes = list(range(len(shape)))
    first, second = _axis(a.dim0, shape), _axis(a.dim1, shape)
    axes[first], axes[second] = second, first
    return builder.add("permute", node, (builder.value(a.self),), axes=axes)


def _slice(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:
    before = builder.shape(a.self)
    axis = _axis(a.dim, before)
    if before == shape and a.step == 1:
        return builder.value(a.self)
    size = before[axis]
    ends = [size if n is None else n for n in (0 if a.start is None else a.start, a.end)]
    _need(size > 0 and all(isinstance(n, int) for n in (*ends, a.step)), "a part of the batch")
    start, stop = (min(max(n + size if n < 0 else n, 0), size) for n in ends)
    return builder.add("slice", node, (builder.value(a.self),), axis=axis, start=start, stop=stop, step=a.step)


def _select(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
    before = builder.shape(a.self)
    axis = _axis(a.dim, before)
    _need(before[axis] > 0 and isinstance(a.index, int), "one example of the batch")
    return builder.add("select", node, (builder.value(a.self),), axis=axis, index=_axis(a.index, [0] * before[axis]))


def _mean(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
    before = builder.shape(a.self)
    axes = sorted(_axis(axis, before) for axis in (a.dim or range(len(before))))
    _need(all(before[axis] > 0 for axis in axes) and a.dtype is None, "a mean over the batch")
    return builder.add("mean", node, (builder.value(a.self),), axes=axes, keep=bool(a.keepdim))


def _pad(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
    mode = getattr(a, "mode", "constant") if "mode" in a._values else "constant"
    _need(mode == "constant" and all(isinstance(n, int) and n >= 0 for n in a.pad), "another padding")
    value = _number(a.value or 0.0)
    return builder.add("pad", node, (builder.value(a.self),), padding=list(a.pad), value=value)


def _concat(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:
    return builder.add("concat", node, tuple(builder.value(part) for part in a.tensors), axis=_axis(a.dim, shape))


def _softmax(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:
    return builder.add("softmax", node, (builder.value(a.self),), axis=_axis(a.dim, shape))


def _binary(op: str) -> Rule:
    def rule(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
        _need("alpha" not in a._values or a.alpha == 1, "a sum with a factor")
        _need("rounding_mode" not in a._values or a.rounding_mode is None, "a rounded quotient")
        return builder.add(op, node, (builder.value(node.args[0]), builder.value(node.args[1])))

    return rule


def _matmul(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
    first, second = node.args[:2]
    _need(min(len(builder.shape(first)), len(builder.shape(second))) >= 2, "a product with a vector")
    return builder.add("matmul", node, (builder.value(first), builder.value(second)))


def _attention(builder: Builder, node: fx.Node, shape: Shape, a: Any) -> str:  # noqa: ARG001
    _need(a.attn_mask is None and not a.dropout_p and not a.enable_gqa, "attention with a mask or dropout")
    shapes = [builder.shape(part) for part in (a.query, a.key, a.value)]
    _need(len({s[:-2] for s in shapes}) == 1, "attention that repeats heads")
    scale = 1 / math.sqrt(shapes[0][-1]) if a.scale is None else _number(a.scale)
    inputs = tuple(builder.value(part) for part in (a.query, a.key, a.value))
    return builder.add("attention", node, inputs, causal=bool(a.is_causal), scale=scale)


_RULES: Final[dict[Any, Rule]] = {
    _aten.alias.default: _identity,
    _aten.clone.default: _identity,
    _aten.contiguous.default: _identity,
    _aten.detach.default: _identity,
    _aten.dropout.default: _dropout,
    _aten.feature_dropout.default: _dropout,
    _aten.relu.default: _activation("relu"),
    _aten.sigmoid.default: _activation("sigmoid"),
    _aten.silu.default: _activation("silu"),
    _aten.tanh.default: _activation("tanh"),
    _aten.hardswish.default: _activation("hardswish"),
    _aten.hardsigmoid.default: _activation("hardsigmoid"),
    _aten.leaky_relu.default: _activation("leaky_relu", slope="negative_slope"),
    _aten.hardtanh.default: _activation("hardtanh", low="min_val", high="max_val"),
    _aten.relu6.default: _relu6,
    _aten.clamp.default: _clamp,
    _aten.elu.default: _elu,
    _aten.gelu.default: _gelu,
    _aten.conv1d.default: _conv,
    _aten.conv1d.padding: _conv,
    _aten.conv2d.default: _conv,
    _aten.conv2d.padding: _conv,
    _aten.linear.default: _linear,
    _aten.layer_norm.default: _layer_norm,
    _aten.max_pool1d.default: _pool("max_pool", 1),
    _aten.max_pool2d.default: _pool("max_pool", 2),
    _aten.avg_pool1d.default: _pool("avg_pool", 1),
    _aten.avg_pool2d.default: _pool("avg_pool", 2),
    _aten.adaptive_avg_pool1d.default: _adaptive(1),
    _aten.adaptive_avg_pool2d.default: _adaptive(2),
    _aten.view.default: _reshape,
    _aten._unsafe_view.default: _reshape,
    _aten.reshape.default: _reshape,
    _aten.flatten.using_ints: _reshape,
    _aten.unflatten.int: _reshape,
    _aten.unsqueeze.default: _reshape,
    _aten.squeeze.default: _reshape,
    _aten.squeeze.dim: _reshape,
    _aten.squeeze.dims: _reshape,
    _aten.permute.default: _permute,
    _aten.transpose.int: _transpose,
    _aten.slice.Tensor: _slice,
    _aten.select.int: _select,
    _aten.mean.dim: _mean,
    _aten.pad.default: _pad,
    _aten.constant_pad_nd.default: _pad,
    _aten.cat.default: _concat,
    _aten.softmax.int: _softmax,
    _aten._softmax.default: _softmax,
    _aten.add.Tensor: _binary("add"),
    _aten.sub.Tensor: _binary("subtract"),
    _aten.mul.Tensor: _binary("multiply"),
    _aten.div.Tensor: _binary("divide"),
    _aten.matmul.default: _matmul,
    _aten.bmm.default: _matmul,
    _aten.mm.default: _matmul,
    _aten.scaled_dot_product_attention.default: _attention,
}
