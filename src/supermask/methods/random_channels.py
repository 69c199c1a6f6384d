"""Random channels go before training: the baseline of every method that chooses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import nn

from supermask.core.budget import check_budget, project
from supermask.core.channel_ranks import places
from supermask.core.channels import Residual
from supermask.core.method import Method, check_choice, check_globs
from supermask.core.registry import register
from supermask.core.sparsifier import Sparsifier
from supermask.tensors.philox import Stream

Scope = Literal["uniform", "global"]


@register
@dataclass(frozen=True, kw_only=True)
class RandomChannels(Method):
    """Random channels: drawn once before training until a budget is met; what remains is trained.

    Update: none; the channels of the largest random numbers remain, in equal shares of all groups or of all together.

    **Source:** the random baseline of filter pruning. For groups in equal shares it is the uniformly narrower network trained
    from scratch of Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, arXiv 1810.05270.

    **Differs:** the budget is met to the channel, by any of several units.

    **Cost:** as a dense network until it is shrunk. Memory: 1 byte for each weight of a convolution.

    Args:
        budget: Unit -> fraction of the dense network's cost that may remain, in (0, 1]. Default ``{macs: 0.5}``: ours.
        scope: ``uniform`` (default): every group keeps the same share; ``global``: any channels.
        residual: ``inner`` (default): channels that residual additions share stay; ``shared``: they can go.
        whole: Globs on names of channel groups that stay as they are. Default none.

    Raises:
        HyperparameterError: A field is out of range.
        BudgetError: No choice of channels meets the budget, or a unit's cost is not known.
    """

    name: ClassVar[str] = "random-channels"
    needs_structure: ClassVar[bool] = True

    budget: Mapping[str, float] = field(default_factory=lambda: {"macs": 0.5}, hash=False)
    scope: Scope = "uniform"
    residual: Residual = "inner"
    whole: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_budget(self.name, self.budget)
        check_choice(self.name, "scope", self.scope, get_args(Scope))
        check_choice(self.name, "residual", self.residual, get_args(Residual))
        check_globs(self.name, "whole", self.whole)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Both scopes."""
        return (cls(), cls(budget={"params": 0.6, "macs": 0.7}, scope="global"))

    def setup(self, s: Sparsifier) -> None:
        """Draw the channels, install the masks."""
        assert s.structure is not None
        for target in s.targets:
            s.install_mask(target)
        ranks = {}
        for group in s.groups:
            numbers = torch.from_numpy(Stream(s.seed, "channels", group.name).uniform(group.channels))
            ranks[group.name] = places(numbers) if self.scope == "uniform" else numbers
        s.set_channels(project(s.structure, s.groups, {}, ranks, s.costs, self.budget))
