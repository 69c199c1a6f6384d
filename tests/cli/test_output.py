from __future__ import annotations

import io

import pytest
from rich.console import Console

from supermask.cli.output import draw, print_document, print_error, print_grids, print_json, print_text, progress_bar
from supermask.cli.prose import fill_docstring
from supermask.report.grid import Grid
from supermask.report.table import Document

NUMBERS = Grid("Numbers [5 %]", ("label", "n"), (("a long label", "1"), ("b", "22")))
PROSE = Grid(
    "", ("name", "what", "why"), (("first", "some words " * 5, "more"), ("2nd", "x", "y")), frozenset({0, 1, 2})
)


def drawn(grid: Grid, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(draw(grid, width))
    file = console.file
    assert isinstance(file, io.StringIO)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_table_is_drawn_without_reading_markup() -> None:
    assert drawn(NUMBERS, 80) == [
        "Numbers [5 %]",
        "label          n",
        "────────────────",
        "a long label   1",
        "b             22",
    ]


def test_nothing_is_cut_off_in_a_narrow_terminal() -> None:
    lines = drawn(Grid("", ("label", "accuracy"), (("a" * 30, "97.28 [97.10, 97.45]"),)), 30)
    assert max(map(len, lines)) <= 30
    text = "".join("".join(lines[2:]).split())
    assert text.count("a") == 30
    assert "…" not in text


def test_prose_has_air_between_rows() -> None:
    lines = drawn(PROSE, 40)
    assert "" in lines
    assert "" not in drawn(PROSE, 200)


def test_pipes_get_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_grids([NUMBERS, NUMBERS], ["a note"])
    assert capsys.readouterr().out == f"{NUMBERS.to_text()}\n\n{NUMBERS.to_text()}\n\na note\n"


def test_terminals_get_drawn_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    print_grids([NUMBERS, NUMBERS], ["a [red]note[/red]"])
    print_text("words " * 10)
    out = capsys.readouterr().out
    assert out.count("────") > 1
    assert "a [red]note[/red]" in out
    assert max(len(line.rstrip()) for line in out.splitlines()[-3:]) <= 30
    print_error("something [is] wrong")
    assert "\x1b[31merror: something [is] wrong\x1b[0m" in capsys.readouterr().err.replace("\n", " ")


def test_a_report_is_folded_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = Grid("Wide", ("label", "first", "second"), (("a", "1" * 20, "2" * 20),))
    failed = Grid("Failed", ("run", "error"), (("b", "words " * 10),), frozenset({0, 1}))
    document = Document(grids=(wide,), failed=(failed,), remarks=("a remark",))
    print_document(document)
    assert capsys.readouterr().out == document.to_text()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    print_document(document)
    out = capsys.readouterr().out
    assert [out.count(word) for word in ("Wide", "label", "1" * 20, "2" * 20, "Failed", "a remark")] == [
        1,
        2,
        1,
        1,
        1,
        1,
    ]


def test_json_is_strict() -> None:
    with pytest.raises(ValueError, match="nan"):
        print_json({"loss": float("nan")})


def test_downloads_show_a_bar_to_people_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress_bar() as show:
        assert show is None
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar() as show:
        assert show is not None
        show("train.gz", 500, 1000)
        show("train.gz", 1000, 1000)
    assert "train.gz" in capsys.readouterr().err


DOC = """\
One line.

Update::

    a = 1    (kept)
      b = 2

A paragraph of words
that goes on.

Args:
    first: The first argument, which needs
        more than one line.
    second: Short."""


def test_docstrings_are_refilled() -> None:
    assert fill_docstring(DOC, 36).splitlines() == [
        "One line.",
        "",
        "Update::",
        "",
        "    a = 1    (kept)",
        "      b = 2",
        "",
        "A paragraph of words that goes on.",
        "",
        "Args:",
        "    first: The first argument, which",
        "        needs more than one line.",
        "    second: Short.",
    ]
