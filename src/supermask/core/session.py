"""A small training on a model of the zoo: what the conformance suite looks at."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Iterator
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from supermask.core.groups import Structure
from supermask.core.masks import Masks
from supermask.core.method import Method
from supermask.core.zoo import ZooModel

STEPS: Final = 8


@functools.cache
def _structure_of(zoo: ZooModel) -> Structure:
    """A model's channel groups, which depend on no value; tracing takes longer than a small training."""
    from supermask.core.tracing import find_structure  # reads graphs, which most methods need not

    return find_structure(zoo.build(), zoo.batch(0)[0])


class Session:
    """A method attached to a model with an optimizer: what the checks train with."""

    def __init__(self, method: Method, zoo: ZooModel, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self.zoo = zoo
        self.model = zoo.build(seed).to(dtype)
        self.dtype = dtype
        data = [self._cast(zoo.batch(i)) for i in range(4)] if method.needs_data else None
        loss_fn = (lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])) if method.needs_data else None
        structure = _structure_of(zoo) if method.needs_structure else None
        self.sparsifier = method.attach(self.model, seed=seed, data=data, loss_fn=loss_fn, structure=structure)
        self.start_round()

    def start_round(self) -> None:
        """A fresh optimizer, bound."""
        self.optimizer = torch.optim.SGD(self.sparsifier.param_groups(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        self.sparsifier.bind(self.optimizer, total_steps=STEPS)
        self._round = self.sparsifier.round

    def rounds(self) -> Iterator[int]:
        """Rounds with what is left of the steps of each, and a fresh optimizer for each that begins."""
        for number in self.sparsifier.rounds():
            if number != self._round:
                self.start_round()
            yield STEPS - self.sparsifier.step

    def _cast(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return (batch[0].to(self.dtype) if batch[0].is_floating_point() else batch[0]), batch[1]

    def loss(self, index: int) -> Tensor:
        """Loss on the batch of that number."""
        x, y = self._cast(self.zoo.batch(index))
        return F.cross_entropy(self.model(x), y)

    def train(self, steps: int = STEPS, *, first: int = 0) -> list[float]:
        """Train for some steps; returns the losses before each."""
        losses = []
        for index in range(first, first + steps):
            self.optimizer.zero_grad()
            loss = self.loss(index)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses

    def output(self) -> Tensor:
        """The model's output on a batch that is not trained on, in evaluation mode."""
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            out: Tensor = self.model(self._cast(self.zoo.batch(1000))[0])
        self.model.train(training)
        return out

    def finalize(self) -> Masks:
        """Finalize; whether a promise was kept is judged by ``keeps_its_density`` and ``keeps_its_budget`` alone."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* promises (density|budget)", UserWarning)
            return self.sparsifier.finalize()

    def snapshot(self) -> dict[str, Any]:
        """Everything a resume needs."""
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "sparsifier": self.sparsifier.state_dict(),
            }
        )

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        self.model.load_state_dict(saved["model"])
        self.sparsifier.load_state_dict(saved["sparsifier"])
        self.start_round()
        self.optimizer.load_state_dict(saved["optimizer"])
