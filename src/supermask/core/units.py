"""What tracing keeps book with: units (the smallest things that stay or go together), and where a value carries them.

Every entry along every axis of every parameter and saved buffer is a unit of its own at first; operations unite them. A
value carries units in lanes: a lane says for each of the value's elements which unit it goes with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]
Shape = tuple[int, ...]


class Units:
    """Units, united by union and find, and what was said of them.

    What is said of a unit holds for all that are ever united with it.

    Attributes:
        kept: (units, why they must stay), in the order of the network.
        loud: Units whose reader would see more than zeros although what makes them is zero.
        added: Units into which several layers' outputs are added.
        makers: (units, name of the layer that makes them), in the order of the network.
        readers: Units as a layer's inputs.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self.kept: list[tuple[Ids, str]] = []
        self.loud: list[Ids] = []
        self.added: list[Ids] = []
        self.makers: list[tuple[Ids, str]] = []
        self.readers: list[Ids] = []

    def new(self, count: int) -> Ids:
        """``count`` units that nothing is united with."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def find(self, ids: Ids) -> Ids:
        """One unit in place of all that it is united with; the shape of ``ids``."""
        unique, inverse = np.unique(ids, return_inverse=True)
        roots = np.fromiter((self._root(int(i)) for i in unique), np.int64, len(unique))
        found: Ids = roots[inverse].reshape(ids.shape)
        return found

    def unite(self, first: Ids, second: Ids) -> None:
        """Unite units element by element, where the arrays broadcast."""
        one, other = np.broadcast_arrays(first, second)
        pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
        for a, b in pairs.T.tolist():
            a, b = sorted((self._root(a), self._root(b)))
            self._parent[b] = a

    def keep(self, ids: Ids, why: str) -> None:
        """Say that units must stay."""
        self.kept.append((ids, why))

    def _root(self, unit: int) -> int:
        parent = self._parent
        while parent[unit] != unit:
            parent[unit] = parent[parent[unit]]
            unit = parent[unit]
        return unit


@dataclass(frozen=True)
class Lane:
    """Which unit each element of a value goes with.

    Attributes:
        ids: Broadcasts to the value: of size 1 along the axes on which the units do not depend.
        loud: Whether these elements may be other than zero although what makes the unit is zero.
    """

    ids: Ids
    loud: bool = False

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which the units lie."""
        return tuple(axis for axis, size in enumerate(self.ids.shape) if size > 1)

    def at(self, dimensions: int) -> Lane:
        """The lane of a value with more axes in front."""
        return replace(self, ids=self.ids.reshape((1,) * (dimensions - self.ids.ndim) + self.ids.shape))


@dataclass(frozen=True)
class Carried:
    """What is known of a tensor in the graph.

    Attributes:
        shape: Of the traced batch.
        lanes: No two of them along the same axis.
        varies: Whether it depends on the network's input.
        zero: Whether it is known to hold zeros only.
        layers: The layers whose outputs it is made of.
        source: Name of the parameter or buffer that it is, or is a rearrangement of.
        tensors: Names of the parameters and buffers that it is computed from alone.
    """

    shape: Shape
    lanes: tuple[Lane, ...] = ()
    varies: bool = True
    zero: bool = False
    layers: frozenset[str] = field(default_factory=frozenset)
    source: str = ""
    tensors: frozenset[str] = field(default_factory=frozenset)

    def along(self, axis: int) -> Lane | None:
        """The lane that lies along an axis, maybe along others as well."""
        axis %= len(self.shape)
        return next((lane for lane in self.lanes if axis in lane.axes), None)


def compressed(labels: Tensor, units: Units) -> Ids:
    """The labels (one unit an element) without the axes on which they do not depend; these have size 1."""
    thin = _thin(labels)
    return _thin(torch.from_numpy(units.find(thin.numpy()))).numpy() if thin.numel() > 1 else thin.numpy()


def _thin(labels: Tensor) -> Tensor:
    for axis in range(labels.dim()):
        first = labels.narrow(axis, 0, 1)
        if labels.stride(axis) == 0 or bool((labels == first).all()):
            labels = first
    return labels.contiguous()


def spread(lane: Lane, shape: Shape) -> Tensor:
    """One unit for every element of a value, as a tensor that can be rearranged like it."""
    return torch.from_numpy(lane.ids).expand(shape)


def along(ids: Ids, axis: int, dimensions: int) -> Ids:
    """Units (n,) as an array that lies along an axis of a value."""
    shape = [1] * dimensions
    shape[axis] = -1
    return ids.reshape(shape)


def flat(values: Any) -> Iterator[Carried]:
    """Every tensor in the arguments of an operation."""
    if isinstance(values, Carried):
        yield values
    elif isinstance(values, dict):
        for item in values.values():
            yield from flat(item)
    elif isinstance(values, list | tuple):
        for item in values:
            yield from flat(item)


def joined(parts: Sequence[Carried], shape: Shape, lanes: Iterable[Lane]) -> Carried:
    """What is computed from these, with these lanes."""
    varies = any(part.varies for part in parts)
    return Carried(
        shape,
        tuple(lanes),
        varies=varies,
        layers=frozenset().union(*(part.layers for part in parts)),
        tensors=frozenset() if varies else frozenset().union(*(part.tensors for part in parts)),
    )
