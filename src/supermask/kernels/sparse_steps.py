"""The steps of which a sparse program is made: what they hold, what shape they give, and what they refuse.

A program works on values. Value 0 is its input, value ``i`` is the result of ``steps[i - 1]``; ``source=-1`` is the value just
before a step. Shapes leave out the batch: (C, H, W), (C, L) or (F,), and (T, F) for a linear layer over the last axis.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from supermask.errors import ProgramError

Shape = tuple[int, ...]
Pair = int | tuple[int, ...]
Kind = Literal["relu", "elu", "leaky_relu", "hardtanh", "hardswish", "sigmoid", "silu", "tanh", "gelu"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MONOTONE: Final = frozenset({"relu", "elu", "leaky_relu", "hardtanh", "sigmoid", "tanh"})
LARGEST: Final = 1 << 28  # entries of one value, and of one weight's dense form: offsets stay in 32 bits


@dataclass(frozen=True, kw_only=True, eq=False)
class Step(abc.ABC):
    """One step.

    Args:
        source: Number of the value it reads; -1: the one before it.
    """

    source: int = -1

    @property
    def sources(self) -> tuple[int, ...]:
        """Numbers of all values it reads."""
        return (self.source,)

    def shape(self, *inputs: Shape) -> Shape:
        """Shape of the result.

        Raises:
            ProgramError: The step cannot work on values of these shapes.
        """
        return self._shape(*inputs)

    @abc.abstractmethod
    def _shape(self, *inputs: Shape) -> Shape: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class _Weighted(Step):
    weight: NDArray[Any]
    scale: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        weight = self.weight
        if weight.dtype == np.int8:
            if weight.size and (weight.min() < -1 or weight.max() > 1):
                self._fail("weight", "must hold -1, 0 and 1 alone if it is int8", f"{weight.min()} to {weight.max()}")
        elif weight.dtype != np.float32:
            self._fail("weight", "must be int8 (codes -1, 0, 1) or float32", weight.dtype)
        elif not np.isfinite(weight).all():
            self._fail("weight", "must be finite", "NaN or infinity")
        if not 0 < weight.size <= LARGEST:
            self._fail("weight", f"must have 1 to {LARGEST} entries", weight.shape)
        for name in ("scale", "bias"):
            value = getattr(self, name)
            if value is None:
                continue
            if value.dtype != np.float32 or value.shape != weight.shape[:1]:
                self._fail(name, f"must be float32 of shape ({weight.shape[0]},)", f"{value.dtype} {value.shape}")
            if not np.isfinite(value).all():
                self._fail(name, "must be finite", "NaN or infinity")

    def _fail(self, field: str, rule: str, got: object) -> None:
        raise ProgramError(f"{type(self).__name__}: {field} {rule}, got {got}")


def _pair(step: Step, field: str, low: int, length: int = 2) -> tuple[int, int]:
    """A field as (vertical, horizontal); one spatial axis is a row of height 1."""
    value = getattr(step, field)
    neutral = 0 if field == "padding" else 1
    wide = (value,) * length if isinstance(value, int) else tuple(value)
    if len(wide) != length or not all(isinstance(v, int) and low <= v < 1 << 15 for v in wide):
        raise ProgramError(
            f"{type(step).__name__}: {field} must be an int or {length} ints, at least {low}, got {value!r}"
        )
    return (neutral, wide[0]) if length == 1 else (wide[0], wide[1])


def _image(step: Step, shape: Shape) -> tuple[int, int, int]:
    """(C, H, W) of a value of shape (C, H, W) or (C, L)."""
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    if len(shape) != 3:
        raise ProgramError(f"{type(step).__name__}: its input must have shape (C, H, W) or (C, L), got {shape}")
    return shape[0], shape[1], shape[2]


@dataclass(frozen=True)
class Window:
    """How a window moves over (C, H, W): everything as (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    out: tuple[int, int]


def _window(step: Step, shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], ceil: bool = False) -> Window:
    length = len(shape) - 1
    padding, size = _pair(step, "padding", 0, length), _image(step, shape)[1:]
    dilation = _pair(step, "dilation", 1, length) if hasattr(step, "dilation") else (1, 1)
    out = []
    for axis in range(2):
        room = size[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1
        count = (-(-room // stride[axis]) if ceil else room // stride[axis]) + 1
        if ceil and (count - 1) * stride[axis] >= size[axis] + padding[axis]:
            count -= 1  # the last window must start inside the input or its left padding
        if room < 0 or count < 1:
            raise ProgramError(f"{type(step).__name__}: its kernel {kernel} does not fit its input of shape {shape}")
        out.append(count)
    return Window(kernel, stride, padding, dilation, (out[0], out[1]))


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseConv(_Weighted):
    """``y[c] = scale[c] * sum(weight * x) + bias[c]``; zeros of ``weight`` cost nothing.

    Args:
        weight: (out, in / groups, kh, kw) or (out, in / groups, k): int8 codes in {-1, 0, 1}, or float32.
        scale: (out,) float32; None: 1.
        bias: (out,) float32; None: 0.
        stride: Int, or one int for each spatial axis.
        padding: Zeros on both sides, likewise.
        dilation: Distance of the taps, likewise.
        groups: As in torch; ``groups`` equal to the input's channels is depthwise.
        source: Value of shape (C, H, W), or (C, L).
    """

    stride: Pair = 1
    padding: Pair = 0
    dilation: Pair = 1
    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight.ndim not in (3, 4):
            self._fail("weight", "must have 3 or 4 axes", self.weight.shape)
        if not isinstance(self.groups, int) or self.groups < 1 or self.weight.shape[0] % self.groups:
            self._fail("groups", f"must divide the {self.weight.shape[0]} output channels", self.groups)

    def window(self, shape: Shape) -> Window:
        """Its geometry on an input of this shape."""
        length = self.weight.ndim - 2
        kernel = (self.weight.shape[2], self.weight.shape[3]) if length == 2 else (1, self.weight.shape[2])
        return _window(self, shape, kernel, _pair(self, "stride", 1, length))

    def _shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        if len(shape) != self.weight.ndim - 1:
            self._fail("weight", f"does not fit an input of shape {shape}", self.weight.shape)
        if self.weight.shape[1] * self.groups != shape[0]:
            wanted = f"{self.weight.shape[1]} x {self.groups} groups"
            self._fail("weight", f"does not fit an input of {shape[0]} channels", wanted)
        out = self.window(shape).out
        return (self.weight.shape[0], *out) if len(shape) == 3 else (self.weight.shape[0], out[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseLinear(_Weighted):
    """``y = scale * (weight @ x) + bias`` over the last axis; zeros of ``weight`` cost nothing.

    Args:
        weight: (out, in): int8 codes in {-1, 0, 1}, or float32.
        scale: (out,) float32; None: 1.
        bias: (out,) float32; None: 0.
        source: Value of shape (..., in).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight.ndim != 2:
            self._fail("weight", "must have shape (out, in)", self.weight.shape)

    def _shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        if shape[-1] != self.weight.shape[1]:
            self._fail("weight", f"does not fit an input of shape {shape}", self.weight.shape)
        return (*shape[:-1], self.weight.shape[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pool(Step):
    kernel: Pair
    stride: Pair | None = None
    padding: Pair = 0
    ceil_mode: bool = False

    def window(self, shape: Shape) -> Window:
        """Its geometry on an input of this shape."""
        _image(self, shape)
        length = len(shape) - 1
        kernel = _pair(self, "kernel", 1, length)
        padding = _pair(self, "padding", 0, length)
        if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            rule = f"{type(self).__name__}: padding must be at most half the kernel {kernel}"
            raise ProgramError(f"{rule}, got {padding}")
        stride = kernel if self.stride is None else _pair(self, "stride", 1, length)
        return _window(self, shape, kernel, stride, self.ceil_mode)

    def _shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        out = self.window(shape).out
        return (shape[0], *out) if len(shape) == 3 else (shape[0], out[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(_Pool):
    """Largest entry of a window; padding never wins.

    Args:
        kernel: Int, or one int for each spatial axis.
        stride: Likewise; None: the kernel.
        padding: Likewise, at most half the kernel.
        ceil_mode: Whether a last window may reach beyond the input, as in torch.
        source: Value of shape (C, H, W) or (C, L).
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class AvgPool(_Pool):
    """Mean of a window.

    Args:
        kernel: Int, or one int for each spatial axis.
        stride: Likewise; None: the kernel.
        padding: Zeros on both sides, likewise, at most half the kernel.
        ceil_mode: Whether a last window may reach beyond the input, as in torch.
        count_include_pad: Whether the padding's zeros count in the mean, as in torch.
        source: Value of shape (C, H, W) or (C, L).
    """

    count_include_pad: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptiveAvgPool(Step):
    """Means of windows that divide the input into ``size`` parts, as torch's adaptive average pool does.

    Args:
        size: Int, or one int for each spatial axis.
        source: Value of shape (C, H, W) or (C, L).
    """

    size: Pair

    def out(self, shape: Shape) -> tuple[int, int]:
        """(height, width) of the result."""
        _image(self, shape)
        return _pair(self, "size", 1, len(shape) - 1)

    def _shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        out = self.out(shape)
        return (shape[0], *out) if len(shape) == 3 else (shape[0], out[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Activation(Step):
    """An activation, entry by entry.

    Args:
        kind: ``relu``, ``elu``, ``leaky_relu``, ``hardtanh``, ``hardswish``, ``sigmoid``, ``silu``, ``tanh``, or ``gelu``
            (the exact one, with erf).
        alpha: ``elu``: factor of ``exp(x) - 1`` (usually 1); ``leaky_relu``: slope of negative entries; ``hardtanh``: its
            lower end.
        beta: ``hardtanh``: upper end.
        source: Value of any shape.
    """

    kind: Kind
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ProgramError(f"Activation: kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        for name in ("alpha", "beta"):
            if not math.isfinite(getattr(self, name)):
                raise ProgramError(f"Activation: {name} must be finite, got {getattr(self, name)}")
        if self.kind == "hardtanh" and self.alpha > self.beta:
            raise ProgramError(f"Activation: hardtanh needs alpha <= beta, got {self.alpha} and {self.beta}")

    @property
    def monotone(self) -> bool:
        """Whether a larger entry never gives a smaller result: a max-pool may then come first."""
        return self.kind in MONOTONE and (self.kind not in ("elu", "leaky_relu") or self.alpha >= 0)

    def _shape(self, *inputs: Shape) -> Shape:
        return inputs[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScaleShift(Step):
    """``y[c] = scale[c] * x[c] + shift[c]`` over the first axis.

    Args:
        scale: (C,) float32.
        shift: (C,) float32.
        source: Value of shape (C, ...).
    """

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]

    def _shape(self, *inputs: Shape) -> Shape:
        (shape,) = inputs
        for name in ("scale", "shift"):
            value = getattr(self, name)
            if value.dtype != np.float32 or value.shape != shape[:1] or not np.isfinite(value).all():
                rule = f"must be finite float32 of shape ({shape[0]},)"
                raise ProgramError(f"ScaleShift: {name} {rule}, got {value.dtype} {value.shape}")
        return shape


@dataclass(frozen=True, kw_only=True, eq=False)
class _Combined(Step):
    other: int

    @property
    def sources(self) -> tuple[int, ...]:
        """Numbers of all values it reads."""
        return (self.source, self.other)

    def _shape(self, *inputs: Shape) -> Shape:
        first, second = inputs
        if first != second:
            raise ProgramError(f"{type(self).__name__}: both inputs must have one shape, got {first} and {second}")
        return first


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(_Combined):
    """Sum of two values of one shape.

    Args:
        other: Number of the second value.
        source: Number of the first value.
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class Multiply(_Combined):
    """Product of two values of one shape, entry by entry.

    Args:
        other: Number of the second value.
        source: Number of the first value.
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Step):
    """Values one after another along the first axis.

    Args:
        values: Their numbers, at least one.
        source: Not used.
    """

    values: tuple[int, ...]

    @property
    def sources(self) -> tuple[int, ...]:
        """Numbers of all values it reads."""
        return self.values

    def _shape(self, *inputs: Shape) -> Shape:
        if not inputs or any(len(shape) != len(inputs[0]) or shape[1:] != inputs[0][1:] for shape in inputs):
            raise ProgramError(f"Concat: values must agree in all axes but the first, got {list(inputs)}")
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])


@dataclass(frozen=True, kw_only=True, eq=False)
class Flatten(Step):
    """All entries of an image as one axis.

    Args:
        source: Value of any shape.
    """

    def _shape(self, *inputs: Shape) -> Shape:
        return (math.prod(inputs[0]),)
