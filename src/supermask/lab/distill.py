"""What a step minimises: the loss, or the loss and the agreement with an earlier round's network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from supermask.core.sparsifier import Sparsifier
from supermask.lab.parts import Loss
from supermask.lab.train_section import Distill

Objective = Callable[[Tensor, Tensor], Tensor]


def alone(model: nn.Module, loss: Loss) -> Objective:
    """The loss of a model on a batch (x, y)."""
    return lambda x, y: loss(model(x), y)


def taught(model: nn.Module, loss: Loss, teacher: nn.Module, distill: Distill, *, copy: bool) -> Objective:
    """The loss of a model that also learns from a teacher, as :class:`~supermask.lab.train_section.Distill` says.

    Args:
        model: Trains.
        loss: From its output (N, classes) and the labels to the mean over the batch.
        teacher: In evaluation mode.
        distill: Weight and temperature.
        copy: Whether the models change their input in place, so that each needs one of its own.
    """
    weight, temperature = distill.weight, distill.temperature

    def objective(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = torch.softmax(teacher(x.clone() if copy else x) / temperature, dim=1)
        output = model(x)
        soft = functional.cross_entropy(output / temperature, wanted)
        return (1.0 - weight) * loss(output, y) + weight * temperature**2 * soft

    return objective


def plain_state(s: Sparsifier, plain: nn.Module) -> dict[str, Tensor]:
    """The state dict that the model has as its sparse network is now, masks and gates multiplied in; a copy.

    Args:
        s: Attached to the model.
        plain: A model of the same kind without anything attached: has the names.
    """
    training = s.model.training
    s.model.eval()
    found = {}
    with torch.no_grad(), s.sparse():
        for name in plain.state_dict():
            module, _, attribute = name.rpartition(".")
            found[name] = getattr(s.model.get_submodule(module), attribute).detach().clone()
    s.model.train(training)
    return found
