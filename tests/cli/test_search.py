from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Invoke
from .test_json import EXAMPLES, compare

FILE = """\
name: tuned
model: {name: fcn, inputs: 64, hidden: [16], classes: 10}
data: {name: digits, validation: 200}
method: {name: magnitude}
train: {epochs: 1, batch_size: 128, optimizer: {name: sgd, lr: 0.05}}
"""
SPACE = """\
over: {method.density: {low: 0.05, high: 0.5, log: true}}
objectives: [accuracy, bytes]
trials: 2
"""


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    path = tmp_path / "tuned.yaml"
    path.write_text(FILE + "search:\n" + "".join(f"  {line}\n" for line in SPACE.splitlines()))
    return path


def test_search_prints_the_front_and_all_trials(supermask: Invoke, tuned: Path) -> None:
    result = supermask("search", tuned, "--workers", 0)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    front = lines.index("Pareto front: no other trial is at least as good in everything")
    assert lines[front + 1].split("  ")[0] == "trial"
    assert "method.density" in lines[front + 1]
    everything = lines.index("All 2 trials")
    assert [line.split()[0] for line in lines[everything + 3 : everything + 5]] == ["0", "1"]
    assert lines[-1] == "run folders: runs/tuned"
    assert len(list(Path("runs/tuned").glob("*/result.json"))) == 2
    again = supermask("search", tuned, "--workers", 0, "--json")
    document = json.loads(again.stdout)
    compare(document, EXAMPLES["search"])
    assert [trial["trial"] for trial in document["trials"]] == [0, 1]
    assert "done" not in again.stderr


def test_a_space_of_its_own_and_more_trials(supermask: Invoke, tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text(FILE)
    (tmp_path / "space.yaml").write_text(SPACE)
    result = supermask("search", "plain.yaml", "--space", "space.yaml", "--trials", 1, "--workers", 0, "--json")
    assert len(json.loads(result.stdout)["trials"]) == 1
    missing = supermask("search", "plain.yaml", "--space", "none.yaml")
    assert missing.exit_code == 2
    assert "--space: none.yaml cannot be read (No such file or directory); name a YAML file" in missing.stderr


def test_a_failed_trial_is_in_the_table(supermask: Invoke, tuned: Path) -> None:
    tuned.write_text(tuned.read_text().replace("lr: 0.05", "lr: 1.0e+30"))
    result = supermask("search", tuned, "--workers", 0, "--trials", 1)
    assert result.exit_code == 0
    assert "1 of 1 trials failed: failed.json in the folders of their runs says why." in result.stdout
