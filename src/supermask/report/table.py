"""Rows to text: aligned columns, Markdown, CSV or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supermask.errors import ConfigError
from supermask.report.grid import Grid, escape_markdown
from supermask.report.statistics import Spread
from supermask.report.summary import DENSE, ExtraTime, Row, repeated_seeds, summarize

__all__ = ["FORMATS", "SPREADS", "Document", "build", "render", "summarize", "to_json"]

FORMATS = ("text", "markdown", "csv", "json")
SPREADS = ("quantiles", "std")
UNKNOWN = "–"

#: Short column headers for the accountings of `result.json`.
ACCOUNTINGS = {"two_bit": "two-bit", "sparse_index": "index", "entropy": "entropy", "packed": "packed"}

Failure = Mapping[str, Any]


@dataclass(frozen=True)
class Document:
    """What a report says: tables, then notes, one sentence each."""

    grids: tuple[Grid, ...]
    notes: tuple[str, ...]

    def to_text(self) -> str:
        """The document as aligned plain text that ends with a newline."""
        return _join([grid.to_text() for grid in self.grids], "\n".join(self.notes))

    def to_markdown(self) -> str:
        """The document as GitHub-flavoured Markdown that ends with a newline."""
        notes = "\n".join(f"- {escape_markdown(note)}" for note in self.notes)
        return _join([grid.to_markdown() for grid in self.grids], notes)


def render(
    rows: Sequence[Row],
    format: str = "text",
    *,
    spread: str = "quantiles",
    best: bool = False,
    per_layer: bool = False,
    failures: Sequence[Failure] = (),
    missing: int = 0,
) -> str:
    """Rows as one text that ends with a newline.

    Args:
        rows: What `summarize` returned.
        format: "text", "markdown", "csv" (one line a row, or with `per_layer` one line a layer) or "json".
        spread: "quantiles" (mean [5 %, 95 %]) or "std" (mean ± sample standard deviation); CSV and JSON hold both.
        best: Add the accuracy of the best epoch to the text and Markdown forms; CSV and JSON always hold it.
        per_layer: Add the layers of every row; JSON always holds them.
        failures: Contents of `failed.json` files, listed below the tables.
        missing: How many planned runs have no result and no failure yet.

    Raises:
        ConfigError: `format` or `spread` is not one of the known words.
    """
    _check("format", format, FORMATS)
    if format == "json":
        return to_json(rows, failures=failures, missing=missing)
    if format == "csv":
        return (_layers_csv(rows) if per_layer else _rows_csv(rows)).to_csv()
    document = build(rows, spread=spread, best=best, per_layer=per_layer, failures=failures, missing=missing)
    return document.to_markdown() if format == "markdown" else document.to_text()


def to_json(rows: Sequence[Row], *, failures: Sequence[Failure] = (), missing: int = 0) -> str:
    """Rows, failures and the number of missing runs as JSON of the schema in `docs/json.md`."""
    listed = [{key: failure[key] for key in ("run", "label", "seed", "error")} for failure in failures]
    content = {
        "schema": 1,
        "rows": [row.to_dict() for row in rows],
        "failed": listed,
        "missing": missing,
        "notes": repeated_seeds(rows),
    }
    return json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def build(
    rows: Sequence[Row],
    *,
    spread: str = "quantiles",
    best: bool = False,
    per_layer: bool = False,
    failures: Sequence[Failure] = (),
    missing: int = 0,
) -> Document:
    """The tables and notes of a report; arguments as for `render`.

    Raises:
        ConfigError: `spread` is not one of the known words.
    """
    _check("spread", spread, SPREADS)
    names = _names(rows)
    grids: list[Grid] = []
    if rows:
        grids = [_quality(rows, names, spread, best), _size(rows, names), _cost(rows, names, spread)]
    if per_layer:
        grids += [_layers(row, name) for row, name in zip(rows, names) if row.layers]
    if failures:
        grids.append(_failed(failures))
    return Document(grids=tuple(grids), notes=tuple(_notes(rows, spread, best, missing)))


def _quality(rows: Sequence[Row], names: Sequence[str], spread: str, best: bool) -> Grid:
    headers = ["label", "n", "accuracy %", "test loss", "remaining %"]
    lines = [
        [
            name,
            f"{row.n}{'*' if _starred(row, spread) else ''}",
            _percent(row.accuracy, spread),
            _number(row.test_loss, 4),
            _percent(row.density, spread),
        ]
        for row, name in zip(rows, names)
    ]
    if best:
        headers.insert(3, "best epoch %")
        for line, row in zip(lines, rows):
            line.insert(3, _percent(row.accuracy_best, spread))
    shape = "mean [5 %, 95 %]" if spread == "quantiles" else "mean ± standard deviation"
    return Grid(f"Last epoch, {shape} over the runs", tuple(headers), tuple(map(tuple, lines)))


def _size(rows: Sequence[Row], names: Sequence[str]) -> Grid:
    accountings = list(dict.fromkeys(key for row in rows for key, spread in row.compression.items() if spread))
    headers = ("label", "remaining", "targeted", "of all %", *(f"{ACCOUNTINGS.get(a, a)} %" for a in accountings))
    lines = (
        (
            name,
            _count(row.weights_remaining),
            _count(row.weights_targeted),
            _mean_percent(row.remaining_of_all),
            # a dense network has no mask to count
            *(UNKNOWN if row.method == DENSE else _mean_percent(row.compression.get(a)) for a in accountings),
        )
        for row, name in zip(rows, names)
    )
    return Grid("Weights, and compression rate by accounting (means)", headers, tuple(lines))


def _cost(rows: Sequence[Row], names: Sequence[str], spread: str) -> Grid:
    headers = ("label", "epochs", "s/epoch", "training s", "extra %", "peak MiB")
    lines = (
        (
            name,
            str(row.epochs),
            _number(row.seconds_per_epoch, 3),
            _seconds(row.seconds_train),
            _extra(row.extra_time, spread),
            UNKNOWN if row.peak_memory is None else f"{row.peak_memory.mean / 2**20:,.0f}",
        )
        for row, name in zip(rows, names)
    )
    return Grid("Time and memory (means)", headers, tuple(lines))


def _layers(row: Row, name: str) -> Grid:
    lines = (
        (
            layer.name,
            "x".join(map(str, layer.shape)),
            f"{layer.size:,}",
            *(UNKNOWN if part is None else f"{100 * part:.2f}" for part in (layer.remaining, layer.keep, layer.invert)),
        )
        for layer in row.layers
    )
    headers = ("layer", "shape", "weights", "remaining %", "keep %", "invert %")
    return Grid(f"{name}: layers, mean over {row.n} run{'s' * (row.n != 1)}", headers, tuple(lines))


def _failed(failures: Sequence[Failure]) -> Grid:
    """One line an error, with the runs that ended in it."""
    groups: dict[str, list[Failure]] = {}
    for failure in failures:
        groups.setdefault(_one_line(failure["error"]), []).append(failure)
    lines = tuple((*_runs_of(group), error) for error, group in groups.items())
    return Grid(f"Failed runs: {len(failures)}", ("run", "label", "seed", "error"), lines, frozenset({0, 1, 3}))


def _runs_of(failures: Sequence[Failure]) -> tuple[str, str, str]:
    """Run, labels and seeds; the seeds of each label unless all labels have the same."""
    seeds: dict[str, list[str]] = {}
    for failure in failures:
        seeds.setdefault(failure["label"], []).append(str(failure["seed"]))
    of_each = [", ".join(found) for found in seeds.values()]
    more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    together = of_each[:1] if len(set(of_each)) == 1 else of_each
    return f"{failures[0]['run']}{more}", "; ".join(seeds), "; ".join(together)


def _notes(rows: Sequence[Row], spread: str, best: bool, missing: int) -> list[str]:
    notes = []
    if any(_starred(row, spread) for row in rows):
        notes.append("* n < 20: quantiles are estimated by interpolation.")
    if best and rows:
        notes.append("best epoch: chosen on the test set, therefore optimistic; compare by the last epoch.")
    if any(row.compression for row in rows):
        notes.append(
            "two-bit, index, entropy: compression rate 1 - bytes / float32 bytes of the dense model, so counted."
        )
    for baseline in dict.fromkeys(row.extra_time.baseline for row in rows if row.extra_time):
        notes.append(f"extra: training time of an epoch over {baseline!r} at equal seed, device and threads.")
    if any(row.extra_time and row.extra_time.pairs < row.n for row in rows):
        notes.append("extra: not every run has a baseline of its seed; only the pairs are compared.")
    if len({(row.devices, row.threads) for row in rows}) > 1:
        notes.append("The rows ran on different devices or thread counts: compare times with care.")
    notes += [f"{sentence}." for sentence in repeated_seeds(rows)]
    if missing:
        notes.append(f"{missing} planned run{'s have' if missing > 1 else ' has'} no result yet.")
    return notes


def _names(rows: Sequence[Row]) -> list[str]:
    """Labels, preceded by whatever else tells the rows apart: experiment, model, data set."""
    varying = [key for key in ("experiment", "model", "data") if len({getattr(row, key) for row in rows}) > 1]
    names = []
    for row in rows:
        parts = [getattr(row, key) for key in varying]
        names.append(" / ".join([part for part in parts if part not in row.label] + [row.label]))
    return names


def _starred(row: Row, spread: str) -> bool:
    return spread == "quantiles" and row.estimated and row.n > 1


def _percent(value: Spread | None, spread: str) -> str:
    if value is None or not value.std:  # one run, or runs that agree exactly
        return _mean_percent(value)
    if spread == "std":
        return f"{100 * value.mean:.2f} ± {100 * value.std:.2f}"
    return f"{100 * value.mean:.2f} [{100 * value.low:.2f}, {100 * value.high:.2f}]"


def _mean_percent(value: Spread | None) -> str:
    return UNKNOWN if value is None else f"{100 * value.mean:.2f}"


def _number(value: Spread | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value.mean:,.{digits}f}"


def _seconds(value: Spread | None) -> str:
    return _number(value, 2 if value is not None and value.mean < 10 else 1)


def _count(value: Spread | None) -> str:
    return UNKNOWN if value is None else f"{value.mean:,.0f}"


def _extra(extra: ExtraTime | None, spread: str) -> str:
    if extra is None:
        return UNKNOWN
    value = extra.fraction
    if value.std is None:
        return f"{100 * value.mean:+.1f}"
    if spread == "std":
        return f"{100 * value.mean:+.1f} ± {100 * value.std:.1f}"
    return f"{100 * value.mean:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"


def _rows_csv(rows: Sequence[Row]) -> Grid:
    flat = [_flatten({key: value for key, value in row.to_dict().items() if key != "layers"}) for row in rows]
    headers = tuple(dict.fromkeys(key for line in flat for key in line))
    return Grid("", headers, tuple(tuple(_cell(line.get(key)) for key in headers) for line in flat))


def _layers_csv(rows: Sequence[Row]) -> Grid:
    headers = ("experiment", "label", "n", "layer", "shape", "size", "remaining", "keep", "invert")
    lines = tuple(
        tuple(map(_cell, (row.experiment, row.label, row.n, layer.name, layer.shape, layer.size)))
        + tuple(map(_cell, (layer.remaining, layer.keep, layer.invert)))
        for row in rows
        for layer in row.layers
    )
    return Grid("", headers, lines)


#: The columns of a spread, so that a CSV has the same columns whether or not a value is known.
_SPREAD_KEYS = ("mean", "low", "high", "std", "n")
_SPREAD_FIELDS = (
    *("accuracy", "accuracy_best", "test_loss", "train_loss", "weights_total", "weights_targeted"),
    *("weights_remaining", "density", "remaining_of_all", "seconds_train", "seconds_per_epoch", "peak_memory"),
)


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if entry is None and (key in _SPREAD_FIELDS or prefix in ("bytes.", "compression.")):
            entry = dict.fromkeys(_SPREAD_KEYS)
        elif entry is None and key == "extra_time":
            spread = dict.fromkeys(_SPREAD_KEYS)
            entry = {"baseline": None, "pairs": None, "seconds": spread, "fraction": spread}
        flat.update(_flatten(entry, f"{prefix}{key}.") if isinstance(entry, Mapping) else {prefix + key: entry})
    return flat


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return repr(value) if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    """Replace what JSON cannot say, NaN and infinities, by null."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _join(tables: list[str], notes: str) -> str:
    return "\n\n".join([*tables, notes] if notes else tables) + "\n"


def _check(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
