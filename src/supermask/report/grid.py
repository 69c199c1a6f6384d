"""One table of text cells, and its plain, Markdown and CSV forms."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """A titled table whose cells are already text.

    Attributes:
        title: One line above the table; may be empty.
        headers: One text per column.
        rows: Each with as many cells as there are headers.
        left: Indices of the columns aligned to the left; the others hold numbers and are aligned to the right.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.headers), f"{len(row)} cells under {len(self.headers)} headers: {row}"

    def to_text(self) -> str:
        """Aligned columns, two spaces apart, never wrapped or cut: for pipes, logs and files."""
        widths = [max(len(cell) for cell in column) for column in zip(self.headers, *self.rows)]
        lines = [self._line(self.headers, widths), "  ".join("-" * width for width in widths).rstrip()]
        lines += [self._line(row, widths) for row in self.rows]
        return "\n".join(([self.title] if self.title else []) + lines)

    def _line(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        padded = (
            cell.ljust(width) if index in self.left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths))
        )
        return "  ".join(padded).rstrip()

    def to_markdown(self) -> str:
        """A GitHub-flavoured Markdown table under its title in bold."""
        rule = [":--" if index in self.left else "--:" for index in range(len(self.headers))]
        lines = [_markdown_line(self.headers), "| " + " | ".join(rule) + " |"]
        lines += [_markdown_line(row) for row in self.rows]
        return "\n".join(([f"**{self.title}**", ""] if self.title else []) + lines)

    def to_csv(self) -> str:
        """Comma-separated values with one header line and no title, lines ended by a newline."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.headers)
        writer.writerows(self.rows)
        return buffer.getvalue()


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escape_markdown(cell) for cell in cells) + " |"


def escape_markdown(text: str) -> str:
    """Keep `|`, `*`, `_` and line ends in a cell from being read as Markdown."""
    for special in ("\\", "|", "*", "_", "`"):
        text = text.replace(special, "\\" + special)
    return " ".join(text.split())
