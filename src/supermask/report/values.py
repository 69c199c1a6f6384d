"""Raw values of a report for other programs: JSON and CSV, shares as fractions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from supermask.errors import ConfigError
from supermask.report.content import Content, View
from supermask.report.grid import Grid
from supermask.report.path import Path
from supermask.report.quoted import FIGURES, OURS, Quote
from supermask.report.ranking import Ranking
from supermask.report.summary import Row


def to_json(content: Content) -> str:
    """All of a report as JSON of the schema in `docs/json.md`."""
    listed = [{key: failure[key] for key in ("run", "label", "seed", "error")} for failure in content.failures]
    value = {
        "schema": 1,
        "rows": [
            row.to_dict() | {"quoted": [quote.to_dict() for quote in content.quotes if quote.is_beside(row)]}
            for row in content.rows
        ],
        "failed": listed,
        "missing": content.missing,
        "notes": content.sentences,
        "quoted": [quote.to_dict() for quote in (*_alone(content), *content.literature)],
        "rankings": [ranking.to_dict() for ranking in content.rankings],
        "paths": [path.to_dict() for path in content.paths],
        "settings": [
            {"title": table.title, "headers": list(table.headers), "rows": [list(row) for row in table.rows]}
            for table in content.settings
        ],
    }
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(content: Content, view: View) -> str:
    """One table as CSV: the settings or the literature where the experiment stands for them, else the results.

    Results have one line a row, or one a row and layer, epoch or ranking where the view asks for them. Quoted lines name their
    source; the column is empty for ours.

    Raises:
        ConfigError: The view asks for several of layers, epochs, rankings and paths, or there are several tables of settings.
    """
    if view.per_layer + view.per_epoch + view.rank + view.path > 1:
        raise ConfigError("CSV holds one table: ask for one of layers, epochs, ranking and path, or take JSON")
    if view.per_layer:
        return _layers(content.rows).to_csv()
    if view.per_epoch:
        return _epochs(content.rows).to_csv()
    if view.rank:
        return _grid(line for ranking in content.rankings for line in _ranking_lines(ranking)).to_csv()
    if view.path:
        return _grid(line for path in content.paths for line in _path_lines(path)).to_csv()
    if len(content.settings) > 1:
        raise ConfigError("CSV holds one table: name one experiment with settings, or take JSON, which holds them all")
    if content.settings:
        (table,) = content.settings
        return Grid("", tuple(table.headers), tuple(tuple(map(_cell, row)) for row in table.rows)).to_csv()
    if content.literature and not content.rows:
        return _grid(map(_literature_line, content.literature)).to_csv()
    return _rows(content).to_csv()


def _alone(content: Content) -> list[Quote]:
    """The quotes that stand beside none of our rows."""
    return [quote for quote in content.quotes if not any(quote.is_beside(row) for row in content.rows)]


def _rows(content: Content) -> Grid:
    lines = []
    for row in content.rows:
        own = {key: value for key, value in row.to_dict().items() if key not in ("layers", "at_epochs", "channels")}
        own["compression"] = {**own["compression"], "unnamed": None}
        own["costs"] = _costs(row)
        own["notes"] = "; ".join(f"{note.text} ({note.n})" for note in row.notes)
        lines.append(_flatten({"label": row.label, "source": None} | own))
        lines += [_quoted_line(quote) for quote in content.quotes if quote.is_beside(row)]
    lines += [_quoted_line(quote) for quote in _alone(content)]
    return _grid(lines)


def _costs(row: Row) -> dict[str, float | None]:
    """Mean fractions that are used, by unit; none of methods that remove no channels."""
    costs = () if row.channels is None else row.channels.costs
    return {cost.unit: None if cost.used is None else cost.used.mean for cost in costs}


def _literature_line(quote: Quote) -> dict[str, Any]:
    unknown = dict.fromkeys(_SPREAD_KEYS)
    figures = [OURS.get(key, key) for key in FIGURES]
    return _flatten({key: unknown if key in figures and not cell else cell for key, cell in quote.to_dict().items()})


def _quoted_line(quote: Quote) -> dict[str, Any]:
    """A quote under the columns of our rows."""
    cells = quote.to_dict()
    shared = ["label", "source", "epochs", "n", "accuracy", "accuracy_best", "accuracy_top5", "test_loss", "density"]
    line = {key: cells[key] for key in [*shared, "weights_remaining", "seconds_per_epoch"]}
    # how the source counted bytes is not known
    return _flatten(
        line
        | {"experiment": quote.experiment}
        | {
            "extra_time": {"fraction": cells["extra_time"]},
            "compression": {"packed": cells["packed"], "unnamed": cells["compression"]},
        }
    )


def _layers(rows: Sequence[Row]) -> Grid:
    headers = ("experiment", "label", "n", "layer", "shape", "size", "remaining", "keep", "invert")
    lines = tuple(
        tuple(map(_cell, (row.experiment, row.label, row.n, layer.name, layer.shape, layer.size)))
        + tuple(map(_cell, (layer.remaining, layer.keep, layer.invert)))
        for row in rows
        for layer in row.layers
    )
    return Grid("", headers, lines)


def _epochs(rows: Sequence[Row]) -> Grid:
    lines = []
    for row in rows:
        for at in map(asdict, row.at_epochs):
            own = {"experiment": row.experiment, "label": row.label, "n": row.n, "epoch": at["epoch"]}
            values = {"value": at["metric"], "test_loss": at["test_loss"], "density": at["density"], "full": at["full"]}
            lines.append(_flatten(own | {"metric": row.metric.name} | values))
    return _grid(lines)


def _ranking_lines(ranking: Ranking) -> list[dict[str, Any]]:
    told = ranking.to_dict()
    shared = {key: value for key, value in told.items() if key != "rows"}
    return [_flatten({**shared, **row}) for row in told["rows"]]


def _path_lines(path: Path) -> list[dict[str, Any]]:
    told = path.to_dict()
    return [
        {
            **{key: told[key] for key in ("experiment", "label", "setting", "n")},
            **{key: layer[key] for key in ("name", "size")},
            "progress": progress,
            **_flatten({"entered": entered}),
        }
        for layer in told["layers"]
        for progress, entered in zip(told["progress"], layer["entered"])
    ]


def _grid(lines: Iterable[Mapping[str, Any]]) -> Grid:
    """Flat lines under all their keys, in the order in which these first appear."""
    kept = list(lines)
    headers = tuple(dict.fromkeys(key for line in kept for key in line))
    return Grid("", headers, tuple(tuple(_cell(line.get(key)) for key in headers) for line in kept))


#: The columns of a spread, so that a CSV has the same columns whether or not a value is known.
_SPREAD_KEYS = ("mean", "low", "high", "std", "n")
_SPREADS = (
    *("accuracy", "accuracy_best", "accuracy_top5", "test_loss", "train_loss", "weights_total", "weights_targeted"),
    *("weights_remaining", "density", "remaining_of_all", "seconds_train", "seconds_per_epoch", "peak_memory"),
    *("peak_device_memory", "last", "best", "validation_selected", "validation", "dense", "remaining", "value"),
    *("fraction", "seconds", "epochs_trained", "rounds", "loss", "metric", "full"),
)


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if entry is None and (key in _SPREADS or prefix in ("bytes.", "compression.")):
            entry = dict.fromkeys(_SPREAD_KEYS)
        elif entry is None and key == "extra_time":
            entry = {"baseline": None, "pairs": None, "seconds": None, "fraction": None}
        elif entry is None and key == "difference":
            entry = dict.fromkeys(("mean", "low", "high", "pairs", "trusted"))
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
