from __future__ import annotations

import pytest

from supermask.report.grid import Grid

GRID = Grid("Title", ("name", "count"), (("a", "1"), ("long|name", "1,000")))


def test_text_is_aligned() -> None:
    assert GRID.to_text().splitlines() == [
        "Title",
        "name       count",
        "---------  -----",
        "a              1",
        "long|name  1,000",
    ]


def test_text_has_no_spaces_at_the_end() -> None:
    grid = Grid("", ("a", "b"), (("x", "y"), ("x", "")), left=frozenset({0, 1}))
    assert all(line == line.rstrip() for line in grid.to_text().splitlines())


def test_markdown_escapes_bars() -> None:
    assert GRID.to_markdown().splitlines() == [
        "**Title**",
        "",
        "| name | count |",
        "| :-- | --: |",
        "| a | 1 |",
        "| long\\|name | 1,000 |",
    ]


def test_csv_quotes() -> None:
    assert GRID.to_csv() == 'name,count\na,1\nlong|name,"1,000"\n'


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(AssertionError, match="1 cells under 2 headers"):
        Grid("", ("a", "b"), (("x",),))


def test_a_wide_table_is_folded() -> None:
    grid = Grid("Title", ("label", "first", "second"), (("a" * 30, "1" * 20, "2" * 20),), frozenset({0, 2}), ("note",))
    assert grid.fold(64) == [grid]  # the label wraps to 20
    first, second = grid.fold(60)
    assert (first.headers, second.headers) == (("label", "first"), ("label", "second"))
    assert (first.title, second.title) == ("Title", "")
    assert (first.left, second.left) == (frozenset({0}), frozenset({0, 1}))
    assert second.rows == (("a" * 30, "2" * 20),)
    assert len(grid.fold(10)) == 2


def test_parts_leave_out_lines_that_say_nothing() -> None:
    rows = (("a", "1" * 20, "–"), ("  quoted", "–", "2" * 20), ("b", "–", "–"))
    first, second = Grid("", ("label", "first", "second"), rows).fold(40)
    assert [row[0] for row in first.rows] == ["a", "b"]
    assert [row[0] for row in second.rows] == ["a", "  quoted", "b"]
