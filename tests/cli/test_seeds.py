"""Seeds as one batch: what ``plan`` tells of it, measures and writes down, and what ``run`` says that it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Invoke
from .test_json import EXAMPLES, compare


@pytest.fixture
def shared(tiny: Path) -> Path:
    """The file of an experiment whose seeds may train as one batch."""
    tiny.write_text(f"{tiny.read_text()}seeds: vectorized\n")
    return tiny


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of training a few steps: the supermask gains, and the dense network does not."""

    def gain(specs: Any, *_: object) -> tuple[float, str]:
        return (2.0 if specs[0].label == "supermask" else 0.5), ""

    monkeypatch.setattr("supermask.lab.seed_choice.measure", gain)
    monkeypatch.setattr("supermask.cli.costs.measure_costs", lambda *_, **__: {"supermask": 30.0, "plain": 30.0})


def section(text: str, title: str) -> list[list[str]]:
    """The words of a table's rows."""
    lines = text.splitlines()
    begin = lines.index(title) + 3
    return [line.split() for line in lines[begin : lines.index("", begin)]]


def test_nothing_is_known_before_it_is_measured(supermask: Invoke, shared: Path) -> None:
    text = supermask("plan", shared, "--workers", 1).stdout
    assert section(text, "seeds") == [["supermask", "2", "–", "–"], ["plain", "2", "–", "–"]]
    assert "–: measured when the runs begin, or by --measure." in text
    assert not Path("runs").exists()


def test_what_was_measured_is_told_and_kept(supermask: Invoke, shared: Path, measured: None) -> None:
    result = supermask("plan", shared, "--measure", "--workers", 0)
    rows = [["supermask", "2", "as", "one", "batch", "x", "2.00"], ["plain", "2", "one", "by", "one", "x", "0.50"]]
    assert section(result.stdout, "seeds") == rows
    assert "supermask: seeds train as one batch: as one batch of 2 they are 2.00 times as fast" in result.stderr
    costs = section(result.stdout, "expected time")
    assert [row[3:5] for row in costs] == [["15.0", "s"], ["30.0", "s"]]  # a run's share
    assert section(supermask("plan", shared, "--workers", 0).stdout, "seeds") == rows
    assert len(json.loads(Path("runs/tiny/seeds.json").read_text())["choices"]) == 2


def test_as_json(supermask: Invoke, shared: Path, measured: None) -> None:
    content = json.loads(supermask("plan", shared, "--measure", "--workers", 0, "--json").stdout)
    compare(content["seeds"], EXAMPLES["plan"]["seeds"])
    assert [(entry["label"], entry["vectorized"]) for entry in content["seeds"]] == [
        ("supermask", True),
        ("plain", False),
    ]
    unknown = json.loads(supermask("plan", shared, "--workers", 1, "--out", "other", "--json").stdout)
    assert [entry["vectorized"] for entry in unknown["seeds"]] == [None, None]


def test_run_says_what_it_does(supermask: Invoke, shared: Path, measured: None) -> None:
    result = supermask("run", shared, "--workers", 0)
    assert result.exit_code == 0
    assert "supermask: seeds train as one batch: as one batch of 2 they are 2.00 times as fast" in result.stderr
    assert "plain: seeds train one by one: as one batch of 2 they are 0.50 times as fast" in result.stderr
    together = {}
    for path in Path("runs/tiny").glob("*/result.json"):
        label, seed = (json.loads(path.read_text())[key] for key in ("label", "seed"))
        (start,) = json.loads((path.parent / "env.json").read_text())["starts"]
        together[label, seed] = start.get("together")
    one = {"seeds": [0, 1], "ratio": 2.0}
    assert together == {("supermask", 0): one, ("supermask", 1): one, ("plain", 0): None, ("plain", 1): None}


def test_a_wrong_word_shows_the_way_out(supermask: Invoke, tiny: Path) -> None:
    result = supermask("plan", tiny, "--set", "seeds=batched")
    assert result.exit_code == 2
    assert "error: seeds: expected separate or vectorized, got 'batched'" in result.stderr
