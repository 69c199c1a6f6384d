"""Runs of several rounds, tests over several masks, masks that are only tracked, and what a method leaves beside them."""

import contextlib
import functools

import pytest
import torch
from torch.nn import functional

from supermask.core.arrays import load_arrays
from supermask.core.registry import load_plugin
from supermask.data import load
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.runner import Job, Runner
from supermask.lab.store import read_metrics, read_result, run_folder
from supermask.lab.train import Trainer

from .helpers import HERE, assert_same_run, experiment, only_run, run_here

PLUGIN = HERE / "plugin_rounds.py"
BATCHES = 4  # of an epoch, with 400 examples a batch


@pytest.fixture(autouse=True)
def plugin():
    load_plugin(PLUGIN)


def patch(method, **fields):
    return {
        "method": {"name": method, **fields},
        "model.hidden": [8],
        "train.epochs": 3,
        "train.batch_size": 400,
        "train.schedule": {"name": "cosine"},
    }


@pytest.mark.parametrize(("rewind", "epochs", "steps"), [(0, 9, 36), (4, 7, 28), (6, 7, 24)])
def test_rounds_begin_where_the_method_rewound_to(rewind, epochs, steps, tmp_path):
    """The epochs and the learning rates of a later round are those from the step it rewinds to."""
    lines = run(patch("test-rounds", rewind_step=rewind), tmp_path)
    assert [line["epoch"] for line in lines] == list(range(1, epochs + 1))
    first = [line["lr"] for line in lines if line["round"] == 0]
    for number in (1, 2):
        later = [line["lr"] for line in lines if line["round"] == number]
        assert later == first[rewind // BATCHES :]
    result = read_result(only_run(tmp_path))
    empty = [f"no weight of {layer}.weight remains at the end" for layer in ("fc1", "fc2")]
    assert (result["rounds"], result["notes"]) == (3, ["round 0 ended", "round 1 ended", *empty])
    assert result["counts"]["weights_remaining"] == 0  # the two halves that went are all of it
    assert steps == 12 + 2 * (12 - rewind)


def run(configuration, out):
    assert len(run_here(configuration, out).done) == 1
    return read_metrics(only_run(out))


def trainer_of(configuration, tmp_path):
    spec = expand(experiment(configuration))[0]
    data = load("digits")
    return Trainer(spec.config(), 0, data, HERE, torch.device("cpu"), MetricsFile(tmp_path / "metrics.jsonl"))


def test_a_round_that_begins_in_the_middle_of_an_epoch_takes_its_mean_over_what_was_trained(tmp_path):
    trainer = trainer_of(patch("test-rounds", rewind_step=6), tmp_path)
    seen = []

    def look():
        if trainer.sparsifier.round == 1 and trainer.epoch == 4:
            seen.append((trainer.batch, trainer.mean_loss(), float(trainer.loss_sum)))

    trainer.look_every, trainer.on_look = 0.0, look
    trainer.run()
    assert [batch for batch, _, _ in seen] == [3, 4]
    assert [loss * (batch - 2) for batch, loss, _ in seen] == pytest.approx([total for _, _, total in seen])


@pytest.mark.parametrize("rewind", [0, 6])
def test_stopped_at_every_step_of_every_round(rewind, tmp_path):
    configuration = patch("test-rounds", rewind_step=rewind)
    run(configuration, tmp_path / "straight")
    spec = expand(experiment(configuration))[0]
    job = Job(spec, run_folder(tmp_path / "stopped", "test", spec.id))
    runner = Runner(checkpoint_seconds=0)
    while not job.folder.result.exists():
        stop_now = iter([False, True])
        with contextlib.suppress(KeyboardInterrupt):
            runner(job, lambda event: None, functools.partial(next, stop_now))
    straight = only_run(tmp_path / "straight")
    assert_same_run(straight, job.folder)
    left, right = load_arrays(straight.extras), load_arrays(job.folder.extras)
    assert list(left) == ["last/fc1.weight", "last/fc2.weight"]
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_most_methods_leave_no_extras(tmp_path):
    run_here({}, tmp_path)
    folder = only_run(tmp_path)
    assert not folder.extras.exists()
    result = read_result(folder)
    assert (result["full"], result["rounds"], result["notes"]) == (None, 1, [])


def test_a_test_is_the_mean_over_the_draws_and_leaves_the_mask_as_it_was(tmp_path):
    trainer = trainer_of(patch("test-draws"), tmp_path)
    s = trainer.sparsifier
    before = s.masks()
    loss, accuracy, _ = trainer.evaluate(trainer.data.test)
    assert all(torch.equal(mask, before[name]) for name, mask in s.masks().items())
    expected = []
    for index in range(2):
        s.method.draw(s, index)
        with s.sparse(), torch.no_grad():
            output = trainer.model(trainer.data.test.x)
        y = trainer.data.test.y
        expected.append((functional.cross_entropy(output, y).item(), (output.argmax(1) == y).float().mean().item()))
    assert loss == pytest.approx(sum(e[0] for e in expected) / 2, rel=1e-5)
    assert accuracy == pytest.approx(sum(e[1] for e in expected) / 2)
    assert expected[0] != expected[1]


def test_a_loop_that_is_left_restores_the_mask_too(tmp_path):
    s = trainer_of(patch("test-draws"), tmp_path).sparsifier
    for _ in s.draws():
        assert s.remaining() < sum(target.size for target in s.targets)
        break
    assert s.remaining() == sum(target.size for target in s.targets)


def test_the_dense_model_under_tracked_masks_is_tested_too(tmp_path):
    lines = run(patch("test-draws"), tmp_path / "tracked")
    dense = run(patch("dense"), tmp_path / "dense")
    for line, other in zip(lines, dense, strict=True):
        assert line["full_loss"] == pytest.approx(other["test_loss"], rel=1e-6)
        assert line["full_accuracy"] == other["test_accuracy"]
        assert line["test_loss"] != line["full_loss"]
        assert other["full_loss"] is None
    full = read_result(only_run(tmp_path / "tracked"))["full"]
    assert (full["loss"], full["accuracy"]) == (lines[-1]["full_loss"], lines[-1]["full_accuracy"])
    assert full["best"] == max(line["full_accuracy"] for line in lines)


@pytest.mark.parametrize("name", ["sgdw", "adamw"])
def test_what_is_not_decayed_stays_so_in_every_round_and_under_a_schedule(name, tmp_path):
    """The decay of SGDW falls with its rate; the group that is left out has none all along."""
    optimizer = {"name": name, "lr": 0.1, "weight_decay": 0.01, "decay_on": "no-norms"}
    configuration = patch("test-rounds") | {"model": {"name": "userparts:build"}, "train.optimizer": optimizer}
    del configuration["model.hidden"]
    trainer = trainer_of(configuration, tmp_path)
    seen = []

    def look():
        first, spared = trainer.optimizer.param_groups
        assert [p.numel() for p in spared["params"]] == [24, 24]
        assert spared["weight_decay"] == 0.0
        assert spared["lr"] == first["lr"]
        seen.append((trainer.sparsifier.round, first["weight_decay"]))

    trainer.look_every, trainer.on_look = 0.0, look
    trainer.run()
    assert {number for number, _ in seen} == {0, 1, 2}
    assert (min(decay for _, decay in seen) < 0.001) is (name == "sgdw")


def test_a_run_that_leaves_norms_out_of_the_decay_is_another_and_resumes(tmp_path):
    optimizer = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    common = {"model": {"name": "userparts:build"}, "train.epochs": 2, "train.batch_size": 400}
    plain = common | {"train.optimizer": optimizer}
    spared = common | {"train.optimizer": optimizer | {"decay_on": "no-norms"}}
    specs = [
        expand(experiment(patch))[0]
        for patch in (plain, spared, common | {"train.optimizer": optimizer | {"decay_on": "all"}})
    ]
    assert specs[0].id == specs[2].id != specs[1].id
    run(spared, tmp_path / "straight")
    job = Job(specs[1], run_folder(tmp_path / "stopped", "test", specs[1].id))
    runner = Runner(checkpoint_seconds=0)
    while not job.folder.result.exists():
        stop_now = iter([False, True])
        with contextlib.suppress(KeyboardInterrupt):
            runner(job, lambda event: None, functools.partial(next, stop_now))
    assert_same_run(only_run(tmp_path / "straight"), job.folder)
