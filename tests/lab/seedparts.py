"""Models for tests of seeds that are trained as one batch."""

import multiprocessing
import os
import signal

import torch
from torch import nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook


class Normed(nn.Module):
    """Convolutions, one without batch norm, a tied pair and a bias. Smooth: at a kink, the last bit of a sum decides."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.conv3.weight = self.conv2.weight
        self.norm3 = nn.BatchNorm2d(4)
        self.out = nn.Linear(16, 10)

    def forward(self, x):
        x = functional.elu(self.norm1(self.conv1(x.view(-1, 1, 8, 8))))
        x = functional.elu(self.conv2(functional.avg_pool2d(x, 2)))
        return self.out(functional.elu(self.norm3(self.conv3(functional.avg_pool2d(x, 2)))).flatten(1))


class Counting(nn.Module):
    """Keeps a buffer that it replaces, not changes: the stacked pass cannot see it."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(64, 10)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen = self.seen + 1
        return self.out(x.flatten(1)) * (1 + 0.01 * self.seen)


class Reading(nn.Module):
    """Decides by a number that it reads from its weights."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        return self.out(x.flatten(1)) * (1.0 if self.out.bias.sum().item() > 0 else 2.0)


def normed():
    return Normed()


def counting():
    return Counting()


def reading():
    return Reading()


def dying():
    """A model beside which a worker process kills itself after so many steps of all optimizers together."""
    if multiprocessing.parent_process() is not None and "TEST_SEEDS_KILL_AT" in os.environ:
        _kill_at(int(os.environ.pop("TEST_SEEDS_KILL_AT")))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ELU(), nn.Linear(8, 10))


def _kill_at(steps):
    done = 0

    def count(*_):
        nonlocal done
        done += 1
        if done == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(count)
