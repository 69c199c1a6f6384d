"""The small models that the conformance suite runs every method on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supermask.core.initialize import initialize
from supermask.tensors.initializers import Initializer
from supermask.tensors.philox import Stream

CLASSES = 4
PER_CLASS = (6, 5, 3, 2)  # unequal: with balanced classes and zero biases, gradients of the biases can cancel
BATCH = sum(PER_CLASS)


class ConvNet(nn.Module):
    """Two convolutions with batch norm and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2, 6, 6) -> (batch, classes)."""
        x = F.elu(self.bn1(self.conv1(x)))
        x = F.elu(self.bn2(self.conv2(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class ResidualNet(nn.Module):
    """A residual block, two inner convolutions of which one has no batch norm, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 5, 1)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2, 6, 6) -> (batch, classes)."""
        x = F.elu(self.bn(self.stem(x)))
        x = F.elu(x + self.bn2(self.conv2(F.elu(self.bn1(self.conv1(x))))))
        return self.head(F.elu(self.last(x)).mean((2, 3)))  # type: ignore[no-any-return]


class TiedNet(nn.Module):
    """Two pairs of tied weights: linear with linear, and linear with an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 12)
        self.first = nn.Linear(12, 12)
        self.second = nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.decoder = nn.Linear(12, 10, bias=False)
        self.decoder.weight = self.embedding.weight
        self.head = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (batch, length) -> (batch, classes)."""
        hidden = self.embedding(x).mean(1)
        hidden = F.elu(self.second(F.elu(self.first(hidden))))
        return self.head(F.elu(self.decoder(hidden)))  # type: ignore[no-any-return]


class RecurrentNet(nn.Module):
    """A two-layer LSTM and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, 6) -> (batch, classes)."""
        hidden, _ = self.lstm(x)
        return self.head(hidden[:, -1])  # type: ignore[no-any-return]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 24), nn.ELU(), nn.Linear(24, 16), nn.ELU(), nn.Linear(16, CLASSES))


@dataclass(frozen=True)
class ZooModel:
    """A model of the suite with its data.

    Args:
        name: How reports call it.
        constructor: Makes the module; its random values are replaced.
        tokens: Number of token ids; 0 for real inputs.
        input_shape: Shape of one input.
        compiles: Whether fullgraph compilation is part of the suite (torch cannot for parametrized recurrent layers).
    """

    name: str
    constructor: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    tokens: int = 0
    compiles: bool = True

    def build(self, seed: int = 0) -> nn.Module:
        """A model with values that follow from the seed, without a draw from torch's global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.constructor()
            initialize(model, Initializer(distribution="uniform", rule="elu"), seed)
        return model

    def batch(self, index: int = 0) -> tuple[Tensor, Tensor]:
        """Inputs (16, *input_shape) and labels (16,); the label follows from the input."""
        generator = torch.Generator().manual_seed(Stream(index, "zoo", self.name).integer())
        labels = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor(PER_CLASS))
        shape = (BATCH, *self.input_shape)
        if self.tokens:
            noise = torch.randint(self.tokens, shape, generator=generator)
            keep = torch.rand(shape, generator=generator) < 0.7
            return torch.where(keep, labels.view(-1, 1).expand(shape), noise), labels
        wave = torch.linspace(-1.0, 1.0, torch.Size(self.input_shape).numel())
        means = torch.stack([torch.sin((k + 1) * 2.0 * wave) for k in range(CLASSES)]).view(CLASSES, *shape[1:])
        return means[labels] + 0.3 * torch.randn(shape, generator=generator), labels


ZOO: dict[str, ZooModel] = {
    model.name: model
    for model in (
        ZooModel("mlp", _mlp, (12,)),
        ZooModel("conv+bn", ConvNet, (2, 6, 6)),
        ZooModel("tied", TiedNet, (5,), tokens=10),
        ZooModel("lstm", RecurrentNet, (5, 6), compiles=False),
    )
}

RESIDUAL = ZooModel("residual", ResidualNet, (2, 6, 6))
"""For methods that remove channels, of which the others have few."""


def zoo_for(*, channels: bool) -> tuple[ZooModel, ...]:
    """The models that a method is run on, for one that removes channels also :data:`RESIDUAL`."""
    return (*ZOO.values(), *((RESIDUAL,) if channels else ()))
