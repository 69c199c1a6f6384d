from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from supermask.cli.collect import paths
from supermask.report import table
from supermask.report.content import Content, View
from supermask.report.path import PROGRESS, layer_shares, path_of
from supermask.report.summary import summarize

from .results import pair, result

# of ten weights of 100 steps: one at step 5, one at 6, three at 50, two at 100, three never
ENTERED = np.array([[5, 6, 50, 50, 50], [100, 100, -1, -1, -1]], dtype=np.int32)
NEVER = np.full((4,), -1, dtype=np.int32)


def test_shares_by_hand() -> None:
    found = layer_shares({"path/2.weight": NEVER, "path/0.weight": ENTERED, "rotation": np.ones(3)}, 100)
    assert PROGRESS == (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
    assert found == {"2.weight": (4, [0.0] * 6), "0.weight": (10, [0.1, 0.2, 0.2, 0.5, 0.5, 0.7])}


def test_runs_without_a_path_are_not_counted() -> None:
    row = summarize(pair())[1]
    later = layer_shares({"path/0.weight": ENTERED}, 200)
    path = path_of(row, [layer_shares({"path/0.weight": ENTERED}, 100), {}, later])
    assert path is not None
    assert path.n == 2
    assert path.layers[0].entered[0].mean == pytest.approx((0.1 + 0.2) / 2)
    assert path.layers[0].entered[-1].mean == pytest.approx(0.7)
    assert path_of(row, [{}, {}]) is None


def test_the_path_of_a_run_of_two_rounds_is_that_of_the_first(tmp_path: Path) -> None:
    """100 steps in 10 epochs, the second round from its step 60 on: 140 steps in 14 epochs, of 20 planned."""
    run = result(run="a", steps=140, epochs=14, rounds=2, epochs_planned=20)
    save_file({"path/0.weight": ENTERED}, tmp_path / "extras.safetensors")
    (path,) = paths(summarize([run]), [run], {"a": tmp_path})
    assert [spread.mean for spread in path.layers[0].entered] == [0.1, 0.2, 0.2, 0.5, 0.5, 0.7]
    run = result(run="a", steps=200)
    (path,) = paths(summarize([run]), [run], {"a": tmp_path})
    assert [spread.mean for spread in path.layers[0].entered] == [0.2, 0.2, 0.5, 0.7, 0.7, 0.7]


def show(format: str, **view: Any) -> str:
    rows = summarize(pair())
    path = path_of(rows[1], [layer_shares({"path/2.weight": NEVER, "path/0.weight": ENTERED}, 100)])
    assert path is not None
    return table.render(Content(rows=rows, paths=[path]), format, View(**view))


def test_formats() -> None:
    text = show("text")
    block = text[text.index("signed-supermask: path, ") :].split("\n\n")[0].splitlines()
    assert block == [
        "signed-supermask: path, % of the weights that had entered by shares of training, mean over 1 run",
        "layer     weights  by 5 %  by 10 %  by 25 %  by 50 %  by 75 %  by 100 %",
        "--------  -------  ------  -------  -------  -------  -------  --------",
        "0.weight       10   10.00    20.00    20.00    50.00    50.00     70.00",
        "2.weight        4    0.00     0.00     0.00     0.00     0.00      0.00",
    ]
    assert "path: a weight counts from the step at which it first remained" in text
    lines = list(csv.DictReader(io.StringIO(show("csv", path=True))))
    assert len(lines) == 12
    assert (lines[3]["name"], lines[3]["progress"], lines[3]["entered.mean"]) == ("0.weight", "0.5", "0.5")
    (path,) = json.loads(show("json"))["paths"]
    assert path["progress"] == list(PROGRESS)
    assert [layer["name"] for layer in path["layers"]] == ["0.weight", "2.weight"]
