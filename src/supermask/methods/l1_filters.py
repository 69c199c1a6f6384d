"""Filters of the smallest L1 norm go, all at once after dense training, and the rest is fine-tuned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar, Final, Literal, Self, get_args

from torch import nn

from supermask.core.budget import check_budget, check_feasible, project
from supermask.core.channel_ranks import dense_tensors, places, weights_by_channel
from supermask.core.channels import Residual
from supermask.core.groups import ChannelGroup
from supermask.core.method import Method, check_choice, check_flag, check_globs, check_idle, check_range
from supermask.core.registry import register
from supermask.core.sparsifier import Sparsifier
from supermask.errors import DivergedError, HyperparameterError

Scope = Literal["layer", "global"]
Recipe = tuple[float, ...]  # fraction of channels that remains, group by group


def _blocks(stages: Sequence[tuple[int, float]], skip: Sequence[int]) -> Recipe:
    """Of basic blocks: number and fraction in each stage. Convolutions are counted from 1, a block's first is even."""
    fractions = [fraction for blocks, fraction in stages for _ in range(blocks)]
    return tuple(1.0 if 2 * i in skip else fraction for i, fraction in enumerate(fractions, start=1))


_RECIPES: Final[dict[str, Recipe]] = {
    "vgg16-a": (0.5, *[1.0] * 6, *[0.5] * 6),
    "resnet56-a": _blocks([(9, 0.9), (9, 0.9), (9, 0.9)], (16, 20, 38, 54)),
    "resnet56-b": _blocks([(9, 0.4), (9, 0.7), (9, 0.9)], (16, 18, 20, 34, 38, 54)),
    "resnet110-a": _blocks([(18, 0.5), (18, 1.0), (18, 1.0)], (36,)),
    "resnet110-b": _blocks([(18, 0.5), (18, 0.6), (18, 0.7)], (36, 38, 74)),
    "resnet34-a": _blocks([(3, 0.7), (4, 0.7), (6, 0.7), (3, 1.0)], (2, 8, 14, 16, 26, 28, 30, 32)),
    "resnet34-b": _blocks([(3, 0.5), (4, 0.4), (6, 0.6), (3, 1.0)], (2, 8, 14, 16, 26, 28, 30, 32)),
}


@register
@dataclass(frozen=True, kw_only=True)
class L1Filters(Method):
    """L1-norm filter pruning: after dense training the filters of the smallest weights go, and the rest is fine-tuned.

    Update, once, after the first round; in a layer of C filters with the fraction r of the recipe::

        score of a filter = sum of |w| over its weights
        the floor(r * C) filters of the highest score remain, at least one

    With a budget, r becomes ``1 - f * (1 - r)`` with one factor f for all layers, the smallest that meets the budget, and the
    last filters are counted singly. ``scope: global`` ranks the mean of |w| over a filter's weights in all layers together.

    **Source:** Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv 1608.08710. The
    recipes are those of the code in Eric-mingjie/rethinking-network-pruning.

    **Differs:** a layer keeps at least one filter; all layers are scored on the trained weights ("independent"), the paper's
    "greedy" variant is left out; budgets and the global scope are ours. The global one takes means, because sums would
    compare layers by their numbers of inputs. Where a residual stream is pruned (``residual: shared``), a channel's
    score is the sum over all layers that add to it; the paper takes the projection's filters alone.

    **Cost:** nothing at a step; once a sum over all weights. Memory: 1 byte for each weight of a convolution.

    Args:
        recipe: Fraction of each layer's filters that remains. A name: ``vgg16-a``, ``resnet56-a``, ``resnet56-b``,
            ``resnet110-a``, ``resnet110-b``, ``resnet34-a``, ``resnet34-b``, the published ones. Or a mapping from
            globs on names of channel groups to fractions in (0, 1]; the last that matches holds, and a group without any keeps
            all. Default ``{"*": 0.5}``: ours.
        budget: Unit -> fraction of the dense network's cost that may remain, in (0, 1]; None (default, the paper's): the
            recipe as it is.
        scope: ``layer`` (default, the paper's) or ``global``; the latter needs a budget, and no recipe.
        residual: ``inner`` (default, the recipes'): channels that residual additions share stay; ``shared``: they can go.
        whole: Globs on names of channel groups that stay as they are. Default none.
        fine_tune: Whether a second round follows. Default true: the paper's.

    Raises:
        HyperparameterError: A field is out of range or would not be used, or the recipe is not for this model.
        BudgetError: No choice of the recipe's channels meets the budget, or a unit's cost is not known.
    """

    name: ClassVar[str] = "l1-filters"
    needs_structure: ClassVar[bool] = True

    recipe: str | Mapping[str, float] = field(default_factory=lambda: {"*": 0.5}, hash=False, metadata={"names": True})
    budget: Mapping[str, float] | None = field(default=None, hash=False)
    scope: Scope = "layer"
    residual: Residual = "inner"
    whole: tuple[str, ...] = ()
    fine_tune: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.recipe, str):
            check_choice(self.name, "recipe", self.recipe, tuple(_RECIPES))
        elif not isinstance(self.recipe, Mapping) or not self.recipe:
            raise HyperparameterError(
                f"{self.name}: recipe must be a name ({', '.join(_RECIPES)}) or a mapping from names of groups to the "
                f"fraction that remains, got {self.recipe!r}"
            )
        else:
            for pattern, fraction in self.recipe.items():
                check_range(self.name, f"recipe {pattern}", fraction, 0.0, 1.0, open_low=True, meaning="it remains")
        if self.budget is not None:
            check_budget(self.name, self.budget)
        check_choice(self.name, "scope", self.scope, get_args(Scope))
        check_choice(self.name, "residual", self.residual, get_args(Residual))
        check_flag(self.name, "fine_tune", self.fine_tune)
        if self.scope == "global":
            check_idle(self.name, "recipe", self.recipe, {"*": 0.5}, "set scope to layer")
            if self.budget is None:
                raise HyperparameterError(f"{self.name}: scope is 'global', which needs a budget to tell how many go")
        check_globs(self.name, "whole", self.whole)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """A recipe as it is and to a budget, and the global scope."""
        budget = {"macs": 0.5, "params": 0.7}
        return (cls(), cls(budget=budget, fine_tune=False), cls(budget=budget, scope="global"))

    def setup(self, s: Sparsifier) -> None:
        """Install full masks; see that the recipe fits."""
        assert s.structure is not None
        chosen = self._chosen(s)
        check_feasible(s.structure, [group for group, _ in chosen], s.costs, self.budget or {})
        for target in s.targets:
            s.install_mask(target)

    def settle(self, s: Sparsifier) -> None:
        """Remove filters, where no fine-tuning follows."""
        if not self.fine_tune:
            self._remove(s)

    def next_round(self, s: Sparsifier) -> bool:
        """After the first round: remove filters, if fine-tuning follows."""
        if s.round > 0 or not self.fine_tune:
            return False
        self._remove(s)
        return True

    def _remove(self, s: Sparsifier) -> None:
        assert s.structure is not None
        tensors, ranks, keeps = dense_tensors(s), {}, {}
        for group, fraction in self._chosen(s):
            size = weights_by_channel(tensors, group).abs()
            if not bool(size.isfinite().all()):
                raise DivergedError(f"weights of {group.name} are not finite: training diverged before pruning")
            place = places(size.sum(1))
            keeps[group.name] = place > 1.0 - max(1, math.floor(fraction * len(place) + 1e-9)) / len(place) + 1e-9
            ranks[group.name] = size.mean(1) if self.scope == "global" else place / (1.0 - fraction)
        if self.budget is not None:
            groups = [group for group in s.groups if group.name in keeps]
            keeps = project(s.structure, groups, {}, ranks, s.costs, self.budget)
        s.set_channels(keeps)

    def _chosen(self, s: Sparsifier) -> list[tuple[ChannelGroup, float]]:
        """The groups that lose channels, and the fraction of each that remains."""
        if self.scope == "global":
            return [(group, 0.5) for group in s.groups]
        fractions = self._fractions([group.name for group in s.groups])
        if not (chosen := [(g, fraction) for g, fraction in zip(s.groups, fractions, strict=True) if fraction < 1.0]):
            raise HyperparameterError(f"{self.name}: recipe removes nothing from {', '.join(g.name for g in s.groups)}")
        return chosen

    def _fractions(self, names: list[str]) -> Recipe:
        if isinstance(self.recipe, str):
            published = _RECIPES[self.recipe]
            if len(published) != len(names):
                raise HyperparameterError(
                    f"{self.name}: recipe {self.recipe!r} is for {len(published)} groups of channels, this model has "
                    f"{len(names)}: {', '.join(names)}; give a mapping instead"
                )
            return published
        found = dict.fromkeys(names, 1.0)
        for pattern, fraction in self.recipe.items():
            matched = [name for name in names if fnmatchcase(name, pattern)]
            if not matched:
                raise HyperparameterError(
                    f"{self.name}: recipe {pattern!r} matches no group of channels; there are {', '.join(names)}"
                )
            found |= dict.fromkeys(matched, fraction)
        return tuple(found.values())
