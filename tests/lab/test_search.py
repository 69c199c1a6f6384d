"""Searches: spaces, objectives, resuming, and that a run that is there is never trained again."""

import json
import re

import pytest

from supermask.core.locking import locked
from supermask.errors import ConfigError, MissingExtraError, RunError
from supermask.lab.load import make_experiment
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment
from supermask.lab.search import search
from supermask.lab.search_section import Range, parse_search
from supermask.lab.store import read_results

from .helpers import BASE, HERE

OVER = {"train.optimizer.lr": {"low": 0.001, "high": 0.5, "log": True}, "train.batch_size": [128, 256]}


def searched(over=OVER, *, validation=200, vary=None, patch=None, **section):
    raw = BASE | {"data": {"name": "digits", "validation": validation}} | (patch or {})
    raw |= {"name": "test", "search": {"over": over, **section}, "vary": vary or {}}
    raw["train"] = {**raw["train"], "epochs": 1}
    return make_experiment(raw, folder=HERE)


class Trainer:
    """Trains in this process, and notes what was trained."""

    def __init__(self, out, stop_after=None):
        self.out, self.left, self.done, self.skipped = out, stop_after, [], []

    def __call__(self, experiment, specs):
        if self.left is not None and self.left <= 0:
            raise KeyboardInterrupt
        assert [spec.id for spec in specs] == [spec.id for spec in expand(experiment)]
        outcome = run_experiment(experiment, out=self.out, workers=0)
        self.done += [event.run for event in outcome.done]
        self.skipped += [event.run for event in outcome.skipped]
        if self.left is not None:
            self.left -= 1


def test_trials_are_ordinary_runs(tmp_path):
    train = Trainer(tmp_path)
    found = search(searched(vary={"seed": 2}), out=tmp_path, train=train, trials=3, at_once=2)
    assert [trial.number for trial in found.trials] == [0, 1, 2]
    assert found.metric == "accuracy"
    results = {result["run"]: result for result in read_results(tmp_path)}
    for trial in found.trials:
        assert len(trial.runs) == 2
        mean = sum(results[run]["metric"]["validation"] for run in trial.runs) / 2
        assert trial.objectives == {"accuracy": pytest.approx(mean)}
        lr = trial.values["train.optimizer.lr"]
        assert 0.001 <= lr <= 0.5
        assert float(f"{lr:.6g}") == lr
        assert trial.values["train.batch_size"] in (128, 256)
        spec = json.loads((tmp_path / "test" / trial.runs[0] / "spec.json").read_text())
        assert spec["train"]["optimizer"]["lr"] == lr
    top = max(trial.objectives["accuracy"] for trial in found.trials)
    assert {trial.objectives["accuracy"] for trial in found.trials if trial.best} == {top}


def test_a_search_goes_on_where_it_was_stopped(tmp_path):
    """Stopped before the second pair of trials was trained: they are trained next, and not proposed anew."""
    with pytest.raises(KeyboardInterrupt):
        search(searched(), out=tmp_path, train=Trainer(tmp_path, stop_after=1), trials=4, at_once=2)
    first = {result["run"] for result in read_results(tmp_path)}
    again = Trainer(tmp_path)
    found = search(searched(), out=tmp_path, train=again, trials=4, at_once=2)
    assert len(found.trials) == 4
    assert all(trial.objectives for trial in found.trials)
    assert first.isdisjoint(again.done)
    assert {run for trial in found.trials for run in trial.runs} == first | set(again.done)
    more = Trainer(tmp_path)
    assert search(searched(), out=tmp_path, train=more, trials=4).trials == found.trials
    assert more.done == more.skipped == []
    assert len(search(searched(), out=tmp_path, train=more, trials=5).trials) == 5


def test_a_setting_that_was_run_is_not_run_again(tmp_path):
    experiment = searched({"train.batch_size": [128, 256]})
    train = Trainer(tmp_path)
    found = search(experiment, out=tmp_path, train=train, trials=5, at_once=5)
    assert len(found.trials) == 5
    assert len(train.done) == len({trial.runs for trial in found.trials}) <= 2


def test_several_objectives_have_a_front(tmp_path):
    patch = {"method": {"name": "magnitude"}}
    over = {"method.density": {"low": 0.05, "high": 0.9}}
    experiment = searched(over, patch=patch, objectives=["accuracy", "bytes", "latency"])
    found = search(experiment, out=tmp_path, train=Trainer(tmp_path), trials=3, at_once=3)
    assert found.objectives == ("accuracy", "bytes", "latency")
    results = {result["run"]: result for result in read_results(tmp_path)}
    for trial in found.trials:
        assert trial.objectives["bytes"] == results[trial.runs[0]]["bytes"]["entropy"]
        assert 0 < trial.objectives["latency"] < 1
    smallest = min(found.trials, key=lambda trial: trial.objectives["bytes"])
    assert smallest.best
    for trial in found.trials:
        beaten = [
            other
            for other in found.trials
            if other.objectives["accuracy"] >= trial.objectives["accuracy"]
            and all(other.objectives[name] <= trial.objectives[name] for name in ("bytes", "latency"))
            and other.objectives != trial.objectives
        ]
        assert trial.best == (not beaten)


def test_a_trial_whose_run_fails_is_told_and_not_tried_again(tmp_path):
    experiment = searched({"train.optimizer.lr": [1e30, 1e31]})
    train = Trainer(tmp_path)
    found = search(experiment, out=tmp_path, train=train, trials=1)
    assert [(trial.objectives, trial.best) for trial in found.trials] == [(None, False)]
    assert train.done == []
    assert search(experiment, out=tmp_path, train=train, trials=1).trials == found.trials


def test_a_run_that_another_process_trains_is_no_failure(tmp_path):
    experiment = searched()
    with pytest.raises(
        RunError, match=r"has not ended: wait for the process that trains it, .* tries this setting again"
    ):
        search(experiment, out=tmp_path, train=lambda *_: None, trials=2, at_once=2)
    train = Trainer(tmp_path)
    found = search(experiment, out=tmp_path, train=train, trials=2, at_once=2)
    assert [trial.objectives is None for trial in found.trials] == [False, False]
    assert sorted(train.done) == sorted(run for trial in found.trials for run in trial.runs)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "spec.json",
            lambda spec: spec["train"].update(eval_batch_size=7),
            "whose full spec differs: train.eval_batch",
        ),
        (
            "result.json",
            lambda result: result.pop("metric"),
            "of an earlier version and has no metric.validation; delete",
        ),
    ],
)
def test_results_that_are_not_of_this_search(file, change, message, tmp_path):
    """What an earlier version left under the same id is not taken for a trial's, nor the trial for a failure."""
    experiment = searched()
    (trial,) = search(experiment, out=tmp_path, train=Trainer(tmp_path), trials=1).trials
    (tmp_path / "test" / "search.journal").unlink()
    path = tmp_path / "test" / trial.runs[0] / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=re.escape(message)):
        search(experiment, out=tmp_path, train=Trainer(tmp_path), trials=1)


def test_half_a_line_at_the_end_of_the_journal(tmp_path):
    """Of a full disk. What is written after it must be readable."""
    experiment = searched()
    search(experiment, out=tmp_path, train=Trainer(tmp_path), trials=1)
    journal = tmp_path / "test" / "search.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4,"wor')
    for trials in (2, 3):
        assert len(search(experiment, out=tmp_path, train=Trainer(tmp_path), trials=trials).trials) == trials


def test_another_space_is_another_search_in_the_same_file(tmp_path):
    search(searched(), out=tmp_path, train=Trainer(tmp_path), trials=1)
    other = searched({"train.optimizer.lr": [0.1, 0.2]})
    assert len(search(other, out=tmp_path, train=Trainer(tmp_path), trials=1).trials) == 1
    assert len(search(searched(), out=tmp_path, train=Trainer(tmp_path), trials=1).trials) == 1


def test_the_section_is_no_part_of_the_run_id():
    plain = BASE | {"name": "test"}
    with_it = plain | {"search": {"over": OVER}}
    assert expand(make_experiment(plain))[0].id == expand(make_experiment(with_it))[0].id


def test_ranges():
    section, over = parse_search(
        {
            "over": {
                "train.epochs": {"low": 1, "high": 9, "step": 2},
                "train.optimizer.lr": {"low": 0.1, "high": 1, "log": True},
                "method.density": {"low": 0.1, "high": 0.5},
            },
            "trials": 7,
        }
    )
    assert section.objectives == ("accuracy",)
    assert over["train.epochs"] == Range(low=1, high=9, step=2)
    assert [value.whole for value in over.values()] == [True, False, False]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"over": {}}, "search.over: name at least one setting"),
        (
            {"over": {"model.hidden": [1, 2]}},
            "search.over.model.hidden: only settings of method and train are searched",
        ),
        ({"over": {"train": [1, 2]}}, "search.over.train: only settings of"),
        ({"over": {"train.epochs": [3]}}, "search.over.train.epochs: expected at least two"),
        ({"over": {"train.epochs": 3}}, "search.over.train.epochs: expected {low: ..., high: ...} or a list"),
        ({"over": {"train.epochs": {"low": 3, "high": 3}}}, "low must be less than high, got 3"),
        ({"over": {"train.clip.norm": {"low": 0, "high": 1, "log": True}}}, "log needs low > 0 and no step"),
        ({"over": {"train.epochs": {"low": 1, "high": 3, "step": 5}}}, "step must be between 0 and high - low, got 5"),
        ({"over": {"train.epochs": {"low": 1, "heigh": 3}}}, "search.over.train.epochs.heigh: unknown key"),
        ({"over": {"train.optimizer": ["a", "b"], "train.optimizer.lr": [1, 2]}}, "set the same value"),
        ({"over": OVER, "objectives": ["acc"]}, "search.objectives: expected accuracy or bytes or latency, each once"),
        ({"over": OVER, "objectives": ["bytes", "bytes"]}, "each once, got 'bytes'"),
        ({"over": OVER, "objectives": []}, "search.objectives: expected"),
        ({"over": OVER, "trials": 0}, "search.trials: must be at least 1, got 0"),
    ],
)
def test_wrong_sections(section, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_search(section)


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (lambda: searched(validation=0), "never on the test set, and data.validation is 0; set it"),
        (lambda: searched(vary={"train.clip": [1, 2]}), "vary.train.clip: an experiment that is searched varies seeds"),
        (
            lambda: searched(objectives=["latency"], patch={"model": {"name": "userparts:build"}}),
            "latency is measured on models that ship only",
        ),
        (lambda: searched({"train.epoch": [1, 2]}), "train.epoch: unknown key; did you mean 'epochs'?"),
        (lambda: make_experiment(BASE), "there is nothing to search; write a `search` section, or name a file"),
    ],
)
def test_experiments_that_cannot_be_searched(experiment, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)):
        search(experiment(), out=tmp_path, train=Trainer(tmp_path))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"the results folder .*file/test cannot be written \(Not a directory\): choose"):
        search(searched(), out=tmp_path / "file", train=Trainer(tmp_path))


def test_one_search_at_a_time(tmp_path):
    with locked(tmp_path / "test" / "search.lock"), pytest.raises(RunError, match="another process searches in"):
        search(searched(), out=tmp_path, train=Trainer(tmp_path))


def test_without_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"supermask search needs .* 'supermask\[search\]'"):
        search(searched(), out=tmp_path, train=Trainer(tmp_path))
