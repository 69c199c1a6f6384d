from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from supermask.lab import load, reduced, reproductions
from supermask.lab.load import Shipped, load_experiment
from supermask.lab.plan import expand
from supermask.lab.store import RunFolder

from .conftest import Invoke

PAPER = """\
name: paper
about: A small table
model: {name: lenet-300-100}
data: {name: mnist}
train: {epochs: 8, batch_size: 64, optimizer: {name: sgd, lr: 0.05}, schedule: {name: step, milestones: [5000], rate: 0.1}}
vary:
  seed: 3
  variant:
    masked: {method: {name: snip, density: 0.1}}
    dense: {method: {name: dense}}
published:
  rows: {dense: {source: the paper, accuracy: [98.1, 98.0, 98.2], n: 50}}
table: {show: [best, per-layer], epochs: [2, 8]}
"""
CHANNELS = """\
name: paper
about: Channels
model: {name: resnet20, width: 0.25}
init: {keep: true}
data: {name: cifar10, normalize: dataset, augment: {padding: 4}}
train: {epochs: 1, batch_size: 64, optimizer: {name: sgd, lr: 0.05}}
vary:
  variant:
    half: {method: {name: maskconvnet, budget: {macs: 0.5}, interval: 50}}
"""


@pytest.fixture
def paper(supermask: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A paper of four tables: its folder; no data set but the digits is on the machine."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "experiments"
    folder.mkdir()
    files = {"paper/table-1": PAPER, "paper/table-2": CHANNELS}
    entries = {}
    for name, text in files.items():
        file = folder / f"{name.replace('/', '-')}.yaml"
        file.write_text(text)
        entries[name] = {"file": file.name, "title": "title", "paper": "signed-supermask", "kind": "results"}
    for name in ("signed-supermask/table-8", "signed-supermask/table-14"):
        shutil.copy(load.find_experiment(name), folder / f"{name.replace('/', '-')}.yaml")
        kind = "settings" if name.endswith("8") else "literature"
        entry = {"file": f"{name.replace('/', '-')}.yaml", "title": "title", "paper": "signed-supermask", "kind": kind}
        entries[name] = entry
    (folder / "index.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(load, "shipped_folder", lambda: folder)
    monkeypatch.setattr(reduced, "MOST", 60)
    load.index.cache_clear()
    yield folder
    load.index.cache_clear()


def test_the_list(supermask: Invoke, paper: Path) -> None:
    result = supermask("reproduce", "--list")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if "/table-" in line}
    assert lines["paper/table-1"].split()[1:] == ["title", "not", "run", "0/6", "not", "run"]
    assert "no runs needed" in lines["signed-supermask/table-8"]
    assert supermask("reproduce").stdout == result.stdout
    assert not Path("runs").exists()


def test_a_reduced_table_runs_prints_and_is_never_mixed_with_whole_ones(supermask: Invoke, paper: Path) -> None:
    result = supermask("reproduce", "paper/table-1", "--fast", "--workers", 0)
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert text.startswith("FAST, not a reproduction: 60 enlarged handwritten digits for mnist; at most 4 epochs")
    assert "paper/table-1: 2 runs, 0 done, 2 to train" in text
    assert "98.10 [98.0, 98.2]" in text
    assert "fc1.weight" in text  # layers, as the file asks for
    assert text.count("FAST, not a reproduction") == 2
    folders = [path.parent for path in Path("runs-fast").rglob("result.json")]
    assert {json.loads((folder / "result.json").read_text())["experiment"] for folder in folders} == {"paper-fast"}
    assert not Path("runs").exists()
    states = {
        entry["table"]: entry for entry in json.loads(supermask("reproduce", "--list", "--json").stdout)["tables"]
    }
    assert (states["paper/table-1"]["state"], states["paper/table-1"]["fast"]) == ("not run", "done")
    again = supermask("reproduce", "paper/table-1", "--fast", "--workers", 0)
    assert "2 runs, 2 done, 0 to train" in again.stdout
    watched = supermask("watch", "runs-fast/tables/paper-table-1.yaml", "--out", "runs-fast", "--once")
    assert "2 runs: 2 done" in watched.stdout


def test_the_reduced_file_is_an_experiment_like_others(supermask: Invoke, paper: Path) -> None:
    assert supermask("reproduce", "paper/table-1", "--fast", "--workers", 0, "--set", "train.epochs=1").exit_code == 0
    file = Path("runs-fast/tables/paper-table-1.yaml")
    assert file.read_text().startswith("# paper/table-1. FAST, not a reproduction")
    report = supermask("report", file, "--out", "runs-fast", "--json")
    assert len(json.loads(report.stdout)["rows"]) == 2


def test_a_table_of_channels_draws_its_figures(supermask: Invoke, paper: Path) -> None:
    result = supermask("reproduce", "paper/table-2", "--fast", "--workers", 0, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["table"], content["fast"], content["experiment"]) == ("paper/table-2", True, "paper-fast")
    assert any(note.startswith("FAST, not a reproduction") for note in content["report"]["notes"])
    figures = Path("runs-fast/paper-fast/figures/table-2")
    assert sorted(path.name for path in figures.iterdir()) == ["channel-histogram.svg", "channel-removal.svg"]


def test_a_whole_table_is_partly_there(supermask: Invoke, paper: Path) -> None:
    spec = expand(load_experiment("paper/table-1"))[0]
    folder = RunFolder(Path("runs/paper") / spec.id)
    folder.path.mkdir(parents=True)
    folder.result.touch()
    entries = json.loads(supermask("reproduce", "--list", "--json").stdout)["tables"]
    first = next(entry for entry in entries if entry["table"] == "paper/table-1")
    assert (first["state"], first["done"], first["runs"]) == ("partly", 1, 6)


@pytest.mark.parametrize(("table", "words"), [("table-8", "0.008"), ("table-14", "SNIP, VGG-like")])
def test_tables_without_runs_are_printed_at_once(table: str, words: str, supermask: Invoke, paper: Path) -> None:
    result = supermask("reproduce", f"signed-supermask/{table}")
    assert result.exit_code == 0
    assert words in result.stdout
    assert "not finished" not in result.stdout
    content = json.loads(supermask("reproduce", f"signed-supermask/{table}", "--fast", "--json").stdout)
    assert (content["runs"], content["fast"]) == ([], False)
    assert not Path("runs").exists()


def test_a_table_takes_the_options_of_run(supermask: Invoke, paper: Path, tmp_path: Path) -> None:
    """An executor with its options, a store, and a tracker; nothing of it changes a run."""
    table, url = ("reproduce", "paper/table-1", "--fast", "--json"), f"file://{tmp_path}/store"
    shared = ("--executor", "shared", "--with", "lease_seconds=5", "--workers", 0)
    result = supermask(*table, *shared, "--store", url, "--track", "tensorboard:board")
    assert result.exit_code == 0, result.output
    ids = {run["run"] for run in json.loads(result.stdout)["runs"]}
    assert {path.parent.name for path in (tmp_path / "store" / "paper-fast").glob("*/result.json")} == ids
    assert {path.name.rpartition("-")[2] for path in Path("board/paper-fast").iterdir()} == ids
    shutil.rmtree("runs-fast/paper-fast")
    again = json.loads(supermask(*table, "--store", url, "--workers", 0).stdout)
    assert {run["run"]: run["state"] for run in again["runs"]} == dict.fromkeys(ids, "skipped")


def test_a_table_on_other_machines(supermask: Invoke, paper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their device is not looked for here, nor their time told."""
    monkeypatch.setitem(sys.modules, "ray", None)
    result = supermask("reproduce", "paper/table-1", "--fast", "--executor", "ray", "--device", "cuda")
    assert result.exit_code == 2
    assert result.stdout.rstrip().endswith("paper/table-1: 2 runs, 0 done, 2 to train")
    assert "python -m pip install 'supermask[ray]'" in result.stderr


def test_missing_data_of_a_whole_table_is_told(supermask: Invoke, paper: Path) -> None:
    result = supermask("reproduce", "paper/table-1", "--data-dir", "nothing")
    assert result.exit_code == 2
    assert "error: the data set 'mnist' is not on this machine" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("paper/table-3",), "no table is called 'paper/table-3'; did you mean 'paper/table-"),
        (("--fast",), "name a table; `supermask reproduce --list` shows all of them"),
        (("paper/table-1", "--list"), "--list shows all tables"),
        (("paper/table-1", "--executor", "rey"), "--executor rey: expected local or shared or ray or slurm; did you"),
        (
            ("paper/table-1", "--executor", "slurm", "--device", "auto"),
            "--device auto looks at this machine, and slurm",
        ),
        (("paper/table-1", "--fast", "--track", "wandbb"), "no tracker is called 'wandbb'; did you mean 'wandb'?"),
    ],
)
def test_wrong_arguments_are_told(arguments: tuple[str, ...], message: str, supermask: Invoke, paper: Path) -> None:
    result = supermask("reproduce", *arguments)
    assert (result.exit_code, message in result.stderr) == (2, True)


@pytest.mark.parametrize("name", ["dessilbi/table-7", "signed-supermask/table-1"])
def test_tables_that_ship(name: str, supermask: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(reduced, "MOST", 40)
    monkeypatch.setattr(reduced, "EPOCHS", 1)
    result = supermask("reproduce", name, "--fast", "--workers", 0, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert {run["state"] for run in content["runs"]} == {"done"}
    assert content["report"]["quoted"] or any(row["quoted"] for row in content["report"]["rows"])


def test_ids_are_those_of_the_index() -> None:
    assert all(
        isinstance(entry, Shipped) and reproductions.find_table(entry.id) == entry for entry in reproductions.tables()
    )
