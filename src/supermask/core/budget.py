"""Budgets: what a network costs with some channels gone, and the choice of channels that meets limits on it.

A budget is ``{unit: fraction of the dense network's cost}``, with one or several units:

===============  ==========================================================================================
unit             what is counted
===============  ==========================================================================================
``params``       every trainable number of the smaller network
``macs``         multiply-accumulates of convolutions and linear layers, as :mod:`supermask.measure.macs` counts them
``bytes``        the smaller network's safetensors file: parameters, saved buffers, header
``activations``  entries of all activations that must be held at once, where that is most
``volume``       entries of the outputs of all convolutions together (a batch norm behind one has as many)
``latency``      seconds, as measured; no closed form, the caller brings the cost
===============  ==========================================================================================

A :data:`Cost` is absolute, takes a choice of channels (``keeps``), and never falls when a channel comes back.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supermask.core.groups import ChannelGroup, Keeps, Structure
from supermask.errors import BudgetError, DivergedError, HyperparameterError

Cost = Callable[[Keeps], float]
"""What a network costs with a choice of channels, in the unit's own terms (not a fraction)."""

Counts = npt.NDArray[np.int64]
"""(groups,): how many channels each group of a structure keeps, in the structure's order."""

UNITS: Final = ("params", "macs", "bytes", "activations", "volume", "latency")
_OTHER_WORDS: Final = {
    "flops": "macs",
    "flop": "macs",
    "mac": "macs",
    "parameters": "params",
    "weights": "params",
    "size": "bytes",
    "memory": "activations",
    "time": "latency",
    "seconds": "latency",
    "ms": "latency",
}
_ALIGNMENT: Final = 8  # of a safetensors header, bytes; its length stands before it in as many
_TOLERANCE: Final = 1.0 + 1e-12  # a fraction times the dense cost is rounded
_FLOAT32: Final = 4


@dataclass(frozen=True, eq=False)
class CountedCost:
    """A cost that only depends on how many channels each group keeps.

    Attributes:
        structure: Of the network.
        of: From counts, int64 of shape (groups,) in the structure's order, to the cost.
    """

    structure: Structure
    of: Callable[[Counts], float]
    _dense: Counts = field(init=False, repr=False)
    _position: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_dense", np.array([group.channels for group in self.structure], np.int64))
        object.__setattr__(self, "_position", {group.name: i for i, group in enumerate(self.structure)})

    def __call__(self, keeps: Keeps) -> float:
        """The cost of a choice of channels.

        Raises:
            StructureError: There is no group of such a name.
        """
        counts = self._dense.copy()
        for name, keep in keeps.items():
            if name not in self._position:
                self.structure[name]  # says which there are
            counts[self._position[name]] = int(keep.count_nonzero())
        return self.of(counts)


@dataclass(frozen=True)
class Spent:
    """What is used of one unit.

    Attributes:
        unit: One of the units above.
        limit: Fraction of the dense cost that was promised; None if the unit has no limit.
        fraction: Fraction of the dense cost that is used.
        cost: The same, absolute.
        dense: Cost of the whole network.
        granularity: The fraction by which one channel more or less changes ``fraction`` at most, over the groups.
    """

    unit: str
    limit: float | None
    fraction: float
    cost: float
    dense: float
    granularity: float

    def __str__(self) -> str:
        promised = "" if self.limit is None else f"at most {100 * self.limit:g} %, "
        form = ",.0f" if self.dense >= 100 else ".4g"
        amount = f"{self.cost:{form}} of {self.dense:{form}}"
        return (
            f"{self.unit}: {100 * self.fraction:.2f} % ({amount}; {promised}one channel is up to "
            f"{100 * self.granularity:.2g} %)"
        )


def costs_of(structure: Structure) -> dict[str, Cost]:
    """The closed forms of a network's costs; each takes microseconds and agrees with a rebuilt network.

    ``params``, ``macs`` and ``volume`` are exact. ``bytes`` counts the header of the dense network's file, without
    metadata; that of a smaller one is shorter by the digits that its shapes and offsets lack, see :func:`header_bytes`.
    ``activations`` counts one example, with nothing done in place: at each operation what it reads, what it writes, and
    what a later one still needs.

    Returns:
        Unit -> cost; ``macs`` only if every weight that meets a sum is counted, ``activations`` and ``volume`` only for a
        structure that knows its activations.
    """
    params = dict.fromkeys(structure.shapes, 1)
    item_bytes = {name: structure.item_bytes.get(name, _FLOAT32) for name in [*structure.shapes, *structure.buffers]}
    costs: dict[str, Cost] = {
        "params": counted(structure, params),
        "bytes": counted(structure, item_bytes, constant=header_bytes(structure)),
    }
    if structure.positions and not structure.uncounted:
        costs["macs"] = counted(structure, structure.positions)
    if structure.values:
        maps = {i: 1 for i, value in enumerate(structure.values) if value.operation == "convolution"}
        costs["activations"] = _peak(structure)
        costs["volume"] = counted(structure, activations=maps)
    return costs


def counted(
    structure: Structure,
    tensors: Mapping[str, int] | None = None,
    *,
    activations: Mapping[int, int] | None = None,
    constant: int = 0,
) -> CountedCost:
    """A cost that counts entries: of tensors and of activations, each times a factor.

    The length of an axis is linear in the counts; equal lengths are computed once, and tensors of equal lengths are one
    term, so that a cost is one small matrix product.

    Args:
        structure: Of the network.
        tensors: Name of a parameter or saved buffer -> factor.
        activations: Position in ``structure.values`` -> factor.
        constant: Added.
    """
    position = {group.name: i for i, group in enumerate(structure)}
    forms: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
    terms: dict[tuple[int, ...], int] = {}
    for name, number in (tensors or {}).items():
        factor, term = number, []
        lengths = list((structure.shapes if name in structure.shapes else structure.buffers)[name])
        slopes: dict[int, dict[int, int]] = {}
        for group, member in structure.of_tensor(name):
            width, axis = member.entries.shape[1], slopes.setdefault(member.axis, {})
            lengths[member.axis] -= group.channels * width
            axis[position[group.name]] = axis.get(position[group.name], 0) + width
        for index, length in enumerate(lengths):
            if index in slopes:
                term.append(forms.setdefault((length, tuple(sorted(slopes[index].items()))), len(forms)))
            else:
                factor *= length
        terms[tuple(sorted(term))] = terms.get(tuple(sorted(term)), 0) + factor
    base = np.array([*(length for length, _ in forms), 1], np.int64)
    matrix = np.zeros((len(base), len(position)), np.int64)
    for row, (_, widths) in enumerate(forms):
        for column, width in widths:
            matrix[row, column] = width
    most = max(map(len, terms), default=0)
    index_of = np.array([[*key, *[len(forms)] * (most - len(key))] for key in terms], np.int64).reshape(
        len(terms), most
    )
    factor_of = np.array(list(terms.values()), np.int64)
    fixed, slope = _activation_sizes(structure, [activations or {}])

    def total(counts: Counts) -> float:
        products = (base + matrix @ counts)[index_of].prod(axis=1)
        return float(constant + int(fixed[0]) + int(slope[0] @ counts) + int(factor_of @ products))

    return CountedCost(structure, total)


def header_bytes(structure: Structure, keeps: Keeps | None = None) -> int:
    """Bytes of a safetensors file that are no tensor's, without metadata.

    Args:
        structure: Of the network.
        keeps: Channels that remain; None: all of them.

    Returns:
        The length's eight bytes, and the header padded to a multiple of eight.
    """
    keeps = keeps or {}
    kinds = {1: "I8", 2: "F16", 4: "F32", 8: "I64", 16: "C128"}
    names = sorted([*structure.shapes, *structure.buffers])
    names.sort(key=lambda name: -structure.item_bytes.get(name, _FLOAT32))  # as the format's writer does
    offset, entries = 0, {}
    for name in names:
        shape, item = structure.lengths(name, keeps), structure.item_bytes.get(name, _FLOAT32)
        size = math.prod(shape) * item
        entries[name] = {"dtype": kinds[item], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = len(json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode())
    return _ALIGNMENT + -(-text // _ALIGNMENT) * _ALIGNMENT


def fractions(costs: Mapping[str, Cost], keeps: Keeps) -> dict[str, float]:
    """Cost of a choice of channels over that of the whole network, for each unit."""
    return {unit: cost(keeps) / cost({}) for unit, cost in costs.items()}


def meets(fraction: float, limit: float) -> bool:
    """Whether a used fraction is within a limit; it may be over by what rounding makes."""
    return fraction <= limit * _TOLERANCE


def check_budget(method: str, budget: object) -> None:
    """Check the field ``budget`` of a method.

    Raises:
        HyperparameterError: It is empty or no mapping, names an unknown unit, or has a fraction outside of (0, 1].
    """
    meaning = "a budget is the fraction of the dense network's cost that may remain"
    if not isinstance(budget, Mapping) or not budget:
        raise HyperparameterError(
            f"{method}: budget must name at least one unit with its fraction, such as {{macs: 0.5}}, got {budget!r}"
        )
    for unit, value in budget.items():
        if unit not in UNITS:
            near = [_OTHER_WORDS.get(str(unit).lower(), ""), *difflib.get_close_matches(str(unit).lower(), UNITS, n=1)]
            hint = next((f"; did you mean {word!r}?" for word in near if word), "")
            raise HyperparameterError(f"{method}: budget has the unit {unit!r}, known are {', '.join(UNITS)}{hint}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and 0.0 < value <= 1.0:
            continue
        hint = f"; did you mean {value / 100:g}?" if number and 1.0 < value <= 100.0 else ""
        raise HyperparameterError(
            f"{method}: budget {unit} must be a number in (0, 1], got {value!r}{hint} ({meaning})"
        )


def check_feasible(
    structure: Structure, groups: Sequence[ChannelGroup], costs: Mapping[str, Cost], budget: Mapping[str, float]
) -> None:
    """Check that some choice of channels meets a budget: that which keeps one channel of each group does.

    Args:
        structure: Of the network.
        groups: Those whose channels may go.
        costs: Unit -> cost.
        budget: Unit -> fraction of the dense cost.

    Raises:
        BudgetError: No group may lose a channel, the cost of a unit is not known here, or a limit is below what remains
            with one channel of each group; the message has the smallest reachable fraction of every unit.
    """
    _check_known(structure, costs, budget)
    if not groups:
        kept = "; ".join(f"{group.name}: {group.kept}" for group in structure if group.kept)
        raise BudgetError(
            f"budget {_shown(budget)} cannot be met: no channel group may lose a channel ({kept or 'there are none'})"
        )
    least = {}
    for group in groups:
        least[group.name] = torch.zeros(group.channels, dtype=torch.bool)
        least[group.name][0] = True
    structure.check(least)
    reached = fractions({unit: costs[unit] for unit in budget}, least)
    if short := [unit for unit, limit in budget.items() if not meets(reached[unit], limit)]:
        raise BudgetError(
            f"budget {_shown({unit: budget[unit] for unit in short})} cannot be met: with one channel left in each of "
            f"{len(groups)} groups there remains {_shown({unit: _up(reached[unit]) for unit in budget})}; ask for no less"
        )


def project(
    structure: Structure,
    groups: Sequence[ChannelGroup],
    keeps: Keeps,
    ranks: Mapping[str, Tensor],
    costs: Mapping[str, Cost],
    budget: Mapping[str, float],
) -> dict[str, Tensor]:
    """Choose the channels that meet every limit of a budget, and no fewer than that takes.

    The channels of all groups are put in one order. From its low end channels go until every limit is met; then, from
    the high end of what went, those come back that still fit. So no channel can come back to the result without
    breaking a limit, and within a group the highest remain. The highest of each group never goes.

    Args:
        structure: Of the network.
        groups: Those whose channels may go or come back.
        keeps: Channels that remain before. Those of ``groups`` that are gone rank below all that remain, and come back
            only after them; other groups stay as they are.
        ranks: Group name -> real tensor (channels,), higher = kept; among equals the earlier group, then the earlier
            channel.
        costs: Unit -> cost. Of a cost that falls when a channel comes back the limit holds, but more might fit.
        budget: Unit -> fraction of the dense cost.

    Returns:
        Group name -> bool tensor (channels,) on the CPU, for ``groups`` and all groups in ``keeps``.

    Raises:
        BudgetError: There is no group, one channel of each is too much already, or the cost of a unit is not known here.
        DivergedError: A rank is not a number.
    """
    _check_known(structure, costs, budget)
    if not groups:
        check_feasible(structure, groups, costs, budget)  # says why there are none
    order = _Order.of(structure, groups, keeps, ranks)
    limits = [(costs[unit], fraction * costs[unit]({}) * _TOLERANCE) for unit, fraction in budget.items()]

    def within(counts: Counts) -> bool:
        return all(
            (cost.of(counts) if isinstance(cost, CountedCost) else cost(order.keeps(counts))) <= limit
            for cost, limit in limits
        )

    low, high = 0, len(order.group)  # of the free channels: so many are within the limits, more than that are not
    if not within(order.counts(0)):
        check_feasible(structure, groups, costs, budget)  # says by how much
        raise BudgetError(
            f"budget {_shown(budget)} cannot be met: the channels of other groups that remain are too many already"
        )
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if within(order.counts(middle)) else (low, middle - 1)
    counts, closed = order.counts(low), set[int]()
    for group in order.group[low:].tolist():
        if group in closed:
            continue
        counts[group] += 1
        if not within(counts):
            counts[group] -= 1
            closed.add(group)  # its other channels cost as much, and nothing gets cheaper
            if len(closed) == len(groups):
                break
    return order.keeps(counts)


def budget_report(
    groups: Sequence[ChannelGroup],
    keeps: Keeps,
    costs: Mapping[str, Cost],
    budget: Mapping[str, float] | None = None,
) -> dict[str, Spent]:
    """What is used of each unit, and how fine a step one channel is.

    Args:
        groups: Those whose channels may go.
        keeps: Channels that remain.
        costs: Unit -> cost; every one is reported.
        budget: Limits of some of them.
    """
    steps = granularity(groups, keeps, costs)
    report = {}
    for unit, cost in costs.items():
        spent, dense = cost(keeps), cost({})
        report[unit] = Spent(unit, (budget or {}).get(unit), spent / dense, spent, dense, steps[unit])
    return report


def granularity(groups: Sequence[ChannelGroup], keeps: Keeps, costs: Mapping[str, Cost]) -> dict[str, float]:
    """Unit -> the largest fraction of the dense cost that a single channel more, or less, makes.

    For each group one channel comes back, or goes if all remain; one that keeps its only channel is left out.
    """
    steps = dict.fromkeys(costs, 0.0)
    now = {unit: cost(keeps) for unit, cost in costs.items()}
    for group in groups:
        keep = keeps[group.name].clone() if group.name in keeps else torch.ones(group.channels, dtype=torch.bool)
        gone = (~keep).nonzero()
        if len(gone):
            keep[gone[0]] = True
        elif group.channels > 1:
            keep[-1] = False
        else:
            continue
        for unit, cost in costs.items():
            steps[unit] = max(steps[unit], abs(cost({**keeps, group.name: keep}) - now[unit]) / cost({}))
    return steps


@dataclass(frozen=True)
class _Order:
    """The channels of some groups in one order, best first; the best of each group stands apart.

    Attributes:
        structure: Of the network.
        fixed: Choice of channels in all other groups.
        start: Counts with the best channel of each group alone.
        group: int64 (free channels,): position of each one's group in the structure.
        within: Position of a group in the structure -> its channels, best first.
    """

    structure: Structure
    fixed: dict[str, Tensor]
    start: Counts
    group: Counts
    within: dict[int, Tensor]

    @classmethod
    def of(
        cls, structure: Structure, groups: Sequence[ChannelGroup], keeps: Keeps, ranks: Mapping[str, Tensor]
    ) -> _Order:
        position = {group.name: i for i, group in enumerate(structure)}
        chosen = {group.name for group in groups}
        fixed = {name: keep.cpu() for name, keep in keeps.items() if name not in chosen}
        start = np.array([group.channels for group in structure], np.int64)
        for name, keep in fixed.items():
            start[position[name]] = int(keep.count_nonzero())
        owners, channels, values, gone = [], [], [], []
        for group in sorted(groups, key=lambda group: position[group.name]):
            rank = ranks[group.name].detach().to("cpu", torch.float64).numpy()
            if np.isnan(rank).any():
                raise DivergedError(f"channels of {group.name} are ranked by values that are not numbers (NaN)")
            start[position[group.name]] = 1
            owners.append(np.full(group.channels, position[group.name]))
            channels.append(np.arange(group.channels))
            values.append(rank)
            before = keeps.get(group.name)
            gone.append(np.zeros(group.channels, bool) if before is None else ~before.cpu().numpy())
        owner, channel = np.concatenate(owners), np.concatenate(channels)
        order = np.lexsort((channel, owner, -np.concatenate(values), np.concatenate(gone)))
        owner, channel = owner[order], channel[order]
        _, best = np.unique(owner, return_index=True)  # first places
        free = np.ones(len(owner), bool)
        free[best] = False
        within = {int(i): torch.from_numpy(channel[owner == i]) for i in np.unique(owner)}
        return cls(structure, fixed, start, owner[free].astype(np.int64), within)

    def counts(self, free: int) -> Counts:
        """How many channels each group keeps with the first so many of the free ones."""
        return self.start + np.bincount(self.group[:free], minlength=len(self.start))

    def keeps(self, counts: Counts) -> dict[str, Tensor]:
        """The best channels of each group, as many as told, and the groups that are not chosen from."""
        found = dict(self.fixed)
        for index, channels in self.within.items():
            group = self.structure.groups[index]
            keep = torch.zeros(group.channels, dtype=torch.bool)
            keep[channels[: int(counts[index])]] = True
            found[group.name] = keep
        return found


def _activation_sizes(structure: Structure, sums: Sequence[Mapping[int, int]]) -> tuple[Counts, Counts]:
    """Entries of activations, each times its factor: those that no group owns, and those of one channel of each group.

    Args:
        structure: Of the network.
        sums: For each sum, position of an activation -> factor.

    Returns:
        (sums,) and (sums, groups).
    """
    position = {group.name: i for i, group in enumerate(structure)}
    base, matrix = np.zeros(len(sums), np.int64), np.zeros((len(sums), len(position)), np.int64)
    for row, factors in enumerate(sums):
        for index, factor in factors.items():
            base[row] += factor * structure.values[index].fixed
            for name, entries in structure.values[index].parts:
                matrix[row, position[name]] += factor * entries
    return base, matrix


def _peak(structure: Structure) -> CountedCost:
    moments = sorted({value.born for value in structure.values})  # what is held grows only there
    held = [{i: 1 for i, v in enumerate(structure.values) if v.born <= moment <= v.last} for moment in moments]
    base, matrix = _activation_sizes(structure, held)
    return CountedCost(structure, lambda counts: float((base + matrix @ counts).max()))


def _check_known(structure: Structure, costs: Mapping[str, Cost], budget: Mapping[str, float]) -> None:
    for unit in budget:
        if unit in costs:
            if costs[unit]({}) > 0:
                continue
            raise BudgetError(f"budget {unit}: the whole network has none of it, so there is no fraction to keep to")
        if unit in ("activations", "volume") and not structure.values:
            way = "the structure knows no activations; find it with an example: find_structure(model, example)"
        elif unit == "macs" and structure.uncounted:
            names = ", ".join(structure.uncounted)
            way = f"{names} meet sums that are not counted; bring a cost: attach(..., costs={{'macs': cost}})"
        else:
            way = f"bring its cost: attach(..., costs={{{unit!r}: cost}}), for latency from measure.LatencyTable"
        raise BudgetError(
            f"budget {unit}: what it costs is not known here (known: {', '.join(costs) or 'none'}); {way}"
        )


def _up(fraction: float) -> float:
    """To four places, upwards: a limit of that value can be met."""
    return math.ceil(fraction * 1e4) / 1e4


def _shown(budget: Mapping[str, float]) -> str:
    return "{" + ", ".join(f"{unit}: {fraction:g}" for unit, fraction in budget.items()) + "}"
