"""Rankings as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from supermask.report import form
from supermask.report.content import View
from supermask.report.grid import UNKNOWN, Grid
from supermask.report.paired import ENOUGH_PAIRS, LEVEL, Difference
from supermask.report.ranking import NEAR, Ranking
from supermask.report.summary import DENSE, Row

_GROUP: Final = (
    "group: rows that share a letter cannot be told apart at this n (the interval of their paired difference holds 0, or "
    "they have none); not corrected for the number of rows."
)
_FEW: Final = f"† fewer than {ENOUGH_PAIRS} pairs: trust neither the interval nor the letters."


def ranking_grids(
    rankings: Sequence[Ranking], names: Mapping[int, str], units: Mapping[str, str], view: View
) -> list[Grid]:
    """One table a ranking.

    Args:
        rankings: What `rank` returned.
        names: `id` of each row -> what the other tables call it.
        units: Metric -> what the other tables call it.
        view: How it is shown.
    """
    several = len({_place(ranking) for ranking in rankings}) > 1
    return [_grid(ranking, names, units, view, several=several) for ranking in rankings]


def _grid(ranking: Ranking, names: Mapping[int, str], units: Mapping[str, str], view: View, *, several: bool) -> Grid:
    metric = ranking.lines[0].row.metric
    value: Callable[[float], str] = form.percent
    signed: Callable[[float], str] = form.points
    unit = "accuracy %"
    if metric.name != "accuracy":
        value = form.like(metric.last.mean if metric.last else 0.0)
        signed, unit = _signed(value), units[metric.name]
    columns = ["rank", "n", unit, "remaining %", "group"]
    lines = []
    for line in ranking.lines:
        row = line.row
        star = "*" * (view.spread == "quantiles" and row.estimated and row.n > 1)
        rank = UNKNOWN if line.rank is None else str(line.rank)
        measured = form.spread(row.metric.last, view.spread, value)
        density = form.spread(row.density, view.spread, form.percent)
        lines.append([names[id(row)], rank, f"{row.n}{star}", measured, density, line.group or UNKNOWN])
    if ranking.baseline is not None:
        columns.insert(-1, f"to {names[id(ranking.baseline)]}")
        for cells, line in zip(lines, ranking.lines):
            cells.insert(-1, _difference(line.difference, signed))
    title = _title(ranking, f"{_place(ranking)}: " if several else "")
    left = frozenset({0, len(columns)})
    return Grid(title, ("label", *columns), tuple(map(tuple, lines)), left, tuple(_notes(ranking, names, unit, view)))


def _signed(value: Callable[[float], str]) -> Callable[[float], str]:
    return lambda number: f"{'+' if number >= 0 else ''}{value(number)}"


def _place(ranking: Ranking) -> str:
    row = ranking.lines[0].row
    return f"{row.experiment}, {row.model} on {row.data}, {row.n_train:,} examples"


def _title(ranking: Ranking, place: str) -> str:
    if ranking.density is not None:
        return f"{place}Ranking near {100 * ranking.density:g} % remaining weights"
    return f"{place}Ranking at other remaining weights" if ranking.rest else f"{place}Ranking"


def _difference(difference: Difference | None, form_of: Callable[[float], str]) -> str:
    if difference is None:
        return UNKNOWN
    if difference.low is None or difference.high is None:
        return form_of(difference.mean)
    ends = f"[{form_of(difference.low)}, {form_of(difference.high)}]"
    return f"{form_of(difference.mean)} {ends}{'' if difference.trusted else '†'}"


def _notes(ranking: Ranking, names: Mapping[int, str], unit: str, view: View) -> list[str]:
    notes = []
    if view.spread == "quantiles" and any(form.estimated(line.row.metric.last) for line in ranking.lines):
        notes.append(form.ESTIMATED)
    if ranking.lines[0].row.metric.better == "lower":
        notes.append(f"{unit}: lower is better.")
    if ranking.baseline is not None:
        points = ", in points" if unit == "accuracy %" else ""
        notes.append(
            f"to {names[id(ranking.baseline)]}: mean difference over the runs of the same seed and batches{points} "
            f"[{100 * LEVEL:g} % bootstrap interval]."
        )
    notes.append(_GROUP)
    if any(
        line.difference and line.difference.low is not None and not line.difference.trusted for line in ranking.lines
    ):
        notes.append(_FEW)
    unpaired = [f"{names[id(line.row)]} {line.unpaired} of {line.row.n}" for line in ranking.lines if line.unpaired]
    if unpaired:
        notes.append(f"no baseline run of their seed and batches, left out of the difference: {'; '.join(unpaired)}.")
    if ranking.density is not None:
        notes.append(f"near: within a factor of {NEAR:g}; dense rows stand in each ranking.")
    elif not ranking.rest:
        notes += _unlike([line.row for line in ranking.lines if line.row.method != DENSE])
    return notes


def _unlike(rows: Sequence[Row]) -> list[str]:
    """What to do where rows that are ranked together keep different shares of their weights."""
    densities = [row.density.mean for row in rows if row.density is not None]
    if not densities or max(densities) <= NEAR * min(densities):
        return []
    return [
        f"the rows keep {form.percent(min(densities))} to {form.percent(max(densities))} % of their weights; "
        "`table: {rank: [0.1, 0.01]}` in the experiment ranks near 10 % and near 1 % apart."
    ]
