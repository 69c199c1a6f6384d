"""LaTeX: a grid as a `table` with booktabs rules, every cell escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from supermask.report.grid import Grid

_SPECIAL: Final = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    **{special: f"\\{special}" for special in "&%$#_{}"},
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "√": r"$\surd$",
    "†": r"\textdagger{}",
    "µ": r"\textmu{}",
    "\N{NO-BREAK SPACE}": "~",
}


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it stands; line ends become spaces."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))


def to_latex(grid: Grid) -> str:
    """A `table` environment: the title as caption, a booktabs `tabular`, the notes in small print below it."""
    columns = "".join("l" if index in grid.left else "r" for index in range(len(grid.headers)))
    lines = [
        r"\begin{table}",
        r"  \centering",
        *([rf"  \caption{{{escape_latex(grid.title)}}}"] if grid.title else []),
        rf"  \begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"    \toprule",
        f"    {_line(grid.headers)}",
        r"    \midrule",
        *(f"    {_line(row)}" for row in grid.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    if grid.notes:
        small = [rf"    {escape_latex(note)}\par" for note in grid.notes]
        lines += ["", r"  \smallskip", r"  \parbox{\linewidth}{\footnotesize\raggedright", *small, "  }"]
    return "\n".join([*lines, r"\end{table}"])


def _line(cells: Sequence[str]) -> str:
    first, *others = map(escape_latex, cells)
    if cells[0].startswith(" "):
        first = rf"\quad {first}"
    elif first[:1] in ("[", "*"):  # would be read as an argument of the line break before it
        first = f"{{}}{first}"
    return " & ".join([first, *others]) + r" \\"
