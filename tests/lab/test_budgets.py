"""What a plan tells of budgets before anything trains, and the figures of what was trained."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from supermask.cli import app
from supermask.cli.prepare import initial_state
from supermask.errors import ConfigError
from supermask.lab.budgets import planned_budgets
from supermask.lab.plan import expand
from supermask.lab.store import read_results

from .helpers import HERE, experiment

MODEL = {"name": "resnet20", "channels": 1, "width": 0.25}
VARY = {
    "seed": 2,
    "variant": {
        "dense": {},
        "half": {"method": {"name": "maskconvnet", "budget": {"macs": 0.5, "params": 0.6}, "project": False}},
        "too little": {"method": {"name": "random-channels", "budget": {"macs": 0.01}}},
        "shared": {"method": {"name": "random-channels", "budget": {"macs": 0.1}, "residual": "shared"}},
        "timed": {"method": {"name": "random-channels", "budget": {"latency": 0.5}}},
        "recipe": {"method": {"name": "l1-filters"}},
    },
}


@pytest.fixture(scope="module")
def budgets():
    return planned_budgets(expand(experiment({"model": MODEL}, vary=VARY)))


def test_labels_with_a_budget_are_told_once_each(budgets):
    told = [(budget.label, budget.unit, budget.limit) for budget in budgets]
    assert told == [
        ("half", "macs", 0.5),
        ("half", "params", 0.6),
        ("too little", "macs", 0.01),
        ("shared", "macs", 0.1),
        ("timed", "latency", 0.5),
    ]


def test_what_can_be_met(budgets):
    half, _, little, shared, timed = budgets
    assert 0 < half.smallest < 0.5
    assert 0 < half.granularity < 0.1
    assert half.dense > 0
    assert half.channels == 3 * (4 + 8 + 16)
    assert half.refused == shared.refused == timed.refused == ""
    assert shared.smallest < half.smallest
    assert shared.channels > half.channels
    assert little.refused.startswith("budget {macs: 0.01} cannot be met")
    assert (timed.smallest, timed.granularity, timed.dense) == (None, None, None)


def test_a_model_without_channels_to_remove_says_why():
    patch = {"model": {"name": "fcn", "inputs": 64, "hidden": [8]}, "method": {"name": "random-channels"}}
    (budget,) = planned_budgets(expand(experiment(patch)))
    assert "has none that it can remove" in budget.refused
    assert budget.smallest is None


FILE = """
model: {name: resnet20, channels: 1, width: 0.25}
data: {name: digits}
train: {epochs: 2, batch_size: 720, optimizer: {name: sgd, lr: 0.05}}
vary:
  variant:
    dense: {method: {name: dense}}
    half: {method: {name: maskconvnet, budget: {macs: 0.5}}}
    too little: {method: {name: random-channels, budget: {macs: 0.01}}}
"""


def test_plan_run_and_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(FILE)
    runner = CliRunner()
    shown = runner.invoke(app, ["plan", "small.yaml"])
    assert shown.exit_code == 1, shown.output  # one of three will not start
    assert "budgets, of the dense network's cost" in shown.output
    assert "too little will not start: budget {macs: 0.01} cannot be met" in " ".join(shown.output.split())
    told = json.loads(runner.invoke(app, ["plan", "small.yaml", "--json"]).stdout)["budgets"]
    assert [(budget["label"], bool(budget["refused"])) for budget in told] == [("half", False), ("too little", True)]
    page = (HERE.parents[1] / "docs" / "json.md").read_text()
    documented = json.loads(page.partition('"budgets": [')[2].partition("}")[0] + "}")
    assert all(list(budget) == list(documented) for budget in told)

    assert runner.invoke(app, ["report", "small.yaml", "--figures", "figures"]).exit_code != 0  # nothing is trained
    trained = runner.invoke(app, ["run", "small.yaml", "--workers", "0"])
    assert trained.exit_code == 1  # one of three failed
    report = runner.invoke(app, ["report", "small.yaml", "--figures", "figures"])
    assert report.exit_code == 0, report.output
    assert "Budgets: costs of what remains" in report.output
    drawn = sorted(path.name for path in (tmp_path / "figures").iterdir())
    costs = ("trade-off-bytes", "trade-off-density", "trade-off-macs")
    charts = ("channel-histogram", "channel-removal", *costs, "training")
    assert drawn == [f"{chart}.{kind}" for chart in charts for kind in ("pdf", "png", "svg")]
    (half,) = (result["run"] for result in read_results(Path("runs")) if result["label"] == "half")
    packed = runner.invoke(app, ["pack", f"runs/small/{half}"])
    assert "`supermask shrink` takes them out of the network" in " ".join(packed.output.split())
    (tmp_path / "file").touch()
    refused = runner.invoke(app, ["report", "small.yaml", "--figures", "file"])
    assert refused.exit_code != 0
    assert "--figures: file cannot be written" in refused.output


def test_the_initial_state_of_a_method_that_traces(monkeypatch):
    monkeypatch.chdir(HERE)
    sparsifier = initial_state("resnet20", "maskconvnet", 0, ["model.width=0.25", "model.channels=1"])
    assert len(sparsifier.gates) == 9
    with pytest.raises(ConfigError, match="maskconvnet traces its model, and nothing here tells the shape"):
        initial_state("userparts:build", "maskconvnet", 0, [])
