"""The latency of a network with any choice of channels, from its layers timed once on this machine.

::

    table = LatencyTable.measure(model, structure, batch=1, threads=1, folder="latencies")
    table = table.calibrated([({}, model), (half, smaller)])  # the sum of the layers -> networks as a whole
    sparsifier = method.attach(model, structure=structure, costs={"latency": table.cost})
    ...                                                      # train, finalize, shrink
    print(table.verify(keeps, small, model))                 # what the real network takes

Processors handle channels in blocks, so that a layer of 127 channels can take longer than one of 128. Numbers of channels that
pruning leaves are seldom whole blocks, and none is chosen for speed here: the table times others, and all channels.

A table belongs to one machine, number of threads and batch size. It is a model: the sum of its parts, each interpolated
between some numbers of channels. What the real network takes is measured with :meth:`LatencyTable.verify`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from supermask.core.budget import CountedCost, Counts
from supermask.core.clock import Clock
from supermask.core.groups import Keeps, Structure
from supermask.errors import HyperparameterError
from supermask.measure.latency import Latency, Ratio, latency
from supermask.measure.latency_cache import LatencyCache, machine_of
from supermask.measure.latency_layers import Timed, layers_of

_ROUND_SECONDS: Final = 1e-6  # one call each before the next one's turn: caches are as cold as in a network
_WARMUP_SECONDS: Final = 0.01
_BLOCK: Final = 8  # channels that processors handle at once: whole blocks are faster than what pruning leaves


@dataclass(frozen=True)
class Verified:
    """What a table says of a smaller network, and what the network really takes.

    Attributes:
        predicted: Seconds, by the table.
        measured: Of the real network.
        dense: Of the whole network, measured beside it.
        predicted_fraction: Of the dense network's seconds, by the table.
        measured_fraction: The same, measured: median over rounds with an interval.
    """

    predicted: float
    measured: Latency
    dense: Latency
    predicted_fraction: float
    measured_fraction: Ratio

    def __str__(self) -> str:
        return (
            f"latency: {1e3 * self.measured.p50:.3f} ms (p95 {1e3 * self.measured.p95:.3f}) of "
            f"{1e3 * self.dense.p50:.3f} ms, {self.measured_fraction}; the table says {1e3 * self.predicted:.3f} ms, "
            f"{self.predicted_fraction:.2f}x"
        )


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Seconds of a network's parts for some numbers of channels; made by :meth:`measure`.

    Attributes:
        structure: Of the network.
        cache: Where they are kept.
        parts: What was timed.
        grids: For each part, its numbers of channels along both axes and seconds of shape (first, second).
        scale: Seconds of the network over the sum of its parts.
        offset: Seconds that no channel changes.
        cost: For ``costs={"latency": table.cost}``; seconds.
    """

    structure: Structure
    cache: LatencyCache
    parts: tuple[Timed, ...]
    grids: tuple[tuple[tuple[int, ...], tuple[int, ...], npt.NDArray[np.float64]], ...]
    scale: float = 1.0
    offset: float = 0.0
    cost: CountedCost = field(init=False, repr=False)

    def __post_init__(self) -> None:
        total = _interpolated(self.structure, self.parts, self.grids)
        cost = CountedCost(self.structure, lambda counts: self.offset + self.scale * total(counts))
        object.__setattr__(self, "cost", cost)

    @property
    def machine(self) -> Mapping[str, Any]:
        """What the figures belong to: processor, cores, torch, threads, batch, clock."""
        return self.cache.machine

    @classmethod
    def measure(
        cls,
        model: nn.Module,
        structure: Structure,
        *,
        batch: int = 1,
        threads: int | None = None,
        points: int = 5,
        rounds: int = 30,
        max_seconds: float = 20.0,
        clock: Clock = "wall",
        folder: str | Path | None = None,
    ) -> LatencyTable:
        """Time what is not in the cache yet. Nothing else should run on the machine meanwhile.

        Args:
            model: The whole network, plain, on the CPU in float32.
            structure: Of it, found with an example.
            batch: Examples in a batch, >= 1.
            threads: Of torch, >= 1; None: as many as it has now. Set during the measurement only.
            points: Numbers of channels along each axis, >= 2: one, all, and evenly between them; and all but one.
            rounds: Rounds in which layers of one sort take turns, >= 5.
            max_seconds: Of one sort of layer, after five rounds.
            clock: ``wall``, or ``cpu`` with one thread: on a busy machine, where a long call is interrupted more often than a
                short one, only the time that the call itself had adds up.
            folder: Where measurements are kept, one file for each processor, torch, number of threads, batch and clock; None:
                nowhere.

        Raises:
            HyperparameterError: An argument is out of range, or the model is not on the CPU in float32.
            MaskError: The file in the folder is damaged.
        """
        for name, value, least in (
            ("batch", batch, 1),
            ("points", points, 2),
            ("threads", 1 if threads is None else threads, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise HyperparameterError(f"{name} must be a whole number >= {least}, got {value!r}")
        first = next(model.parameters(), torch.empty(0))
        if first.device.type != "cpu" or first.dtype != torch.float32:
            raise HyperparameterError(
                f"model: latency tables are made on the CPU in float32, its weights are {first.dtype} on {first.device}"
            )
        if clock == "cpu" and (threads or torch.get_num_threads()) != 1:
            raise HyperparameterError(
                f"clock 'cpu' adds up the time of all threads, which is a latency for one alone; got threads={threads!r}, "
                "take threads=1 or clock='wall'"
            )
        with _threads(threads):
            cache = LatencyCache(None if folder is None else Path(folder), machine_of(batch, clock))
            parts = layers_of(model, structure, batch)
            known = cache.known()
            wanted = {part.key: part for part in parts}
            grids = {key: _grid(part, points) for key, part in _widest(parts, wanted).items()}
            for key, part in wanted.items():
                lengths = [(a, b) for a in grids[key][0] for b in grids[key][1] if f"{key}: {a}x{b}" not in known]
                if lengths:
                    calls = {f"{key}: {a}x{b}": part.make(a, b) for a, b in lengths}
                    with torch.inference_mode():
                        timed = latency(
                            calls,
                            rounds=rounds,
                            round_seconds=_ROUND_SECONDS,
                            warmup_seconds=_WARMUP_SECONDS,
                            max_seconds=max_seconds,
                            clock=clock,
                        )
                    known |= cache.add({name: [found.p50] for name, found in timed.items()})
        filled = []
        for part in parts:
            firsts, seconds = grids[part.key]
            values = np.array([[known[f"{part.key}: {a}x{b}"][0] for b in seconds] for a in firsts])
            filled.append((firsts, seconds, _evened(values)))
        return cls(structure, cache, tuple(parts), tuple(filled))

    def calibrated(self, networks: Sequence[tuple[Keeps, nn.Module]], *, rounds: int = 30) -> LatencyTable:
        """The same table, fitted to whole networks: seconds = offset + scale * sum of parts, by least squares.

        With one network the offset is 0; so it is where the fit would make it, or the scale, negative. A table with a folder
        keeps what was measured there, and measures the same choices of channels of the same network once.

        Args:
            networks: Channels that remain and the real network with them; ``({}, model)`` is the whole one. A second one
                with about half the channels tells what no channel changes.
            rounds: In which they take turns, >= 5.

        Raises:
            HyperparameterError: There is no network.
        """
        if not networks:
            raise HyperparameterError("networks: there is nothing to fit to; give at least ({}, model)")
        sums = np.array([(self.cost(keeps) - self.offset) / self.scale for keeps, _ in networks])
        about = json.dumps([[part.key, part.lengths] for part in self.parts] + sums.tolist())
        name = f"networks {hashlib.sha256(about.encode()).hexdigest()}"
        known = self.cache.known()
        if name not in known:
            timed = self._time({str(i): network for i, (_, network) in enumerate(networks)}, rounds)
            known = self.cache.add({name: [timed[str(i)].p50 for i in range(len(networks))]})
        measured = np.array(known[name])
        scale, offset = float(sums @ measured / (sums @ sums)), 0.0
        if len(networks) > 1 and np.ptp(sums) > 0:
            slope, start = np.polyfit(sums, measured, 1)
            if slope > 0 and start >= 0:
                scale, offset = float(slope), float(start)
        return replace(self, scale=scale, offset=offset)

    def verify(self, keeps: Keeps, network: nn.Module, dense: nn.Module, *, rounds: int = 30) -> Verified:
        """Time the real smaller network beside the whole one.

        Args:
            keeps: Channels that remain.
            network: With these channels alone.
            dense: The whole network.
            rounds: In which the two take turns, >= 5.
        """
        timed = self._time({"small": network, "dense": dense}, rounds)
        predicted = self.cost(keeps)
        ratio = timed["small"].ratio(timed["dense"])
        return Verified(predicted, timed["small"], timed["dense"], predicted / self.cost({}), ratio)

    def _time(self, networks: Mapping[str, nn.Module], rounds: int) -> dict[str, Latency]:
        assert self.structure.example_shape is not None
        x = torch.zeros(self.machine["batch"], *self.structure.example_shape)
        modes = [(module, module.training) for network in networks.values() for module in network.modules()]
        try:
            for network in networks.values():
                network.eval()
            with _threads(self.machine["threads"]), torch.inference_mode():
                calls = {name: partial(network, x) for name, network in networks.items()}
                return latency(calls, rounds=rounds, clock=self.machine["clock"])
        finally:
            for module, mode in modes:
                module.training = mode


def _widest(parts: Sequence[Timed], wanted: Mapping[str, Timed]) -> dict[str, Timed]:
    """For each key, one part with the largest lengths of all that have it, fixed only where all are."""
    widest = {}
    for key, part in wanted.items():
        same = [other for other in parts if other.key == key]
        lengths = (max(other.lengths[0] for other in same), max(other.lengths[1] for other in same))
        fixed = tuple(len({o.lengths[i] for o in same}) == 1 and all(o.fixed[i] for o in same) for i in (0, 1))
        widest[key] = replace(part, lengths=lengths, fixed=(fixed[0], fixed[1]))
    return widest


def _grid(part: Timed, points: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of channels to time: one, some between, all but one, all.

    Between the ends none is a whole number of blocks, as what pruning leaves seldom is. All but one can take longer than all.
    """
    axes = []
    for length, fixed in zip(part.lengths, part.fixed, strict=True):
        between = [round(length * i / (points - 1)) for i in range(1, points - 1)]
        between = [n - _BLOCK // 2 + 1 if n % _BLOCK == 0 else n for n in [*between, length - 1]]
        axes.append((length,) if fixed else tuple(sorted({1, length, *(n for n in between if 1 < n < length)})))
    return axes[0], axes[1]


def _evened(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Seconds without the dips of noise, (first, second); the last of an axis, all channels, may differ from what is before."""
    even = values.copy()
    for rows in (slice(0, -1), slice(-1, None)):
        for columns in (slice(0, -1), slice(-1, None)):
            even[rows, columns] = _monotone(values[rows, columns])
    return even


def _monotone(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean of the running maximum from below and the running minimum from above."""
    up = np.maximum.accumulate(np.maximum.accumulate(values, axis=0), axis=1)
    down = np.minimum.accumulate(np.minimum.accumulate(values[::-1, ::-1], axis=0), axis=1)[::-1, ::-1]
    mean: npt.NDArray[np.float64] = (up + down) / 2
    return mean


def _interpolated(
    structure: Structure,
    parts: Sequence[Timed],
    grids: Sequence[tuple[tuple[int, ...], tuple[int, ...], npt.NDArray[np.float64]]],
) -> Any:
    """Counts -> the sum of all parts, each bilinear between the points of its grid; all of them at once."""
    most = 1 + max(len(axis) for first, second, _ in grids for axis in (first, second))
    points = np.zeros((2, len(parts), most))
    values = np.zeros((len(parts), most, most))
    position = {group.name: i for i, group in enumerate(structure)}
    base, slope = np.zeros((2, len(parts))), np.zeros((2, len(parts), len(position)))
    for row, (part, (first, second, seconds)) in enumerate(zip(parts, grids, strict=True)):
        for axis, grid in enumerate((first, second)):  # filled up with points beyond the last, of the last's seconds
            points[axis, row] = [*grid, *(grid[-1] + 1 + i for i in range(most - len(grid)))]
        values[row] = np.pad(seconds, [(0, most - len(first)), (0, most - len(second))], mode="edge")
        base[:, row] = part.lengths
        owned = (
            [(g.name, m.axis, m.entries.shape[1]) for g, m in structure.of_tensor(part.tensor) if m.axis < 2]
            if part.tensor
            else [(name, 0, 1) for name, _ in structure.values[part.value].parts]
        )
        for name, axis, width in owned:
            base[axis, row] -= width * structure[name].channels
            slope[axis, row, position[name]] += width
    rows = np.arange(len(parts))

    def total(counts: Counts) -> float:
        lengths = base + slope @ counts
        low = np.clip((points <= lengths[..., None]).sum(axis=2) - 1, 0, most - 2)
        start = np.take_along_axis(points, low[..., None], 2)[..., 0]
        end = np.take_along_axis(points, low[..., None] + 1, 2)[..., 0]
        a, b = np.clip((lengths - start) / (end - start), 0.0, 1.0)
        i, j = low
        return float(
            (
                (1 - a) * ((1 - b) * values[rows, i, j] + b * values[rows, i, j + 1])
                + a * ((1 - b) * values[rows, i + 1, j] + b * values[rows, i + 1, j + 1])
            ).sum()
        )

    return total


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
