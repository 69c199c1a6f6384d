"""What a latency table times: a network's layers and other operations, for any number of channels, on their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from supermask.core.groups import Structure
from supermask.errors import HyperparameterError

Call = Callable[[], object]

_CONVOLVE: Final = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE: Final = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_VALUE: Final = 0.01  # of all weights and inputs; not denormal


@dataclass(frozen=True)
class Timed:
    """One thing to time.

    Attributes:
        key: What it is, all but the lengths; equal keys are timed once.
        lengths: Its two lengths in the whole network: (out, in) of a weight; (channels, 1) of other operations.
        tensor: Name of the weight whose first two axes these are; empty for other operations.
        value: Position in ``structure.values`` of another operation; -1 for a layer.
        fixed: Whether each length is the same whatever channels remain.
        make: From lengths to what is called.
    """

    key: str
    lengths: tuple[int, int]
    tensor: str
    value: int
    fixed: tuple[bool, bool]
    make: Callable[[int, int], Call]


def layers_of(model: nn.Module, structure: Structure, batch: int) -> list[Timed]:
    """Every call of a convolution or linear layer, and every other operation that the structure lists.

    Args:
        model: Plain; it sees one batch of zeros in evaluation mode, and is left as it was.
        structure: Found with an example.
        batch: Examples.

    Raises:
        HyperparameterError: The structure knows no example or no activations.
    """
    if structure.example_shape is None or not structure.values:
        raise HyperparameterError(
            "structure: it knows no activations, so what else than layers takes time is not known; find it with an example: "
            "find_structure(model, example)"
        )
    names = {module: name for name, module in model.named_modules()}
    found: list[Timed] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        tensor = f"{names[module]}.weight" if names[module] else "weight"
        if tensor in structure.shapes:
            found.append(_layer(module, tensor, tuple(inputs[0].shape), structure))

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.Linear | _ConvNd)]
    first = next(model.parameters())
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.inference_mode():
            model(torch.zeros(batch, *structure.example_shape, dtype=first.dtype, device=first.device))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    for index, value in enumerate(structure.values):
        if value.operation not in ("convolution", "linear", "input"):
            found.append(_operation(index, structure, batch))
    return found


def _layer(module: nn.Module, tensor: str, shape: Sequence[int], structure: Structure) -> Timed:
    weight = structure.shapes[tensor]
    owned = {member.axis for _, member in structure.of_tensor(tensor)}
    fixed = (0 not in owned, 1 not in owned)
    lengths = (weight[0], weight[1])
    if isinstance(module, nn.Linear):
        vectors = tuple(shape[:-1])
        key = f"linear on {_by(vectors)} vectors, bias {module.bias is not None}"
        biased = module.bias is not None

        def linear(out: int, into: int) -> Call:
            x, w, b = _full(*vectors, into), _full(out, into), _full(out) if biased else None
            return lambda: F.linear(x, w, b)

        return Timed(key, lengths, tensor, -1, fixed, linear)
    assert isinstance(module, _ConvNd)
    sort = "transposed convolution" if isinstance(module, _ConvTransposeNd) else "convolution"
    key = (
        f"{sort} {_by(module.kernel_size)}, stride {_by(module.stride)}, padding {_by(module.padding)}, dilation "
        f"{_by(module.dilation)}, groups {module.groups} of {module.in_channels}, bias {module.bias is not None}, on "
        f"{shape[0]} of {_by(shape[2:])}"
    )
    return Timed(key, lengths, tensor, -1, fixed, lambda a, b: _convolution(module, shape, a, b))


def _convolution(module: _ConvNd, shape: Sequence[int], first: int, second: int) -> Call:
    """A convolution whose weight has these two lengths; grouped ones are rounded up to what their groups divide."""
    groups, depthwise = module.groups, module.groups == module.in_channels > 1
    if depthwise:
        groups = max(1, first * module.groups // module.weight.shape[0])
    first = -(-first // groups) * groups
    weight, dims = _full(first, second, *module.kernel_size), len(module.kernel_size)
    options: dict[str, Any] = {
        "stride": module.stride,
        "padding": module.padding,
        "dilation": module.dilation,
        "groups": groups,
    }
    if isinstance(module, _ConvTransposeNd):
        x, bias = _full(shape[0], first, *shape[2:]), _full(second * groups)
        extra = {**options, "output_padding": module.output_padding}
        transposed = _TRANSPOSE[dims]
        return lambda: transposed(x, weight, bias if module.bias is not None else None, **extra)
    x, bias = _full(shape[0], second * groups, *shape[2:]), _full(first)
    convolve = _CONVOLVE[dims]
    return lambda: convolve(x, weight, bias if module.bias is not None else None, **options)


def _operation(index: int, structure: Structure, batch: int) -> Timed:
    """An operation that is no layer; those unknown here are timed as a ReLU, which reads and writes as much."""
    value = structure.values[index]
    entries = value.fixed + sum(structure[name].channels * one for name, one in value.parts)
    each = value.parts[0][1] if value.parts else max(1, entries)
    channels = max(1, entries // each)
    known = value.operation in ("batch_norm", "add", "max_pool", "avg_pool")
    operation = value.operation if known else "relu"
    high = math.isqrt(each)
    area = (high, high) if high * high == each else (1, each)
    side = math.isqrt(value.window) if high * high == each else 1
    window = (side, side) if side * side == value.window else (1, value.window)

    def make(length: int, _: int) -> Call:
        x, one = _full(batch, length, *area), _full(length)
        if operation == "batch_norm":
            return lambda: F.batch_norm(x, one, one, one, one)
        if operation == "add":
            return lambda: x + x
        if operation in ("max_pool", "avg_pool"):
            big = _full(batch, length, area[0] * window[0], area[1] * window[1])
            pool = F.max_pool2d if operation == "max_pool" else F.avg_pool2d
            return lambda: pool(big, window)
        return lambda: F.relu(x)

    key = f"{operation}, window {_by(window)}, on {batch} of {_by(area)}"
    return Timed(key, (channels, 1), "", index, (not value.parts, True), make)


def _full(*shape: int) -> Tensor:
    return torch.full(shape, _VALUE)


def _by(numbers: Sequence[int] | str) -> str:
    return numbers if isinstance(numbers, str) else "x".join(map(str, numbers))
