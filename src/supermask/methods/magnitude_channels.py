"""Channels of small weights go, little by little while the network trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from supermask.core.budget import check_budget, project
from supermask.core.channel_ranks import dense_tensors, places, weights_by_channel
from supermask.core.channels import Residual
from supermask.core.groups import ChannelGroup
from supermask.core.method import Method, check_choice, check_count, check_globs, check_range
from supermask.core.registry import register
from supermask.core.sparsifier import Sparsifier
from supermask.errors import DivergedError, HyperparameterError
from supermask.tensors.schedules import cubic

Scope = Literal["global", "uniform"]


@register
@dataclass(frozen=True, kw_only=True)
class MagnitudeChannels(Method):
    """Magnitude of channels: a budget tightens along a cubic schedule, and the channels of the smallest weights go.

    Update: at an event every ``every`` steps from ``begin`` to ``end``, with ``p`` the progress between the two::

        budget now       = budget + (1 - budget) * (1 - p)**3        for each unit
        rank of a channel = |w| / mean of |w| over the group's channels that remain,  |w| the L2 norm of its weights

    and channels go from the lowest rank until every limit is met. One that is gone ranks below all that remain; it comes back,
    from zero, only where it still fits and they do not.

    **Source:** the schedule of Zhu and Gupta, "To prune, or not to prune", 2017, arXiv 1710.01878; the rank is the group
    norm of Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, arXiv 2301.12900, of what makes a channel.

    **Differs:** a baseline of ours, of these two parts. DepGraph's norm includes the weights that read a channel; it prunes
    trained networks at once.

    **Cost:** an event takes a sum over all weights and a choice of channels, of some milliseconds to tenths of a second.
    Memory: 1 byte for each weight of a convolution.

    Args:
        budget: Unit -> fraction of the dense network's cost that may remain, in (0, 1]. Default ``{macs: 0.5}``: ours.
        scope: ``global`` (default): all channels together; ``uniform``: every group keeps the same share.
        residual: ``inner`` (default): channels that residual additions share stay; ``shared``: they can go.
        whole: Globs on names of channel groups that stay as they are. Default none.
        begin: Progress after which the budget tightens, in [0, 1). Default 0: that of ``magnitude``.
        end: Progress at which it is met, in (begin, 1]. Default 0.75: that of ``magnitude``.
        every: Optimizer steps between events. Default 100: that of ``magnitude``.

    Raises:
        HyperparameterError: A field is out of range.
        BudgetError: No choice of channels meets the budget, or a unit's cost is not known.
    """

    name: ClassVar[str] = "magnitude-channels"
    needs_structure: ClassVar[bool] = True

    budget: Mapping[str, float] = field(default_factory=lambda: {"macs": 0.5}, hash=False)
    scope: Scope = "global"
    residual: Residual = "inner"
    whole: tuple[str, ...] = ()
    begin: float = 0.0
    end: float = 0.75
    every: int = 100

    def __post_init__(self) -> None:
        check_budget(self.name, self.budget)
        check_choice(self.name, "scope", self.scope, get_args(Scope))
        check_choice(self.name, "residual", self.residual, get_args(Residual))
        check_range(self.name, "begin", self.begin, 0.0, 1.0)
        check_range(self.name, "end", self.end, 0.0, 1.0, open_low=True)
        if self.begin >= self.end:
            raise HyperparameterError(
                f"{self.name}: begin must be before end, got begin={self.begin!r}, end={self.end!r}"
            )
        check_count(self.name, "every", self.every, "steps")
        check_globs(self.name, "whole", self.whole)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Both scopes, with events frequent enough for a short run."""
        return (cls(every=2), cls(budget={"params": 0.6, "macs": 0.7}, scope="uniform", begin=0.3, end=1.0, every=3))

    def setup(self, s: Sparsifier) -> None:
        """Install full masks."""
        for target in s.targets:
            s.install_mask(target)

    def after_step(self, s: Sparsifier) -> None:
        """Remove channels when an event is due."""
        assert s.total_steps is not None
        begin = round(self.begin * s.total_steps)
        end = max(begin + 1, round(self.end * s.total_steps))
        if s.step == end or (begin < s.step < end and (s.step - begin) % self.every == 0):
            now = {u: cubic(s.step, start=begin, end=end, final=limit) for u, limit in self.budget.items()}
            self._remove(s, now)

    def _remove(self, s: Sparsifier, budget: Mapping[str, float]) -> None:
        assert s.structure is not None
        tensors, present = dense_tensors(s), s.channels()
        ranks = {group.name: self._rank(tensors, group, present[group.name]) for group in s.groups}
        s.set_channels(project(s.structure, s.groups, present, ranks, s.costs, budget))

    def _rank(self, tensors: Mapping[str, Tensor], group: ChannelGroup, present: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(weights_by_channel(tensors, group), dim=1)
        if not bool(norm.isfinite().all()):
            raise DivergedError(f"weights of {group.name} are not finite: training diverged before pruning")
        return places(norm) if self.scope == "uniform" else norm / norm[present].mean().clamp_min(1e-30)
