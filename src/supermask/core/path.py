"""The path of a search: at which step each weight first remained, and masks by that order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Target
from supermask.errors import AttachError, DivergedError, StateError
from supermask.tensors.prox import Grouping, Unit
from supermask.tensors.scores import wide
from supermask.tensors.topk import holds_nan, kth_largest, topk_masks_by_keys

STATE: Final = ("waited/", "waiting/", "never/")
"""Beginnings of the entries of ``Sparsifier.state`` that the path is kept in: 6 bytes a weight."""

_LONG: Final = 255  # steps that one byte counts


def begin(s: Sparsifier, *, wide_weights: bool = False) -> None:
    """Start to record, at ``attach``; a target that does not train is noted.

    Args, Raises: As :func:`require_fitting`.
    """
    for target in s.targets:
        if not target.trainable:
            s.note(f"{target.name} does not train (requires_grad is False), so none of its weights enters the path")
        mask = target.mask
        s.state[f"waited/{target.name}"] = torch.zeros_like(mask, dtype=torch.int32)
        s.state[f"waiting/{target.name}"] = torch.zeros_like(mask, dtype=torch.uint8)
        s.state[f"never/{target.name}"] = torch.ones_like(mask)
    require_fitting(s, wide_weights=wide_weights)


def record(s: Sparsifier) -> None:
    """Take in the present masks; once after each step, from the first one on.

    Steps are counted while a weight waits, in bytes that are carried over now and then: a fraction of the time that it takes
    to find the weights that are new and write the step there.
    """
    for target in s.targets:
        never, waiting = s.state[f"never/{target.name}"], s.state[f"waiting/{target.name}"]
        never.gt_(target.mask)
        waiting.add_(never.view(torch.uint8))
        if s.step % _LONG == 0:
            s.state[f"waited/{target.name}"].add_(waiting)
            waiting.zero_()


def require_fitting(s: Sparsifier, *, wide_weights: bool) -> None:
    """Are the path's tensors where the weights are, and can the weights hold small steps?

    Args:
        s: The sparsifier.
        wide_weights: Whether the method adds small steps to the weights itself.

    Raises:
        AttachError: A weight is below float32 though it gets small steps.
        StateError: The model was moved to another device.
    """
    for target in s.targets:
        weight, known = target.parameter, s.state[f"never/{target.name}"]
        if wide_weights and wide(weight.dtype) != weight.dtype:
            raise AttachError(
                f"{target.name} is {weight.dtype}, in which steps of lr / nu times a weight round away: keep "
                "weights in float32 and compute in low precision under autocast (train.precision in an experiment), or set "
                "coupling to in-gradient"
            )
        if known.device != weight.device:
            raise StateError(
                f"{target.name} is on {weight.device}, what its method knows of it on {known.device}: after "
                "moving a model, build the optimizer anew and bind it"
            )


def entered(s: Sparsifier, target: Target) -> Tensor:
    """int32, the target's shape: the step after which each weight first remained (the first is 1), -1 = never."""
    never, waited, waiting = (s.state[f"{key}/{target.name}"] for key in ("never", "waited", "waiting"))
    return (waited + waiting).add_(1).masked_fill_(never, -1)


def masks_by_path(s: Sparsifier, unit: Unit, total: int, *, present: bool) -> list[Tensor]:
    """Keep what entered first: a lexicographic order.

    First the step, then, among what entered at one step, the root mean square of the group's weights, then the weight's own
    magnitude. What never entered comes last, in the same order, and a note says how much of it remains.

    Args:
        s: The sparsifier, which recorded the path.
        unit: Groups of convolutions.
        total: Weights to keep.
        present: Whether what is hidden now comes last, as if it had never entered.

    Returns:
        One bool mask per target; together they keep exactly ``total``.

    Raises:
        DivergedError: A weight is NaN; the message names the target.
    """
    weights, order, last = [], [], torch.iinfo(torch.int32).min
    for target in s.targets:
        weights.append(target.dense.detach())
        if holds_nan(weights[-1]):
            raise DivergedError(
                f"{target.name} holds values that are not numbers (NaN): training diverged before pruning"
            )
        path = entered(s, target)
        behind = ~target.mask if present else path < 0
        order.append((-path).masked_fill_(behind, last))
    known = sum(int((key != last).sum()) for key in order)
    if known < total:
        s.note(
            f"only {known:,} of the promised {total:,} weights entered the path, the others remain by their magnitude; a "
            "smaller nu or lambda, or more steps let more enter"
        )
    sizes = [grouping(target, unit).rms(weight) for target, weight in zip(s.targets, weights, strict=True)]
    return topk_masks_by_keys([order, sizes, [weight.abs() for weight in weights]], total)


def steps_left(
    s: Sparsifier, unit: Unit, speed: float, threshold: Callable[[Target], tuple[float, bool]], total: int
) -> tuple[float, float]:
    """How long a path takes that is coupled at a nu of 1, if weights and learning rates stay as they are.

    Args:
        s: The sparsifier; its state holds what grows as ``v/<target>``.
        unit: Groups of convolutions.
        speed: What a step adds to it, over learning rate times weight.
        threshold: Threshold of a target, and whether it grows with a group's size.
        total: Weights that shall have entered.

    Returns:
        Steps until that many have entered, and the largest learning rate.
    """
    waits, rates = [], []
    for target in s.targets:
        rates.append(s.lr(target) if target.parameter.requires_grad else 0.0)
        v, move = s.state[f"v/{target.name}"], target.dense * (rates[-1] * speed)
        waits.append(grouping(target, unit).wait(v, move, *threshold(target)).flatten())
    return -float(kth_largest(-torch.cat(waits), total)), max(rates)


def grouping(target: Target, unit: Unit) -> Grouping:
    """The groups of a target's weights: of a convolution those asked for, single entries of everything else."""
    if target.kind != "conv" or len(target.shape) < 3:  # a bias that is targeted by name has no kernel
        return Grouping()
    module = target.module
    assert isinstance(module, _ConvNd)
    transposed = isinstance(module, _ConvTransposeNd)
    return Grouping(unit, transposed, module.groups if transposed else 1)
