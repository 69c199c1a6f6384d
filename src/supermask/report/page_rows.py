"""The rows of the page: what its table, its Pareto chart and its atlas of layers show, as plain JSON values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supermask.report.content import Content
from supermask.report.names import row_names
from supermask.report.quoted import NOT_SAID, TARGETED, WORDS, Quote
from supermask.report.ranking import Ranked
from supermask.report.statistics import Spread
from supermask.report.summary import DENSE, Result, Row

#: Accountings of bytes, the one that is shown first: of files that exist, then of others that could be written.
ACCOUNTINGS: Final = {
    "packed": "as a packed file",
    "sparse_index": "as indices and values",
    "two_bit": "at two bits a weight",
}

_NUMBER: Final = re.compile(r"(?<![A-Za-z])\d*\.?\d+(?:e-?\d+)?")
#: A number with what leads to it and its unit: ", 10 %", " density=0.05".
_VARIED: Final = re.compile(r"[,;]?\s*(?:[\w.]+\s*=\s*)?#\s*%?")


@dataclass(frozen=True)
class Block:
    """Rows that can be compared: of one experiment, model (of one size), data set (of one size) and metric.

    Attributes:
        rows: Them, as `summarize` ordered them.
        names: What they are called.
        lines: Their lines of the ranking, where there is one.
        results: The results of their runs by run id.
    """

    rows: tuple[Row, ...]
    names: tuple[str, ...]
    lines: tuple[Ranked | None, ...]
    results: Mapping[str, Result]

    @property
    def baseline(self) -> Row | None:
        """The first dense row."""
        return next((row for row in self.rows if row.method == DENSE), None)

    @property
    def first(self) -> Row:
        """Any row, for what all have in common."""
        return self.rows[0]

    @property
    def accounting(self) -> str | None:
        """The accounting of bytes that every sparse row knows."""
        sparse = [row for row in self.rows if row.method != DENSE]
        return next((key for key in ACCOUNTINGS if sparse and all(row.bytes.get(key) for row in sparse)), None)

    def of(self, row: Row) -> list[Result]:
        """The results of a row's runs."""
        return [self.results[run] for run in row.runs]

    def line(self, row: Row) -> Ranked | None:
        """The line of the ranking of a row."""
        return self.lines[self.rows.index(row)]

    def name(self, row: Row) -> str:
        """What a row is called."""
        return self.names[self.rows.index(row)]


def blocks(content: Content, results: Sequence[Result]) -> list[Block]:
    """The rows of a report, in blocks.

    Args:
        content: What the report says; ranked without classes of remaining weights.
        results: The results that its rows hold.
    """
    names = dict(zip(map(id, content.rows), row_names(content.rows)))
    lines = {id(line.row): line for ranking in content.rankings for line in ranking.lines}
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in content.rows:
        size = None if row.weights_total is None else row.weights_total.mean
        key = (row.experiment, row.model, size, row.data, row.n_train, row.metric.name)
        found.setdefault(key, []).append(row)
    by_run = {(result["experiment"], result["label"], result["run"]): result for result in results}
    return [
        Block(
            rows=tuple(rows),
            names=tuple(names[id(row)] for row in rows),
            lines=tuple(lines.get(id(row)) for row in rows),
            results={run: by_run[row.experiment, row.label, run] for row in rows for run in row.runs},
        )
        for rows in found.values()
    ]


def block_values(block: Block, quotes: Sequence[Quote], *, alone: bool) -> dict[str, Any]:
    """A block as JSON values.

    Args:
        block: What is told.
        quotes: Published numbers of the report.
        alone: Whether it is the only block: then quotes that stand beside no row and do not name another network belong to it.
    """
    first = block.first
    series = _series(block.names)
    accounting = block.accounting
    return {
        "name": f"{first.model} on {first.data}",
        "experiment": first.experiment,
        "model": first.model,
        "data": first.data,
        "examples": first.n_train,
        "metric": first.metric.name,
        "better": first.metric.better,
        "weights": _rounded(first.weights_total.mean) if first.weights_total else None,
        "bytes": None if accounting is None else ACCOUNTINGS[accounting],
        "convention": next((row.macs.convention for row in block.rows if row.macs.convention), None),
        "baseline": None if block.baseline is None else block.rows.index(block.baseline),
        "rows": [_row(block, row, series[index], accounting) for index, row in enumerate(block.rows)],
        "published": [value for quote in quotes if (value := _published(quote, block, alone)) is not None],
    }


def _row(block: Block, row: Row, series: str, accounting: str | None) -> dict[str, Any]:
    line = block.line(row)
    difference = line.difference if line else None
    counted = DENSE_BYTES if row.method == DENSE else accounting
    return {
        "name": block.name(row),
        "method": row.method,
        "series": series,
        "dense": row.method == DENSE,
        "n": row.n,
        "seeds": list(row.seeds),
        "runs": list(row.runs),
        "epochs": row.epochs,
        "precision": row.precision,
        "value": spread(row.metric.last),
        "loss": spread(row.test_loss),
        "delta": None
        if difference is None
        else {
            "mean": _rounded(difference.mean),
            "low": _rounded(difference.low),
            "high": _rounded(difference.high),
            "pairs": difference.pairs,
            "trusted": difference.trusted,
        },
        "rank": line.rank if line else None,
        "ranks": list(line.between) if line and line.between else None,
        "density": spread(row.density),
        "macs": spread(share_of_macs(block.of(row))),
        "bytes": None if counted is None else spread(row.bytes.get(counted)),
        "latency": spread(latency(block.of(row), dense=row.method == DENSE)),
        "step": spread(milliseconds_of_a_step(block.of(row))),
        "layers": _layers(block.of(row)),
        "notes": [[note.text, note.n] for note in row.notes],
        "checked": None if row.channels is None else row.channels.checked,
    }


#: What the bytes of dense rows are counted by.
DENSE_BYTES: Final = "dense_float32"


def share_of_macs(results: Sequence[Result]) -> Spread | None:
    """Remaining over dense multiply-accumulates."""
    return Spread.of(
        result["macs"]["remaining"] / result["macs"]["dense"]
        if result["macs"].get("dense") and result["macs"].get("remaining") is not None
        else None
        for result in results
    )


def latency(results: Sequence[Result], *, dense: bool) -> Spread | None:
    """Milliseconds of inference, where the runs measured them."""
    key = "dense" if dense else "remaining"
    found = [(result.get("channels") or {}).get("latency") for result in results]
    return Spread.of(None if one is None else 1000 * one[key] for one in found)


def milliseconds_of_a_step(results: Sequence[Result]) -> Spread | None:
    """Milliseconds of a training step, the data's share included."""
    return Spread.of(
        1000 * result["seconds"]["train"] / result["steps"] if result["steps"] else None for result in results
    )


def spread(value: Spread | None) -> list[float | int | None] | None:
    """[mean, 5 %, 95 %, sample standard deviation, n]."""
    if value is None:
        return None
    return [*(_rounded(part) for part in (value.mean, value.low, value.high, value.std)), value.n]


def _rounded(value: float | None) -> float | None:
    """Six significant digits, which is more than the page shows; None for what is not finite."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return None
    return float(f"{value:.6g}")


def _layers(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The layers, means over the runs, and in how many runs nothing or too little is left of them.

    `thin` counts runs in which fewer weights remain than the layer has outputs: some outputs are then constant.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        for layer in result["counts"]["layers"]:
            found.setdefault(layer["name"], []).append(layer)

    def share(entries: Sequence[Mapping[str, Any]], key: str) -> float | None:
        parts = Spread.of(None if entry.get(key) is None else entry[key] / entry["size"] for entry in entries)
        return None if parts is None else _rounded(parts.mean)

    return [
        {
            "name": name,
            "shape": list(entries[0]["shape"]),
            "size": entries[0]["size"],
            "remaining": share(entries, "remaining"),
            "keep": share(entries, "keep"),
            "invert": share(entries, "invert"),
            "macs": _layer_macs(entries),
            "empty": sum(entry["remaining"] == 0 for entry in entries),
            "thin": sum(0 < entry["remaining"] < entry["shape"][0] for entry in entries),
        }
        for name, entries in found.items()
    ]


def _layer_macs(entries: Sequence[Mapping[str, Any]]) -> list[float | None] | None:
    """Dense and remaining multiply-accumulates of a layer, means over the runs; None where they are not recorded."""
    found = [entry["macs"] for entry in entries if entry.get("macs") is not None]
    if not found or len(found) < len(entries):
        return None
    return [_rounded(sum(part) / len(found)) for part in zip(*found)]


def _series(names: Sequence[str]) -> list[str]:
    """What rows are drawn as one line: names that differ in their numbers alone, without these numbers."""
    patterns = [_NUMBER.sub("#", name) for name in names]
    return [
        _VARIED.sub("", pattern).strip(" ,;") or name if patterns.count(pattern) > 1 else name
        for name, pattern in zip(names, patterns)
    ]


def _published(quote: Quote, block: Block, alone: bool) -> dict[str, Any] | None:
    """A published number as a point of the chart; None where it is none, or of another block."""
    row = next((row for row in block.rows if quote.is_beside(row)), None)
    if row is None and (quote.beside or not alone or _other(quote, block.first)):
        return None
    told = quote.to_dict()
    accuracy, density = told.get("accuracy"), told.get("density")
    if not accuracy or not density or block.first.metric.name != "accuracy":
        return None
    if quote.cells.get("remaining_of", TARGETED) not in (TARGETED, NOT_SAID):
        return None
    return {
        "label": quote.label,
        "source": quote.source,
        "word": WORDS[quote.word],
        "value": [accuracy["mean"], accuracy["low"], accuracy["high"]],
        "density": density["mean"],
        "n": quote.n,
    }


def _other(quote: Quote, row: Row) -> bool:
    """Whether a quote names another network or data set than a row's."""

    def plain(text: Any) -> str:
        return re.sub(r"[^a-z0-9]", "", str(text).lower())

    told = ((quote.cells.get("network"), row.model), (quote.cells.get("data"), row.data))
    return any(cell is not None and plain(cell) != plain(own) for cell, own in told)
