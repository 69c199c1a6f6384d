from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from .conftest import Invoke


def test_a_folder_and_its_experiment_give_the_same_rows(supermask: Invoke, finished: Path) -> None:
    folder = json.loads(supermask("report", finished / "runs", "--json").stdout)
    experiment = json.loads(supermask("report", finished / "tiny.yaml", "--out", finished / "runs", "--json").stdout)
    assert folder == experiment
    assert [row["label"] for row in folder["rows"]] == ["plain", "supermask"]
    assert folder["rows"][0]["seeds"] == [0, 1]


def test_planned_runs_without_result_are_counted(supermask: Invoke, finished: Path) -> None:
    arguments = ("report", finished / "tiny.yaml", "--out", finished / "runs")
    output = supermask(*arguments, "--set", "vary.seed=[0, 1, 2]").stdout
    assert "2 planned runs have no result yet." in output


def test_runs_of_other_settings_are_not_shown_for_an_experiment(supermask: Invoke, finished: Path) -> None:
    output = supermask("report", finished / "tiny.yaml", "--out", finished / "runs", "--set", "train.epochs=3").stdout
    assert output.startswith("No finished run in ")
    assert "4 planned runs have no result yet." in output


def test_failures_and_unfinished_runs_of_a_folder(supermask: Invoke, finished: Path) -> None:
    shutil.copytree(finished / "runs", "runs")
    first, second = sorted(Path("runs/tiny").iterdir())[:2]
    (first / "result.json").unlink()
    (second / "result.json").unlink()
    record = {"schema": 1, "run": second.name, "label": "plain", "seed": 9, "error": "DivergedError", "traceback": ""}
    (second / "failed.json").write_text(json.dumps(record))
    content = json.loads(supermask("report", "runs", "--json").stdout)
    assert content["missing"] == 1
    assert content["failed"] == [{"run": second.name, "label": "plain", "seed": 9, "error": "DivergedError"}]


def test_labels_are_in_natural_order(supermask: Invoke, finished: Path) -> None:
    shutil.copytree(finished / "runs", "runs")
    for label, path in zip(("width=10", "width=2", "width=0.5", "width=0.05"), sorted(Path("runs/tiny").iterdir())):
        result = json.loads((path / "result.json").read_text())
        result |= {"label": label, "method": "random"}
        (path / "result.json").write_text(json.dumps(result))
    rows = json.loads(supermask("report", "runs", "--json").stdout)["rows"]
    assert [row["label"] for row in rows] == ["width=0.05", "width=0.5", "width=2", "width=10"]


def test_formats(supermask: Invoke, finished: Path) -> None:
    runs = finished / "runs"
    text = supermask("report", runs).stdout
    assert text.splitlines()[3].startswith("plain      2*  ")
    assert "| plain | 2\\* |" in supermask("report", runs, "--format", "markdown").stdout
    lines = list(csv.DictReader(io.StringIO(supermask("report", runs, "--format", "csv").stdout)))
    assert [line["label"] for line in lines] == ["plain", "supermask"]
    assert supermask("report", runs, "--format", "json").stdout == supermask("report", runs, "--json").stdout
    assert "mean ± standard deviation" in supermask("report", runs, "--spread", "std").stdout
    assert "best epoch %" in supermask("report", runs, "--best").stdout
    assert "supermask: layers, mean over 2 runs" in supermask("report", runs, "--per-layer").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "html"], "format must be one of text, markdown, csv, json, got 'html'"),
        (["--spread", "range"], "spread must be one of quantiles, std, got 'range'"),
        (["--set", "train.epochs=3"], "--set changes an experiment, but"),
    ],
)
def test_wrong_options_are_told(arguments: list[str], message: str, supermask: Invoke, finished: Path) -> None:
    result = supermask("report", finished / "runs", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_place_that_is_nothing(supermask: Invoke) -> None:
    result = supermask("report", "rnus")
    assert result.exit_code == 2
    assert "'rnus' is neither a folder with runs nor an experiment (file or name); " in result.stderr


def test_plan_shows_what_exists(supermask: Invoke, finished: Path) -> None:
    shutil.copytree(finished / "runs", "runs")
    first, second, third, _ = sorted(Path("runs/tiny").iterdir())
    for path in (first, second, third):
        (path / "result.json").unlink()
    (first / "failed.json").touch()
    (second / "checkpoint").mkdir(exist_ok=True)
    (second / "checkpoint" / "last.pt").touch()
    content = json.loads(supermask("plan", finished / "tiny.yaml", "--json").stdout)
    states = {Path(run["folder"]).name: run["state"] for run in content["runs"]}
    assert [states[path.name] for path in (first, second, third)] == ["failed", "unfinished", "new"]
    lines = supermask("plan", finished / "tiny.yaml").stdout.splitlines()
    assert lines[0] == "tiny: 4 runs"
    assert lines[3].split()[1:3] == ["supermask", "0"]
    for word in ("1 done", "1 failed", "1 unfinished", "1 new", "run folders: runs/tiny"):
        assert word in lines[-1]
