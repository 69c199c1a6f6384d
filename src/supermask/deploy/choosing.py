"""Which unit of a network runs which way: decided by measuring, for one batch size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from supermask.deploy.dense import Dense, to_array, torch_threads
from supermask.deploy.network import Network
from supermask.deploy.planning import Executor, Unit, schedule, split

K = TypeVar("K")
_FEWEST: Final = 3  # calls of a candidate
_TIE: Final = 1.03  # within this, sparse programs are preferred: they need no torch
_HOPELESS: Final = 2.0  # times the best prediction: not measured as a whole


@dataclass(frozen=True)
class Way:
    """How a network runs.

    Attributes:
        whole_blocks: Whether residual blocks are one unit each, or one a node.
        sparse: Results of the units that are sparse programs.
        channels_last: Order of the dense convolutions' memory.
    """

    whole_blocks: bool
    sparse: frozenset[str]
    channels_last: bool


@dataclass(frozen=True)
class Choice:
    """The way that was chosen for a batch size, and why.

    Attributes:
        way: The fastest.
        seconds: Of one call.
        dense_seconds: Of one call without any sparse program.
        units: Result of a unit -> seconds of it (dense, sparse); None where it has no sparse form.
    """

    way: Way
    seconds: float
    dense_seconds: float
    units: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)


def executor(network: Network, way: Way) -> Executor:
    """A network that runs a way."""
    dense = Dense(network.graph, network.arrays, channels_last=way.channels_last)
    units = units_of(network, way.whole_blocks)
    stages = schedule(network.graph, units, lambda u: u.result in way.sparse, network.shapes, network.arrays)
    return Executor(network.graph, stages, dense.given(network.graph), dense.compute, to_array, torch.from_numpy)


def units_of(network: Network, whole_blocks: bool) -> list[Unit]:
    """The units of a network."""
    return split(network.graph, network.shapes, network.arrays, whole_blocks=whole_blocks)


def measure(network: Network, x: Tensor, threads: int, seconds: float) -> Choice:
    """Find the fastest way for batches like one.

    Every unit is timed alone, dense and sparse; then the ways that follow from this are timed as a whole, taking turns.

    Args:
        network: What shall run.
        x: A batch.
        threads: That it may use.
        seconds: About how long a candidate is timed.
    """
    with torch.no_grad(), torch_threads(threads):
        return _Measurement(network, x, threads, seconds).run()


class _Measurement:
    def __init__(self, network: Network, x: Tensor, threads: int, seconds: float) -> None:
        self.network = network
        self.x = x
        self.threads = threads
        self.seconds = seconds

    def run(self) -> Choice:
        whole, fine = (units_of(self.network, blocks) for blocks in (True, False))
        times = self._time_units([*whole, *fine])
        ways = {self._best(whole, times, True), self._best(fine, times, False)}
        every = frozenset(unit.result for unit in whole if unit.program is not None)
        ways |= {Way(True, every, False), Way(True, frozenset(), False)}
        predicted = {way: self._predict(whole if way.whole_blocks else fine, way, times) for way in ways}
        near = _HOPELESS * min(predicted.values())
        dense = Way(True, frozenset(), False)
        runs: dict[Way, Callable[[], Any]] = {}
        for way in [w for w in ways if predicted[w] <= near or w == dense]:
            for last in (False, True):
                candidate = Way(way.whole_blocks, way.sparse, last)
                ready = executor(self.network, candidate)
                if not last or ready.has_dense:
                    runs[candidate] = self._caller(ready)
        found = time_in_turns(runs, self.seconds)
        fastest = min(found, key=lambda way: found[way])
        sparsest = Way(True, every, False)
        if sparsest in found and found[sparsest] <= _TIE * found[fastest]:
            fastest = sparsest
        dense_seconds = min(found[way] for way in found if not way.sparse)
        own = {unit.result: times[self._key(unit)] for unit in (whole if fastest.whole_blocks else fine)}
        return Choice(fastest, found[fastest], dense_seconds, own)

    def _caller(self, ready: Executor) -> Callable[[], Any]:
        return lambda: ready.run(self.x, len(self.x), self.threads)

    @staticmethod
    def _key(unit: Unit) -> tuple[str, ...]:
        return tuple(node.name for node in unit.nodes)

    def _time_units(self, units: Sequence[Unit]) -> dict[tuple[str, ...], tuple[float, float | None]]:
        """Seconds of every unit, dense and sparse, on the values that it meets in the network."""
        network, examples = self.network, len(self.x)
        dense = Dense(network.graph, network.arrays)
        given = dense.given(network.graph)
        whole = executor(network, Way(False, frozenset(), False))
        distinct = {self._key(unit): unit for unit in units}
        wanted = {name for unit in distinct.values() for name in unit.sources}
        values = {**given, **whole.run(self.x, examples, self.threads, keep=[*wanted, network.graph.output])}
        times: dict[tuple[str, ...], tuple[float, float | None]] = {}
        for key, unit in distinct.items():

            def run_dense(unit: Unit = unit) -> None:
                inside = {name: values[name] for name in unit.sources}
                for node in unit.nodes:
                    inside[node.name] = dense.compute(node, examples, [inside[name] for name in node.inputs])

            def run_sparse(unit: Unit = unit) -> None:
                assert unit.program is not None
                unit.program(to_array(values[unit.sources[0]]), self.threads)

            candidates = {"dense": run_dense} | ({"sparse": run_sparse} if unit.program is not None else {})
            found = time_in_turns(candidates, self.seconds / 2)
            times[key] = found["dense"], found.get("sparse")
        return times

    def _best(
        self, units: Iterable[Unit], times: Mapping[tuple[str, ...], tuple[float, float | None]], whole_blocks: bool
    ) -> Way:
        chosen = set()
        for unit in units:
            dense, sparse = times[self._key(unit)]
            if sparse is not None and sparse < dense:
                chosen.add(unit.result)
        return Way(whole_blocks, frozenset(chosen), False)

    def _predict(
        self, units: Iterable[Unit], way: Way, times: Mapping[tuple[str, ...], tuple[float, float | None]]
    ) -> float:
        total = 0.0
        for unit in units:
            dense, sparse = times[self._key(unit)]
            total += sparse if sparse is not None and unit.result in way.sparse else dense
        return total


def time_in_turns(candidates: Mapping[K, Callable[[], Any]], seconds: float) -> dict[K, float]:
    """Shortest time of each candidate; they take turns, so that all meet the same moments of the machine.

    Args:
        candidates: Name -> what is called.
        seconds: About how long all together are timed, beyond the fewest calls.
    """
    best: dict[K, float] = dict.fromkeys(candidates, float("inf"))
    for function in candidates.values():
        function()  # first calls also load code and memory
    end = time.perf_counter() + seconds
    turn = 0
    while turn < _FEWEST or (time.perf_counter() < end and turn < 1000):
        for name, function in candidates.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
        turn += 1
    return best


def batch_of(example: Tensor, size: int) -> Tensor:
    """A batch of that size: the example's rows again and again."""
    rows = np.arange(size) % len(example)
    return example[torch.from_numpy(rows)].contiguous()
