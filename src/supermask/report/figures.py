"""Two figures of the channels' gates or scales from epoch to epoch, as SVG: their histogram, and how they are removed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np
import numpy.typing as npt

from supermask.errors import ConfigError
from supermask.report.channels import Values

_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
_WIDTH: Final = 300  # of a panel's plot
_HEIGHT: Final = 170
_LEFT: Final = 52
_TOP: Final = 30
_BELOW: Final = 44
_A_LINE: Final = 3  # panels beside each other
_COLUMNS: Final = 100  # epochs that a histogram shows at most
_BINS: Final = 20  # between the two ends


def histogram(rows: Sequence[Values]) -> str:
    """How the values of all channels are spread, epoch by epoch; one panel a row.

    Exactly 0 and, of gates, exactly 1 have a band of their own at the ends: that is where gates gather. A darker cell holds a
    larger share of the channels.

    Raises:
        ConfigError: There is nothing to draw.
    """
    _require(rows)
    parts = []
    for index, row in enumerate(rows):
        x, y = _place(index)
        values = row.pooled()
        top = 1.0 if row.kind == "gate" else max(float(values.max()), 1e-12)
        shown = np.unique(np.linspace(0, len(values) - 1, min(_COLUMNS, len(values))).round().astype(int))
        bands = _bands(values[shown], top, row.kind == "gate")
        parts += _cells(x, y, bands)
        ends = (f"{top:.3g}", "0")
        what = "gate" if row.kind == "gate" else "magnitude of batch norm's scale"
        parts += _frame(x, y, row.name, f"epoch, 1 to {len(values):,}", what, ends)
    return _document(len(rows), parts)


def removal(rows: Sequence[Values]) -> str:
    """How many channels remain from epoch to epoch, and which groups they belong to at the end; one line a row.

    Raises:
        ConfigError: There is nothing to draw.
    """
    _require(rows)
    parts: list[str] = []
    panels = (
        ([row.remaining() for row in rows], "channels that remain", "epoch, from the first to the last"),
        (
            [row.last_by_group() for row in rows],
            "channels that remain, by group",
            "group, from the images to the classes",
        ),
    )
    for index, (lines, title, below) in enumerate(panels):
        x, y = _place(index)
        for number, shares in enumerate(lines):
            parts.append(_polyline(x, y, shares, _COLOURS[number % len(_COLOURS)]))
        parts += _frame(x, y, title, below, "share", ("1", "0"))
    x, y = _place(2)
    for number, row in enumerate(rows):
        line = y + 8 + 17 * number
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<line x1="{x}" y1="{line}" x2="{x + 22}" y2="{line}" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(x + 28, line + 4, row.name))
    return _document(3, parts, least=_TOP + 17 * len(rows) + 20)


def _require(rows: Sequence[Values]) -> None:
    if not rows:
        raise ConfigError(
            "--figures: no finished run here recorded gates or scales of channels; methods that remove channels do"
        )


def _bands(values: npt.NDArray[np.float32], top: float, gates: bool) -> npt.NDArray[np.float64]:
    """(epochs, bands): share of the channels in each band; the first is exactly 0, the last of gates exactly 1."""
    inner = np.clip((values / top * _BINS).astype(int), 0, _BINS - 1) + 1
    inner[values == 0] = 0
    if gates:
        inner[values == 1] = _BINS + 1
    bands = _BINS + 1 + gates
    counts = np.stack([np.bincount(row, minlength=bands) for row in inner])
    shares: npt.NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return shares


def _cells(x: float, y: float, bands: npt.NDArray[np.float64]) -> list[str]:
    width, height = _WIDTH / len(bands), _HEIGHT / bands.shape[1]
    parts = []
    for column, shares in enumerate(bands):
        for band in shares.nonzero()[0]:
            strength = float(np.sqrt(shares[band]))
            top = y + _HEIGHT - (int(band) + 1) * height
            parts.append(
                f'<rect x="{x + column * width:.1f}" y="{top:.1f}" width="{width + 0.1:.1f}" height="{height + 0.1:.1f}" '
                f'fill="#003a6b" fill-opacity="{strength:.2f}"/>'
            )
    return parts


def _polyline(x: float, y: float, values: npt.NDArray[np.float64], colour: str) -> str:
    steps = max(1, len(values) - 1)
    points = " ".join(
        f"{x + _WIDTH * i / steps:.1f},{y + _HEIGHT * (1 - value):.1f}" for i, value in enumerate(values.tolist())
    )
    marker = (
        "" if len(values) > 1 else f'<circle cx="{x}" cy="{y + _HEIGHT * (1 - values[0]):.1f}" r="3" fill="{colour}"/>'
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>{marker}'


def _place(index: int) -> tuple[int, int]:
    """Upper left corner of a panel's plot."""
    line, column = divmod(index, _A_LINE)
    return _LEFT + column * (_WIDTH + _LEFT + 16), _TOP + line * (_TOP + _HEIGHT + _BELOW)


def _frame(x: float, y: float, title: str, below: str, beside: str, ends: tuple[str, str]) -> list[str]:
    """Border, title, what the axes show, and the ends of the vertical one."""
    middle = y + _HEIGHT / 2
    return [
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#333333"/>',
        _text(x, y - 9, title, size=13),
        _text(x + _WIDTH / 2, y + _HEIGHT + 17, below, anchor="middle"),
        _text(x - 6, y + 9, ends[0], anchor="end"),
        _text(x - 6, y + _HEIGHT, ends[1], anchor="end"),
        f'<g transform="translate({x - 30} {middle}) rotate(-90)">{_text(0, 0, beside, anchor="middle")}</g>',
    ]


def _text(x: float, y: float, words: str, *, size: int = 11, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}">{escape(words)}</text>'


def _document(panels: int, parts: Sequence[str], *, least: int = 0) -> str:
    columns, lines = min(panels, _A_LINE), -(-panels // _A_LINE)
    width = columns * (_WIDTH + _LEFT + 16) + 10
    height = max(lines * (_TOP + _HEIGHT + _BELOW), least)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" fill="#111111">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>"]) + "\n"
