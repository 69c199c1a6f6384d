"""Rankings: the rows of one model and data set by their mean, with paired differences to the dense baseline."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supermask.report.paired import LEVEL, Difference, letters
from supermask.report.summary import DENSE, Result, Row, metric_of

#: A row belongs to the class of remaining weights that is nearest, if it is within this factor.
NEAR: Final = 1.25

_Pairing = tuple[int, str]  # what two runs of a pair share: seed and order of batches
_Runs = Mapping[tuple[str, str, str], tuple[_Pairing, float | None]]  # (experiment, label, run) -> its metric
_Values = Mapping[_Pairing, float]


@dataclass(frozen=True)
class Ranked:
    """One row of a ranking.

    Attributes:
        row: What is ranked.
        rank: 1 for the best; equal means share it. None where the metric is not known.
        difference: Its metric minus that of the baseline, paired; None for the baseline itself and without pairs.
        unpaired: How many of its runs the difference leaves out.
        group: Letters; rows that share one cannot be told apart. Empty where no pairs tell the row from any other.
        between: The best and the worst rank that the intervals of the paired differences leave to the row; None where it
            has no letter.
    """

    row: Row
    rank: int | None
    difference: Difference | None
    unpaired: int
    group: str
    between: tuple[int, int] | None


@dataclass(frozen=True)
class Ranking:
    """Rows of one experiment, model and data set, the best first.

    Attributes:
        lines: The rows.
        baseline: The dense row that the others are compared with; None where there is none.
        density: The class of remaining weights that the rows share; None where the experiment names no classes.
        rest: Whether these are the rows that are near none of the classes.
    """

    lines: Sequence[Ranked]
    baseline: Row | None
    density: float | None = None
    rest: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The ranking as plain JSON values; the schema is in `docs/json.md`."""
        first = self.lines[0].row
        return {
            "experiment": first.experiment,
            "model": first.model,
            "data": first.data,
            "metric": first.metric.name,
            "better": first.metric.better,
            "class": self.density,
            "rest": self.rest,
            "baseline": None if self.baseline is None else self.baseline.label,
            "level": LEVEL,
            "rows": [
                {
                    "rank": line.rank,
                    "label": line.row.label,
                    "method": line.row.method,
                    "setting": line.row.setting,
                    "n": line.row.n,
                    "value": None if line.row.metric.last is None else asdict(line.row.metric.last),
                    "density": None if line.row.density is None else asdict(line.row.density),
                    "difference": None
                    if line.difference is None
                    else {**asdict(line.difference), "trusted": line.difference.trusted},
                    "unpaired": line.unpaired,
                    "group": line.group,
                    "rank_interval": None if line.between is None else list(line.between),
                }
                for line in self.lines
            ],
        }


def rank(
    rows: Iterable[Row],
    results: Iterable[Result],
    *,
    classes: Mapping[str, Sequence[float]],
    orders: Mapping[str, str] | None = None,
) -> list[Ranking]:
    """Rank rows by the mean of their metric in the last epoch.

    Rows of one experiment, model (of one size), data set (of one number of training examples) and metric are ranked
    together; a row that stands alone is not.
    Where the experiment names classes of remaining weights, there is one ranking a class, of the rows whose mean density
    is nearest to it and within a factor of 1.25, and one of the rest; dense rows stand in each.

    Runs are pairs if they have the seed and the order of batches in common. A seed that a row holds more than once is left
    out. The baseline is the first dense row.

    Args:
        rows: What `summarize` returned.
        results: What it was given.
        classes: Name of each experiment to rank -> its classes, densities in (0, 1]; none: one ranking.
        orders: Run id -> text that runs share which see the same batches at the same seed; runs without it are taken to.
    """
    blocks: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.experiment in classes:
            size = None if row.weights_total is None else row.weights_total.mean
            key = (row.experiment, row.model, size, row.data, row.n_train, row.metric.name)
            blocks.setdefault(key, []).append(row)
    runs = _runs(results, orders or {})
    return [
        _rank(members, [_values(row, runs) for row in members], density, rest=rest)
        for block in blocks.values()
        for density, rest, members in _classes(block, classes[block[0].experiment])
        if len(members) > 1
    ]


def _classes(block: Sequence[Row], densities: Sequence[float]) -> list[tuple[float | None, bool, list[Row]]]:
    """(density, whether it is the rest, rows) of each class that has a row of its own."""
    if not densities:
        return [(None, False, list(block))]
    own = {id(row): _nearest(row, densities) for row in block if row.method != DENSE}
    found: list[tuple[float | None, bool, list[Row]]] = []
    for density in (*densities, None):
        if density in own.values():
            members = [row for row in block if own.get(id(row), density) == density]
            found.append((density, density is None, members))
    return found


def _nearest(row: Row, densities: Sequence[float]) -> float | None:
    """The class of a row; None if it is near none."""
    if row.density is None or row.density.mean <= 0:
        return None
    distances = {density: abs(math.log(row.density.mean / density)) for density in densities}
    nearest = min(distances, key=lambda density: distances[density])
    return nearest if distances[nearest] <= math.log(NEAR) + 1e-12 else None


def _runs(results: Iterable[Result], orders: Mapping[str, str]) -> _Runs:
    return {
        (result["experiment"], result["label"], result["run"]): (
            (result["seed"], orders.get(result["run"], "")),
            metric_of(result)["last"],
        )
        for result in results
    }


def _values(row: Row, runs: _Runs) -> _Values:
    """The metric of a row's runs by what they are paired by; without seeds that it holds more than once."""
    own = [runs[row.experiment, row.label, run] for run in row.runs]
    often = Counter(pairing for pairing, _ in own)
    return {
        pairing: value for pairing, value in own if often[pairing] == 1 and value is not None and math.isfinite(value)
    }


def _rank(rows: Sequence[Row], values: Sequence[_Values], density: float | None, *, rest: bool) -> Ranking:
    scores = list(map(_score, rows))
    order = sorted(range(len(rows)), key=lambda index: -scores[index])  # rows that are equally good stay as they are
    told, below = _told_apart({index: values[index] for index in order}, lower=rows[0].metric.better == "lower")
    groups = dict(zip(told, letters(below | below.T)))
    between = _between(told, below, sum(score > -math.inf for score in scores))
    baseline = next((index for index, row in enumerate(rows) if row.method == DENSE), None)
    lines = []
    for index in order:
        row, known = rows[index], scores[index] > -math.inf
        compared = baseline is not None and baseline != index
        difference = None if baseline is None or not compared else _difference(values[index], values[baseline])
        lines.append(
            Ranked(
                row=row,
                rank=1 + sum(score > scores[index] for score in scores) if known else None,
                difference=difference,
                unpaired=row.n - (difference.pairs if difference else 0) if compared else 0,
                group=groups.get(index, ""),
                between=between.get(index) if known else None,
            )
        )
    return Ranking(lines, None if baseline is None else rows[baseline], density, rest)


def _told_apart(values: Mapping[int, _Values], *, lower: bool) -> tuple[list[int], npt.NDArray[np.bool_]]:
    """The rows, in that order, that have an interval of their difference to any other, and which is worse than which.

    Args:
        values: Of each row.
        lower: Whether lower values are better.

    Returns:
        The rows, and ``(rows, rows)``: whether the first is worse than the second.
    """
    found = {
        (one, other): difference
        for one, other in itertools.combinations(values, 2)
        if (difference := _difference(values[one], values[other])) is not None and difference.low is not None
    }
    told = [index for index in values if any(index in pair for pair in found)]
    worse = np.zeros((len(told), len(told)), dtype=bool)
    for (one, other), difference in found.items():
        if not difference.is_none:
            loser, winner = (one, other) if (difference.mean < 0) != lower else (other, one)
            worse[told.index(loser), told.index(winner)] = True
    return told, worse


def _between(told: Sequence[int], worse: npt.NDArray[np.bool_], ranked: int) -> dict[int, tuple[int, int]]:
    """Best and worst rank of each row among `ranked` rows: behind all that it is worse than, before all that are worse."""
    return {row: (1 + int(worse[place].sum()), ranked - int(worse[:, place].sum())) for place, row in enumerate(told)}


def _score(row: Row) -> float:
    """Higher is better; minus infinity where the metric is not known."""
    last = row.metric.last
    if last is None or not math.isfinite(last.mean):
        return -math.inf
    return last.mean if row.metric.better == "higher" else -last.mean


def _difference(ours: _Values, theirs: _Values) -> Difference | None:
    return Difference.of(ours[pairing] - theirs[pairing] for pairing in sorted(ours.keys() & theirs.keys()))
