from __future__ import annotations

import pytest

from supermask.report.grid import Grid
from supermask.report.latex import escape_latex, to_latex


def test_a_table() -> None:
    grid = Grid("Numbers [5 %]", ("label", "n"), (("a_b", "3*"), ("  c", "–")), notes=("* few & far.", "[1] a source."))
    assert to_latex(grid).splitlines() == [
        r"\begin{table}",
        r"  \centering",
        r"  \caption{Numbers [5 \%]}",
        r"  \begin{tabular}{@{}lr@{}}",
        r"    \toprule",
        r"    label & n \\",
        r"    \midrule",
        r"    a\_b & 3* \\",
        r"    \quad c & -- \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        "",
        r"  \smallskip",
        r"  \parbox{\linewidth}{\footnotesize\raggedright",
        r"    * few \& far.\par",
        r"    [1] a source.\par",
        "  }",
        r"\end{table}",
    ]


def test_without_title_and_notes() -> None:
    text = to_latex(Grid("", ("a",), (("b",),)))
    assert "caption" not in text
    assert "footnotesize" not in text


@pytest.mark.parametrize("label", ["[1] a", "*a"])
def test_a_first_cell_is_no_argument_of_the_line_break(label: str) -> None:
    assert rf"    {{}}{label} & 1 \\" in to_latex(Grid("", ("a", "b"), (("x", "0"), (label, "1"))))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        (r"a\b", r"a\textbackslash{}b"),
        ("50 % of $1_000 & #1 {x}", r"50 \% of \$1\_000 \& \#1 \{x\}"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("a < b > c | d", r"a \textless{} b \textgreater{} c \textbar{} d"),
        ("1 ± 2 × 3 – 4", r"1 $\pm$ 2 $\times$ 3 -- 4"),
        ("two\nlines", "two lines"),
    ],
)
def test_escapes(text: str, escaped: str) -> None:
    assert escape_latex(text) == escaped
