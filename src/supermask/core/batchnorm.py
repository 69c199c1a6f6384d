"""Freezing batch norm: nothing trained; and, unless its statistics go on, always in inference mode."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from supermask.errors import UnsupportedModuleError

BatchNorm = Literal["non-affine", "trained"]
"""What most methods of frozen weights do with batch norm: train it, or leave scale and shift as they are."""

Frozen = dict[nn.Module, list[nn.Parameter]]
"""Frozen norms, each with its parameters that were trainable."""


def _stay(self: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001
    """Stands in for ``train`` on a frozen batch norm."""
    return self


def norms_beside(model: nn.Module, modules: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """Batch norms, by name, whose direct parent also holds one of the modules, at any depth.

    Of a container that holds nothing but batch norms (a list of them beside a list of layers), its own parent counts.
    """
    wanted = set(modules)
    found: dict[str, nn.Module] = {}
    for path, parent in model.named_modules():
        norms = {name: child for name, child in parent.named_children() if isinstance(child, _BatchNorm)}
        alone = path and len(norms) == len(list(parent.children()))
        holder = model.get_submodule(path.rpartition(".")[0]) if alone else parent
        if not wanted.isdisjoint(holder.modules()):
            found |= {f"{path}.{name}" if path else name: child for name, child in norms.items()}
    return found


def freeze_batchnorm(norms: dict[str, nn.Module], *, statistics: bool = True) -> Frozen:
    """Freeze batch norms in place: no gradients, and inference mode with the present statistics.

    Args:
        norms: Batch norms by name.
        statistics: False freezes scale and shift alone, at their present values (1 and 0 in a new norm, which makes it
            a non-affine one): running statistics are collected as usual.

    Returns:
        What :func:`unfreeze_batchnorm` needs; norms that are frozen already are not in it.

    Raises:
        UnsupportedModuleError: A batch norm keeps no running statistics, so that they cannot be frozen.
    """
    for name, module in norms.items():
        if statistics and module.running_mean is None:
            raise UnsupportedModuleError(
                f"{name} has track_running_stats=False and computes from each batch, also in "
                "inference mode: it cannot be frozen; build it with running statistics or train batch norm"
            )
    frozen: Frozen = {}
    for module in norms.values():
        if "train" in module.__dict__:
            continue
        if statistics:
            module.eval()
            # an instance attribute, not a subclass: state dict, isinstance and deepcopy are left alone
            object.__setattr__(module, "train", types.MethodType(_stay, module))
        frozen[module] = [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
        for parameter in frozen[module]:
            parameter.requires_grad_(False)
    return frozen


def unfreeze_batchnorm(frozen: Frozen) -> None:
    """Undo :func:`freeze_batchnorm`; the modules stay in inference mode until the next ``train()``."""
    for module, parameters in frozen.items():
        module.__dict__.pop("train", None)
        for parameter in parameters:
            parameter.requires_grad_(True)
