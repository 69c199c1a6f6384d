"""The paper's networks, a training loop, and the reference computations of these tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask import Sparsifier


def fcn() -> nn.Sequential:
    """784-300-100-10 without biases."""
    return bare(784, 300, 100, 10)


def bare(*widths: int, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Linear layers without biases, ELU between them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(a, b, bias=False, dtype=dtype), nn.ELU()]
        return nn.Sequential(*layers[:-1])


def batch(model: nn.Sequential, step: int = 0) -> tuple[Tensor, Tensor]:
    """Sixteen inputs and labels that follow from the step, for a network of :func:`bare`."""
    first = model[0]
    assert isinstance(first, nn.Linear)
    last = model[-1]
    assert isinstance(last, nn.Linear)
    dtype = first.weight.dtype  # not the score's
    x = torch.randn(16, first.in_features, generator=torch.Generator().manual_seed(step), dtype=dtype)
    return x, torch.arange(16) % last.out_features


def train(s: Sparsifier, steps: int, *, first: int = 0, optimizer: torch.optim.Optimizer | None = None) -> None:
    """SGD with momentum and decay on batches by number."""
    if optimizer is None:
        optimizer = torch.optim.SGD(s.param_groups(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        s.bind(optimizer, total_steps=first + steps)
    for step in range(first, first + steps):
        optimizer.zero_grad()
        x, y = batch(s.model, step)  # type: ignore[arg-type]
        F.cross_entropy(s.model(x), y).backward()
        optimizer.step()


def forward(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """The network of :func:`bare`, from its weights."""
    for weight in weights[:-1]:
        x = F.elu(x @ weight.t())
    return x @ weights[-1].t()
