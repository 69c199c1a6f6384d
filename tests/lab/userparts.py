"""A user's own model and loss, as an experiment refers to them. Environment variables make it slow, or deadly."""

import multiprocessing
import os
import random
import signal
import time

import torch
from torch import nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook


class Classifier(nn.Module):
    """Batch norm and dropout: running statistics and torch's own generator are part of what has to be resumed."""

    def __init__(self, hidden=24, shift=0.0):
        super().__init__()
        self.hidden = nn.Linear(64, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(hidden, 10)
        self.shift = shift

    def forward(self, x):
        time.sleep(float(os.environ.get("TEST_SLEEP", "0")))
        x = functional.relu(self.norm(self.hidden(x.flatten(1))))
        return self.out(self.dropout(x)) + self.shift


def build(hidden=24):
    in_worker = multiprocessing.parent_process() is not None
    if in_worker and "TEST_KILL_AT" in os.environ:
        _kill_at(int(os.environ["TEST_KILL_AT"]))
    return Classifier(hidden)


class Convolutional(nn.Module):
    """Two convolutions, one with batch norm, and dropout."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 5, 3, padding=1)
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(5, 10)

    def forward(self, x):
        time.sleep(float(os.environ.get("TEST_SLEEP", "0")))
        x = functional.relu(self.norm(self.conv1(x.view(-1, 1, 8, 8))))
        return self.out(self.dropout(functional.relu(self.conv2(x)).mean((2, 3))))


def build_convolutional():
    build()
    return Convolutional()


class Baked(Convolutional):
    """The number of its first channels stands in its code."""

    def forward(self, x):
        x = functional.relu(self.norm(self.conv1(x.view(-1, 1, 8, 8))))
        x = x.view(len(x), 2, 3, 8, 8).transpose(1, 2).reshape(len(x), 6, 8, 8)
        return self.out(functional.relu(self.conv2(x)).mean((2, 3)))


def build_baked():
    return Baked()


def build_deadly(hidden=24):
    """Takes its process down as soon as it is built."""
    os.kill(os.getpid(), signal.SIGKILL)


def build_broken():
    raise RuntimeError("this model cannot be built")


def build_leaving():
    raise SystemExit("no licence")


def build_constant():
    """Its own values are all a quarter."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(model[1].weight, 0.25)
    nn.init.constant_(model[1].bias, 0.5)
    return model


class Halving(nn.Module):
    """Changes its input in place."""

    def forward(self, x):
        return x.mul_(0.5)


def build_in_place():
    return nn.Sequential(Halving(), nn.Flatten(), nn.Linear(64, 10))


def not_a_module():
    return 3


def hinge(output, target):
    return functional.multi_margin_loss(output, target)


def per_example(output, target):
    return functional.cross_entropy(output, target, reduction="none")


def no_tensor(output, target):
    return 3.0


def build_pair():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)), x

    return Pair(64, 10)


def build_narrow():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, 3))


def diverging(output, target):
    return functional.cross_entropy(output, target) * torch.tensor(float("nan"))


def poisoned(output, target):
    """A finite value whose gradient is NaN: the square root of 0."""
    return functional.cross_entropy(output, target) + (output.sum() * 0.0).sqrt()


def overflowing(output, target):
    """A gradient that no float16 can hold, in every batch."""
    return functional.cross_entropy(output, target) + (output.float() - output.float().detach()).sum() * 1e30


def mean_rank(outputs, targets):
    """How many classes are above the right one, on average."""
    assert outputs.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    return ((outputs > outputs.gather(1, targets[:, None])).sum(dim=1)).double().mean()


def median_error(outputs, targets):
    return (outputs - targets).abs().median().item()


def median_error_loss(output, target):
    return (output - target).abs().median()


def no_number(outputs, targets):
    return outputs


def not_finite(outputs, targets):
    return float("nan")


def text(outputs, targets):
    return "good"


def _kill_at(last):
    steps = 0

    def count(*_):
        nonlocal steps
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(count)


def build_crashing(hidden=24):
    """With the probability that TEST_CRASHES says, this start of a run kills its process in one of the first twelve steps."""
    draw = random.SystemRandom()
    if draw.random() < float(os.environ.get("TEST_CRASHES", "0")):
        _kill_at(draw.randint(1, 12))
    return Classifier(hidden)
