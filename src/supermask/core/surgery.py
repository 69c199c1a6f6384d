"""Putting parametrizations on modules, and taking them off again with everything else as it was."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from supermask.core.gates import Gated
from supermask.core.parametrizations import Masked, Scored, read_directly
from supermask.core.targets import Target, parametrization_list


class Surgery:
    """What is done to the modules of some targets, and what is needed to undo it.

    Args:
        targets: Tensors of one model, before anything is put on them.
    """

    def __init__(self, targets: list[Target]) -> None:
        self._targets = targets
        self._orders = {id(s.module): (s.module, list(s.module._parameters)) for t in targets for s in t.sites}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def put_on(self, target: Target, parametrization: Masked | Scored | Gated, stored: Tensor, trainable: bool) -> None:
        """Put a parametrization on every site of a target, over one new parameter.

        Args:
            target: One of the targets.
            parametrization: Makes the effective weight from what is stored.
            stored: Values of the new parameter; not copied.
            trainable: Whether it requires a gradient.
        """
        parameter = nn.Parameter(stored, requires_grad=trainable)
        for site in target.sites:
            parametrize.register_parametrization(site.module, site.attribute, parametrization, unsafe=True)
            read_directly(site.module, site.attribute)
            # a new parameter, so that an optimizer built before attach is noticed by bind()
            chain = parametrization_list(site.module, site.attribute)
            assert chain is not None
            chain.original = parameter
            hooked = _detach_flat_weights in site.module._forward_hooks.values()
            if isinstance(site.module, nn.RNNBase) and not hooked:
                self._hooks.append(site.module.register_forward_hook(_detach_flat_weights, always_call=True))

    def take_off(self, parameters: list[nn.Parameter]) -> None:
        """Put one parameter per target where the parametrizations were; order of parameters and hooks as before."""
        for hook in self._hooks:
            hook.remove()
        for target, parameter in zip(self._targets, parameters, strict=True):
            for site in target.sites:
                if parametrization_list(site.module, site.attribute) is not None:
                    _unshare_class(site.module)
                    parametrize.remove_parametrizations(site.module, site.attribute, leave_parametrized=False)
                site.module.register_parameter(site.attribute, parameter)
        for module, order in self._orders.values():
            present = dict(module._parameters)
            module._parameters.clear()
            module._parameters.update({name: present.pop(name) for name in order if name in present} | present)
            if isinstance(module, nn.RNNBase):
                module._init_flat_weights()


def plain_name(name: str) -> str:
    """``fc.parametrizations.weight.original`` -> ``fc.weight``."""
    owner, marker, rest = name.rpartition("parametrizations.")
    return f"{owner}{rest.removesuffix('.original')}" if marker and rest.endswith(".original") else name


def _unshare_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own.

    A deepcopy shares the class that torch made for the original; taking a parametrization off deletes a property of it.
    """
    cls = type(module)
    members = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(cls.__name__, cls.__bases__, members)


def _detach_flat_weights(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
    """After an RNN's forward: its cached weights belong to that graph, and deepcopy would fail on them.

    Their references are made to look stale, so that the next forward collects the weights anew.
    """
    assert isinstance(module, nn.RNNBase)
    module._flat_weights = [None if w is None else w.detach() for w in module._flat_weights]
    stale = weakref.ref(nn.Parameter(torch.empty(0)))
    module._flat_weight_refs = [None if ref is None else stale for ref in module._flat_weight_refs]
