"""Network slimming: an L1 penalty on batch norm's scales, then the channels of the smallest scales go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from supermask.core.budget import check_budget, project
from supermask.core.channels import Residual
from supermask.core.groups import ChannelGroup, Structure
from supermask.core.method import Method, check_choice, check_flag, check_globs, check_idle, check_range
from supermask.core.registry import register
from supermask.core.sparsifier import Sparsifier
from supermask.errors import DivergedError, UnsupportedModuleError

_LARGEST = 1e9
_REMAINING = 0.3  # of the paper's VGG


@register
@dataclass(frozen=True, kw_only=True)
class NetworkSlimming(Method):
    """Network slimming: batch norm's scales are pressed to zero, channels with the smallest go, the rest is fine-tuned.

    Update, in the first round, with g the scales of all batch norms of the network, n of them::

        gradient of g  <-  gradient + strength * sign(g)        sign(0) = 0; then the optimizer's step

    and at its end, over all batch norms together::

        t = value number floor(n * (1 - channel_density)) of |g| in ascending order, counted from 0
        a channel remains where |g| > t

    The second round trains what remains, without the penalty.

    **Source:** Liu, Li, Shen, Huang, Yan, Zhang, "Learning Efficient Convolutional Networks through Network Slimming", ICCV
    2017, arXiv 1708.06519; code in Eric-mingjie/network-slimming and liuzhuang13/slimming.

    **Differs:** (1) A layer keeps at least the channel of its largest scale; in the code a layer that loses all fails. (2) A
    budget can stand in place of the threshold: then channels go in the order of |g| until it is met, to the channel. (3) In
    pre-activation networks the code selects among the channels of a residual stream for each block by an index layer.
    That is no removal, and not done: the batch norms that read the stream are penalised and counted for the threshold,
    but keep their channels, so that more of a ResNet-164 remains at the same ``channel_density``. (4) A channel that has
    several scales (``residual: shared``) goes by its largest. (5) One pass; the paper also repeats it.

    **Cost:** an operation on the scales at each step, and once their sort. Memory: 1 byte for each weight of a convolution.

    Args:
        channel_density: Fraction of all batch norm channels above the threshold, in (0, 1]. Default 0.3: the paper's VGG
            (70 % pruned; 0.6 for ResNet-164 and DenseNet-40). Unused with a budget.
        budget: Unit -> fraction of the dense network's cost that may remain, in (0, 1]; None (default, the paper's): the
            threshold.
        strength: Of the L1 penalty, at least 0. Default 1e-4: the paper's VGG; 1e-5 for ResNet-164 and DenseNet-40.
        initial_scale: What all scales of batch norm are set to before training, above 0; None leaves the model's own, as
            a trained model needs it. Default 0.5: the authors' code.
        residual: ``inner`` (default, the paper's): channels that residual additions share stay; ``shared``: they can go.
        whole: Globs on names of channel groups that stay as they are. Default none; in pre-activation networks the stem,
            ``[conv1]``, is read past batch norm, too, and the code leaves it.
        fine_tune: Whether a second round follows. Default true: the paper's.

    Raises:
        HyperparameterError: A field is out of range or would not be used.
        UnsupportedModuleError: The model has no batch norm with a scale, or channels without one.
        BudgetError: No choice of channels meets the budget, or a unit's cost is not known.
    """

    name: ClassVar[str] = "network-slimming"
    needs_structure: ClassVar[bool] = True

    channel_density: float = _REMAINING
    budget: Mapping[str, float] | None = field(default=None, hash=False)
    strength: float = 1e-4
    initial_scale: float | None = 0.5
    residual: Residual = "inner"
    whole: tuple[str, ...] = ()
    fine_tune: bool = True

    def __post_init__(self) -> None:
        check_range(self.name, "channel_density", self.channel_density, 0.0, 1.0, open_low=True)
        if self.budget is not None:
            check_budget(self.name, self.budget)
            check_idle(self.name, "channel_density", self.channel_density, _REMAINING, "leave out budget")
        check_range(self.name, "strength", self.strength, 0.0, _LARGEST)
        if self.initial_scale is not None:
            check_range(self.name, "initial_scale", self.initial_scale, 0.0, _LARGEST, open_low=True)
        check_choice(self.name, "residual", self.residual, get_args(Residual))
        check_flag(self.name, "fine_tune", self.fine_tune)
        check_globs(self.name, "whole", self.whole)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """By threshold and by budget, with and without fine-tuning."""
        budget = {"macs": 0.5}
        return (cls(channel_density=0.6, strength=0.01), cls(budget=budget, initial_scale=None, fine_tune=False))

    def supports(self, model: nn.Module) -> str | None:
        """It needs batch norms with scales."""
        return None if _norms(model) else "it has no batch norm with a scale, and slimming goes by these scales"

    def channel_groups(self, structure: Structure) -> tuple[ChannelGroup, ...]:
        """Those of the usual groups that have a norm."""
        return tuple(group for group in super().channel_groups(structure) if group.of_role("norm"))

    def setup(self, s: Sparsifier) -> None:
        """Install full masks; set the scales."""
        norms = _norms(s.model)
        if lacking := [group.name for group in s.groups if not _scales(group, norms)]:
            raise UnsupportedModuleError(
                f"{self.name} goes by the scales of batch norm, and these channels have none: {', '.join(lacking)}; leave "
                f"them out with ignore={lacking}"
            )
        for target in s.targets:
            s.install_mask(target)
        if self.initial_scale is None:
            return
        if any(bool((norm.weight != 1.0).any()) for norm in norms.values()):
            s.note(
                f"{self.name}: batch norms had scales other than 1, all are {self.initial_scale:g} now; a trained model "
                "needs initial_scale: null"
            )
        stored = {site.name: target.parameter for target in s.targets for site in target.sites}
        for name, norm in norms.items():
            stored.get(name, norm.weight).data.fill_(self.initial_scale)

    def penalty(self, s: Sparsifier) -> Tensor | None:
        """``strength * sum(|g|)``, in the first round."""
        scales = [norm.weight for norm in _norms(s.model).values() if norm.weight.requires_grad]
        if s.round > 0 or self.strength == 0.0 or not scales:
            return None
        return self.strength * torch.cat(tuple(scales)).abs().sum()

    def settle(self, s: Sparsifier) -> None:
        """Remove channels, where no fine-tuning follows."""
        if not self.fine_tune:
            self._remove(s)

    def next_round(self, s: Sparsifier) -> bool:
        """After the first round: remove channels, if fine-tuning follows."""
        if s.round > 0 or not self.fine_tune:
            return False
        self._remove(s)
        return True

    def _remove(self, s: Sparsifier) -> None:
        assert s.structure is not None
        norms = _norms(s.model)
        scales = {name: norm.weight.detach().abs().to("cpu", torch.float64) for name, norm in norms.items()}
        if diverged := [name for name, scale in scales.items() if not bool(scale.isfinite().all())]:
            raise DivergedError(f"{diverged[0]} holds values that are not finite: training diverged before pruning")
        ranks = {}
        for group in s.groups:
            parts = [scales[name][entries].amax(1) for name, entries in _scales(group, norms)]
            ranks[group.name] = torch.stack(parts).amax(0)
        if self.budget is not None:
            s.set_channels(project(s.structure, s.groups, {}, ranks, s.costs, self.budget))
        else:
            threshold = self._threshold(torch.cat(list(scales.values())))
            s.set_channels({name: _above(rank, threshold) for name, rank in ranks.items()})

    def _threshold(self, scales: Tensor) -> float:
        index = math.floor(len(scales) * (1.0 - self.channel_density) + 1e-9)  # (1 - 0.9) * 1000 is below 100
        return float(scales.sort().values[index]) if index else -1.0


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Batch norms with a scale, by the name of the scale; shared modules once."""
    named = model.named_modules()
    return {f"{path}.weight".lstrip("."): m for path, m in named if isinstance(m, _BatchNorm) and m.affine}


def _scales(group: ChannelGroup, norms: Mapping[str, _BatchNorm]) -> list[tuple[str, Tensor]]:
    """Names of the scales of a group's channels, and which entries belong to each."""
    return [(member.tensor, member.entries) for member in group.of_role("norm") if member.tensor in norms]


def _above(rank: Tensor, threshold: float) -> Tensor:
    """Which channels are above a threshold; the highest in any case."""
    keep = rank > threshold
    keep[rank.argmax()] = True
    return keep
