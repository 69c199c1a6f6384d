"""Figures for a paper: the page's charts as PDF, SVG and PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from supermask.errors import MissingExtraError
from supermask.lab.store import RunFolder, read_metrics
from supermask.report.content import Content
from supermask.report.page_charts import CONFIG, in_print, panels, pareto
from supermask.report.page_rows import Block, block_values, blocks
from supermask.report.page_runs import Source, curve
from supermask.report.page_verdict import verdict
from supermask.report.summary import DENSE, Result, Row

_FONT: Final = "Helvetica, Arial, sans-serif"
_SCALE: Final = 3  # pixels of the PNG for a pixel of the page
_SEEDS: Final = 5  # panels of training

#: Cost -> (title of its axis, factor).
_COSTS: Final = {
    "density": ("remaining weights, %", 100.0),
    "macs": ("multiply-accumulates, % of dense", 100.0),
    "bytes": ("size, kB", 1e-3),
    "latency": ("latency of inference, ms", 1.0),
}


def figures(content: Content, results: Sequence[Result], sources: Mapping[str, Source]) -> dict[str, bytes]:
    """File name -> content: `trade-off-COST` for every cost that is known, and `training` of the verdict's row.

    Args:
        content: What the report says; its rankings without classes of remaining weights.
        results: The results that its rows hold.
        sources: Run id -> where it is.

    Raises:
        MissingExtraError: altair or vl-convert is not installed.
        RunError: A file of a run is damaged.
    """
    found = blocks(content, results)
    files: dict[str, bytes] = {}
    for number, block in enumerate(found, start=1):
        prefix = f"{number}-" if len(found) > 1 else ""
        values = block_values(block, content.quotes, alone=len(found) == 1)
        row = block.rows[verdict(block)["row"]]
        for cost in _COSTS:
            spec = _trade_off(values, cost, values["rows"][block.rows.index(row)]["series"])
            if spec is not None:
                files |= _files(f"{prefix}trade-off-{cost}", spec)
        training = _training(block, row, sources)
        if training is not None:
            files |= _files(f"{prefix}training", training)
    return files


def formats(name: str, svg: str) -> dict[str, bytes]:
    """File name -> content: a figure as PDF, SVG and PNG.

    Raises:
        MissingExtraError: vl-convert is not installed.
    """
    convert = _converter()
    png = convert.svg_to_png(svg, scale=_SCALE)
    return {f"{name}.pdf": convert.svg_to_pdf(svg), f"{name}.svg": svg.encode(), f"{name}.png": png}


def _files(name: str, spec: Mapping[str, Any]) -> dict[str, bytes]:
    config = {**CONFIG, "font": _FONT, "background": "white"}
    return formats(name, _converter().vegalite_to_svg(in_print({**spec, "config": config})))


def _converter() -> ModuleType:
    try:
        import vl_convert
    except ImportError as error:
        raise MissingExtraError("vl-convert-python", "report", "a figure") from error
    module: ModuleType = vl_convert
    return module


def _trade_off(values: Mapping[str, Any], cost: str, series: str) -> dict[str, Any] | None:
    """Quality against one cost; None where the cost is not known."""
    title, factor = _COSTS[cost]
    scale = 100.0 if values["metric"] == "accuracy" else 1.0
    drawn = [row for row in values["rows"] if row["value"] is not None]
    settings = [
        {
            "label": row["name"],
            "series": row["series"],
            "x": factor * row[cost][0],
            **_ends(row["value"], scale),
        }
        for row in drawn
        if not row["dense"] and row[cost] is not None and row[cost][0] > 0
    ]
    if not settings:
        return None
    dense = [] if values["baseline"] is None else [values["rows"][values["baseline"]]["value"]]
    published = [
        {"x": 100 * one["density"], "value": 100 * one["value"][0]} for one in values["published"] if cost == "density"
    ]
    data: dict[str, list[dict[str, Any]]] = {
        "settings": sorted(settings, key=lambda one: float(one["x"])),
        "dense": [_ends(value, scale) for value in dense if value is not None],
        "published": published,
    }
    spec = pareto()
    ends = [end for row in drawn for end in (scale * row["value"][1], scale * row["value"][2])]
    pad = 0.05 * (max(ends) - min(ends)) or 1.0
    told = {"focus": series, "bottom": min(ends) - pad, "top": max(ends) + pad}
    quality = "accuracy, %" if values["metric"] == "accuracy" else values["metric"].rpartition(":")[2]
    spec["params"] = [{**one, "value": told[one["name"]]} for one in spec["params"]]
    spec["layer"] = [layer for layer in spec["layer"] if data[layer["data"]["name"]]]
    for layer in spec["layer"]:
        for channel, words in (("x", title), ("y", quality)):
            if "field" in layer["encoding"].get(channel, {}):
                layer["encoding"][channel]["title"] = words
    return {**spec, "datasets": data, "width": 420, "height": 260}


def _ends(value: Sequence[float], scale: float) -> dict[str, float]:
    return {"value": scale * value[0], "low": scale * value[1], "high": scale * value[2]}


def _training(block: Block, row: Row, sources: Mapping[str, Source]) -> dict[str, Any] | None:
    """The metric by epoch, a panel a seed, beside the dense network; None where no run tells its epochs."""
    scale = 100.0 if row.metric.name == "accuracy" else 1.0
    points = []
    shown = row.runs[:_SEEDS]
    seeds = {block.results[run]["seed"] for run in shown}
    baseline = block.baseline
    others = () if baseline is None or row.method == DENSE else baseline.runs
    for who, runs in (("setting", shown), ("dense", others)):
        for run in runs:
            seed = block.results[run]["seed"]
            told = curve(read_metrics(RunFolder(sources[run].folder)), block.results[run]) if seed in seeds else None
            for x, y in zip(told["epoch"], told["value"]) if told else ():
                if y is not None:
                    line = {"panel": f"seed {seed}", "line": f"{who} {seed}", "who": who, "kind": "test"}
                    points.append({**line, "x": x, "y": scale * y})
    if not points:
        return None
    spec = panels()
    name = "accuracy, %" if row.metric.name == "accuracy" else row.metric.name.rpartition(":")[2]
    spec["spec"]["encoding"]["y"]["title"] = name
    spec["spec"]["encoding"]["x"]["title"] = "epoch"
    spec["spec"] |= {"width": 120, "height": 100}
    return {**spec, "datasets": {"curves": points}}
