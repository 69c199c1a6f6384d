"""Small models and methods that only these tests know (none is registered)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask import Method, Sparsifier
from supermask.core.channels import meet_budget
from supermask.core.method import check_choice, check_density, check_range
from supermask.core.select import masks_by_score
from supermask.tensors.philox import Stream


def mlp(seed: int = 0) -> nn.Sequential:
    """12-16-4, with values that do not depend on what was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 16), nn.ELU(), nn.Linear(16, 4))


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers from an own generator."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loss_of(model: nn.Module, step: int = 0) -> Tensor:
    """Cross-entropy of an :func:`mlp` on a batch that follows from the step."""
    dtype = next(model.parameters()).dtype
    return F.cross_entropy(model(noise(8, 12, seed=step).to(dtype)), torch.arange(8) % 4)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    """The user's own loop."""
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def sgd(s: Sparsifier, total_steps: int = 8, **options: float) -> torch.optim.SGD:
    """Plain SGD, bound."""
    optimizer = torch.optim.SGD(s.param_groups(), **{"lr": 0.1, **options})
    s.bind(optimizer, total_steps=total_steps)
    return optimizer


def half(shape: torch.Size) -> Tensor:
    """A mask of every second entry, the first one hidden."""
    return (torch.arange(math.prod(shape)) % 2 == 1).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class Sound(Method):
    """A random mask; keeps every rule, and is what the broken methods are made from."""

    name: ClassVar[str] = "test-sound"

    density: float = 0.5

    def __post_init__(self) -> None:
        check_density(self.name, self.density)

    def setup(self, s: Sparsifier) -> None:
        scores = [
            torch.from_numpy(Stream(s.seed, "m", t.name).uniform(t.size)).reshape(t.shape).to(t.parameter)
            for t in s.targets
        ]
        for target, mask in zip(s.targets, masks_by_score(s.targets, scores, self.density, "global"), strict=True):
            s.install_mask(target, mask)


@dataclass(frozen=True, kw_only=True)
class Penalised(Method):
    """Half a mask, and ``strength / 2 * sum(weight**2)`` as a penalty."""

    name: ClassVar[str] = "test-penalised"

    strength: float = 0.5

    def __post_init__(self) -> None:
        check_range(self.name, "strength", self.strength, 0.0, 10.0)

    def setup(self, s: Sparsifier) -> None:
        for target in s.targets:
            s.install_mask(target, half(target.shape))

    def penalty(self, s: Sparsifier) -> Tensor:
        return torch.stack([target.weight.square().sum() for target in s.targets]).sum() * (self.strength / 2)


@dataclass(frozen=True, kw_only=True)
class DenseGradient(Method):
    """Half a mask whose hidden weights get a gradient; remembers what before_step saw."""

    name: ClassVar[str] = "test-dense-gradient"

    def setup(self, s: Sparsifier) -> None:
        for target in s.targets:
            s.install_mask(target, half(target.shape), dense_grad=True)

    def before_step(self, s: Sparsifier) -> None:
        for target in s.targets:
            gradient = target.parameter.grad
            assert gradient is not None
            s.state[target.name] = gradient.clone()


@dataclass(frozen=True, kw_only=True)
class Tracked(Method):
    """A mask that is only tracked: the largest half of the present weights."""

    name: ClassVar[str] = "test-tracked"

    def setup(self, s: Sparsifier) -> None:
        for target in s.targets:
            s.install_mask(target, half(target.shape), applied=False)

    def after_step(self, s: Sparsifier) -> None:
        for target in s.targets:
            s.set_mask(target, target.dense.abs() > target.dense.abs().median())


@dataclass(frozen=True, kw_only=True)
class TwoRounds(Method):
    """Trains densely, then prunes half of each layer and rewinds the rest to the start."""

    name: ClassVar[str] = "test-two-rounds"

    def setup(self, s: Sparsifier) -> None:
        for target in s.targets:
            s.install_mask(target)
            s.state[target.name] = target.dense.detach().clone()

    def next_round(self, s: Sparsifier) -> bool:
        if s.round == 1:
            return False
        for target in s.targets:
            target.parameter.copy_(s.state[target.name])
            s.set_mask(target, half(target.shape))
        return True


@dataclass(frozen=True, kw_only=True)
class Cut(Method):
    """Masks on whole channels; at the last step the budget is met by removing the first channels."""

    name: ClassVar[str] = "test-cut"
    needs_structure: ClassVar[bool] = True

    residual: str = "inner"
    budget: Mapping[str, float] = field(default_factory=lambda: {"macs": 0.6}, hash=False)

    def __post_init__(self) -> None:
        check_choice(self.name, "residual", self.residual, ("inner", "shared"))

    def setup(self, s: Sparsifier) -> None:
        for target in s.targets:
            s.install_mask(target)

    def after_step(self, s: Sparsifier) -> None:
        if s.step == s.total_steps:
            meet_budget(s, self.budget, ranks(s), project=True)


def ranks(s: Sparsifier) -> dict[str, Tensor]:
    """Later channels are better."""
    return {g.name: torch.arange(g.channels) * 1.0 for g in s.groups}
