"""Sparse programs in plain numpy: what runs without the compiled kernels, and what they are tested against.

Values hold the batch in their last axis, (C, H, W, N), so that one weight that remains is one addition of long contiguous rows.
Layers that keep more than a few weights are one matrix product instead: numpy's BLAS then beats additions one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from supermask.kernels.sparse_steps import (
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    Concat,
    Flatten,
    MaxPool,
    Multiply,
    ScaleShift,
    SparseConv,
    SparseLinear,
    Step,
    Window,
)

Array = NDArray[Any]

TILE: Final = 32  # images at a time: a value of 64 x 32 x 32 is then 8 MiB
ADDITIONS_BELOW: Final = 0.012  # density below which additions one by one beat a matrix product


def prepare(steps: Sequence[Step], dtype: type = np.float32) -> list[Callable[..., Array]]:
    """What :func:`run` needs of the weights of a checked program, for arithmetic in ``dtype``."""
    return [_function(step, np.dtype(dtype)) for step in steps]


def run(steps: Sequence[Step], functions: Sequence[Callable[..., Array]], x: Array) -> Array:
    """Results of the last step for x of shape (N, ...)."""
    parts = [_run_tile(steps, functions, x[start : start + TILE]) for start in range(0, len(x), TILE)]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _run_tile(steps: Sequence[Step], functions: Sequence[Callable[..., Array]], x: Array) -> Array:
    values: list[Array] = [np.ascontiguousarray(np.moveaxis(x, 0, -1))]
    for number, (step, function) in enumerate(zip(steps, functions, strict=True)):
        values.append(function(*(values[source if source >= 0 else number] for source in step.sources)))
    return np.ascontiguousarray(np.moveaxis(values[-1], -1, 0))


def _function(step: Step, dtype: np.dtype[Any]) -> Callable[..., Array]:
    """What a step does to its values."""
    if isinstance(step, SparseConv):
        return _conv(step, dtype)
    if isinstance(step, SparseLinear):
        return partial(_linear, step, step.weight.astype(dtype))
    return partial(_FUNCTIONS[type(step)], step)


def _padded(x: Array, window: Window, fill: float) -> Array:
    """(C, H, W, N) with room for every window, also those that reach beyond the input."""
    extra = []
    for axis in range(2):
        end = (window.out[axis] - 1) * window.stride[axis] + window.dilation[axis] * (window.kernel[axis] - 1) + 1
        extra.append((window.padding[axis], max(0, end - window.padding[axis] - x.shape[1 + axis])))
    if not any(map(any, extra)):
        return x
    return np.pad(x, ((0, 0), *extra, (0, 0)), constant_values=fill)


def _tap(x: Array, window: Window, ky: int, kx: int) -> Array:
    """What tap (ky, kx) sees at each position: a view (C, out_h, out_w, N)."""
    y0, x0 = ky * window.dilation[0], kx * window.dilation[1]
    (height, width), (sy, sx) = window.out, window.stride
    return x[:, y0 : y0 + (height - 1) * sy + 1 : sy, x0 : x0 + (width - 1) * sx + 1 : sx]


def _as_image(x: Array) -> Array:
    return x[:, None] if x.ndim == 3 else x


def _finish(step: SparseConv | SparseLinear, y: Array, axis: int) -> Array:
    shape = [1] * y.ndim
    shape[axis] = -1
    if step.scale is not None:
        y *= step.scale.reshape(shape)
    if step.bias is not None:
        y += step.bias.reshape(shape)
    return y


def _conv(step: SparseConv, dtype: np.dtype[Any]) -> Callable[[Array], Array]:
    weight = step.weight if step.weight.ndim == 4 else step.weight[:, :, None]
    outputs, per_group = weight.shape[0] // step.groups, weight.shape[1]
    parts: list[Callable[[Array, Window, Array], None]] = []
    for group in range(step.groups):
        part = weight[group * outputs : (group + 1) * outputs]
        few = np.count_nonzero(part) < ADDITIONS_BELOW * part.size or outputs == 1
        parts.append(_additions(part, dtype) if few else _product(part, dtype))

    def run(x: Array) -> Array:
        flat = x.ndim == 3
        window = step.window(x.shape[:-1])
        x = _padded(_as_image(x), window, 0.0)
        y = np.zeros((weight.shape[0], *window.out, x.shape[-1]), x.dtype)
        for group, part in enumerate(parts):
            inputs = x[group * per_group : (group + 1) * per_group]
            part(inputs, window, y[group * outputs : (group + 1) * outputs])
        y = _finish(step, y, 0)
        return y[:, 0] if flat else y

    return run


def _additions(weight: Array, dtype: np.dtype[Any]) -> Callable[[Array, Window, Array], None]:
    """One addition of a whole tap for each weight."""
    remaining = [(*place, dtype.type(weight[tuple(place)])) for place in np.argwhere(weight).tolist()]

    def run(x: Array, window: Window, y: Array) -> None:
        taps = [[_tap(x, window, ky, kx) for kx in range(weight.shape[3])] for ky in range(weight.shape[2])]
        for channel, i, ky, kx, value in remaining:
            if value == 1:
                y[channel] += taps[ky][kx][i]
            elif value == -1:
                y[channel] -= taps[ky][kx][i]
            else:
                y[channel] += taps[ky][kx][i] * value

    return run


def _product(weight: Array, dtype: np.dtype[Any]) -> Callable[[Array, Window, Array], None]:
    """A matrix product with the taps that at least one output channel reads."""
    i, ky, kx = np.nonzero(weight.any(axis=0))
    matrix = weight[:, i, ky, kx].astype(dtype)
    places = list(zip(i.tolist(), ky.tolist(), kx.tolist(), strict=True))

    def run(x: Array, window: Window, y: Array) -> None:
        columns = np.empty((len(places), *y.shape[1:]), x.dtype)
        for row, (channel, down, right) in enumerate(places):
            columns[row] = _tap(x[channel : channel + 1], window, down, right)[0]
        y[...] = (matrix @ columns.reshape(len(places), -1)).reshape(y.shape)

    return run


def _linear(step: SparseLinear, weight: Array, x: Array) -> Array:
    product: Array = weight @ x
    return _finish(step, product, x.ndim - 2)


def _max_pool(step: MaxPool, x: Array) -> Array:
    return _pool(step, x, -np.inf, np.maximum)


def _avg_pool(step: AvgPool, x: Array) -> Array:
    y = _pool(step, x, 0.0, np.add)
    flat = x.ndim == 3
    counts = pool_counts(step, x.shape[:-1])
    mean: Array = y / (counts[0] if flat else counts)[..., None].astype(x.dtype)
    return mean


def pool_counts(step: AvgPool, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Entries that count in each window, (out_h, out_w), for an input of this shape."""
    window = step.window(shape)
    size = shape[1:] if len(shape) == 3 else (1, *shape[1:])
    axes = []
    for axis in range(2):
        start = np.arange(window.out[axis]) * window.stride[axis] - window.padding[axis]
        end = start + window.kernel[axis]
        edge = window.padding[axis] if step.count_include_pad else 0
        axes.append(np.minimum(end, size[axis] + edge) - np.maximum(start, -edge))
    return np.outer(*axes).astype(np.float64)


def _pool(step: MaxPool | AvgPool, x: Array, fill: float, combine: Callable[..., Array]) -> Array:
    flat = x.ndim == 3
    window = step.window(x.shape[:-1])
    x = _padded(_as_image(x), window, fill)
    y = _tap(x, window, 0, 0).copy()
    for ky in range(window.kernel[0]):
        for kx in range(window.kernel[1]):
            if ky or kx:
                combine(y, _tap(x, window, ky, kx), out=y)
    return y[:, 0] if flat else y


def _adaptive_avg_pool(step: AdaptiveAvgPool, x: Array) -> Array:
    flat = x.ndim == 3
    out, image = step.out(x.shape[:-1]), _as_image(x)
    spans = [[adaptive_span(i, count, size) for i in range(count)] for count, size in zip(out, image.shape[1:3])]
    y = np.stack([np.stack([image[:, a:b, c:d].mean(axis=(1, 2)) for c, d in spans[1]], 1) for a, b in spans[0]], 1)
    return y[:, 0] if flat else y


def adaptive_span(i: int, count: int, size: int) -> tuple[int, int]:
    """First and last + 1 input that belongs to output ``i`` of ``count``."""
    return i * size // count, -(-(i + 1) * size // count)


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[x.dtype])(x) if x.size else x


def _activation(step: Activation, x: Array) -> Array:
    match step.kind:
        case "relu":
            relu: Array = np.maximum(x, 0)
            return relu
        case "elu":
            return _elu(x, step.alpha)
        case "leaky_relu":
            return np.where(x > 0, x, x.dtype.type(step.alpha) * x)
        case "hardtanh":
            return np.clip(x, x.dtype.type(step.alpha), x.dtype.type(step.beta))
        case "hardswish":
            hardswish: Array = x * np.clip(x + 3, 0, 6) / 6
            return hardswish
        case "sigmoid":
            return _sigmoid(x)
        case "silu":
            return x * _sigmoid(x)
        case "tanh":
            return np.tanh(x)
        case "gelu":
            gelu: Array = x * (1 + _erf(x * x.dtype.type(math.sqrt(0.5)))) / 2
            return gelu


def _elu(x: Array, alpha: float) -> Array:
    negative = np.minimum(x, 0)
    np.exp(negative, out=negative)  # numpy's expm1 takes several times as long
    negative -= 1
    if alpha != 1:
        negative *= x.dtype.type(alpha)
    y = np.maximum(x, 0)
    y += negative
    return y


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    result: Array = np.where(x >= 0, 1, small) / (1 + small)
    return result


def _scale_shift(step: ScaleShift, x: Array) -> Array:
    shape = (-1,) + (1,) * (x.ndim - 1)
    return x * step.scale.reshape(shape) + step.shift.reshape(shape)


_FUNCTIONS: Final[dict[type[Step], Callable[..., Array]]] = {
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    AdaptiveAvgPool: _adaptive_avg_pool,
    Activation: _activation,
    ScaleShift: _scale_shift,
    Add: lambda _, a, b: a + b,
    Multiply: lambda _, a, b: a * b,
    Concat: lambda _, *values: np.concatenate(values),
    Flatten: lambda _, x: x.reshape(-1, x.shape[-1]),
}
