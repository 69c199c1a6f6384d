"""Magnitude pruning, at once or gradually."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import nn

from supermask.core.method import Method, check_choice, check_count, check_density, check_range
from supermask.core.registry import register
from supermask.core.select import SCOPES, Scope, masks_by_score
from supermask.core.sparsifier import Sparsifier
from supermask.errors import HyperparameterError
from supermask.tensors.schedules import cubic

Schedule = Literal["one-shot", "gradual"]


@register
@dataclass(frozen=True, kw_only=True)
class Magnitude(Method):
    """Magnitude pruning: the smallest weights go, at once or along a cubic schedule; the rest trains on.

    Update: at an event the ``density(t) * size`` largest ``|weight|`` remain. ``one-shot`` has one event, at ``begin``.
    ``gradual`` has one every ``every`` steps from ``begin`` to ``end``, with ``p`` the progress between the two:
    ``density = density_final + (initial_density - density_final) * (1 - p)**3``.
    A hidden weight never returns, so masks are nested; it loses its value and its momentum when it is hidden.

    **Source:** Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017,
    arXiv 1710.01878; code in google-research/google-research, model_pruning.

    **Differs:** exact counts instead of a histogram threshold; ``begin`` and ``end`` are progress (step / total_steps), so
    that a schedule survives a change of length; scopes beyond the original's one density for every layer.

    **Cost:** a step takes the product of weight and mask more, an event a selection over all weights: together about a tenth
    of a dense step of the FCN at batch 128, with ``gradual`` (``docs/performance.md``). Memory: 1 byte a weight; during an
    event one more copy of the weights.

    Args:
        density: Fraction of the targeted weights that remains at the end, in (0, 1]. Default 0.1: ours.
        schedule: ``gradual`` (default) or ``one-shot``.
        scope: ``uniform`` (default, the original's), ``global``, ``erk`` or ``er``.
        initial_density: Density at ``begin`` of a gradual schedule, in (0, 1]. Default 1: the original's. Unused, as are
            ``end`` and ``every``, by ``one-shot``.
        begin: Progress of the first event, in [0, 1). 0 prunes at ``attach``, before the first step; anything else after a
            step, the first one at the earliest. Of a single step the last event is all there is.
        end: Progress of the last event of a gradual schedule, in (begin, 1]. Default 0.75: ours.
        every: Optimizer steps between events of a gradual schedule. Default 100: the original's order.

    Raises:
        HyperparameterError: A field is out of range.
    """

    name: ClassVar[str] = "magnitude"

    density: float = 0.1
    schedule: Schedule = "gradual"
    scope: Scope = "uniform"
    initial_density: float = 1.0
    begin: float = 0.0
    end: float = 0.75
    every: int = 100

    def __post_init__(self) -> None:
        check_density(self.name, self.density)
        check_density(self.name, self.initial_density, "initial_density")
        check_choice(self.name, "schedule", self.schedule, get_args(Schedule))
        check_choice(self.name, "scope", self.scope, SCOPES)
        check_range(self.name, "begin", self.begin, 0.0, 1.0)
        check_range(self.name, "end", self.end, 0.0, 1.0, open_low=True)
        if self.begin >= (self.end if self.schedule == "gradual" else 1.0):
            raise HyperparameterError(
                f"{self.name}: begin must be before end, got begin={self.begin!r}, end={self.end!r}"
            )
        if self.initial_density < self.density:
            raise HyperparameterError(
                f"{self.name}: initial_density must be at least density ({self.density!r}), got {self.initial_density!r}"
            )
        check_count(self.name, "every", self.every, "steps")

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Both schedules, with events frequent enough for a short run."""
        return (cls(every=2), cls(schedule="one-shot", scope="global", begin=0.5))

    def setup(self, s: Sparsifier) -> None:
        """Install full masks; prune now when the schedule begins at 0."""
        for target in s.targets:
            s.install_mask(target)
        if self.begin == 0.0:
            self._prune(s, self.density if self.schedule == "one-shot" else self.initial_density)

    def after_step(self, s: Sparsifier) -> None:
        """Prune when an event is due."""
        assert s.total_steps is not None
        begin, end = self._event_steps(s.total_steps)
        if self.schedule == "one-shot":
            if s.step == max(begin, 1) and self.begin > 0.0:
                self._prune(s, self.density)
            return
        if s.step == 1 and begin + self.every >= end:
            s.note(
                f"{self.name}: no event between the first and the last: every={self.every:,} steps, and they are at step "
                f"{begin:,} and step {end:,}; lower every, or train longer"
            )
        if s.step == end:
            self._prune(s, self.density)
        elif begin <= s.step < end and (s.step - begin) % self.every == 0:
            now = cubic(s.step, start=begin, end=end, initial=self.initial_density, final=self.density)
            self._prune(s, now)

    def _event_steps(self, total_steps: int) -> tuple[int, int]:
        """Steps of the first and the last event; the last comes after the first, and no later than the last step."""
        begin = min(max(1, round(self.begin * total_steps)) if self.begin > 0.0 else 0, total_steps - 1)
        return begin, max(begin + 1, round(self.end * total_steps))

    def _prune(self, s: Sparsifier, density: float) -> None:
        scores = [torch.where(target.mask, target.dense.abs(), -1.0) for target in s.targets]
        limits = [int(target.mask.sum()) for target in s.targets]  # so that masks are nested whatever the rounding
        masks = masks_by_score(s.targets, scores, density, self.scope, limits)
        for target, mask in zip(s.targets, masks, strict=True):
            s.set_mask(target, mask)
