"""Methods that remove channels: what became of a budget, and what scaled the channels from epoch to epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supermask.report import form
from supermask.report.grid import UNKNOWN, Grid
from supermask.report.statistics import Spread

_ALWAYS: Final = ("params", "macs")  # shown with and without a limit
_NOTES: Final = (
    "used: cost of the network with its channels taken out, over that of the dense one; at most the budget.",
    "alone: what the method came to by itself, before the budget was met exactly.",
    "one channel: what a single channel more or less would change, at most.",
)


@dataclass(frozen=True)
class CostRow:
    """One unit of cost of a row, as fractions of the dense network's; `limit` and `alone` are None where there is none."""

    unit: str
    dense: Spread | None
    limit: float | None
    alone: Spread | None
    used: Spread | None
    granularity: Spread | None


@dataclass(frozen=True)
class ChannelsRow:
    """What became of the channels of a row: those that remain over those that could go, costs, and the check of the removal.

    `checked` is the largest difference of an output between the network with zeros and the one without its channels, over all
    runs; None where a removal failed.
    """

    remaining: Spread | None
    costs: tuple[CostRow, ...]
    checked: float | None


def channels_row(results: Sequence[Mapping[str, Any]]) -> ChannelsRow | None:
    """The row of a setting from its results; None unless every one tells its channels."""
    told = [result.get("channels") for result in results]
    found = [one for one in told if one is not None]
    if not found or len(found) < len(told):
        return None
    shares = []
    for one in found:
        chosen = [group for group in one["groups"] if group["chosen"]]
        shares.append(sum(group["remaining"] for group in chosen) / sum(group["channels"] for group in chosen))
    differences = [one["shrunk"]["max_difference"] for one in found]
    return ChannelsRow(
        remaining=Spread.of(shares),
        costs=tuple(_cost(unit, [one["costs"].get(unit, {}) for one in found]) for unit in found[0]["costs"]),
        checked=None if None in differences else max(differences),
    )


def _cost(unit: str, found: Sequence[Mapping[str, Any]]) -> CostRow:
    return CostRow(
        unit=unit,
        dense=Spread.of(one.get("dense") for one in found),
        limit=found[0].get("limit"),
        alone=Spread.of(one.get("alone") for one in found),
        used=Spread.of(one["remaining"] / one["dense"] if one.get("dense") else None for one in found),
        granularity=Spread.of(one.get("granularity") for one in found),
    )


def budget_grid(rows: Sequence[tuple[str, ChannelsRow]], kind: str) -> Grid:
    """What is used of each unit, one line a row and unit.

    Args:
        rows: What they are called, and their channels.
        kind: How spreads are shown, as :func:`form.spread` takes it.
    """
    lines = []
    for name, row in rows:
        for cost in row.costs:
            if cost.limit is None and cost.unit not in _ALWAYS:
                continue
            lines.append(
                (
                    name,
                    cost.unit,
                    UNKNOWN if cost.limit is None else form.percent(cost.limit),
                    form.spread(cost.alone, kind, form.percent),
                    form.spread(cost.used, kind, form.percent),
                    form.mean(cost.granularity, form.percent),
                    form.mean(row.remaining, form.percent),
                )
            )
    headers = ("label", "unit", "budget %", "alone %", "used %", "one channel %", "channels %")
    notes = [*_NOTES]
    if broken := [name for name, row in rows if row.checked is None]:
        notes.append(f"{'; '.join(broken)}: channels could not be taken out of the finished network, see result.json.")
    return Grid("Budgets: costs of what remains", headers, tuple(lines), frozenset({0, 1}), tuple(notes))


@dataclass(frozen=True)
class Values:
    """What scaled the channels of one row, after every epoch.

    Attributes:
        name: Of the row.
        kind: "gate", in [0, 1], or "scale": a batch norm's, of which the magnitude counts.
        groups: What they are called, in the order of the network.
        runs: One a run: for each group an array (epochs, channels).
    """

    name: str
    kind: str
    groups: tuple[str, ...]
    runs: tuple[tuple[npt.NDArray[np.float32], ...], ...]

    def pooled(self) -> npt.NDArray[np.float32]:
        """All channels of all runs, (epochs, channels); epochs that every run has."""
        parts = [group for run in self.runs for group in run]
        epochs = min(len(part) for part in parts)
        return np.concatenate([part[:epochs] for part in parts], axis=1)

    def remaining(self) -> npt.NDArray[np.float64]:
        """Share of the channels that are not 0, by epoch, mean over the runs: (epochs,)."""
        mean: npt.NDArray[np.float64] = (self.pooled() != 0).mean(axis=1)
        return mean

    def last_by_group(self) -> npt.NDArray[np.float64]:
        """The same of each group after the last epoch: (groups,)."""
        shares = np.array([[float((group[-1] != 0).mean()) for group in run] for run in self.runs])
        mean: npt.NDArray[np.float64] = shares.mean(axis=0)
        return mean


def values_of(name: str, runs: Sequence[Mapping[str, npt.NDArray[np.float32]]], order: Sequence[str]) -> Values | None:
    """What the runs of a row recorded; None if they recorded nothing.

    Args:
        name: Of the row.
        runs: What :func:`supermask.lab.store.read_channels` gave for each; runs without a record are left out.
        order: Names of groups, in the order of the network; batch norms, which it does not hold, keep theirs.
    """
    kept = [run for run in runs if run]
    if not kept:
        return None
    kind = next(iter(kept[0])).partition("/")[0]
    keys = list(kept[0])
    places = {group: place for place, group in enumerate(order)}
    keys.sort(key=lambda key: (places.get(key.partition("/")[2], len(places)), _natural(key)))
    arrays = tuple(tuple(np.abs(run[key]) for key in keys) for run in kept)
    return Values(name, kind, tuple(key.partition("/")[2] for key in keys), arrays)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key by which "conv10" comes after "conv2"."""
    parts, digits = [], ""
    for letter in f"{name} ":
        if letter.isdigit():
            digits += letter
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, letter))
    return parts
