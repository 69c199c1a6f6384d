"""Seeds that are trained as one batch end as they do one by one."""

import dataclasses
import json
import shutil

import pytest
import torch

from supermask import data
from supermask.core.locking import locked
from supermask.core.registry import methods
from supermask.errors import ConfigError, RunError
from supermask.lab import group
from supermask.lab.executors.processes import Local
from supermask.lab.executors.shared import Shared
from supermask.lab.load import make_experiment
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment
from supermask.lab.runner import Job, Runner
from supermask.lab.seed_choice import batches, choose, measure, read_choices
from supermask.lab.store import run_folder
from supermask.lab.vectorized import SeedTrainer, Together

from .helpers import assert_same_run, experiment

CPU = torch.device("cpu")
DIGITS = data.load("digits")
FEW = 3
SHORT = {"train.epochs": 1, "train.batch_size": 400, "train.data_order": "shared"}  # 4 steps, the last one smaller
FCN = {"model": {"name": "fcn", "inputs": 64, "hidden": [12], "classes": 10}}
NORMED = {"model": {"name": "seedparts:normed"}}


@pytest.fixture
def double():
    """Everything in float64, where sums in another order differ by less than any mistake."""
    torch.set_default_dtype(torch.float64)
    splits = {
        name: dataclasses.replace(getattr(DIGITS, name), x=getattr(DIGITS, name).x.double())
        for name in ("train", "test")
    }
    yield dataclasses.replace(DIGITS, **splits)
    torch.set_default_dtype(torch.float32)


def trainers(patch, dataset, folder, seeds=range(FEW)):
    """Runs before their first step."""
    made = []
    for spec in expand(experiment(SHORT | patch, vary={"seed": list(seeds)})):
        metrics = MetricsFile(folder / f"{spec.seed}.jsonl")
        made.append(SeedTrainer(spec.config(), spec.seed, dataset, spec.folder, CPU, metrics))
    return made


def section(name):
    """A method as small networks can take it."""
    fields = {
        "gradual-magnitude": {"density": 0.5},
        "lottery-ticket": {"rounds": 2, "rewind": "step", "rewind_step": 2},
    }
    return {"name": name, **fields.get(name, {})}


def assert_equal_ends(together, alone):
    """Weights, masks, buffers, metrics and what a checkpoint would hold of the steps."""
    for left, right in zip(together, alone, strict=True):
        state, other = left.model.state_dict(), right.model.state_dict()
        assert list(state) == list(other)
        for name, value in state.items():
            torch.testing.assert_close(value, other[name], rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
        assert len(left.metrics.lines) == len(right.metrics.lines) > 0
        for line, expected in zip(left.metrics.lines, right.metrics.lines, strict=True):
            known = {key for key, value in expected.items() if value is not None} - {"seconds"}
            assert {key: line[key] for key in known} == pytest.approx({key: expected[key] for key in known}, rel=1e-9)


def both_ways(patch, dataset, tmp_path):
    """The same runs, together and one by one; and their masks."""
    for name in ("together", "alone"):
        (tmp_path / name).mkdir()
    together, alone = (trainers(patch, dataset, tmp_path / name) for name in ("together", "alone"))
    found = Together(together).run()
    expected = [trainer.run() for trainer in alone]
    for trainer, masks in zip(together, expected, strict=True):
        assert list(found[trainer]) == list(masks)
        assert all(torch.equal(found[trainer][name], masks[name]) for name in masks)
    return together, alone


NAMES = [name for name, cls in methods().items() if cls.__module__.startswith("supermask.") and not cls.needs_structure]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fixed-mask"])
def test_equal_to_one_by_one(name, double, tmp_path):
    assert_equal_ends(*both_ways({"method": section(name)} | NORMED, double, tmp_path))


def vectorized(patch=None, seeds=FEW, **more):
    """An experiment whose seeds share their data order, and may train as one batch."""
    return dataclasses.replace(experiment(patch, vary={"seed": seeds}, **more), seeds="vectorized")


def always(specs, *_, **__):
    """Stands in for what is measured: the gain is certain."""
    return 2.0, ""


@pytest.fixture
def gain(monkeypatch):
    """Batches of seeds count as twice as fast."""
    monkeypatch.setattr("supermask.lab.seed_choice.measure", always)


def run(made, out, **options):
    """Run in this process; the outcome."""
    return run_experiment(made, out=out, **{"workers": 0} | options)


def folders(made, out):
    return [run_folder(out, made.name, spec.id) for spec in expand(made)]


def test_every_seed_has_its_own_ordinary_folder(gain, tmp_path):
    choices, events = [], []
    made = vectorized({"method": {"name": "signed-supermask"}})
    outcome = run(made, tmp_path / "together", on_choice=choices.append, on_event=events.append)
    assert [event.seed for event in outcome.done] == [0, 1, 2]
    assert [(choice.label, choice.seeds, choice.vectorized, choice.ratio) for choice in choices] == [
        ("signed-supermask", 3, True, 2.0)
    ]
    assert [event.seed for event in events if event.kind == "started"] == [0, 1, 2]
    alone = experiment({"method": {"name": "signed-supermask"}, "train.data_order": "shared"}, vary={"seed": FEW})
    assert [spec.id for spec in expand(alone)] == [spec.id for spec in expand(made)]
    run(alone, tmp_path / "alone")
    for left, right in zip(folders(made, tmp_path / "together"), folders(alone, tmp_path / "alone"), strict=True):
        assert sorted(path.name for path in left.path.iterdir()) == sorted(path.name for path in right.path.iterdir())
        result, expected = (json.loads(folder.result.read_text()) for folder in (left, right))
        assert result.keys() == expected.keys()
        assert json.loads(left.spec.read_text()) == json.loads(right.spec.read_text())
        assert result["conditions"].pop("together")  # times are not compared with those of runs that train alone
        assert result["conditions"] == expected["conditions"]
        assert result["accuracy"]["last"] == pytest.approx(expected["accuracy"]["last"], abs=0.02)
        assert result["loss"]["train"] == pytest.approx(expected["loss"]["train"], rel=1e-3)
        (start,) = json.loads(left.env.read_text())["starts"]
        assert start["together"] == {"seeds": [0, 1, 2], "ratio": 2.0}
        assert "together" not in json.loads(right.env.read_text())["starts"][0]
    assert {event.kind for event in run(made, tmp_path / "together").skipped} == {"skipped"}


def test_other_ids_than_with_an_order_for_each_seed():
    own, shared = expand(experiment(vary={"seed": 2})), expand(vectorized(seeds=2))
    assert not {spec.id for spec in own} & {spec.id for spec in shared}
    assert shared[0].sections["train"]["data_order"] == "shared"


def test_an_order_for_each_seed_contradicts_it():
    with pytest.raises(ConfigError, match=r"^train\.data_order: 'per-seed' .*contradicts seeds: vectorized"):
        expand(vectorized({"train.data_order": "per-seed"}))


def test_unknown_way_to_train_seeds():
    with pytest.raises(ConfigError, match=r"^seeds: expected separate or vectorized, got 5.*; how many is vary\.seed"):
        make_experiment({"seeds": 5})


LONG = {"model": {"name": "seedparts:dying"}, "train.epochs": 2, "train.batch_size": 512}  # 3 steps an epoch


@pytest.mark.parametrize("at", [1, 5])
def test_killed_and_resumed_bitwise(at, gain, tmp_path, monkeypatch):
    made = vectorized(LONG)
    run(made, tmp_path / "straight", checkpoint_seconds=1000)
    # here, as no patch reaches a worker
    choose({"dense": expand(made)}, Runner(), Local(workers=0), tmp_path / "killed" / made.name)
    with monkeypatch.context() as context:
        context.setenv("TEST_SEEDS_KILL_AT", str(at * FEW))
        outcome = run(made, tmp_path / "killed", workers=1, checkpoint_seconds=0)
    assert {event.message for event in outcome.failed} == {"worker killed by signal 9; run the same command to resume"}
    assert sorted(event.seed for event in outcome.failed) == [0, 1, 2]
    events = []
    outcome = run(made, tmp_path / "killed", on_event=events.append)
    assert [event.seed for event in outcome.done] == [0, 1, 2]
    assert {event.kind for event in events[:FEW]} == {"started" if at == 1 else "resumed"}
    for left, right in zip(folders(made, tmp_path / "straight"), folders(made, tmp_path / "killed"), strict=True):
        assert_same_run(left, right)
        assert not right.failed.exists()


@pytest.mark.parametrize("renamed", [0, 1, FEW])
def test_killed_between_the_checkpoints_of_a_group(renamed, gain, tmp_path, monkeypatch):
    """Whichever of the renamings is the last one, all go on from one moment."""
    made = vectorized(LONG)
    run(made, tmp_path / "straight")
    settle, stop_at = group._settle, 2 * FEW + renamed  # in the third turn of checkpoints
    settled = []

    def interrupted(folder, chosen):
        if chosen is not None and len(settled) == stop_at:
            raise KeyboardInterrupt
        if chosen is not None:
            settled.append(folder)
        settle(folder, chosen)

    with monkeypatch.context() as context:
        context.setattr(group, "_settle", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(made, tmp_path / "killed", checkpoint_seconds=0)
    events = []
    run(made, tmp_path / "killed", on_event=events.append)
    resumed = [(event.kind, event.epoch, event.batch) for event in events[:FEW]]
    assert len(set(resumed)) == 1
    assert resumed[0][0] == "resumed"
    for left, right in zip(folders(made, tmp_path / "straight"), folders(made, tmp_path / "killed"), strict=True):
        assert_same_run(left, right)
        assert not right.checkpoint.parent.exists()


def test_a_seed_that_fails_leaves_the_others(gain, tmp_path, monkeypatch):
    made = vectorized(LONG)
    ends = SeedTrainer.end_epoch

    def diverges(self):
        if self.seed == 1:
            self.loss_sum.fill_(float("nan"))
        ends(self)

    with monkeypatch.context() as context:
        context.setattr(SeedTrainer, "end_epoch", diverges)
        outcome = run(made, tmp_path)
    assert [event.seed for event in outcome.done] == [0, 2]
    (failed,) = outcome.failed
    assert (failed.seed, failed.message[:30]) == (1, "the training loss is nan in ep")
    assert json.loads(folders(made, tmp_path)[1].failed.read_text())["error"] == failed.message
    choices = []
    outcome = run(made, tmp_path, on_choice=choices.append)
    assert [event.seed for event in outcome.done] == [1]
    assert choices[0].sentence() == "dense: seeds train one by one: only one is left to train"


def test_what_all_share_fails_all(gain, tmp_path, monkeypatch):
    def breaks(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("supermask.lab.stacked.Stacked.losses", breaks)
    outcome = run(vectorized(LONG), tmp_path)
    assert [event.seed for event in outcome.failed] == [0, 1, 2]
    assert all(event.message.startswith("RuntimeError: out of memory") for event in outcome.failed)


def test_a_run_that_is_held_elsewhere_is_left_out(gain, tmp_path):
    made = vectorized(LONG)
    held = folders(made, tmp_path)[0]
    held.path.mkdir(parents=True)
    with locked(held.lock, wait=False) as ours:
        assert ours
        outcome = run(made, tmp_path)
    assert [event.seed for event in outcome.skipped] == [0]
    assert [event.seed for event in outcome.done] == [1, 2]
    assert json.loads(folders(made, tmp_path)[1].env.read_text())["starts"][0]["together"]["seeds"] == [1, 2]


def test_runs_without_a_common_moment_go_on_apart(gain, tmp_path):
    made = vectorized(LONG)
    specs = expand(made)
    for spec, count in zip(specs, (1, 2, 1), strict=True):
        _stop_after(spec, tmp_path, count)
    events = []
    outcome = run(made, tmp_path, on_event=events.append)
    assert sorted(event.seed for event in outcome.done) == [0, 1, 2]
    resumed = {event.seed: event.batch for event in events if event.kind == "resumed"}
    assert resumed == {0: 1, 1: 2, 2: 1}
    starts = [json.loads(folder.env.read_text())["starts"][-1] for folder in folders(made, tmp_path)]
    assert [start.get("together", {}).get("seeds") for start in starts] == [[0, 2], None, [0, 2]]


def _stop_after(spec, out, batches):
    """Train a run alone up to a checkpoint after so many batches."""
    asked = 0

    def stopping():
        nonlocal asked
        asked += 1
        return asked == batches

    job = Job(spec, run_folder(out, spec.experiment, spec.id))
    with pytest.raises(KeyboardInterrupt):
        Runner(checkpoint_seconds=0)(job, lambda event: None, stopping)


# ---------------------------------------------------------------------- the choice


def measured(patch, seeds=2):
    """What a few steps of a setting tell."""
    return measure(expand(vectorized(patch, seeds=seeds)), Runner())


def test_a_few_steps_tell_the_gain():
    ratio, reason = measured({"train.epochs": 10, "train.batch_size": 32})
    assert ratio > 0
    assert reason == ""


@pytest.mark.parametrize(
    ("patch", "why"),
    [
        ({"model": {"name": "userparts:build"}}, "the model draws random numbers while it trains (dropout)"),
        ({"model": {"name": "seedparts:counting"}}, "the model's buffers differ when seeds are one batch"),
        ({"model": {"name": "seedparts:reading"}}, "torch.func cannot map this model or loss over seeds ("),
        ({"train.schedule": {"name": "plateau", "factor": 0.5, "patience": 3, "max_cuts": 2}}, "the plateau rule cuts"),
        ({"method": {"name": "l1-filters"}, "model": {"name": "userparts:build_convolutional"}}, "l1-filters removes channels"),
        ({"train.precision": "bfloat16"}, "train.precision is bfloat16, and seeds are trained as one batch in float32"),
        ({"train.channels_last": True}, "train.channels_last is set"),
        ({"train.accumulate": 2}, "train.accumulate divides batches"),
        ({"train.epochs": 1, "train.batch_size": 2000}, "a run has too few steps to tell which way is faster"),
    ],
)  # fmt: skip
def test_what_cannot_be_one_batch_is_told(patch, why):
    ratio, reason = measured(patch)
    assert ratio is None
    assert reason.startswith(why)


def test_the_choice_is_kept(tmp_path, monkeypatch):
    made, tried = vectorized(LONG), []

    def once(specs, *_):
        tried.append([spec.seed for spec in specs])
        return 0.5, ""

    monkeypatch.setattr("supermask.lab.seed_choice.measure", once)
    choices = []
    outcome = run(made, tmp_path, on_choice=choices.append)
    assert [event.seed for event in outcome.done] == [0, 1, 2]
    assert choices[0].sentence() == (
        "dense: seeds train one by one: as one batch of 3 they are 0.50 times as fast (measured on a few steps)"
    )
    for folder in folders(made, tmp_path)[:2]:
        shutil.rmtree(folder.path)
    run(made, tmp_path, on_choice=choices.append)
    assert tried == [[0, 1, 2]]
    assert choices[1] == choices[0]
    (tmp_path / made.name / "seeds.json").write_text('{"schema": 1, "choices": [{}]}')
    shutil.rmtree(folders(made, tmp_path)[0].path)
    shutil.rmtree(folders(made, tmp_path)[1].path)
    with pytest.raises(RunError, match=r"seeds\.json is damaged .*; delete it, and it is measured again"):
        run(made, tmp_path)


def test_a_setting_that_cannot_be_tried_fails_by_itself(tmp_path):
    made = vectorized({"model": {"name": "fcn", "inputs": 9, "hidden": [4], "classes": 10}})
    choices = []
    outcome = run(made, tmp_path, on_choice=choices.append)
    assert choices[0].reason.startswith("a few steps could not be trained (the model fcn does not take images of shape")
    assert [event.seed for event in outcome.failed] == [0, 1, 2]
    assert not (tmp_path / made.name / "seeds.json").exists() or read_choices(tmp_path / made.name) == []


@pytest.mark.parametrize(
    ("seeds", "labels", "workers", "sizes"),
    [(5, 1, 2, [3, 2]), (5, 2, 2, [5]), (3, 1, 2, [3]), (4, 1, 8, [2, 2]), (1, 1, 2, [1]), (5, 1, 0, [5])],
)
def test_batches_fill_the_processes(seeds, labels, workers, sizes):
    made = experiment(vary={"seed": seeds, "train.optimizer.lr": [0.1 * (n + 1) for n in range(labels)]})
    found = batches(expand(made), Runner(), Local(workers=workers))
    assert [[len(part) for part in parts] for parts in found.values()] == [sizes] * labels


def test_other_executors_train_one_by_one(tmp_path):
    choices = []
    outcome = run(
        vectorized(LONG, seeds=2), tmp_path, workers=None, executor=Shared(workers=0), on_choice=choices.append
    )
    assert len(outcome.done) == 2
    assert choices[0].reason == "only the executor local makes batches of seeds, and this is shared"
