"""One training: what it computes, what it writes, and what seeds share."""

import copy
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from supermask import data, models
from supermask.core.arrays import load_arrays_and_metadata
from supermask.core.initialize import initialize
from supermask.core.masks import Masks
from supermask.lab import parts
from supermask.lab.plan import expand
from supermask.lab.result import save_weights
from supermask.lab.runner import Job, Runner
from supermask.lab.seeds import batch_order
from supermask.lab.store import read_json, read_metrics, run_folder
from supermask.lab.train import Trainer
from supermask.optim import SGDW, Exponential, Scheduler
from supermask.tensors.initializers import Initializer

from .helpers import experiment, only_run, run_here, timeless_metrics

DIGITS = data.load("digits")
SIGNED = {"name": "signed-supermask"}


def trainer(patch=None, seed=0):
    spec = expand(experiment(patch, vary={"seed": [seed]}))[0]
    return Trainer(spec.config(), seed, DIGITS, spec.folder, torch.device("cpu"), metrics=None)


def test_equals_a_loop_written_by_hand(tmp_path):
    patch = {
        "train.optimizer": {"name": "sgdw", "lr": 0.05, "weight_decay": 1e-3},
        "train.schedule": {"name": "exponential", "rate": 0.5, "every": 4},
    }
    run_here(patch, tmp_path)

    model = models.build("fcn", inputs=64, hidden=[16], classes=10)
    initialize(model, Initializer(distribution="uniform", rule="elu"), 0)
    optimizer = SGDW(model.parameters(), 0.05, weight_decay=1e-3)
    scheduler = Scheduler(optimizer, Exponential(rate=0.5, every=4))
    expected = []
    for epoch in (1, 2):
        losses = []
        for index in batch_order(0, epoch, 1437).split(256):
            loss = functional.cross_entropy(model(DIGITS.train.x[index]), DIGITS.train.y[index])
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert len(losses) == 6
        with torch.no_grad():
            output = model(DIGITS.test.x)
        accuracy = (output.argmax(1) == DIGITS.test.y).double().mean().item()
        test_loss = functional.cross_entropy(output, DIGITS.test.y).item()
        expected.append((sum(losses) / 6, test_loss, accuracy))

    run = only_run(tmp_path)
    found = [(m["train_loss"], m["test_loss"], m["test_accuracy"]) for m in read_metrics(run)]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    weights, _ = load_arrays_and_metadata(run.weights)
    assert list(weights) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(weights[name], value)


def test_what_a_run_leaves(tmp_path):
    events = []
    run_here({"method": SIGNED, "train.epochs": 3}, tmp_path, on_event=events.append)
    run = only_run(tmp_path)
    assert {path.name for path in run.path.iterdir()} == {
        "env.json", "lock", "masks.safetensors", "metrics.jsonl", "result.json", "spec.json", "story.safetensors",
        "weights.safetensors",
    }  # fmt: skip
    result = json.loads(run.result.read_text())
    metrics = read_metrics(run)
    masks = Masks.load(run.masks)
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    assert [line["step"] for line in metrics] == [6, 12, 18]
    assert result["steps"] == 18
    assert result["counts"]["weights_total"] == result["counts"]["weights_targeted"] == 64 * 16 + 16 * 10
    assert result["counts"]["weights_remaining"] == masks.remaining() == metrics[-1]["remaining"]
    layer = result["counts"]["layers"][0]
    assert layer["name"] == "fc1.weight"
    assert layer["shape"] == [16, 64]
    assert layer["keep"] + layer["invert"] == layer["remaining"] < layer["size"]
    assert result["bytes"]["dense_float32"] == 4 * result["counts"]["weights_total"]
    assert result["seconds"]["total"] >= result["seconds"]["train"] > 0
    assert result["memory"]["peak_rss"] > 10**7
    assert [event.kind for event in events] == ["started", "epoch", "epoch", "epoch", "done"]
    assert events[-1].accuracy == result["accuracy"]["last"]
    weights, _ = load_arrays_and_metadata(run.weights)
    assert torch.equal(weights["fc1.weight"] != 0, masks["fc1.weight"])
    start = json.loads(run.env.read_text())["starts"][0]
    assert start["torch"] == torch.__version__
    assert start["data"] == {"name": "digits", "checksum": DIGITS.checksum}


def test_last_and_best_accuracy_are_kept_apart(tmp_path):
    run_here({"train.epochs": 3, "train.optimizer.lr": 1.0}, tmp_path)
    run = only_run(tmp_path)
    curve = [line["test_accuracy"] for line in read_metrics(run)]
    accuracy = json.loads(run.result.read_text())["accuracy"]
    assert accuracy["last"] == curve[-1]
    assert accuracy["best"] == max(curve) > curve[-1], "choose settings whose best epoch is not the last"
    assert accuracy["best_epoch"] == curve.index(max(curve)) + 1
    assert [accuracy[f"validation{key}"] for key in ("", "_epoch", "_selected")] == [None, None, None]


def test_validation_split_end_to_end(tmp_path):
    patch = {"data.validation": 300, "train.epochs": 4, "train.optimizer.lr": 0.3}
    run_here(patch, tmp_path)
    run = only_run(tmp_path)
    metrics, result = read_metrics(run), json.loads(run.result.read_text())
    assert (result["n_train"], result["n_validation"], result["n_test"]) == (1137, 300, 360)
    assert result["steps"] == 4 * 5
    held_out = [line["validation_accuracy"] for line in metrics]
    assert all(round(value * 300) / 300 == value for value in held_out)
    accuracy = result["accuracy"]
    assert accuracy["validation"] == held_out[-1]
    assert accuracy["validation_epoch"] == held_out.index(max(held_out)) + 1
    assert accuracy["validation_selected"] == metrics[accuracy["validation_epoch"] - 1]["test_accuracy"]
    model = models.build("fcn", inputs=64, hidden=[16], classes=10)
    model.load_state_dict(load_arrays_and_metadata(run.weights)[0])
    validation = data.load("digits", validation=300).validation
    with torch.no_grad():
        output = model(validation.x)
    assert metrics[-1]["validation_loss"] == pytest.approx(functional.cross_entropy(output, validation.y).item())
    assert held_out[-1] == (output.argmax(1) == validation.y).double().mean().item()


def test_without_a_validation_split_its_metrics_are_null(tmp_path):
    run_here({}, tmp_path)
    run = only_run(tmp_path)
    assert all(line["validation_loss"] is None and line["validation_accuracy"] is None for line in read_metrics(run))
    assert json.loads(run.result.read_text())["n_validation"] == 0


def test_validation_takes_part_in_the_run_id_only_when_it_is_used():
    def run_id(patch):
        return expand(experiment(patch))[0].id

    assert run_id({"data.validation": 0}) == run_id({})
    assert len({run_id({}), run_id({"data.validation": 10}), run_id({"data.validation": 20})}) == 3


def test_a_validation_split_that_leaves_nothing_to_train_on(tmp_path):
    (event,) = run_here({"data.validation": 1437}, tmp_path).failed
    assert event.message == (
        "data.validation must leave images to train on: got 1437, but there are 1437 training images"
    )


def test_plateau_rule_stops_early(tmp_path):
    patch = {
        "train.epochs": 60,
        "train.shuffle": False,
        "train.optimizer.lr": 1e-12,
        "train.schedule": {
            "name": "plateau", "factor": 0.1, "patience": 3, "max_cuts": 2, "cooldown": 1, "start": 2, "reset_wait": True
        },
    }  # fmt: skip
    run_here(patch, tmp_path)
    run = only_run(tmp_path)
    rates = [line["lr"] for line in read_metrics(run)]
    assert json.loads(run.result.read_text())["epochs"] == len(rates) < 60
    assert rates[0] == 1e-12
    assert rates[-1] == pytest.approx(1e-13)


def seen_by(patch, seed=0, epochs=(1, 2)):
    """The labels of every batch, in order."""
    made = trainer(patch, seed)
    batches = []
    for epoch in epochs:
        order = made._order(epoch)
        batches += [made._load(order, batch, epoch)[1] for batch in range(made.batches)]
    return batches


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_methods_at_one_seed_see_the_same_batches_and_start_alike():
    dense, signed = trainer(), trainer({"method": SIGNED})
    assert same(seen_by({}), seen_by({"method": SIGNED}))
    assert same(seen_by({}), seen_by({"model.hidden": [5]}))
    assert not same(seen_by({}), seen_by({}, seed=1))
    random = trainer({"method": {"name": "random"}})
    for left, right in zip(dense.sparsifier.targets, random.sparsifier.targets, strict=True):
        assert torch.equal(left.weight * right.mask, right.weight)
    assert not torch.equal(dense.sparsifier.targets[0].weight, signed.sparsifier.targets[0].weight)


def test_orders():
    last = seen_by({}, epochs=[1])[-1]
    assert len(last) == 1437 - 5 * 256
    assert not same(seen_by({}, epochs=[1]), seen_by({}, epochs=[2]))
    assert same(seen_by({"train.shuffle": "once"}, epochs=[1]), seen_by({"train.shuffle": "once"}, epochs=[2]))
    assert not same(seen_by({"train.shuffle": "once"}, epochs=[1]), seen_by({"train.shuffle": False}, epochs=[1]))
    assert torch.equal(torch.cat(seen_by({"train.shuffle": False}, epochs=[2])), DIGITS.train.y)
    assert torch.equal(torch.cat(seen_by({}, epochs=[1])).sort()[0], DIGITS.train.y.sort()[0])


def test_shared_order_is_that_of_seed_0():
    shared = {"train.data_order": "shared"}
    assert same(seen_by(shared, seed=5), seen_by(shared, seed=6))
    assert same(seen_by(shared, seed=5), seen_by({}, seed=0))


def test_augmentation_depends_on_seed_epoch_and_batch_only():
    patch = {"data.augment": {"padding": 1}}
    one, two = trainer(patch), trainer(patch)
    order = one._order(1)
    two._load(order, 3, 1)
    x = one._load(order, 0, 1)[0]
    assert torch.equal(x, two._load(order, 0, 1)[0])
    assert not torch.equal(x, DIGITS.train.x[order[:256]])
    assert not torch.equal(x, two._load(order, 0, 2)[0])


def test_the_size_of_test_batches_does_not_matter():
    first, second = trainer(), trainer({"train.eval_batch_size": 7})
    assert first.evaluate(DIGITS.test)[:2] == pytest.approx(second.evaluate(DIGITS.test)[:2], rel=1e-6)


def test_the_five_likeliest_classes_count_where_there_are_more_than_ten():
    assert trainer().evaluate(DIGITS.test).top5 is None, "ten classes"
    many = replace(DIGITS, classes=tuple(f"class {number}" for number in range(12)))
    spec = expand(experiment({"model.classes": 12}))[0]
    made = Trainer(spec.config(), 0, many, spec.folder, torch.device("cpu"), metrics=None)
    found = made.evaluate(many.test)
    with torch.no_grad():
        ranks = made.model(many.test.x).argsort(dim=1, descending=True)
    hits = [(ranks[:, :n] == many.test.y[:, None]).any(dim=1).double().mean().item() for n in (1, 5)]
    assert found[1:] == pytest.approx(hits, abs=1e-12)
    assert 0 < found.metric < found.top5 < 1


def test_the_top_five_accuracy_of_the_last_epoch_is_in_the_result(tmp_path):
    images = np.random.default_rng(0).random((480, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(480) % 12)
    own = {"name": "npz", "file": str(tmp_path / "own.npz"), "layout": "NHW", "normalize": "none"}
    run_here({"data": own, "model.classes": 12}, tmp_path / "runs")
    run = only_run(tmp_path / "runs")
    line, result = read_metrics(run)[-1], read_json(run.result)
    assert line["test_accuracy"] < line["test_accuracy_top5"] == result["accuracy_top5"] <= 1


def test_runs_without_a_trace_in_the_global_generator(tmp_path):
    state = torch.get_rng_state()
    run_here({"model": {"name": "userparts:build"}}, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_own_initialisation_can_be_kept():
    left, right = (trainer({"init.keep": True}, seed).model.fc1.weight for seed in (0, 1))
    assert not torch.equal(left, right)
    again = trainer({"init.keep": True}).model.fc1.weight
    assert torch.equal(left, again)
    assert not torch.equal(left, trainer().model.fc1.weight)


def test_an_own_model_keeps_its_values_unless_init_says_what_to_draw():
    own = {"model": {"name": "userparts:build_constant"}}
    kept = trainer(own).model[1]
    assert (kept.weight == 0.25).all()
    assert (kept.bias == 0.5).all()
    for init in ({"init.rule": "elu"}, {"init.distribution": "normal"}, {"init.keep": False}):
        drawn = trainer(own | init).model[1]
        assert (drawn.weight != 0.25).all()
        assert (drawn.bias == 0).all()


def test_an_own_model_draws_from_the_seed():
    own = {"model": {"name": "userparts:build"}}
    first, again, kept = (trainer(own | extra).model.hidden.weight for extra in ({}, {}, {"init.keep": True}))
    assert torch.equal(first, again)
    assert torch.equal(first, kept)
    assert not torch.equal(first, trainer(own, 1).model.hidden.weight)


def test_initial_weights_and_scores_from_files(tmp_path):
    drawn = trainer({"method": SIGNED}).sparsifier.targets
    from supermask.core.arrays import save_arrays

    save_arrays(tmp_path / "w.npz", {target.name: target.dense for target in drawn})
    save_arrays(tmp_path / "s.npz", {target.name: target.score.detach() for target in drawn})
    patch = {"method": SIGNED, "train.epochs": 1}
    run_here(patch, tmp_path / "drawn")
    files = {"init.weights": str(tmp_path / "w.npz"), "init.scores": str(tmp_path / "s.npz")}
    run_here(patch | files, tmp_path / "given")
    drawn_run, given_run = only_run(tmp_path / "drawn"), only_run(tmp_path / "given")
    assert timeless_metrics(drawn_run) == timeless_metrics(given_run)
    assert drawn_run.weights.read_bytes() == given_run.weights.read_bytes()


def test_own_model_and_loss(tmp_path):
    patch = {"model": {"name": "userparts:build", "hidden": 12}, "train.loss": "userparts:hinge"}
    outcome = run_here(patch, tmp_path)
    assert len(outcome.done) == 1
    weights, _ = load_arrays_and_metadata(only_run(tmp_path).weights)
    assert weights["hidden.weight"].shape == (12, 64)


def test_squared_error_is_to_one_hot_labels():
    loss = parts.build_loss("mse", folder=None)
    output = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert loss(output, torch.tensor([1, 0])) == pytest.approx(0.25)


def test_a_model_that_is_no_module(tmp_path):
    outcome = run_here({"model": {"name": "userparts:not_a_module"}}, tmp_path)
    assert "userparts:not_a_module must return a torch.nn.Module, got int" in outcome.failed[0].message


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"model.classes": 5}, "the model gives 5 outputs, but digits has 10 classes: set model.classes"),
        ({"model.classes": 5, "train.loss": "mse"}, "the model gives 5 outputs, but digits has 10 classes"),
        ({"model": {"name": "userparts:build_narrow"}}, "the model gives 3 outputs, .*: its last layer needs one for each"),
        ({"model": {"name": "userparts:build_pair"}}, r"must return a tensor of shape \(2, 10\) for two images, got tuple"),
        ({"model.inputs": 784}, r"the model fcn does not take images of shape \(1, 8, 8\) from digits \(.*64"),
        ({"model": {"name": "conv2"}}, r"the model conv2 does not take images of shape \(1, 8, 8\) from digits \("),
        ({"train.loss": "userparts:per_example"}, r"train\.loss must return one number, got shape \(256,\)"),
        ({"train.loss": "userparts:no_tensor"}, r"train\.loss must return one number, got float"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_together(patch, message, tmp_path):
    (event,) = run_here(patch, tmp_path).failed
    assert re.search(message, event.message)
    assert "Error: " not in event.message


def test_the_check_of_the_fit_leaves_no_trace():
    spec = expand(experiment({"model": {"name": "userparts:build"}}))[0]
    config = spec.config()
    model = parts.build_model(config, 0, spec.folder, torch.device("cpu"))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    parts.check_fit(config, model, DIGITS, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_divergence_is_a_failure(tmp_path):
    outcome = run_here({"train.loss": "userparts:diverging"}, tmp_path)
    (event,) = outcome.failed
    assert event.message.startswith("the training loss is nan in epoch 1: training diverged; lower train.optimizer.lr")
    run = only_run(tmp_path)
    assert json.loads(run.failed.read_text())["error"] == event.message
    assert not run.result.exists()


def test_divergence_leaves_the_last_good_checkpoint(tmp_path):
    run_here({"train.loss": "userparts:diverging"}, tmp_path, checkpoint_seconds=0)
    assert not only_run(tmp_path).checkpoint.exists()


def test_progress_is_told_at_most_twice_a_second(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_SLEEP", "0.05")
    events = []
    patch = {"model": {"name": "userparts:build"}, "train.epochs": 1, "train.batch_size": 64}
    run_here(patch, tmp_path, on_event=events.append)
    progress = [event for event in events if event.kind == "progress"]
    assert 1 <= len(progress) <= 3
    assert all(math.isfinite(event.loss) and 1 <= event.batch <= 23 and event.batches == 23 for event in progress)


def test_tied_weights_are_saved_once(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    save_weights(tmp_path / "w.safetensors", model)
    arrays, metadata = load_arrays_and_metadata(tmp_path / "w.safetensors")
    assert list(arrays) == ["0.weight"]
    assert json.loads(metadata["aliases"]) == {"1.weight": "0.weight"}


def test_tested_every_few_epochs_and_after_the_last(tmp_path):
    run_here({"train.epochs": 5, "train.test_every": 2, "data.validation": 100}, tmp_path / "few")
    run_here({"train.epochs": 5, "data.validation": 100}, tmp_path / "all")
    few, every = read_metrics(only_run(tmp_path / "few")), read_metrics(only_run(tmp_path / "all"))
    for line, full in zip(few, every, strict=True):
        assert line["train_loss"] == full["train_loss"]
        for key in ("test_loss", "test_accuracy", "test_metric", "validation_loss", "validation_accuracy"):
            assert line[key] == (full[key] if line["epoch"] in (2, 4, 5) else None)
    result = read_json(only_run(tmp_path / "few").result)
    assert result["accuracy"]["last"] == every[-1]["test_accuracy"]
    assert result["accuracy"]["best_epoch"] in (2, 4, 5)
    assert result["accuracy"]["validation_epoch"] in (2, 4, 5)


@pytest.mark.parametrize("shuffle", [False, True, "once"])
def test_a_model_that_changes_its_input_does_not_change_the_data(shuffle, tmp_path):
    """Batches in the order of the data, and all those of tests, are views of what later runs get."""
    patch = {"model": {"name": "userparts:build_in_place"}, "train.shuffle": shuffle, "data.validation": 100}
    specs = expand(experiment(patch, vary={"seed": 2}))
    runner = Runner()
    data = runner.load(specs[0].config().data, specs[0])
    splits = (data.train, data.test, data.validation)
    before = [split.x.clone() for split in splits]
    events = []
    for spec in specs:
        runner(Job(spec, run_folder(tmp_path, "test", spec.id)), events.append, lambda: False)
    assert [event.kind for event in events].count("done") == 2
    assert runner.load(specs[0].config().data, specs[0]) is data
    for split, x in zip(splits, before, strict=True):
        assert torch.equal(split.x, x)
