"""Freezing batch norm: always in inference mode, nothing trained, whatever ``model.train()`` says."""

from __future__ import annotations

import types

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from supermask.errors import UnsupportedModuleError


def _stay(self: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001
    """Stands in for ``train`` on a frozen batch norm."""
    return self


def freeze_batchnorm(model: nn.Module) -> list[nn.Parameter]:
    """Freeze every batch norm of a model in place: inference mode with the present statistics, no gradients.

    Returns:
        The parameters that were trainable, to give back to :func:`unfreeze_batchnorm`.

    Raises:
        UnsupportedModuleError: A batch norm keeps no running statistics, so that it cannot be frozen.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise UnsupportedModuleError(
                f"{name or type(module).__name__} has track_running_stats=False and computes from each batch, also in "
                "inference mode: it cannot be frozen; build it with running statistics or train batch norm"
            )
    frozen: list[nn.Parameter] = []
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            # an instance attribute, not a subclass: state dict, isinstance and deepcopy are left alone
            object.__setattr__(module, "train", types.MethodType(_stay, module))
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad:
                    parameter.requires_grad_(False)
                    frozen.append(parameter)
    return frozen


def unfreeze_batchnorm(model: nn.Module, parameters: list[nn.Parameter]) -> None:
    """Undo :func:`freeze_batchnorm`; the modules stay in inference mode until the next ``train()``."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__dict__.pop("train", None)
    for parameter in parameters:
        parameter.requires_grad_(True)
