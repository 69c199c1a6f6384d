"""Runs of methods that remove channels: what they are attached with, what they record, and exact continuation."""

import contextlib
import functools
import json

import numpy as np
import pytest
import torch

from supermask import data
from supermask.core.arrays import load_arrays, save_arrays
from supermask.core.groups import Structure
from supermask.errors import CheckpointError, ConfigError, RunError, StructureError
from supermask.lab import channels
from supermask.lab.channels import ChannelHistory, budget_of, trace
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.runner import Job, Runner
from supermask.lab.store import read_channels, read_metrics, read_result, run_folder
from supermask.lab.train import Trainer
from supermask.measure.latency_table import LatencyTable
from supermask.methods.dense import Dense
from supermask.methods.mask_conv_net import MaskConvNet
from supermask.models import build

from .helpers import assert_same_run, experiment, only_run, run_here

# 1437 images of 8x8 in 2 batches an epoch; ResNet-20 of 4, 8 and 16 channels, whose blocks have 9 inner groups
COMMON = {"model": {"name": "resnet20", "channels": 1, "width": 0.25}, "train.epochs": 2, "train.batch_size": 720}
MASKED = COMMON | {"method": {"name": "maskconvnet", "budget": {"macs": 0.6, "params": 0.7}, "interval": 2}}
SLIM = COMMON | {
    "method": {"name": "network-slimming", "budget": {"macs": 0.6}, "strength": 0.01},
    "train.rounds": {"1": {"epochs": 1, "optimizer": {"lr": 0.01}}},
}
BAR = COMMON | {
    "method": {"name": "bar", "budget": {"volume": 0.7}, "cap": 100.0},
    "train.distill": {},
    "train.rounds": {"1": {"epochs": 2, "optimizer": {"name": "adam", "lr": 0.01}}, "2": {"epochs": 1}},
    "train.epochs": 1,
}


def straight(patch, out):
    outcome = run_here(patch, out)
    assert len(outcome.done) == 1, outcome.failed
    return only_run(out)


def stopped_at_every_step(patch, out):
    spec = expand(experiment(patch))[0]
    job, runner = Job(spec, run_folder(out, "test", spec.id)), Runner(checkpoint_seconds=0)
    while not job.folder.result.exists():
        assert not job.folder.failed.exists(), job.folder.failed.read_text()
        stop_now = iter([False, True])
        with contextlib.suppress(KeyboardInterrupt):
            runner(job, lambda event: None, functools.partial(next, stop_now))
    return job.folder


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return straight(MASKED, tmp_path_factory.mktemp("masked"))


def test_the_result_tells_channels_costs_and_the_check_of_the_removal(masked):
    found = read_result(masked)["channels"]
    chosen = [group for group in found["groups"] if group["chosen"]]
    assert [group["name"] for group in chosen] == [f"layer{i}.{j}.conv1" for i in (1, 2, 3) for j in range(3)]
    assert all(1 <= group["remaining"] <= group["channels"] for group in chosen)
    others = [group for group in found["groups"] if not group["chosen"]]
    assert all(group["remaining"] == group["channels"] for group in others)
    for unit, limit in (("macs", 0.6), ("params", 0.7)):
        cost = found["costs"][unit]
        assert cost["limit"] == limit
        assert cost["remaining"] <= limit * cost["dense"]
        assert 0 < cost["granularity"] < 0.1
        assert 0 < cost["alone"] <= 1
    assert (
        found["costs"]["macs"]["remaining"]
        > (0.6 - found["costs"]["macs"]["granularity"]) * 0.9 * (found["costs"]["macs"]["dense"])
    )
    assert (found["costs"]["volume"]["limit"], found["costs"]["volume"]["alone"]) == (None, None)
    assert found["shrunk"]["max_difference"] <= found["shrunk"]["tolerance"] == 1e-5
    assert (found["shrunk"]["params"], found["shrunk"]["why"]) == (found["costs"]["params"]["remaining"], "")
    assert found["latency"] is None


def test_gates_are_saved_after_every_epoch(masked):
    values = read_channels(masked)
    assert list(values) == sorted(f"gate/layer{i}.{j}.conv1" for i in (1, 2, 3) for j in range(3))
    last = load_arrays(masked.extras)
    for name, rows in values.items():
        assert rows.dtype == np.float32
        assert rows.shape == (2, last[name.replace("gate/", "gates/")].numel())
        assert ((rows >= 0) & (rows <= 1)).all()
        np.testing.assert_array_equal(rows[-1], last[name.replace("gate/", "gates/")].numpy())
        assert (rows[0] != rows[1]).any()


def test_scales_are_saved_for_methods_without_gates(tmp_path):
    folder = straight(SLIM, tmp_path / "straight")
    values = read_channels(folder)
    assert list(values) == sorted(f"scale/layer{i}.{j}.bn1.weight" for i in (1, 2, 3) for j in range(3))
    assert len(read_metrics(folder)) == 3
    weights = load_arrays(folder.weights)
    for name, rows in values.items():
        assert len(rows) == 3
        np.testing.assert_array_equal(rows[-1], weights[name.removeprefix("scale/")].numpy())
        assert (rows[0] > 0.3).all()  # they begin at one half
    result = read_result(folder)
    costs = result["channels"]["costs"]
    assert costs["macs"]["remaining"] <= 0.6 * costs["macs"]["dense"]
    assert costs["macs"]["alone"] is None
    assert sum((rows[-1] == 0).sum() for rows in values.values()) == sum(
        group["channels"] - group["remaining"] for group in result["channels"]["groups"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("patch", [MASKED, SLIM, BAR], ids=["maskconvnet", "slimming", "bar"])
def test_an_interrupted_run_ends_bitwise_alike(patch, tmp_path):
    whole, parts = straight(patch, tmp_path / "straight"), stopped_at_every_step(patch, tmp_path / "stopped")
    assert_same_run(whole, parts)
    assert whole.channels.read_bytes() == parts.channels.read_bytes()
    assert len(read_metrics(whole)) == len(next(iter(read_channels(whole).values())))


def test_bar_trains_three_rounds_and_learns_from_the_first(tmp_path):
    result = read_result(straight(BAR, tmp_path))
    assert result["epochs_by_round"] == [1, 2, 1]
    assert result["notes"] == []
    volume = result["channels"]["costs"]["volume"]
    assert volume["remaining"] <= 0.7 * volume["dense"]


def test_other_methods_leave_nothing_of_this(tmp_path):
    folder = straight({}, tmp_path)
    assert read_result(folder)["channels"] is None
    assert not folder.channels.exists()
    assert read_channels(folder) == {}


def test_a_budget_that_cannot_be_met_ends_the_run_before_training(tmp_path):
    outcome = run_here(COMMON | {"method": {"name": "random-channels", "budget": {"macs": 0.01}}}, tmp_path)
    (event,) = outcome.failed
    assert event.message.startswith("budget {macs: 0.01} cannot be met")
    assert event.message.endswith("; ask for no less")
    assert not only_run(tmp_path).metrics.read_text()
    assert json.loads(only_run(tmp_path).failed.read_text())["error"] == event.message


def test_a_removal_that_fails_is_told_and_the_run_is_kept(tmp_path, monkeypatch):
    def refuse(*args, zero=False, **kwargs):
        if not zero:  # not the rehearsal
            raise StructureError("block.mix cannot be made smaller")

    monkeypatch.setattr(channels, "shrink", refuse)
    result = read_result(straight(COMMON | {"method": {"name": "random-channels"}, "train.epochs": 1}, tmp_path))
    assert result["channels"]["shrunk"]["why"] == "block.mix cannot be made smaller"
    assert result["channels"]["shrunk"]["max_difference"] is None


# ---------------------------------------------------------------------- what is attached


def test_a_model_with_its_width_in_its_code_is_refused_before_training(tmp_path):
    outcome = run_here(
        COMMON | {"model": {"name": "userparts:build_baked"}, "method": {"name": "random-channels"}}, tmp_path
    )
    (event,) = outcome.failed
    assert event.message.startswith("no channel of this model can be taken out, tried before training: ")
    assert "method.whole" in event.message
    assert not only_run(tmp_path).metrics.read_text()


def test_groups_that_stay_whole_are_not_rehearsed(tmp_path):
    method = {"name": "random-channels", "whole": ["conv1"]}
    result = read_result(straight(COMMON | {"model": {"name": "userparts:build_baked"}, "method": method}, tmp_path))
    assert result["channels"]["shrunk"]["why"] == ""


def test_a_paper_form_is_asked_for_a_budget_that_it_does_not_promise():
    method = MaskConvNet(budget={"macs": 0.4}, project=False)
    assert method.promised_budget() is None
    assert budget_of(method) == {"macs": 0.4}
    assert budget_of(Dense()) == {}


def test_only_methods_that_remove_channels_trace():
    model, x = build("resnet20", width=0.25, channels=1), torch.zeros(2, 1, 8, 8)
    assert trace(Dense(), model, x) is None
    traced = trace(MaskConvNet(), model, x)
    assert isinstance(traced.structure, Structure)
    assert (traced.table, traced.costs) == (None, {})


def test_a_budget_of_latency_measures_a_table_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(LatencyTable, "measure", functools.partial(LatencyTable.measure, points=2, rounds=5))
    patch = COMMON | {
        "method": {"name": "random-channels", "budget": {"latency": 1.0}},
        "model": {"name": "resnet20", "channels": 1},  # in a narrow one, one channel a group is hardly faster than all
        "train.epochs": 1,
    }
    found = read_result(straight(patch, tmp_path / "out"))["channels"]
    cost, measured = found["costs"]["latency"], found["latency"]
    assert cost["remaining"] <= 1.000001 * cost["dense"]
    assert (measured["batch"], measured["threads"]) == (1, 1)
    assert 0 < measured["remaining"] <= measured["remaining_p95"]
    assert len(list((tmp_path / "cache" / "supermask" / "latency").glob("*.json"))) == 1


def test_latency_is_not_measured_elsewhere():
    model = build("resnet20", width=0.25, channels=1)
    x = torch.zeros(2, 1, 8, 8)
    method = MaskConvNet(budget={"latency": 0.5})
    with pytest.raises(ConfigError, match=r"method\.budget: latency is measured on the CPU, and this run is on meta"):
        trace(method, model.to("meta"), x.to("meta"))


# ---------------------------------------------------------------------- files


def test_a_history_goes_on_where_it_is_told(tmp_path):
    history = ChannelHistory(tmp_path / "channels.safetensors")
    history.restart()
    for epoch in range(3):
        history.append({"gate/a": torch.full((2,), float(epoch)), "gate/b": torch.zeros(3)})
    again = ChannelHistory(history.path)
    again.restart(2)
    again.append({"gate/a": torch.full((2,), 9.0), "gate/b": torch.zeros(3)})
    assert load_arrays(history.path)["gate/a"][:, 0].tolist() == [0.0, 1.0, 9.0]
    again.restart()
    assert not history.path.exists()


@pytest.mark.parametrize("content", [None, {}, {"gate/a": torch.zeros(1, 2)}])
def test_a_history_that_lacks_epochs_is_refused(content, tmp_path):
    history = ChannelHistory(tmp_path / "channels.safetensors")
    if content is not None:
        save_arrays(history.path, content)
    with pytest.raises(CheckpointError, match="does not hold the epochs that the checkpoint beside it knows"):
        history.restart(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("groups"), r"'channels\.groups' should be list, is missing"),
        (lambda c: c["groups"].append(3), r"'channels\.groups\[\d+\]\.name' should be str"),
        (
            lambda c: c["costs"]["macs"].update(limit="x"),
            r"'channels\.costs\.macs\.limit' should be int or float or null",
        ),
        (lambda c: c.update(shrunk=None), r"'channels\.shrunk' should be dict"),
    ],
)
def test_a_damaged_result_is_told(change, message, masked, tmp_path):
    result = json.loads(masked.result.read_text())
    change(result["channels"])
    folder = run_folder(tmp_path, "test", "run")
    folder.path.mkdir(parents=True)
    folder.result.write_text(json.dumps(result))
    with pytest.raises(RunError, match=message):
        read_result(folder)


def test_a_damaged_file_of_values_is_told(tmp_path):
    folder = run_folder(tmp_path, "test", "run")
    folder.path.mkdir(parents=True)
    folder.channels.write_bytes(b"none")
    with pytest.raises(RunError, match=r"channels\.safetensors: damaged"):
        read_channels(folder)


# ---------------------------------------------------------------------- the last accuracy is of the final network

EARLY = {
    "train.epochs": 40,
    "train.schedule": {"name": "plateau", "factor": 0.5, "patience": 3, "max_cuts": 1, "start": 0},
}
ENDINGS = {
    "slimming": {"method": {"name": "network-slimming", "budget": {"macs": 0.3}, "fine_tune": False}},
    "l1": {"method": {"name": "l1-filters", "budget": {"macs": 0.3}, "fine_tune": False}},
    "maskconvnet": {"method": {"name": "maskconvnet", "budget": {"macs": 0.3}, "interval": 2}},
    "maskconvnet, early": {
        **EARLY,
        "train.optimizer": {"name": "sgd", "lr": 1e-6},
        "method": {"name": "maskconvnet", "budget": {"macs": 0.3}, "interval": 2},
    },
    "slimming, early": {
        **EARLY,
        "train.optimizer": {"name": "sgd", "lr": 1e-6},
        "method": {"name": "network-slimming", "budget": {"macs": 0.3}, "fine_tune": False},
    },
}


@pytest.mark.parametrize("patch", ENDINGS.values(), ids=ENDINGS)
def test_the_last_accuracy_is_that_of_the_network_that_is_left(patch, tmp_path):
    spec = expand(experiment(COMMON | patch))[0]
    digits = data.load("digits")
    trainer = Trainer(spec.config(), 0, digits, spec.folder, torch.device("cpu"), MetricsFile(tmp_path / "metrics"))
    masks = trainer.run()
    assert trainer.sparsifier.round == 0
    assert len(trainer.metrics.lines) < 40
    last = trainer.metrics.lines[-1]
    assert last["remaining"] == masks.remaining() < masks.total()
    trainer.model.eval()
    with torch.no_grad():
        output = trainer.model(digits.test.x)
    assert last["test_accuracy"] == int((output.argmax(1) == digits.test.y).sum()) / len(digits.test)
    assert last["test_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(output, digits.test.y)), rel=1e-5)


def test_the_best_epoch_is_one_that_met_the_budget(masked):
    assert read_result(masked)["accuracy"]["best_epoch"] == read_metrics(masked)[-1]["epoch"]
    assert read_metrics(masked)[0]["remaining"] > read_metrics(masked)[-1]["remaining"]
