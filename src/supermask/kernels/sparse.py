"""Sparse networks on a CPU: a whole network as one call, in which weights that are zero cost nothing.

    program = Program([SparseConv(weight=codes, scale=c, padding=1), Activation(kind="elu"), MaxPool(kernel=2), Flatten(),
                       SparseLinear(weight=last)], (3, 32, 32))
    logits = program.run(x, threads=2)

A program is a list of steps, and knows no framework. Layers, their activation and the max-pool after it are joined where that
is exact, so the list can be written as the network is. One program may run in several threads at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from ctypes import addressof, c_char, c_int32, c_int64, c_void_p
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from supermask.errors import ProgramError
from supermask.kernels import sparse_numpy
from supermask.kernels.library import kernel, loaded
from supermask.kernels.sparse_layout import ALIGNMENT, UnsupportedError
from supermask.kernels.sparse_lowering import Lowered, lower
from supermask.kernels.sparse_steps import (
    LARGEST,
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    Concat,
    Flatten,
    MaxPool,
    Multiply,
    ScaleShift,
    Shape,
    SparseConv,
    SparseLinear,
    Step,
)

__all__ = [
    "Activation",
    "AdaptiveAvgPool",
    "Add",
    "AvgPool",
    "Concat",
    "Flatten",
    "MaxPool",
    "Multiply",
    "Program",
    "ScaleShift",
    "SparseConv",
    "SparseLinear",
    "Step",
]

_ARGUMENTS: Final = (c_void_p, c_void_p, c_void_p, c_int64, c_void_p, c_int32)
WORTH_A_THREAD: Final = 1_500_000  # additions that take as long as starting a thread does


def _address(array: NDArray[Any]) -> int:
    if array.flags.writeable and array.size:
        buffer: Any = array  # it has a buffer; this takes a few microseconds less than what follows
        return addressof(c_char.from_buffer(buffer))
    return array.ctypes.data


class _Arena:
    """Working memory for some threads."""

    def __init__(self, threads: int, size: int) -> None:
        self.threads = threads
        self.memory = np.zeros(threads * size + ALIGNMENT, np.float32)
        self.address = -(-_address(self.memory) // ALIGNMENT) * ALIGNMENT


class _Ready:
    """A lowered program at fixed addresses, and working memory that no call uses."""

    def __init__(self, lowered: Lowered, x_size: int, y_size: int) -> None:
        self.lowered, self.arenas = lowered, list[_Arena]()
        count, (ints, floats) = len(lowered.operations), map(_address, (lowered.ints, lowered.floats))
        sizes = (x_size, y_size, lowered.tile, lowered.arena)
        self.description = np.array([_address(lowered.operations), count, ints, floats, *sizes], np.int64)
        self.address = _address(self.description)

    def arena(self, threads: int) -> _Arena:
        """Working memory that no other call uses; the caller gives it back."""
        try:
            arena = self.arenas.pop()
            if arena.threads >= threads:
                return arena
        except IndexError:
            pass
        return _Arena(threads, self.lowered.arena)


class Program:
    """A list of steps, checked and ready to run.

    Args:
        steps: At least one; the result of the last is the result of the program.
        input_shape: Shape of one input, without the batch: (C, H, W), (C, L) or (F,).

    Attributes:
        input_shape: As given.
        output_shape: Shape of one result.
        shapes: Shape of every value; value 0 is the input, value ``i`` the result of ``steps[i - 1]``.
        macs: Multiplications and additions that the layers of one input would take were they dense.
        additions: Those that remain: one for each weight that is not zero at each position it works on.
        reason: Why numpy runs it and not the compiled kernel; empty if that does.

    Raises:
        ProgramError: A step does not fit its input, or reads a value that does not exist before it.
    """

    def __init__(self, steps: Sequence[Step], input_shape: Sequence[int]) -> None:
        self.steps = tuple(steps)
        self.input_shape: Shape = tuple(input_shape)
        if not self.steps:
            raise ProgramError("a program needs at least one step, got none")
        if not 1 <= len(self.input_shape) <= 3 or any(size < 1 for size in self.input_shape):
            raise ProgramError(f"input_shape must have 1 to 3 positive sizes, got {self.input_shape}")
        self.shapes: list[Shape] = [self.input_shape]
        self.macs = self.additions = 0
        for number, step in enumerate(self.steps):
            for source in step.sources:
                if not -1 <= source <= number:
                    rule = f"steps[{number}] ({type(step).__name__}) may read the values -1 to {number}"
                    raise ProgramError(f"{rule}, got {source}")
            shape = step.shape(*(self.shapes[source if source >= 0 else number] for source in step.sources))
            if math.prod(shape) > LARGEST:
                raise ProgramError(f"steps[{number}] ({type(step).__name__}) would give {shape}: too large")
            self.shapes.append(shape)
            if isinstance(step, SparseConv | SparseLinear):
                positions = math.prod(shape) // step.weight.shape[0]
                self.macs += step.weight.size * positions
                self.additions += int(np.count_nonzero(step.weight)) * positions
        self.output_shape = self.shapes[-1]
        self.reason = loaded().reason
        self._run: Callable[..., int] | None = kernel("smk_sparse_run", _ARGUMENTS, simd=True)
        self._single: _Ready | None = None  # made when a batch of one comes
        if self._run is not None:
            try:
                self._batch = self._lower(single=False)
            except UnsupportedError as error:
                self._run, self.reason = None, str(error)
        if self._run is None:
            self._functions = sparse_numpy.prepare(self.steps)

    def _lower(self, *, single: bool) -> _Ready:
        lanes: Callable[[], int] = kernel("smk_sparse_lanes", (), simd=True)  # type: ignore[assignment]
        lowered = lower(self.steps, self.shapes, lanes(), single=single)
        return _Ready(lowered, math.prod(self.input_shape), math.prod(self.output_shape))

    @property
    def compiled(self) -> bool:
        """Whether the compiled kernel runs it, and not numpy."""
        return self._run is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self.steps, self.input_shape)

    def run(self, x: NDArray[Any], threads: int = 1) -> NDArray[np.float32]:
        """Results for a batch.

        Args:
            x: (N, *input_shape) float32, finite.
            threads: Threads that share the batch, at least 1; the result does not depend on it.

        Returns:
            (N, *output_shape) float32.

        Raises:
            ProgramError: ``x`` has another shape or type, or ``threads`` is below 1.
        """
        if x.dtype != np.float32 or x.shape[1:] != self.input_shape or x.ndim != 1 + len(self.input_shape):
            wanted = ", ".join(map(str, self.input_shape))
            raise ProgramError(f"x must be float32 of shape (N, {wanted}), got {x.dtype} {x.shape}")
        if threads < 1:
            raise ProgramError(f"threads must be at least 1, got {threads}")
        if not len(x):
            return np.empty((0, *self.output_shape), np.float32)
        if self._run is None:
            return sparse_numpy.run(self.steps, self._functions, x)
        if not (x.flags.c_contiguous and x.flags.aligned):
            x = np.array(x, order="C")
        count = len(x)
        y = np.empty((count, *self.output_shape), np.float32)
        if count > 1:
            ready, threads = self._batch, max(1, min(threads, count, count * self.additions // WORTH_A_THREAD))
        else:
            ready, threads = self._single or self._lower(single=True), 1
            self._single = ready
        arena = ready.arena(threads)
        if self._run(ready.address, _address(x), _address(y), count, arena.address, threads):
            raise AssertionError("the sparse kernel refused its own arguments")
        ready.arenas.append(arena)
        return y
