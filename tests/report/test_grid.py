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
