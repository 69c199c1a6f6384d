"""One table of text cells, and its plain, Markdown and CSV forms."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

#: What stands in a cell without a value.
UNKNOWN = "–"

#: The first column may be wrapped to this many characters before the others are wrapped or spread over several tables.
_LABEL = 20


@dataclass(frozen=True)
class Grid:
    """A titled table whose cells are already text.

    Attributes:
        title: One line above the table; may be empty.
        headers: One text per column.
        rows: Each with as many cells as there are headers.
        left: Indices of the columns aligned to the left; the others hold numbers and are aligned to the right.
        notes: Sentences that its reader needs; printed by whoever arranges several grids.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.headers), f"{len(row)} cells under {len(self.headers)} headers: {row}"

    def to_text(self) -> str:
        """Aligned columns, two spaces apart, never wrapped or cut: for pipes, logs and files."""
        widths = self.widths()
        lines = [self._line(self.headers, widths), "  ".join("-" * width for width in widths).rstrip()]
        lines += [self._line(row, widths) for row in self.rows]
        return "\n".join(([self.title] if self.title else []) + lines)

    def _line(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        padded = (
            cell.ljust(width) if index in self.left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths))
        )
        return "  ".join(padded).rstrip()

    def widths(self) -> list[int]:
        """Characters of each column."""
        return [max(len(cell) for cell in column) for column in zip(self.headers, *self.rows)]

    def fits(self, width: int) -> bool:
        """Whether a width holds it with at most the cells of the first column wrapped."""
        first, *others = self.widths()
        return min(first, _LABEL) + sum(others) + 2 * len(others) <= width

    def fold(self, width: int) -> list[Grid]:
        """The columns in parts that fit a width, each after the first column; itself where it fits.

        A column that is wider than that has a part of its own.
        """
        if self.fits(width):
            return [self]
        first, *widths = self.widths()
        room = width - min(first, max(_LABEL, width // 3))
        parts: list[list[int]] = [[]]
        used = 0
        for index, needed in enumerate(widths, start=1):
            if parts[-1] and used + 2 + needed > room:
                parts.append([])
                used = 0
            parts[-1].append(index)
            used += 2 + needed
        return [self._part(columns, self.title if number == 0 else "") for number, columns in enumerate(parts)]

    def _part(self, columns: Sequence[int], title: str) -> Grid:
        kept = (0, *columns)
        cut = (tuple(row[index] for index in kept) for row in self.rows)
        # a line that belongs to the one above it and says nothing here is left out
        rows = tuple(row for row in cut if not (row[0].startswith(" ") and set(row[1:]) == {UNKNOWN}))
        left = frozenset(place for place, index in enumerate(kept) if index in self.left)
        return Grid(title, tuple(self.headers[index] for index in kept), rows, left, self.notes)

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
