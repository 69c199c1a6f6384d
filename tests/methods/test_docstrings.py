"""What `supermask methods NAME` prints is complete for every built-in method."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest

from supermask.core.method import Method
from supermask.core.registry import methods

BUILT_IN = [cls for cls in methods().values() if cls.__module__.startswith("supermask.methods.")]
IN_ORDER = ("**Source:**", "**Differs:**", "**Cost:**", "Args:", "Raises:")


@pytest.mark.parametrize("cls", BUILT_IN, ids=lambda cls: cls.name)
def test_the_description_of_a_method(cls: type[Method]) -> None:
    paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    fields = [field.name for field in dataclasses.fields(cls)]
    expected = [*IN_ORDER[:3], *(["Args:", "Raises:"] if fields else [])]
    begins = [next((start for start in IN_ORDER if paragraph.startswith(start)), "") for paragraph in paragraphs]
    # one line; the update, in one paragraph or more; the rest in this order, one paragraph each
    assert "\n" not in paragraphs[0], "the first paragraph is one line"
    assert paragraphs[0].endswith(".")
    assert re.match(r"Update\b", paragraphs[1]), f"the second paragraph is the update: {paragraphs[1][:40]!r}"
    assert [start for start in begins if start] == expected
    assert begins.index("**Source:**") == len(begins) - len(expected), "nothing stands between these paragraphs"
    for paragraph, start in zip(paragraphs, begins):
        assert not start or paragraph.removeprefix(start).strip(), f"{start} says nothing"
    if fields:
        described = re.findall(r"^    (\w+):", paragraphs[begins.index("Args:")], re.M)
        assert described == fields


def test_all_are_there() -> None:
    assert {"dense", "random", "magnitude", "fixed-mask", "signed-supermask"} <= {cls.name for cls in BUILT_IN}
