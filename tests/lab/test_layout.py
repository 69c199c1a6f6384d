"""Training with the channels innermost: other memory, the same numbers up to rounding."""

import pytest
import torch
from torch import nn

from supermask import data
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.result import describe_setting
from supermask.lab.train import Trainer

from .helpers import experiment
from .test_resume import built_in_methods, section, stop_at_every_step
from .userparts import build_convolutional

DIGITS = data.load("digits")
CONVOLUTIONAL = {"model": {"name": "userparts:build_convolutional"}, "train.epochs": 3, "train.batch_size": 400}
LAST = {"train.channels_last": True}


def trainer(patch, folder):
    """One before its first step."""
    folder.mkdir()
    spec = expand(experiment(patch))[0]
    made = Trainer(spec.config(), 0, DIGITS, spec.folder, torch.device("cpu"), MetricsFile(folder / "metrics.jsonl"))
    made._start_round()
    return made


@pytest.mark.parametrize("name", built_in_methods())
def test_the_same_numbers(name, tmp_path):
    own = CONVOLUTIONAL | {"method": section(name, tmp_path / "files", build_convolutional)}
    usual, other = trainer(own, tmp_path / "usual"), trainer(own | LAST, tmp_path / "other")
    for (_, left), (_, right) in zip(usual.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert torch.equal(left, right)
        assert right.dim() != 4 or right.is_contiguous(memory_format=torch.channels_last)
    losses = []
    for made in (usual, other):
        torch.manual_seed(0)  # of the dropout
        order = made._order(1)
        losses.append([made._step(*made._load(order, batch, 1)).item() for batch in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for (key, left), (_, right) in zip(usual.model.named_parameters(), other.model.named_parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def test_convolutions_hand_it_on(tmp_path):
    """A model gets its images as they are, and what its convolutions give has the other format."""
    made = trainer(CONVOLUTIONAL | LAST, tmp_path / "run")
    seen = []
    convolutions = [module for module in made.model.modules() if isinstance(module, nn.Conv2d)]
    convolutions[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    made.model(made._load(made._order(1), 0, 1)[0])
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert not seen[0].is_contiguous()


@pytest.mark.parametrize("name", ["signed-supermask", "maskconvnet", "rigl"])
def test_stopped_at_every_step(name, tmp_path):
    stop_at_every_step(CONVOLUTIONAL | LAST | {"method": {"name": name}}, tmp_path)


def test_times_are_compared_within_one_format():
    usual, other = (expand(experiment(CONVOLUTIONAL | patch))[0] for patch in ({}, LAST))
    told = [describe_setting(spec, spec.config())["conditions"] for spec in (usual, other)]
    assert "channels_last" not in told[0]
    assert told[1] == told[0] | {"channels_last": True}
    assert usual.id != other.id
