from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from supermask import save_arrays

from .conftest import TINY, Invoke
from .test_json import EXAMPLES, compare


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


def test_single_epochs(supermask: Invoke, finished: Path) -> None:
    text = supermask("report", finished / "runs", "--epoch", "2, 1,1").stdout
    table = next(part.splitlines() for part in text.split("\n\n") if part.startswith("At single epochs"))
    assert [line.split()[:2] for line in table[3:]] == [
        ["plain", "1"],
        ["plain", "2"],
        ["supermask", "1"],
        ["supermask", "2"],
    ]
    assert "At single epochs" not in supermask("report", finished / "runs").stdout


OTHERS = "  others: [{label: Others 2019, source: another paper, accuracy: [65], epochs: 100, start_weights: 5}]\n"
QUOTED = f"""
published:
  rows:
    supermask: {{source: a paper, accuracy: [97.5, 97.0, 98.0], remaining: [3.75], n: 50, batchnorm: false, bits: 1}}
{OTHERS}"""
SETTINGS = """
table:
  kind: settings
  columns: {rate: train.optimizer.lr, weights: model.weights}
  quoted: {supermask: {rate: ".05"}}
  source: table 8
"""


def test_published_numbers_stand_beside_ours(supermask: Invoke, finished: Path) -> None:
    Path("tiny.yaml").write_text(TINY + QUOTED)
    lines = supermask("report", "tiny.yaml", "--out", finished / "runs").stdout.splitlines()
    assert [line.split()[0] for line in lines[3:7]] == ["plain", "supermask", "quoted", "Others"]
    assert "[1] quoted, not run here: a paper." in lines
    assert "quoted" not in supermask("report", finished / "runs").stdout
    latex = supermask("report", "tiny.yaml", "--out", finished / "runs", "--format", "latex").stdout
    assert r"\quad quoted [1] & 50 & 97.50 [97.0, 98.0] & -- & 3.75 \\" in latex
    content = json.loads(supermask("report", "tiny.yaml", "--out", finished / "runs", "--epoch", "1", "--json").stdout)
    compare(content, EXAMPLES["report"])
    assert [len(row["quoted"]) for row in content["rows"]] == [0, 1]
    assert [quote["label"] for quote in content["quoted"]] == ["Others 2019"]


def test_run_shows_published_numbers(supermask: Invoke, finished: Path) -> None:
    Path("tiny.yaml").write_text(TINY + QUOTED)
    shutil.copytree(finished / "runs", "runs")
    text = supermask("run", "tiny.yaml", "--workers", 0).stdout
    assert "quoted [1]" in text
    assert "[2] quoted, not run here: another paper." in text
    content = json.loads(supermask("run", "tiny.yaml", "--workers", 0, "--json").stdout)
    assert content["report"]["rows"][1]["quoted"][0]["source"] == "a paper"


def test_settings_come_before_results(supermask: Invoke, finished: Path) -> None:
    Path("tiny.yaml").write_text(TINY + QUOTED + SETTINGS)
    text = supermask("report", "tiny.yaml", "--out", finished / "runs").stdout
    assert text.splitlines()[:7] == [
        "tiny: settings",
        "label               rate  weights",
        "------------------  ----  -------",
        "supermask           0.05  1,184",
        "  quoted (table 8)  .05   –",
        "plain               0.05  1,184",
        "",
    ]
    assert text.splitlines()[7].startswith("Last epoch")
    content = json.loads(supermask("report", "tiny.yaml", "--out", "nothing", "--json").stdout)
    compare(content, EXAMPLES["report"])
    assert content["settings"][0]["rows"][0] == ["supermask", 0.05, ".05", 1184]
    before = supermask("report", "tiny.yaml", "--out", "nothing").stdout
    assert before.startswith("tiny: settings")
    assert "4 planned runs have no result yet." in before


def test_literature_needs_no_runs(supermask: Invoke) -> None:
    Path("known.yaml").write_text("table: {kind: literature}\npublished:\n" + OTHERS)
    text = supermask("report", "known.yaml").stdout
    assert text.splitlines()[0] == "Quoted from the literature"
    assert text.splitlines()[3].split()[:3] == ["Others", "2019", "[1]"]
    assert "No finished run" not in text


def test_a_run_named_twice_counts_once(supermask: Invoke, finished: Path) -> None:
    Path("more.yaml").write_text(TINY.replace("seed: [0, 1]", "seed: [0, 1, 2]"))
    shutil.copytree(finished / "runs", "runs")
    (failed, unfinished, *_) = sorted(Path("runs/tiny").iterdir())
    for path in (failed, unfinished):
        (path / "result.json").unlink()
    record = {"schema": 1, "run": failed.name, "label": "plain", "seed": 0, "error": "E", "traceback": ""}
    (failed / "failed.json").write_text(json.dumps(record))
    once = json.loads(supermask("report", "more.yaml", "--json").stdout)
    twice = json.loads(supermask("report", "more.yaml", finished / "tiny.yaml", "--json").stdout)
    assert twice == once
    assert (len(once["failed"]), once["missing"]) == (1, 3)


def test_labels_keep_the_order_of_the_plan(supermask: Invoke, finished: Path) -> None:
    shutil.copytree(finished / "runs", "runs")
    variants = "    c: {method: {name: random, density: 0.5}}\n    b: {method: {name: random, density: 0.25}}\n"
    Path("tiny.yaml").write_text(TINY + variants)
    assert supermask("run", "tiny.yaml", "--workers", 0).exit_code == 0
    plan = json.loads(supermask("plan", "tiny.yaml", "--json").stdout)["runs"]
    first = next(run for run in plan if (run["label"], run["seed"]) == ("supermask", 0))
    (Path(first["folder"]) / "result.json").unlink()
    rows = json.loads(supermask("report", "tiny.yaml", "--json").stdout)["rows"]
    assert [row["label"] for row in rows] == ["plain", "supermask", "c", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "html"], "format must be one of text, markdown, latex, csv, json, got 'html'"),
        (["--spread", "range"], "spread must be one of quantiles, std, got 'range'"),
        (["--set", "train.epochs=3"], "--set changes an experiment, but"),
        (["--epoch", "20,x"], "--epoch: expected epochs from 1 on, such as 20,40,80, got '20,x'"),
        (["--epoch", "0"], "--epoch: expected epochs from 1 on, such as 20,40,80, got '0'"),
        (["--epoch", "1,3"], "no run has an epoch 3: the longest trained for 2; epochs count from 1"),
        (["--epoch", "1", "--per-layer", "--format", "csv"], "CSV holds one table"),
        (
            ["--rank", "--path", "--format", "csv"],
            "CSV holds one table: ask for one of layers, epochs, ranking and path",
        ),
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


def rewrite(change: Callable[[dict[str, Any]], dict[str, Any]], *paths: Path) -> None:
    """Change results in their folders."""
    for path in paths:
        result = json.loads((path / "result.json").read_text())
        (path / "result.json").write_text(json.dumps(change(result)))


def test_files_of_one_name_quote_for_their_own_runs(supermask: Invoke, finished: Path) -> None:
    quoted = "published: {{rows: {{plain: {{source: a paper, accuracy: [{}]}}}}}}\n"
    Path("first.yaml").write_text(TINY + quoted.format(97.25))
    longer = TINY.replace("epochs: 2", "epochs: 1")
    Path("second.yaml").write_text(longer + quoted.format(68.75))
    shutil.copytree(finished / "runs", "runs")
    assert supermask("run", "second.yaml", "--workers", 0).exit_code == 0
    rows = json.loads(supermask("report", "first.yaml", "second.yaml", "--json").stdout)["rows"]
    plain = {row["epochs"]: row["quoted"] for row in rows if row["label"] == "plain"}
    assert {epochs: [quote["accuracy"]["mean"] for quote in quotes] for epochs, quotes in plain.items()} == {
        2: [0.9725],
        1: [0.6875],
    }
    # the same entry in both stands once beside each
    Path("second.yaml").write_text(longer + quoted.format(97.25))
    rows = json.loads(supermask("report", "first.yaml", "second.yaml", "--json").stdout)["rows"]
    assert [len(row["quoted"]) for row in rows if row["label"] == "plain"] == [1, 1]
    text = supermask("report", "first.yaml", "second.yaml").stdout
    assert text.count("  quoted [1]") == 2


def test_a_changed_experiment_says_so(supermask: Invoke, finished: Path) -> None:
    arguments = ("report", finished / "tiny.yaml", "--out", finished / "runs")
    sentence = "tiny: --set changed the experiment; its runs may differ from those of the file, and from what is quoted"
    changed = json.loads(supermask(*arguments, "--set", "vary.seed=[0]", "--json").stdout)
    assert changed["notes"] == [sentence]
    assert json.loads(supermask(*arguments, "--json").stdout)["notes"] == []


def test_results_of_earlier_versions_stand_with_new_ones(supermask: Invoke, finished: Path) -> None:
    shutil.copytree(finished / "runs", "runs")
    later = ("setting", "epochs_planned", "conditions")
    old = [path for path in Path("runs/tiny").iterdir() if json.loads((path / "result.json").read_text())["seed"] == 0]
    rewrite(lambda result: {key: value for key, value in result.items() if key not in later}, *old)
    rows = json.loads(supermask("report", finished / "tiny.yaml", "--json").stdout)["rows"]
    assert [(row["label"], row["seeds"]) for row in rows] == [("plain", [0, 1]), ("supermask", [0, 1])]
    assert rows[1]["extra_time"]["pairs"] == 2
    # a folder does not tell their settings
    rows = json.loads(supermask("report", "runs", "--json").stdout)["rows"]
    assert [(row["label"], row["seeds"], row["setting"] is None) for row in rows] == [
        ("plain", [0], True),
        ("plain", [1], False),
        ("supermask", [0], True),
        ("supermask", [1], False),
    ]


def test_a_folder_with_two_settings_of_one_label(supermask: Invoke, finished: Path) -> None:
    shutil.copytree(finished / "runs", "runs")
    arguments = ("--workers", 0, "--set", "vary.seed=[0]")
    assert supermask("run", finished / "tiny.yaml", *arguments, "--set", "train.optimizer.momentum=0.5").exit_code == 0
    names = [line.partition("  ")[0] for line in supermask("report", "runs").stdout.splitlines()[3:7]]
    assert sorted(names) == [
        f"{label}, train.optimizer.momentum={m}" for label in ("plain", "supermask") for m in (0.5, 0.9)
    ]
    many = ("--set", "train.optimizer.lr=0.01", "--set", "train.batch_size=64", "--set", "train.shuffle=false")
    assert supermask("run", finished / "tiny.yaml", *arguments, *many).exit_code == 0
    rows = json.loads(supermask("report", "runs", "--json").stdout)["rows"]
    names = [line.partition("  ")[0] for line in supermask("report", "runs").stdout.splitlines()[3:9]]
    assert names[0] == f"plain, setting {rows[0]['setting']}"
    assert len(set(names)) == 6


def test_runs_that_a_plateau_ended_at_different_epochs(supermask: Invoke, finished: Path) -> None:
    """One row, with its quote."""
    Path("tiny.yaml").write_text(TINY + QUOTED)
    shutil.copytree(finished / "runs", "runs")
    folders = [
        path
        for path in Path("runs/tiny").iterdir()
        if json.loads((path / "result.json").read_text())["label"] != "plain"
    ]
    rewrite(lambda result: result | {"epochs": 1 + result["seed"]}, *folders)
    text = supermask("report", "tiny.yaml").stdout
    assert text.count("  quoted [1]") == 1
    assert "supermask: 2 epochs planned, the schedule ended training earlier." in text
    row = json.loads(supermask("report", "tiny.yaml", "--json").stdout)["rows"][1]
    assert (row["n"], row["epochs"], row["epochs_trained"]["mean"]) == (2, 2, 1.5)


def test_ranking_on_request(supermask: Invoke, finished: Path) -> None:
    text = supermask("report", finished / "runs", "--rank").stdout
    block = next(part.splitlines() for part in text.split("\n\n") if part.startswith("Ranking\n"))
    assert block[1].split()[:3] == ["label", "rank", "n"]
    assert sorted(line.split()[0] for line in block[3:]) == ["plain", "supermask"]
    assert "Ranking" not in supermask("report", finished / "runs").stdout
    assert json.loads(supermask("report", finished / "runs", "--json").stdout)["rankings"] == []
    content = json.loads(
        supermask("report", finished / "tiny.yaml", "--out", finished / "runs", "--rank", "--json").stdout
    )
    compare(content, EXAMPLES["report"])
    (ranking,) = content["rankings"]
    difference = next(row["difference"] for row in ranking["rows"] if row["label"] == "supermask")
    assert (difference["pairs"], difference["trusted"]) == (2, False)
    lines = list(
        csv.DictReader(io.StringIO(supermask("report", finished / "runs", "--rank", "--format", "csv").stdout))
    )
    assert [line["rank"] for line in lines] == ["1", "2"]


def test_an_experiment_can_ask_for_rankings(supermask: Invoke, finished: Path) -> None:
    shutil.copytree(finished / "runs", "runs")
    Path("tiny.yaml").write_text(TINY + "table: {rank: true}\n")
    assert "\nRanking\n" in supermask("report", "tiny.yaml").stdout
    assert "\nRanking\n" in supermask("run", "tiny.yaml", "--workers", 0).stdout
    row = json.loads(supermask("report", "tiny.yaml", "--json").stdout)["rows"][1]
    near = round(row["density"]["mean"], 3)
    Path("tiny.yaml").write_text(TINY + f"table: {{rank: [{near}, 0.001]}}\n")
    rankings = json.loads(supermask("report", "tiny.yaml", "--json").stdout)["rankings"]
    assert [(ranking["class"], [line["label"] for line in ranking["rows"]]) for ranking in rankings] == [
        (near, sorted(["plain", "supermask"], key=lambda label: label != rankings[0]["rows"][0]["label"]))
    ]
    # files of one name are ranked near the classes of all of them
    Path("more.yaml").write_text(TINY + "table: {rank: [0.001]}\n")
    both = json.loads(supermask("report", "tiny.yaml", "more.yaml", "--json").stdout)["rankings"]
    assert both == rankings


def test_runs_with_other_batches_are_no_pairs(supermask: Invoke, finished: Path) -> None:
    shutil.copytree(finished / "runs", "runs")
    for path in Path("runs/tiny").iterdir():
        spec = json.loads((path / "spec.json").read_text())
        if (spec["method"]["name"], spec["seed"]) == ("dense", 0):
            spec["train"]["shuffle"] = False
            (path / "spec.json").write_text(json.dumps(spec))
        if (spec["method"]["name"], spec["seed"]) == ("dense", 1):
            del spec["train"]["passes"]  # as in earlier versions
            (path / "spec.json").write_text(json.dumps(spec))
    text = supermask("report", "runs", "--rank").stdout
    assert "no baseline run of their seed and batches, left out of the difference: supermask 1 of 2." in text


def test_paths_on_request(supermask: Invoke, finished: Path) -> None:
    shutil.copytree(finished / "runs", "runs")
    for path in Path("runs/tiny").iterdir():
        if json.loads((path / "result.json").read_text())["label"] == "supermask":
            save_arrays(path / "extras.safetensors", {"path/fc1.weight": torch.tensor([1, -1], dtype=torch.int32)})
    text = supermask("report", "runs", "--path").stdout
    assert "supermask: path, % of the weights that had entered by shares of training, mean over 2 runs" in text
    assert ["fc1.weight", "2"] + ["50.00"] * 6 in [line.split() for line in text.splitlines()]
    content = json.loads(supermask("report", "runs", "--path", "--json").stdout)
    compare(content, EXAMPLES["report"])
    assert [path["label"] for path in content["paths"]] == ["supermask"]
    assert "path" not in supermask("report", "runs").stdout
    (path / "extras.safetensors").write_bytes(b"nothing")
    result = supermask("report", "runs", "--path")
    assert result.exit_code != 0
    assert "extras.safetensors: damaged (" in result.stderr
