"""A slow, independent answer to what a network gives without some of its channels.

Nothing of the package but the groups' entries is used: a copy of the model gets sliced tensors and smaller attributes, and
its outputs are compared with those of a copy whose channels are zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from supermask.core.groups import Structure

Fit = Callable[[nn.Module, nn.Module], None]  # (smaller copy, original): sets the numbers of a user's own modules


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64 and evaluation mode; every number in it is random, statistics included."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values * 0.5)
    return model


def random_keeps(structure: Structure, seed: int, quiet_only: bool = True) -> dict[str, Tensor]:
    """Some channels of every group that can lose some; at least one goes and one stays."""
    generator = torch.Generator().manual_seed(seed)
    keeps = {}
    for group in structure.removable():
        if quiet_only and not group.quiet:
            continue
        keep = torch.rand(group.channels, generator=generator) < 0.6
        order = torch.randperm(group.channels, generator=generator)
        keep[order[0]], keep[order[1]] = True, False
        keeps[group.name] = keep
    return keeps


def zeroed(model: nn.Module, structure: Structure, keeps: Mapping[str, Tensor]) -> nn.Module:
    """A copy in which what makes and scales the channels that go is zero."""
    result = copy.deepcopy(model)
    tensors = dict(result.named_parameters())
    with torch.no_grad():
        for name, keep in keeps.items():
            for member in structure[name].members:
                if member.role != "in" and member.tensor in tensors:
                    tensors[member.tensor].index_fill_(member.axis, member.entries[~keep].flatten(), 0.0)
    return result


def smaller(model: nn.Module, structure: Structure, keeps: Mapping[str, Tensor], fit: Fit | None = None) -> nn.Module:
    """A copy without the entries of the channels that go."""
    result = copy.deepcopy(model)
    tensors = {**dict(result.named_parameters()), **dict(result.named_buffers())}
    stays: dict[tuple[str, int], Tensor] = {}
    for name, keep in keeps.items():
        for member in structure[name].members:
            size = tensors[member.tensor].shape[member.axis]
            here = stays.setdefault((member.tensor, member.axis), torch.ones(size, dtype=torch.bool))
            here[member.entries[~keep].flatten()] = False
    for (name, axis), here in stays.items():
        tensors[name].data = tensors[name].data.index_select(axis, here.nonzero().flatten())
    for before, module in zip(model.modules(), result.modules()):
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups > 1:
            module.groups = before.groups * len(module.weight) // len(before.weight)
        if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d) and module.groups > 1:
            module.groups = before.groups * len(module.weight) // len(before.weight)
        if isinstance(module, nn.GroupNorm):
            module.num_groups = before.num_groups * len(module.weight) // len(before.weight)
            module.num_channels = len(module.weight)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.InstanceNorm2d) and module.weight is not None:
            module.num_features = len(module.weight)
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        if isinstance(module, nn.RNNBase):
            module.input_size = module.weight_ih_l0.shape[1]
            module.hidden_size = module.weight_hh_l0.shape[1]
    if fit is not None:
        fit(result, model)
    return result


def check_removal(
    model: nn.Module,
    structure: Structure,
    example: Tensor | tuple[Tensor, ...],
    keeps: Mapping[str, Tensor],
    fit: Fit | None = None,
    may_be_silent: bool = False,
) -> None:
    """The smaller network gives what the one with zeros gives, and the zeros changed something (unless they may not)."""
    structure.check(keeps)
    inputs = example if isinstance(example, tuple) else (example,)
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    with torch.no_grad():
        dense = _first(model(*inputs))
        expected = _first(zeroed(model, structure, keeps)(*inputs))
        small = smaller(model, structure, keeps, fit)
        got = _first(small(*inputs))
    assert any(not bool(keep.all()) for keep in keeps.values())
    assert got.shape == dense.shape
    assert may_be_silent or not torch.equal(expected, dense)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    for name, tensor in [*small.named_parameters(), *small.named_buffers()]:
        if name in structure.shapes or name in structure.buffers:
            assert tuple(tensor.shape) == structure.lengths(name, keeps), name


def _first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    return result if isinstance(result, Tensor) else torch.cat([part.flatten() for part in result])
