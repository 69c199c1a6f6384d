"""What runs will cost: known from finished, unfinished or similar runs, or measured."""

import dataclasses
import json

import pytest

from supermask.errors import RunError
from supermask.lab.cost import Cost, known_runs, measure, seconds_per_run, wall_time
from supermask.lab.plan import expand
from supermask.lab.runner import Runner
from supermask.lab.store import run_folder

from .helpers import experiment, only_run, run_here

VARY = {"seed": 3, "variant": {"dense": {}, "random": {"method": {"name": "random"}}, "long": {"train.epochs": 20}}}
OTHER = {"seed": 1, "variant": {"wide": {"model": {"name": "fcn", "inputs": 64, "hidden": [32], "classes": 10}}}}


def plan(vary):
    return expand(experiment(vary=vary))


def set_times(out, seconds, epochs=2, device="cpu", overhead=0.0):
    """Say that the runs below a folder took so long."""
    for path in out.rglob("result.json"):
        result = json.loads(path.read_text())
        result["seconds"] |= {"total": seconds + overhead, "train": seconds, "evaluate": 0.0}
        result["epochs"], result["device"] = epochs, device
        path.write_text(json.dumps(result))


def by_label(cost):
    return {setting.label: setting for setting in cost.settings}


def test_wall_time_by_hand():
    assert wall_time([3, 1, 1, 1], 2) == 3
    assert wall_time([1, 1, 3], 2) == 4  # the last one starts at 1
    assert wall_time([2, 2, 2], 1) == 6
    assert wall_time([], 3) == 0


def test_nothing_is_known_at_first(tmp_path):
    cost = Cost.of(plan(VARY), tmp_path / "runs", workers=2)
    assert cost.seconds is None
    assert list(by_label(cost)) == ["dense", "random", "long"]
    for setting in cost.settings:
        assert dataclasses.astuple(setting) == (setting.label, 3, 3, None, "unknown", 0, None)
    assert not (tmp_path / "runs").exists()


def test_finished_runs_tell_their_setting_and_similar_ones(tmp_path):
    run_here({}, tmp_path, vary={"seed": 2})
    set_times(tmp_path, 10.0)
    cost = Cost.of(plan(VARY | {"variant": VARY["variant"] | OTHER["variant"]}), tmp_path, workers=2)
    settings = by_label(cost)
    assert dataclasses.astuple(settings["dense"]) == ("dense", 3, 1, 10.0, "finished", 2, 10.0)
    # 5 s an epoch of the same model, data and batch size
    assert dataclasses.astuple(settings["random"]) == ("random", 3, 3, 10.0, "similar", 2, 30.0)
    assert dataclasses.astuple(settings["long"]) == ("long", 3, 3, 100.0, "similar", 2, 300.0)
    assert settings["wide"].source == "unknown"
    assert cost.seconds is None  # because of wide
    cost = Cost.of(plan(VARY), tmp_path, workers=2)
    # in the order of the plan, seed by seed: random 10, long 100, random 10, long 100, dense 10, random 10, long 100
    assert cost.seconds == wall_time([10, 100, 10, 100, 10, 10, 100], 2) == 220
    assert Cost.of(plan(VARY), tmp_path, workers=0).seconds == 340


def test_what_a_run_takes_beside_its_epochs_is_not_scaled(tmp_path):
    run_here({}, tmp_path)
    set_times(tmp_path, 4.0, overhead=6.0)
    settings = by_label(Cost.of(plan(VARY), tmp_path))
    assert settings["dense"].seconds_per_run == 10.0
    assert settings["random"].seconds_per_run == 10.0
    assert settings["long"].seconds_per_run == 46.0  # 6 s, and 20 epochs of 2 s


def test_results_of_other_experiments_count_and_those_of_other_devices_do_not(tmp_path):
    run_here({}, tmp_path)
    set_times(tmp_path, 7.0)
    renamed = expand(experiment(vary={"seed": [5]}, name="another"))
    assert Cost.of(renamed, tmp_path).settings[0].source == "finished"
    assert Cost.of(renamed, tmp_path, device="cuda").settings[0].source == "unknown"
    set_times(tmp_path, 7.0, device="cuda:1")
    assert Cost.of(renamed, tmp_path).settings[0].source == "unknown"
    assert Cost.of(renamed, tmp_path, device="cuda").settings[0].seconds_per_run == 7.0


def test_runs_of_an_older_version_are_known_by_their_id(tmp_path):
    run_here({}, tmp_path, vary={"seed": 2})
    set_times(tmp_path, 10.0)
    for path in tmp_path.rglob("spec.json"):
        spec = json.loads(path.read_text())
        del spec["train"]["precision"]
        path.write_text(json.dumps(spec))
    dense = Cost.of(plan({"seed": 3}), tmp_path).settings[0]
    assert (dense.source, dense.n, dense.left) == ("finished", 2, 1)


def test_an_unfinished_run_tells_its_pace_and_is_worth_what_it_has_done(tmp_path):
    run_here({"train.epochs": 4}, tmp_path)
    run = only_run(tmp_path)
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    lines[2]["seconds"] = 6.0
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    run.result.unlink()
    specs = expand(experiment({"train.epochs": 4}, vary={"seed": 2}))
    (setting,) = Cost.of(specs, tmp_path, workers=1).settings
    assert dataclasses.astuple(setting) == ("dense", 2, 2, 8.0, "unfinished", 1, 16.0)  # its checkpoint is gone
    run.checkpoint.parent.mkdir()
    run.checkpoint.touch()
    cost = Cost.of(specs, tmp_path, workers=1)
    assert cost.settings[0].seconds_left == cost.seconds == 8.0 - 6.0 + 8.0


def test_what_is_finished_costs_nothing(tmp_path):
    run_here({}, tmp_path)
    cost = Cost.of(plan({}), tmp_path, workers=5)
    assert (cost.seconds, cost.workers) == (0.0, 1)
    assert (cost.settings[0].left, cost.settings[0].seconds_left) == (0, 0.0)


def test_runs_without_an_epoch_tell_nothing(tmp_path):
    run_here({}, tmp_path)
    run = only_run(tmp_path)
    assert [known.finished for known in known_runs(tmp_path)] == [True]
    run.result.unlink()
    run.metrics.write_text("")
    assert known_runs(tmp_path) == []


@pytest.mark.parametrize("damage", ["{", "{}", "[]", '{"seconds": null}'])
def test_damaged_runs_tell_nothing(tmp_path, damage):
    run_here({}, tmp_path)
    only_run(tmp_path).result.write_text(damage)
    assert known_runs(tmp_path) == []
    assert Cost.of(plan({"seed": [9]}), tmp_path).settings[0].source == "unknown"


def test_a_measured_time_goes_before_a_known_one(tmp_path):
    run_here({}, tmp_path)
    (setting,) = Cost.of(plan({"seed": 2}), tmp_path, measured={"dense": 3.0}).settings
    assert dataclasses.astuple(setting) == ("dense", 2, 1, 3.0, "measured", 1, 3.0)


def test_a_short_run_is_measured_whole(tmp_path):
    (spec,) = plan({})  # 2 epochs of 6 steps
    assert 0 < seconds_per_run(spec, Runner()) < 60


def test_a_long_run_is_scaled_up(monkeypatch):
    monkeypatch.setattr("supermask.lab.cost.MEASURED_SECONDS", 0.0)
    specs = expand(experiment({}, vary={"train.epochs": [100, 10_000]}))
    short, long = (seconds_per_run(spec, Runner()) for spec in specs)
    assert 10 < long / short < 1000  # a hundred times, on a quiet machine
    (one_batch_more,) = expand(experiment({"train.epochs": 1000, "train.batch_size": 8}))
    assert seconds_per_run(one_batch_more, Runner()) > 0  # ends within the first epoch: tests once by itself


def test_measuring_stops_when_asked():
    (spec,) = plan({})
    with pytest.raises(KeyboardInterrupt):
        seconds_per_run(spec, Runner(), lambda: True)


def test_measuring_in_a_worker_takes_each_label_once_until_one_cannot_be_trained():
    variants = VARY["variant"] | {"broken": {"model": {"name": "userparts:build_broken"}}}
    told = []
    with pytest.raises(RunError, match="the runs 'broken' cannot be measured: this model cannot be built"):
        measure(
            plan({"seed": 2, "variant": variants}), Runner(), workers=1, on_measured=lambda *values: told.append(values)
        )
    assert [label for label, _ in told] == ["dense", "random", "long"]
    assert all(seconds > 0 for _, seconds in told)


def test_nothing_to_measure_starts_no_worker():
    assert measure([], Runner()) == {}


def test_a_planned_run_without_folder_is_new(tmp_path):
    (spec,) = plan({})
    assert not run_folder(tmp_path, spec.experiment, spec.id).path.exists()
    assert Cost.of([spec], tmp_path).settings[0].left == 1
