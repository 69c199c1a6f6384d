"""Channels that are gone are really taken out: a plain model with zeros becomes a smaller one of the same class."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Optimizer

from supermask.core.budget import costs_of
from supermask.core.groups import ChannelGroup, Keeps, Member, Structure
from supermask.core.tracing import find_structure
from supermask.deploy.identity import Comparison, ShrinkCertificate, checksum, compare, failure_in_training
from supermask.deploy.patching import Patch, make_patch, named
from supermask.deploy.transferring import transfer
from supermask.errors import StructureError

Follows = Mapping[str, str]
_SMALL: Final = 1e-3  # of the largest output, a difference that no rounding makes
_SHOWN: Final = 8  # channels, groups or attributes that a message lists


class Change(NamedTuple):
    """A count of the dense model and of the smaller one."""

    before: int
    after: int

    @property
    def ratio(self) -> float:
        """After over before; 1 where there was nothing."""
        return self.after / self.before if self.before else 1.0

    def __str__(self) -> str:
        return f"{self.before:,} -> {self.after:,} ({100 * self.ratio:.2f} %)"


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A smaller model, and how it came about.

    Attributes:
        model: A deep copy of the dense model, of the same class, with sliced tensors.
        keeps: Channels that remain, of the groups that lost some.
        groups: Name of a group -> channels before and after, of all groups that could lose some.
        patch: What rebuilds it from the dense model's constructor.
        certificate: What was compared.
        params: Trainable numbers and other parameters, before and after.
        macs: Multiply-accumulates of convolutions and linear layers for one example, before and after; None where the
            structure does not count every weight.
    """

    model: nn.Module
    keeps: Keeps
    groups: Mapping[str, Change]
    patch: Patch
    certificate: ShrinkCertificate
    params: Change
    macs: Change | None
    _sources: tuple[tuple[weakref.ref[Tensor], str], ...] = field(repr=False)

    def transfer(self, optimizer: Optimizer) -> Optimizer:
        """An optimizer of the same class for the smaller model; the given one is not changed.

        Parameter groups and their options are the same, in the same order; momentum, averages and all other state of a
        parameter's shape are sliced as it is, counters are copied. Hooks and schedulers stay with the old one: make a
        new scheduler, and bind a new sparsifier.

        Args:
            optimizer: Of the model that was given to ``shrink``, as it is now.

        Raises:
            StructureError: It holds other parameters, or state that has no known slice.
        """
        names = {id(tensor): name for reference, name in self._sources if (tensor := reference()) is not None}
        return transfer(optimizer, names, dict(self.model.named_parameters()), self.patch.tensors)

    def save(self, path: str | Path) -> Path:
        """Write the smaller model as it is now, its patch and certificate; see :func:`supermask.deploy.load_shrunk`.

        Args:
            path: Ends in ``.safetensors``; written to a temporary file first, then renamed.

        Raises:
            PackError: The name has another ending.
            MissingExtraError: The package ``safetensors`` is not installed.
        """
        from supermask.deploy.shrunk_files import save_shrunk

        return save_shrunk(self.model, self.patch, self.certificate, path)


def shrink(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    *,
    keeps: Keeps | None = None,
    masks: Mapping[str, Tensor] | None = None,
    structure: Structure | None = None,
    zero: bool = False,
    follows: Follows | None = None,
    tolerance: float = 1e-5,
    examples: int = 16,
) -> Shrunk:
    """Take channels out of a plain model.

    Without ``keeps`` and ``masks``, those go whose scales, shifts, filters and biases are exactly zero: what a method for
    channels leaves after ``finalize()``. The smaller model gives the same outputs; this is checked, and refused where it
    does not hold.

    Args:
        model: Plain (finalized); not changed.
        example: A batch that the model takes, or the tuple of its inputs; outputs are compared on it and on random inputs
            of its shape.
        keeps: Group name -> bool (channels,), True = remaining.
        masks: Instead of ``keeps``: bool tensors by parameter name, True = remaining. A channel goes whose entries are all
            False.
        structure: Of the model; None: traced with :func:`supermask.find_structure`.
        zero: Set what makes the removed channels to zero before the comparison. Without it, removing a channel that is
            not zero is refused, because the outputs would change.
        follows: ``module.attribute`` -> group name: a whole number of your own module that shrinks with the group's
            channels, such as ``{"attention.heads": "attention.query"}``. Attributes of torch's modules follow by
            themselves.
        tolerance: Largest difference of an output that rounding may make, >= 0; a thousandth of the largest output if that
            is less.
        examples: At least so many random inputs are compared, >= 1.

    Returns:
        The smaller model with its patch and certificate. ``requires_grad``, ties, training mode, order of parameters,
        module hooks and memory format are those of ``model``.

    Raises:
        StructureError: The model is not plain or has another structure; a channel is not zero, or its removal changes the
            outputs; all outputs are zero, so that nothing can be compared; the smaller model runs in evaluation mode, but
            not in training mode as the model does; a module cannot be made smaller. The message names the group or the
            module.
    """
    _check_options(tolerance, examples)
    if keeps is not None and masks is not None:
        raise StructureError("keeps and masks both say which channels remain; give one of them")
    for name, module in model.named_modules():
        if is_parametrized(module):
            raise StructureError(
                f"{name or 'the model'} carries a mask or another parametrization still; call finalize() first"
            )
    if structure is None:
        structure = find_structure(model, example)
    _check_fit(model, structure)
    tensors = {name: tensor.detach() for name, tensor in named(model).items()}
    if keeps is None:
        keeps = structure.found(masks) if masks is not None else _found(structure, tensors, _norms(model))
    keeps = {name: keep.detach().cpu() for name, keep in keeps.items()}
    structure.check(keeps)
    keeps = {name: keep for name, keep in keeps.items() if not bool(keep.all())}
    reference = model
    if zero:
        reference = _copied(model)
        _set_zero(structure, named(reference), keeps)
        tensors = {name: tensor.detach() for name, tensor in named(reference).items()}
    _check_silent(structure, tensors, _norms(model), keeps)
    patch = make_patch(model, structure, keeps, follows or {})
    small = _copied(model)
    patch.apply(small)
    inputs = example if isinstance(example, tuple) else (example,)
    found = compare(reference, small, inputs, examples)
    if keeps and found.largest == 0:
        raise StructureError(
            "every output of the model is zero, so that a comparison with the smaller model says nothing; give its last "
            "layer other values first"
        )

    def changed(smaller: nn.Module) -> str:
        other = compare(reference, smaller, inputs, examples)
        return "" if _within(other, tolerance) else other.failure or f"difference {other.max_difference:.3g}"

    if not _within(found, tolerance):
        broken = list(_breaking(reference, structure, keeps, follows or {}, changed))
        raise StructureError(_why(found, tolerance, broken) + _hint(model, structure, keeps, follows or {}))
    if failure := failure_in_training(reference, small, inputs) if keeps else "":
        broken = list(
            _breaking(reference, structure, keeps, follows or {}, lambda m: failure_in_training(reference, m, inputs))
        )
        raise StructureError(
            "the smaller model gives the same outputs in evaluation mode, but cannot be run in training mode, as the model "
            f"can: {failure}{_alone(broken)}; what forward() does in training mode only is not followed: take that part off "
            "the model, or keep the channels"
        )
    certificate = ShrinkCertificate(
        reference=f"the plain model, {'set to zero' if zero else 'zero'} where channels were removed",
        examples=found.examples,
        random=found.random,
        max_difference=found.max_difference,
        largest_output=found.largest,
        tolerance=tolerance,
        agreement=found.agreement,
        torch=torch.__version__,
        device=inputs[0].device.type,
        dense=checksum(named(reference)),
        shrunk=checksum(named(small)),
    )
    counts = {
        unit: Change(int(cost({})), int(cost(keeps)))
        for unit, cost in costs_of(structure).items()
        if unit in ("params", "macs")
    }
    return Shrunk(
        model=small,
        keeps=keeps,
        groups={
            group.name: Change(
                group.channels, int(keeps[group.name].count_nonzero()) if group.name in keeps else group.channels
            )
            for group in structure.removable()
        },
        patch=patch,
        certificate=certificate,
        params=counts["params"],
        macs=counts.get("macs"),
        _sources=tuple((weakref.ref(parameter), name) for name, parameter in model.named_parameters()),
    )


def _check_options(tolerance: float, examples: int) -> None:
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not number or not 0 <= tolerance < math.inf:
        raise StructureError(f"tolerance must be a finite number >= 0, got {tolerance!r}")
    if not isinstance(examples, int) or isinstance(examples, bool) or examples < 1:
        raise StructureError(f"examples must be a whole number >= 1, got {examples!r}")


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        first = str(error).partition("\n")[0]
        raise StructureError(
            f"the model cannot be copied with copy.deepcopy: {first}; if it has torch.nn.utils.weight_norm, take that off "
            "first with torch.nn.utils.remove_weight_norm(module)"
        ) from error


def _within(found: Comparison, tolerance: float) -> bool:
    """Whether outputs differ by rounding alone."""
    return found.max_difference <= min(tolerance, _SMALL * found.largest)


def _check_fit(model: nn.Module, structure: Structure) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in named(model).items()}
    wanted = {name: tuple(shape) for name, shape in {**structure.shapes, **structure.buffers}.items()}
    for name in [*wanted, *shapes]:
        if shapes.get(name) != wanted.get(name):
            raise StructureError(
                f"{name} has shape {shapes.get(name, 'none')}, in the structure {wanted.get(name, 'none')}; "
                "is it the structure of this model?"
            )


def _norms(model: nn.Module) -> frozenset[str]:
    """Names of the scales and shifts of batch and instance norms."""
    names = {id(tensor): name for name, tensor in named(model).items()}
    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    return frozenset(names[id(parameter)] for module in norms for parameter in module.parameters(recurse=False))


def _found(structure: Structure, tensors: Mapping[str, Tensor], norms: frozenset[str]) -> dict[str, Tensor]:
    """The channels that remain because something of them is not zero; a group keeps one."""
    keeps = {}
    for group in structure.removable():
        keep = ~_silent(structure, group, tensors, norms)
        if not bool(keep.any()):
            keep[0] = True
        keeps[group.name] = keep
    return keeps


def _silent(structure: Structure, group: ChannelGroup, tensors: Mapping[str, Tensor], norms: frozenset[str]) -> Tensor:
    """Those channels, as bool, that reach every reader as zeros, as what makes them, or the norm behind it, is zero."""
    if not group.quiet:
        return torch.zeros(group.channels, dtype=torch.bool)
    scaled = [member for member in group.of_role("norm") if member.tensor in norms]
    # a residual stream may be read elsewhere than behind its norms
    if scaled and not group.residual:
        return _zeros(structure, group, tensors, scaled)
    return _zeros(structure, group, tensors, group.of_role("out", "norm"))


def _zeros(
    structure: Structure, group: ChannelGroup, tensors: Mapping[str, Tensor], members: Sequence[Member]
) -> Tensor:
    """Those channels, as bool, whose parameters are all zero in some members."""
    zero = torch.ones(group.channels, dtype=torch.bool)
    for member in members:
        if member.tensor in structure.buffers:
            continue
        nonzero = (tensors[member.tensor] != 0).cpu()
        others = [axis for axis in range(nonzero.dim()) if axis != member.axis]
        along = nonzero.any(dim=others) if others else nonzero
        zero &= ~along[member.entries].any(dim=1)
    return zero


def _set_zero(structure: Structure, tensors: Mapping[str, Tensor], keeps: Keeps) -> None:
    """Set what makes and scales the removed channels to zero, in place."""
    with torch.no_grad():
        for name, keep in keeps.items():
            for member in structure[name].of_role("out", "norm"):
                if member.tensor not in structure.buffers:
                    tensor = tensors[member.tensor]
                    tensor.index_fill_(member.axis, member.entries[~keep].flatten().to(tensor.device), 0.0)


def _check_silent(structure: Structure, tensors: Mapping[str, Tensor], norms: frozenset[str], keeps: Keeps) -> None:
    """Refuse channels whose removal would change the outputs, before anything is built."""
    for name, keep in keeps.items():
        group = structure[name]
        loud = ~keep & ~_silent(structure, group, tensors, norms)
        if group.of_role("in"):
            loud &= ~_zeros(structure, group, tensors, group.of_role("in"))  # what nobody reads may be anything
        if not bool(loud.any()):
            continue
        which = loud.nonzero().flatten().tolist()
        shown = ", ".join(map(str, which[:_SHOWN])) + (", …" if len(which) > _SHOWN else "")
        if not group.quiet:
            raise StructureError(
                f"{name}: {len(which)} channels cannot be removed without a change of the outputs ({shown}): also zeros reach "
                "their readers as something else, through a sigmoid for example; keep them"
            )
        raise StructureError(
            f"{name}: {len(which)} of the channels to remove are not zero ({shown}), so the outputs would change; zero=True "
            "sets them to zero first (the smaller model is then compared with that), or keep them"
        )


def _breaking(
    reference: nn.Module, structure: Structure, keeps: Keeps, follows: Follows, failure: Callable[[nn.Module], str]
) -> Iterator[str]:
    """The groups whose removal alone gives a model with a failure, each with that."""
    for name, keep in keeps.items():
        small = copy.deepcopy(reference)
        try:
            make_patch(reference, structure, {name: keep}, follows).apply(small)
        except StructureError as error:
            yield f"{name} ({error})"
            continue
        if why := failure(small):
            yield f"{name} ({why})"


def _why(found: Comparison, tolerance: float, broken: list[str]) -> str:
    if found.failure:
        what = f"the smaller model cannot be run: {found.failure}"
    elif found.max_difference == math.inf:
        what = "the smaller model gives outputs of other shapes, or the outputs are not finite"
    else:
        small = _SMALL * found.largest
        allowed = (
            f"{tolerance:g} (tolerance)" if tolerance <= small else f"{small:.3g} (a thousandth of the largest output)"
        )
        what = (
            f"the smaller model gives other outputs: the largest difference is {found.max_difference:.3g}, allowed is "
            f"{allowed}, the largest output is {found.largest:.3g}"
        )
    return what + (_alone(broken) or "; no group alone does it, so the differences may be rounding that adds up")


def _alone(broken: list[str]) -> str:
    """Which groups alone do it."""
    more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
    return (
        f"; it is so when only these groups lose their channels: {', '.join(broken[:_SHOWN])}{more}" if broken else ""
    )


def _hint(model: nn.Module, structure: Structure, keeps: Keeps, follows: Follows) -> str:
    """Whole numbers of the user's own modules that are as large as a group that lost channels."""
    places = []
    for owner, module in model.named_modules():
        if type(module).__module__.split(".")[0] == "torch":
            continue
        for key, value in vars(module).items():
            place = f"{owner}.{key}" if owner else key
            for name in keeps:
                group = structure[name]
                sizes = {group.channels, *(member.entries.numel() for member in group.members)}
                if type(value) is int and value in sizes and place not in follows:
                    places.append(f"{place!r}: {name!r}")
    if not places:
        return ""
    return f"; if a number of your own module has to shrink as well, say it: follows={{{', '.join(places[:_SHOWN])}}}"
