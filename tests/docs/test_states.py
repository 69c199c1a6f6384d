"""docs/reproductions.md gives every group of rows a state, and those of the methods are what the methods say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from supermask.core.method import Status
from supermask.core.registry import methods

PAGE = (Path(__file__).parents[2] / "docs" / "reproductions.md").read_text()
OPENING, *SECTIONS = re.split(r"^## ", PAGE, flags=re.M)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.partition("\n")[0])
def test_every_group_of_rows_has_a_state(section: str) -> None:
    """One in each part that has a table; the parts of a comparison ("Near 10 %" and so on) share one."""
    parts = [section] if section.startswith("Comparison") else re.split(r"^### ", section, flags=re.M)
    for part in parts:
        if re.search(r"^\|", part, re.M):
            assert re.search(rf"`({'|'.join(get_args(Status))})`", part), part.partition("\n")[0]


def test_the_states_of_methods_are_theirs() -> None:
    (told,) = re.findall(r"^State of the methods .*?\n\n", OPENING, re.M | re.S)
    stated = {
        name: state
        for state, names in re.findall(r"`(verified|explained)`: ([^;]*);", told)
        for name in re.findall(r"`([\w-]+)`", names)
    }
    own = {name: cls.status for name, cls in methods().items() if cls.__module__.startswith("supermask.methods.")}
    assert stated == {name: state for name, state in own.items() if state != "experimental"}
    assert "`experimental`: all others." in told
