"""Several models of one architecture in one forward pass: their weights stacked, the plain network mapped over the stack.

Every model makes its own effective weights, with its own parametrizations, exactly as it does alone: masks, thresholds, signs,
compiled kernels. Only what follows, the plain network and its loss, is computed for all of them at once, by ``torch.func``.
So a method needs no rule for ``torch.func.vmap``, what differs between the models beside their tensors (a threshold that
follows from the drawn scores) stays each one's own, and gradients arrive where each model's optimizer looks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _NormBase

from supermask.errors import RunError

Loss = Callable[[Tensor, Tensor], Tensor]
Site = tuple[nn.Module, str]  # a module and its attribute


class Stacked:
    """The losses of several models on one batch each, or on the same one.

    Args:
        models: Of one architecture, methods attached or not; at least one.
        plain: A model of the same architecture with nothing attached; it is moved to the meta device, so that a weight that
            were not replaced by the stacked ones would be an error, not a number.
        loss: From output and targets to the mean over the batch.

    Raises:
        RunError: A model has other tensors, or tensors of other shapes, than the plain one.
    """

    def __init__(self, models: Sequence[nn.Module], plain: nn.Module, loss: Loss) -> None:
        self._models = list(models)
        self._plain = plain.to("meta")
        self._loss = loss
        self._parameters = {name: self._sites(name, p.shape) for name, p in plain.named_parameters()}
        self._buffers = {name: self._sites(name, b.shape) for name, b in plain.named_buffers()}
        self._moving: list[str] = []
        self.follow_modes()

    def _sites(self, name: str, shape: torch.Size) -> list[Site]:
        path, _, attribute = name.rpartition(".")
        sites = []
        for model in self._models:
            try:
                module = model.get_submodule(path)
                there = getattr(module, attribute).shape
            except AttributeError:
                there = None
            if there != shape:
                got = "none" if there is None else f"one of shape {tuple(there)}"
                raise RunError(
                    f"models of different seeds are no copies of one architecture: {name} has shape {tuple(shape)} in one, and "
                    f"another has {got}; train these seeds one by one (seeds: separate)"
                )
            sites.append((module, attribute))
        return sites

    def follow_modes(self) -> None:
        """Put every module of the plain network into the mode (training or evaluation) that it has in the models."""
        first = self._models[0]
        for path, module in self._plain.named_modules():
            module.training = first.get_submodule(path).training
        # in evaluation mode a norm only reads its statistics; a module of the user's own may write to what it likes
        still = {
            id(module) for module in self._plain.modules() if isinstance(module, _NormBase) and not module.training
        }
        self._moving = [name for name in self._buffers if id(self._owner(name)) not in still]

    def _owner(self, name: str) -> nn.Module:
        return self._plain.get_submodule(name.rpartition(".")[0])

    def losses(self, x: Tensor, y: Tensor, *, shared: bool) -> Tensor:
        """One loss a model; its gradient reaches the models' own tensors, their running statistics move on.

        Args:
            x: Inputs: one batch for all, or one of each model, stacked.
            y: Targets, the same for all.
            shared: Whether there is one batch for all.

        Returns:
            Shape (models,).
        """
        parameters = {name: _stack(sites) for name, sites in self._parameters.items()}
        buffers = {name: _stack(sites) for name, sites in self._buffers.items()}
        losses: Tensor = vmap(self._one, in_dims=(0, 0, None if shared else 0, None), randomness="error")(
            parameters, buffers, x, y
        )
        with torch.no_grad():
            for name in self._moving:
                for (module, attribute), value in zip(self._buffers[name], buffers[name], strict=True):
                    getattr(module, attribute).copy_(value)
        return losses

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return self._loss(functional_call(self._plain, (parameters, buffers), (x,), strict=True), y)


def _stack(sites: Sequence[Site]) -> Tensor:
    return torch.stack([getattr(module, attribute) for module, attribute in sites])
