"""Mixed precision, clipping, several passes an epoch, and what happens when numbers are no longer finite."""

import copy
import dataclasses
import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional

from supermask import data
from supermask.core.arrays import load_arrays_and_metadata
from supermask.core.method import Method
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.seeds import batch_order
from supermask.lab.store import read_metrics
from supermask.lab.train import Trainer

from .helpers import assert_same_run, experiment, only_run, run_here

DIGITS = data.load("digits")
CPU = torch.device("cpu")
SIGNED = {"name": "signed-supermask"}


def started(patch, tmp_path, method=None):
    """A trainer before its first step."""
    spec = expand(experiment(patch))[0]
    config = spec.config() if method is None else dataclasses.replace(spec.config(), method=method)
    made = Trainer(config, 0, DIGITS, spec.folder, CPU, MetricsFile(tmp_path / "metrics.jsonl"))
    made._start_round()
    return made


def first_gradients(made):
    """A copy of the model and the loss's gradients on the first batch."""
    x, y = made._load(made._order(1), 0, 1)
    model = copy.deepcopy(made.model)
    functional.cross_entropy(model(x), y).backward()
    return model, [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("over", ["all", "tensor"])
def test_clipping_by_hand(over, tmp_path):
    made = started(
        {"train.optimizer": {"name": "sgd", "lr": 0.5}, "train.clip": {"norm": 0.05, "over": over}}, tmp_path
    )
    model, gradients = first_gradients(made)
    norms = [gradient.norm() for gradient in gradients]
    total = torch.stack(norms).square().sum().sqrt()
    assert len(norms) == 2
    assert all(norm > 0.05 for norm in norms)
    made._step(*made._load(made._order(1), 0, 1))
    for now, before, gradient, norm in zip(made.model.parameters(), model.parameters(), gradients, norms, strict=True):
        clipped = gradient * (0.05 / ((total if over == "all" else norm) + 1e-6))
        torch.testing.assert_close(now, before - 0.5 * clipped, rtol=1e-5, atol=1e-7)


def test_gradients_below_the_norm_are_left_alone(tmp_path):
    run_here({}, tmp_path / "off")
    for over in ("all", "tensor"):
        run_here({"train.clip": {"norm": 1e6, "over": over}}, tmp_path / over)
        run = only_run(tmp_path / over)
        assert run.weights.read_bytes() == only_run(tmp_path / "off").weights.read_bytes()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("clip", [None, {"norm": 0.05}])
def test_precision_equals_a_loop_written_by_hand(precision, clip, tmp_path):
    made = started({"train.precision": precision, "train.clip": clip, "method": SIGNED}, tmp_path)
    theirs = started({"method": SIGNED}, tmp_path)
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "float16")
    theirs.optimizer = torch.optim.SGD(theirs.model.parameters(), lr=0.05, momentum=0.9, fused=False)
    theirs.sparsifier.bind(theirs.optimizer, total_steps=12)
    losses = []
    for index in batch_order(0, 1, 1437).split(256):
        with torch.autocast("cpu", dtype):
            output = theirs.model(DIGITS.train.x[index])
            loss = functional.cross_entropy(output, DIGITS.train.y[index])
        assert output.dtype == dtype
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(theirs.optimizer)
            torch.nn.utils.clip_grad_norm_(theirs.model.parameters(), 0.05)
        scaler.step(theirs.optimizer)
        scaler.update()
        theirs.optimizer.zero_grad()
        losses.append(loss.item())
    made._train_epoch()
    assert made.mean_loss() == pytest.approx(sum(losses) / 6, rel=1e-6)
    for ours, other in zip(made.model.parameters(), theirs.model.parameters(), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-7)
    if precision == "float16":
        assert made.sparsifier.step < 6, "choose settings whose first steps are left out"


def test_a_run_says_its_precision(tmp_path):
    run_here({"train.precision": "bfloat16", "train.epochs": 6}, tmp_path)
    result = json.loads(only_run(tmp_path).result.read_text())
    assert result["precision"] == "bfloat16"
    assert result["accuracy"]["last"] > 0.8
    weights, _ = load_arrays_and_metadata(only_run(tmp_path).weights)
    assert all(weight.dtype == torch.float32 for weight in weights.values())


def test_a_step_that_is_left_out_moves_nothing(tmp_path):
    patch = {"train.precision": "float16", "method": SIGNED, "train.schedule": {"name": "cosine"}}
    made = started(patch, tmp_path)
    made.scaler.load_state_dict(made.scaler.state_dict() | {"scale": 2.0**60})
    before = copy.deepcopy(made.model.state_dict())
    made._step(*made._load(made._order(1), 0, 1))
    assert made.scaler.get_scale() == 2.0**59
    assert made.sparsifier.step == made.schedule.steps == 0
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, before[name])
    made.scaler.load_state_dict(made.scaler.state_dict() | {"scale": 2.0**10})
    made._step(*made._load(made._order(1), 1, 1))
    assert made.sparsifier.step == made.schedule.steps == 1


@dataclass(frozen=True, kw_only=True)
class Tracked(Method):
    """Masks half of each target, but trains as if it did not."""

    name: ClassVar[str] = "tracked"

    def setup(self, s):
        for target in s.targets:
            mask = torch.arange(target.size).reshape(target.shape) % 2 == 0
            s.install_mask(target, mask, applied=False)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_testing_in_mixed_precision_sees_the_finalized_model(precision, tmp_path):
    patch = {"train.precision": precision}
    made, untested = started(patch, tmp_path, Tracked()), started(patch, tmp_path, Tracked())
    for trainer in (made, untested):
        trainer._train_epoch()
    found = made.evaluate(DIGITS.test)
    for trainer in (made, untested):
        trainer.epoch, trainer.batch = 2, 0
        trainer._train_epoch()
    for tested, other in zip(made.model.parameters(), untested.model.parameters(), strict=True):
        assert torch.equal(tested, other), "testing leaves no trace in training"
    assert made.evaluate(DIGITS.test) != found
    expected = made.evaluate(DIGITS.test)
    made.sparsifier.finalize()
    assert all((parameter == 0).float().mean() == 0.5 for parameter in made.model.parameters())
    with torch.no_grad(), torch.autocast("cpu", {"bfloat16": torch.bfloat16, "float16": torch.float16}[precision]):
        output = made.model(DIGITS.test.x)
        loss = functional.cross_entropy(output, DIGITS.test.y)
    assert expected[:2] == (pytest.approx(loss.item()), (output.argmax(1) == DIGITS.test.y).double().mean().item())


def test_passes_are_epochs_that_are_not_tested(tmp_path):
    common = {"data.augment": {"padding": 1}, "train.schedule": {"name": "cosine"}, "method": SIGNED}
    run_here(common | {"train.epochs": 6}, tmp_path / "epochs")
    run_here(common | {"train.epochs": 2, "train.passes": 3}, tmp_path / "passes")
    one, many = only_run(tmp_path / "epochs"), only_run(tmp_path / "passes")
    assert one.weights.read_bytes() == many.weights.read_bytes()
    losses = [line["train_loss"] for line in read_metrics(one)]
    lines = read_metrics(many)
    assert [line["step"] for line in lines] == [18, 36]
    assert [line["train_loss"] for line in lines] == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3])
    assert [line["test_loss"] for line in lines] == [read_metrics(one)[index]["test_loss"] for index in (2, 5)]


def test_passes_in_one_order(tmp_path):
    made = started({"train.shuffle": "once", "train.passes": 2, "train.epochs": 1}, tmp_path)
    assert torch.equal(made._order(1), made._order(2))
    assert made.batches == 12


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_scores_that_are_not_finite(seconds, tmp_path):
    (event,) = run_here(
        {"train.loss": "userparts:poisoned", "method": SIGNED}, tmp_path, checkpoint_seconds=seconds
    ).failed
    assert event.message == (
        "the score of fc1.weight holds numbers that are not finite in epoch 1: training diverged; lower "
        "train.optimizer.lr, or set train.clip"
    )
    run = only_run(tmp_path)
    assert not run.checkpoint.exists()
    assert read_metrics(run) == []


def test_tensors_beside_the_targets_are_looked_at(tmp_path):
    made = started({"model": {"name": "userparts:build"}}, tmp_path)
    assert made.check_finite() == 0.0
    with torch.no_grad():
        made.model.norm.bias[3] = float("-inf")
    with pytest.raises(Exception, match=r"^norm\.bias holds numbers that are not finite in epoch 1"):
        made.check_finite()


def test_gradients_that_no_float16_can_hold(tmp_path):
    patch = {"train.loss": "userparts:overflowing", "train.precision": "float16", "train.batch_size": 16}
    (event,) = run_here(patch, tmp_path).failed
    assert event.message == (
        "the gradients of epoch 1 are not finite in float16, however small the loss is scaled; set train.precision to "
        "bfloat16 or float32, or lower train.optimizer.lr"
    )


def test_runs_with_everything_are_repeated_bitwise(tmp_path):
    patch = {
        "train.precision": "float16", "train.clip": {"norm": 0.5}, "train.passes": 2, "data.validation": 100,
        "train.schedule": {"name": "warm-up", "steps": 5, "then": {"name": "cosine"}}, "method": SIGNED,
    }  # fmt: skip
    for name in ("first", "second"):
        run_here(patch, tmp_path / name)
    assert_same_run(only_run(tmp_path / "first"), only_run(tmp_path / "second"))


def test_a_warm_up_that_leaves_no_step(tmp_path):
    """Of data of one's own it is known when they are read."""
    np.savez(tmp_path / "own.npz", images=np.zeros((40, 8, 8), np.float32), labels=np.arange(40) % 10)
    own = {"data": {"name": "npz", "file": str(tmp_path / "own.npz"), "test_fraction": 0.5}, "train.batch_size": 10}
    patch = own | {"train.schedule": {"name": "warm-up", "steps": 4, "then": {"name": "cosine"}}}
    (event,) = run_here(patch, tmp_path / "runs").failed
    assert "steps of the warm-up must be below those of the training, got 4 of 4" in event.message


MAGNITUDE = {"name": "magnitude", "density": 0.25, "begin": 0.2, "end": 1.0, "every": 4, "scope": "global"}


@pytest.mark.parametrize("method", [MAGNITUDE, MAGNITUDE | {"schedule": "one-shot", "begin": 0.99}])
def test_a_density_is_reached_though_steps_were_left_out(method, tmp_path, monkeypatch):
    """The last event is done before the last test, so that the tested model is the one that is left."""
    made = started({"train.precision": "float16", "method": method}, tmp_path)
    made.scaler.load_state_dict(made.scaler.state_dict() | {"scale": 2.0**20})
    monkeypatch.setattr(made, "_start_round", lambda: None)
    counts = []
    made.on_epoch = lambda line: counts.append((made.sparsifier.step, line["remaining"]))
    masks = made.run()
    size = 64 * 16 + 16 * 10
    assert 0 < counts[0][0] < 6, "choose settings whose first steps are left out"
    assert counts[1] == (12, size // 4)
    assert masks.remaining() == size // 4


def test_catching_up_after_a_whole_training_does_nothing(tmp_path):
    made = started({"method": MAGNITUDE}, tmp_path)
    made._train_epoch()
    made.epoch, made.batch = 2, 0
    made._train_epoch()
    before = copy.deepcopy(made.model.state_dict())
    made.sparsifier.catch_up()
    assert made.sparsifier.step == 12
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, before[name])
