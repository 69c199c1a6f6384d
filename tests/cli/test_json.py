"""The keys of every verb's JSON are those of docs/json.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import Invoke

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
EXAMPLES = {
    verb: json.loads(text)
    for verb, text in re.findall(r"^## (\w+)$.*?^```json\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
}


def compare(actual: Any, documented: Any, path: str = "") -> None:
    """Fail where the two differ in keys or in kinds of values."""
    if documented == "<any>" or documented is None or actual is None:
        return
    if documented == "<see report>":
        documented = EXAMPLES["report"]
    if isinstance(documented, dict):
        assert isinstance(actual, dict), path
        names = [key for key in documented if key.startswith("<")]
        if not names:
            assert list(actual) == list(documented), path
        for key, value in actual.items():
            compare(value, documented[names[0] if names else key], f"{path}.{key}")
    elif isinstance(documented, list):
        assert isinstance(actual, list), path
        for index, value in enumerate(actual):
            compare(value, documented[0], f"{path}[{index}]")
    else:
        assert type(actual) is type(documented), f"{path}: {actual!r} is not like {documented!r}"


def test_every_verb_has_a_section() -> None:
    assert sorted(EXAMPLES) == [
        "bench",
        "check",
        "compare",
        "data",
        "doctor",
        "export",
        "init",
        "inspect",
        "methods",
        "models",
        "pack",
        "plan",
        "report",
        "reproduce",
        "run",
        "search",
        "shrink",
        "unpack",
        "verify",
        "watch",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("methods",),
        ("models",),
        ("inspect", "lenet5-caffe"),
        ("data",),
        ("doctor",),
        ("check", "dense"),
        ("init", "fcn", "--method", "signed-supermask", "--seed", 0, "--out", "w.npz", "--scores", "s.npz"),
        ("plan", "TINY"),
        ("report", "RUNS", "--per-layer"),
        ("run", "TINY", "--out", "RUNS"),
        ("watch", "TINY", "--out", "RUNS"),
        ("compare", "FIRST", "SECOND"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_keys_are_as_documented(arguments: tuple[object, ...], supermask: Invoke, finished: Path) -> None:
    first, second, *_ = sorted((finished / "runs" / "tiny").iterdir())
    places = {"TINY": finished / "tiny.yaml", "RUNS": finished / "runs", "FIRST": first, "SECOND": second}
    result = supermask(*(places.get(str(argument), argument) for argument in arguments), "--json")
    content = json.loads(result.stdout)
    compare(content, EXAMPLES[str(arguments[0])])
    lists = [value for key, value in content.items() if isinstance(value, list) and key != "budgets"]  # there are none
    assert arguments[0] in ("report", "inspect", "compare") or all(lists), "an empty list compares nothing"


def test_failures_are_as_documented(supermask: Invoke, tmp_path: Path) -> None:
    record = {"schema": 1, "run": "a", "label": "b", "seed": 0, "error": "c", "traceback": "d"}
    (tmp_path / "failed.json").write_text(json.dumps(record))
    content = json.loads(supermask("report", tmp_path, "--json").stdout)
    assert len(content["failed"]) == 1
    compare(content, EXAMPLES["report"])


@pytest.mark.parametrize("wrong", [{"a": 1, "b": 2}, {"a": "1"}, {"b": 1}])
def test_the_comparison_finds_differences(wrong: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        compare(wrong, {"a": 1})
