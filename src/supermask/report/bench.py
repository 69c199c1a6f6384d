"""A benchmark of ``supermask bench`` for people: a table with its notes, and a plot as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from supermask.report.grid import UNKNOWN, Grid

#: Contender -> what people call it, in the order of tables.
NAMES: Final = {
    "eager": "torch eager",
    "channels_last": "torch channels_last",
    "compiled": "torch.compile, frozen",
    "onnxruntime": "onnxruntime",
    "engine": "engine",
    "runtime": "engine without torch",
}
_COLOURS: Final = {
    "eager": "#9aa5b1",
    "channels_last": "#7b8794",
    "compiled": "#52606d",
    "onnxruntime": "#3e4c59",
    "engine": "#c2410c",
    "runtime": "#ea9a72",
}
_BAR, _GAP, _LEFT, _WIDTH, _RIGHT = 16, 26, 170, 400, 150  # of the plot, pixels


def bench_grids(result: Mapping[str, Any]) -> list[Grid]:
    """The tables of a benchmark."""
    options = result["options"]
    title = f"{result['name']}{' against ' + result['against'] if result['against'] else ''}"
    threads = f"{options['threads']} thread{'s' * (options['threads'] != 1)}"
    clock = "wall clock" if options["clock"] == "wall" else "processor time"
    rows = sorted(result["rows"], key=lambda row: (row["batch"], list(NAMES).index(row["contender"])))
    lines = tuple(
        (
            str(row["batch"]),
            NAMES[row["contender"]],
            milliseconds(row["p50"]),
            milliseconds(row["p95"]),
            f"{row['per_second']:,.0f}",
            UNKNOWN if row["peak_memory"] is None else f"{row['peak_memory'] / 2**20:,.0f}",
            _ratio(row["ratio_to_engine"]) if row["contender"] != "engine" else "1",
        )
        for row in rows
    )
    headers = ("batch", "contender", "p50 ms", "p95 ms", "inputs/s", "peak MiB", "time / engine's")
    return [
        Grid(f"{title}: {threads}, {clock}", headers, lines, frozenset({1})),
        Grid("Bytes", ("float32", "packed", "times smaller"), (_bytes(result["bytes"]),)),
    ]


def bench_notes(result: Mapping[str, Any]) -> list[str]:
    """What is to be known beside the tables; the verdict comes last."""
    macs, machine = result["macs"], result["machine"]
    notes = []
    if macs["ratio"] is not None:
        notes.append(
            f"dense multiply-accumulates / those of weights that are not zero: {macs['dense']:,} / {macs['remaining']:,} = "
            f"{macs['ratio']:.1f}; this, not the share of remaining weights, bounds what can be gained."
        )
    notes.append(
        "time / engine's: median [5 %, 95 %] of the ratios within rounds; peak: resident memory of the contender's own process."
    )
    if result["differences"] is not None:
        largest = max(result["differences"].values(), default=0.0)
        notes.append(f"outputs differ from torch eager's by at most {largest:.2g} (random inputs).")
    notes.append(
        f"{machine['cpu']}, kernels {machine['kernels']}, torch {machine['torch']}, threads that wait do not spin."
    )
    notes += [
        f"{NAMES[entry['contender']]}: left out, {entry['reason'].removesuffix('.')}." for entry in result["skipped"]
    ]
    return [*notes, result["verdict"]]


def milliseconds(seconds: float) -> str:
    """Milliseconds with three significant digits."""
    value = 1000 * seconds
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value))) if value > 0 else 2}f}"


def bench_svg(result: Mapping[str, Any]) -> str:
    """Bars of the median times, one group a batch size, each group on a scale of its own."""
    parts: list[str] = []
    y = 64
    for batch in result["options"]["batches"]:
        rows = [row for row in result["rows"] if row["batch"] == batch]
        longest = max(row["p50"] for row in rows)
        parts.append(_text(16, y, f"batch {batch}", weight="bold"))
        y += 10
        for row in sorted(rows, key=lambda row: list(NAMES).index(row["contender"])):
            parts += _bar(row, y, longest)
            y += _BAR + 6
        y += _GAP
    width = _LEFT + _WIDTH + _RIGHT
    title = f"{result['name']}: milliseconds a batch, {result['options']['threads']} thread(s); lower is better"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" '
        'font-family="sans-serif" font-size="12">'
    )
    frame = f'<title>{escape(title)}</title><rect width="{width}" height="{y}" fill="#ffffff"/>'
    return "\n".join([head, frame, _text(16, 26, title, weight="bold"), *parts, "</svg>"]) + "\n"


def _bar(row: Mapping[str, Any], y: int, longest: float) -> Sequence[str]:
    name = row["contender"]
    width = max(1.0, _WIDTH * row["p50"] / longest)
    ratio = "" if row["ratio_to_engine"] is None or name == "engine" else f" ({row['ratio_to_engine']['median']:.1f}x)"
    return (
        _text(_LEFT - 8, y + 12, NAMES[name], anchor="end"),
        f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{_COLOURS[name]}"/>',
        _text(_LEFT + width + 6, y + 12, f"{milliseconds(row['p50'])}{ratio}"),
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="#1f2933">{escape(text)}</text>'


def _ratio(ratio: Mapping[str, float] | None) -> str:
    return UNKNOWN if ratio is None else f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def _bytes(bytes_: Mapping[str, int | None]) -> tuple[str, str, str]:
    dense, packed = bytes_["dense_float32"], bytes_["packed"]
    assert dense is not None
    if packed is None:
        return f"{dense:,}", UNKNOWN, UNKNOWN
    return f"{dense:,}", f"{packed:,}", f"{dense / packed:,.1f}"
