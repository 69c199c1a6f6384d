"""``supermask plan``: what ships, which runs exist, and what the others will cost."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from supermask.lab.load import index

from .conftest import Invoke
from .test_json import PAGE, compare


def test_what_ships_is_listed(supermask: Invoke) -> None:
    lines = supermask("plan").stdout.splitlines()
    assert lines[0].split() == ["experiment", "what", "it", "shows", "paper", "kind"]
    assert [line.split()[0] for line in lines[2 : 2 + len(index())]] == [shipped.id for shipped in index()]
    assert "`supermask plan NAME` shows the runs of one" in lines[-2]


def test_what_ships_as_json(supermask: Invoke) -> None:
    content = json.loads(supermask("plan", "--json").stdout)
    section = PAGE.read_text().partition("## plan\n")[2].partition("\n## ")[0]
    documented = json.loads(re.findall(r"^```json\n(.*?)^```$", section, re.M | re.S)[1])
    compare(content, documented)
    assert [entry["id"] for entry in content["experiments"]] == [shipped.id for shipped in index()]
    assert all(Path(entry["file"]).is_file() for entry in content["experiments"])


@pytest.mark.parametrize("arguments", [("--set", "train.epochs=3"), ("--measure",)])
def test_settings_need_an_experiment(arguments: tuple[str, ...], supermask: Invoke) -> None:
    result = supermask("plan", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --set and --measure need an experiment: a YAML file, or a name from")


def test_nothing_known_says_how_to_know(supermask: Invoke, tiny: Path) -> None:
    lines = supermask("plan", tiny).stdout.splitlines()
    table = lines[lines.index("expected time") + 1 :]
    assert table[0].split() == ["label", "runs", "left", "a", "run", "in", "all", "from", "n"]
    assert table[2].split() == ["supermask", "2", "2", "–", "–", "–", "–"]
    assert lines[-2] == "nothing is known about supermask, plain; --measure trains a few steps of each setting"
    assert lines[-1] == "4 new; run folders: runs/tiny"
    assert not Path("runs").exists()


def test_many_unknown_settings_are_counted(supermask: Invoke, tiny: Path) -> None:
    rates = "--set", "vary.train.optimizer.lr=[0.1, 0.2, 0.3]"
    last = supermask("plan", tiny, *rates).stdout.splitlines()[-2]
    assert last == "nothing is known about 6 of 6 settings; --measure trains a few steps of each setting"


def test_finished_runs_tell_the_cost(supermask: Invoke, finished: Path) -> None:
    lines = supermask("plan", finished / "tiny.yaml", "--out", finished / "runs").stdout.splitlines()
    assert lines[-2] == "nothing is left to train"
    shutil.copytree(finished / "runs", "runs")
    for path in Path("runs").rglob("result.json"):
        result = json.loads(path.read_text())
        result["seconds"]["total"] = 100.0 if result["label"] == "plain" else 20.0
        path.write_text(json.dumps(result))
    more = ("plan", finished / "tiny.yaml", "--set", "vary.seed=[0, 1, 2, 3]")
    lines = supermask(*more, "--workers", 1).stdout.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[lines.index("expected time") :] if line}
    assert rows["plain"] == ["4", "2", "1:40", "3:20", "its", "finished", "runs", "2"]
    assert rows["supermask"] == ["4", "2", "20.0", "s", "40.0", "s", "its", "finished", "runs", "2"]
    assert lines[-2] == "all that is left takes about 4:00 with 1 worker"
    cost = json.loads(supermask(*more, "--workers", 2, "--json").stdout)["cost"]
    # in the order of the plan, 20, 100, 20, 100 seconds: the last one starts at 40
    assert (cost["workers"], cost["seconds"]) == (2, 140.0)


def test_measuring(supermask: Invoke, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_here(task: Any, jobs: list[Any], *, on_message: Any, **_: Any) -> None:
        for job in jobs:
            task(job, on_message, lambda: False)

    monkeypatch.setattr("supermask.lab.cost.run_jobs", run_here)  # workers are tested in tests/lab/test_cost.py
    result = supermask("plan", tiny, "--measure", "--workers", 1, "--json")
    content = json.loads(result.stdout)
    assert {setting["source"] for setting in content["cost"]["settings"]} == {"measured"}
    assert content["cost"]["seconds"] > 0
    assert re.fullmatch(r"(measured (plain|supermask): \d+\.\d s a run\n){2}", result.stderr)
    assert not Path("runs").exists()


def test_measuring_needs_the_data(supermask: Invoke, tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(tiny.read_text().replace("inputs: 64", "inputs: 3072").replace("digits", "cifar10"))
    result = supermask("plan", tiny, "--measure", "--data-dir", tmp_path / "empty")
    assert result.exit_code == 2
    assert "the data set 'cifar10' is not on this machine" in result.stderr


def test_data_that_is_missing_is_told(supermask: Invoke, tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(tiny.read_text().replace("inputs: 64", "inputs: 3072").replace("digits", "cifar10"))
    result = supermask("plan", tiny, "--data-dir", tmp_path / "empty")
    assert result.exit_code == 0
    told = " ".join(result.stdout.split())
    assert "not yet: the data set 'cifar10' is not on this machine (run --download fetches it)" in told
    content = json.loads(supermask("plan", tiny, "--data-dir", tmp_path / "empty", "--json").stdout)
    assert content["missing_data"].startswith("the data set 'cifar10' is not on this machine")


@pytest.mark.parametrize("limit", [0.5, 1e-6])
def test_a_budget_that_cannot_be_met(limit: float, supermask: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "channels.yaml"
    file.write_text(
        f"""\
name: channels
model: {{name: vgg16-bn, width: 0.125}}
data: {{name: cifar10}}
method: {{name: random-channels, budget: {{macs: {limit}}}}}
train: {{epochs: 1, optimizer: {{name: sgdw, lr: 0.05}}}}
"""
    )
    result = supermask("plan", file)
    assert result.exit_code == (1 if limit < 0.1 else 0)
    assert ("will not start" in result.stdout) is (limit < 0.1)
    shown = supermask("plan", file, "--json")
    assert shown.exit_code == result.exit_code
    (budget,) = json.loads(shown.stdout)["budgets"]
    assert bool(budget["refused"]) is (limit < 0.1)
