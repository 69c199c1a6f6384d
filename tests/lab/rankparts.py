"""Models and losses for runs that several processes train together. Some of them do what they must not, by their rank."""

import os
import signal
import time

import torch
from torch import nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook

RANK = int(os.environ.get("RANK", "0"))
RESTARTS = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


class Exact(nn.Module):
    """Two convolutions in float64, the first with batch norm; one parameter that nothing depends on."""

    def __init__(self, norm=True, dropout=0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(6, 5, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(5, 10)
        self.unused = nn.Parameter(torch.ones(3))
        self.double()

    def forward(self, x):
        x = functional.relu(self.norm(self.conv1(x.double())))
        return self.out(self.dropout(functional.relu(self.conv2(x)).mean((2, 3))))


def build(norm=True, dropout=0.0):
    return Exact(norm, dropout)


def build_killed(dropout=0.2):
    """One process ends by kill -9 after some steps of its first start, where the test asks for it: TEST_KILL is "rank,step"."""
    rank, last = map(int, os.environ.get("TEST_KILL", "-1,0").split(","))
    if rank == RANK and RESTARTS == 0:
        _after(last, lambda: os.kill(os.getpid(), signal.SIGKILL))
    return Exact(dropout=dropout)


def build_hanging():
    """The second process sleeps for ever after three steps."""
    if RANK == 1:
        _after(3, lambda: time.sleep(1e6))
    return Exact()


def build_strange():
    """Another weight on the second rank, after two steps."""
    model = Exact()
    if RANK == 1:
        _after(2, lambda: model.conv1.weight.data.flatten()[0].add_(1.0))
    return model


def build_failing():
    if RANK == 1:
        raise RuntimeError("no model here")
    return Exact()


def failing_loss(output, target):
    """Fails on the second rank in its fourth step."""
    failing_loss.calls += 1
    if RANK == 1 and failing_loss.calls == 4:
        raise RuntimeError("no loss here")
    return functional.cross_entropy(output, target)


failing_loss.calls = 0


def exact_loss(output, target):
    return functional.cross_entropy(output, target)


def _after(last, act):
    steps = 0

    def count(*_):
        nonlocal steps
        steps += 1
        if steps == last:
            act()

    register_optimizer_step_post_hook(count)
