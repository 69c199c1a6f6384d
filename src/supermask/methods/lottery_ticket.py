"""Lottery tickets: train, prune, rewind, again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from supermask.core.method import Method, check_choice, check_count, check_density, check_flag, check_range
from supermask.core.registry import register
from supermask.core.select import SCOPES, Scope, masks_by_counts, masks_by_score
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Target
from supermask.errors import HyperparameterError
from supermask.tensors.philox import Stream
from supermask.tensors.schedules import exponential
from supermask.tensors.topk import keep_count

Rewind = Literal["init", "step", "none", "reinit"]
Criterion = Literal[
    "large-final",
    "small-final",
    "large-init",
    "small-init",
    "large-init-large-final",
    "small-init-small-final",
    "magnitude-increase",
    "movement",
    "random",
]
_OF_FINAL_WEIGHTS = ("large-final", "small-final", "random")  # criteria that need no initial weights


@register
@dataclass(frozen=True, kw_only=True)
class LotteryTicket(Method):
    """Lottery tickets by iterative magnitude pruning: train, prune the smallest weights, rewind the others, train again.

    Update: there are ``rounds`` trainings, and a pruning after each but the last; ``rounds: 2`` is one-shot pruning. With
    ``w_i`` the initial weight (of this round, with ``reinit``) and ``w_f`` the trained one, pruning keeps the highest
    scores of those that remain, ``|w_f|`` by default. After r of n prunings ``density**(r / n)`` of all weights remain; or,
    when ``density`` is null, in each layer ``(1 - rate)**r`` with the paper's rates. Then weights, biases, norms and
    buffers go back to what they were at the beginning (``init``) or at step k of the first training (``step``), bitwise.
    Masks are nested, and hidden weights are 0. The loop builds a fresh optimizer for each round (``for _ in
    sparsifier.rounds()``).

    **Source:** Frankle and Carbin, "The lottery ticket hypothesis", ICLR 2019, arXiv 1803.03635; rewinding to a step: Frankle
    et al., ICML 2020, arXiv 1912.05671; learning-rate rewinding: Renda et al., ICLR 2020, arXiv 2003.02389; criteria: Zhou et
    al., "Deconstructing lottery tickets", NeurIPS 2019, arXiv 1905.01067.

    **Differs:** counts are exact and rounded once (released code removes one weight more than asked, or all ties). Among equal
    scores the earlier weight remains. ``reinit`` puts a layer's initial values into a new random order, a draw from its own
    distribution, whichever it was. The two criteria of initial and final weights rank by the lower of the two quantiles among
    a layer's remaining weights, which is the originals' common quantile. Weights whose sign changed go first under
    ``same_sign``; the original gives them the score 0. Learning-rate rewinding replays the schedule from ``rewind_step`` on.

    **Cost:** a static mask's step, ``rounds`` times as many of them. Memory: a byte a weight, and the values to rewind to.

    Args:
        density: Fraction of the targeted weights that remains in the last round, in (0, 1]; null: by the rates below.
            Default 0.1: ours. With one, the rates must be left at their defaults; without one, the scope.
        rounds: Trainings, at least 2. Default 5: ours.
        scope: ``global`` (default), ``uniform`` (the same density in every layer), ``erk`` or ``er``, for a density.
        conv_rate: Share of a convolution's remaining weights that a pruning removes when ``density`` is null, in [0, 0.99].
            Default 0.1: the paper's for Conv2 and Conv4; 0.15 for Conv6.
        linear_rate: The same for all other layers. Default 0.2: the paper's.
        output_rate: The same for the output layer, which is the last target. Default 0.1: the paper's.
        criterion: ``large-final`` (default, the paper's): ``|w_f|``; ``small-final``: ``-|w_f|``; ``large-init``: ``|w_i|``;
            ``small-init``: ``-|w_i|``; ``large-init-large-final`` and ``small-init-small-final``: both;
            ``magnitude-increase``: ``|w_f| - |w_i|``; ``movement``: ``|w_f - w_i|``; ``random``.
        same_sign: Whether weights whose sign differs from the initial one go first. Default false.
        rewind: ``init`` (default, the paper's); ``step``: to ``rewind_step`` of the first training; ``none``: weights stay,
            only the learning rate goes back; ``reinit``: as ``init``, with initial weights in a new order.
        rewind_step: Optimizer step that later rounds begin at, for ``step`` (at least 1) and ``none``. Default 0.

    Raises:
        HyperparameterError: A field is out of range or without effect, or ``rewind_step`` is no step of a round.
    """

    name: ClassVar[str] = "lottery-ticket"

    density: float | None = 0.1
    rounds: int = 5
    scope: Scope = "global"
    conv_rate: float = 0.1
    linear_rate: float = 0.2
    output_rate: float = 0.1
    criterion: Criterion = "large-final"
    same_sign: bool = False
    rewind: Rewind = "init"
    rewind_step: int = 0

    def __post_init__(self) -> None:
        if self.density is not None:
            check_density(self.name, self.density)
        check_count(self.name, "rounds", self.rounds, "trainings", least=2)
        check_choice(self.name, "scope", self.scope, SCOPES)
        for field in ("conv_rate", "linear_rate", "output_rate"):
            check_range(self.name, field, getattr(self, field), 0.0, 0.99)
        unused = ("scope",) if self.density is None else ("conv_rate", "linear_rate", "output_rate")
        for field in unused:
            if getattr(self, field) != getattr(type(self), field):
                raise HyperparameterError(
                    f"{self.name}: {field} acts only {'with' if self.density is None else 'without'} a density, got "
                    f"{getattr(self, field)!r} and density {self.density!r}; leave {field} out, or set density "
                    f"{'to a number' if self.density is None else 'to null'}"
                )
        check_choice(self.name, "criterion", self.criterion, get_args(Criterion))
        check_flag(self.name, "same_sign", self.same_sign)
        check_choice(self.name, "rewind", self.rewind, get_args(Rewind))
        check_count(self.name, "rewind_step", self.rewind_step, "steps", least=0)
        if (self.rewind == "step") > self.rewind_step or (self.rewind_step and self.rewind in ("init", "reinit")):
            wanted = "at least 1" if self.rewind == "step" else "0"
            raise HyperparameterError(
                f"{self.name}: rewind_step must be {wanted} with rewind: {self.rewind}, got {self.rewind_step!r}"
            )

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """The ways to rewind, with few rounds."""
        return (
            cls(rounds=3),
            cls(rounds=3, density=0.3, scope="uniform", rewind="step", rewind_step=3),
            cls(rounds=2, density=None, linear_rate=0.6, rewind="reinit", criterion="magnitude-increase"),
            cls(rounds=2, density=0.5, scope="erk", rewind="none", rewind_step=2, criterion="random", same_sign=True),
        )

    def setup(self, s: Sparsifier) -> None:
        """Install full masks; keep the initial values where they will be needed."""
        for target in s.targets:
            s.install_mask(target)
        if self.rewind in ("init", "reinit") or self.same_sign or self.criterion not in _OF_FINAL_WEIGHTS:
            s.keep_values("start")

    def after_step(self, s: Sparsifier) -> None:
        """Keep the values to rewind to."""
        if s.round > 0:
            return
        assert s.total_steps is not None
        if self.rewind_step >= s.total_steps:
            raise HyperparameterError(
                f"{self.name}: rewind_step must be less than the {s.total_steps:,} steps of a round, got {self.rewind_step}"
            )
        if self.rewind == "step" and s.step == self.rewind_step:
            s.keep_values("rewind")

    def first_step(self, s: Sparsifier) -> int:  # noqa: ARG002
        """Later rounds begin at ``rewind_step``."""
        return self.rewind_step

    def next_round(self, s: Sparsifier) -> bool:
        """Prune and rewind."""
        if s.round + 1 == self.rounds:
            return False
        for target, mask in zip(s.targets, self._masks(s), strict=True):
            s.set_mask(target, mask)
        if self.rewind != "none":
            s.restore_values("rewind" if self.rewind == "step" else "start")
        if self.rewind == "reinit":
            for target in s.targets:
                target.parameter.data.copy_(self._initial(s, target, s.round + 1) * target.mask)
        return True

    def _masks(self, s: Sparsifier) -> list[Tensor]:
        scores = [self._score(s, target) for target in s.targets]
        if self.density is None:
            return masks_by_counts(s.targets, scores, self._counts(s.targets, s.round + 1))
        now = exponential((s.round + 1) / (self.rounds - 1), final=self.density)
        limits = [int(target.mask.sum()) for target in s.targets]  # so that masks are nested whatever the rounding
        return masks_by_score(s.targets, scores, now, self.scope, limits)

    def _counts(self, targets: Sequence[Target], prunings: int) -> list[int]:
        rates = [self.conv_rate if target.kind == "conv" else self.linear_rate for target in targets]
        rates[-1] = self.output_rate
        return [keep_count((1.0 - rate) ** prunings, target.size) for rate, target in zip(rates, targets, strict=True)]

    def _score(self, s: Sparsifier, target: Target) -> Tensor:
        """What pruning ranks by; hidden weights are below all others."""
        final, mask = target.dense.detach(), target.mask
        if self.criterion == "random":
            numbers = Stream(s.seed, "ticket", target.name, s.round).uniform(target.size)
            score = torch.from_numpy(numbers).reshape(target.shape).to(mask.device)
        elif self.criterion in _OF_FINAL_WEIGHTS:
            score = final.abs() if self.criterion == "large-final" else -final.abs()
        else:
            score = _compared(self.criterion, self._initial(s, target, s.round), final, mask)
        if self.same_sign:
            flipped = self._initial(s, target, s.round).sign() * final.sign() < 0
            score = score.masked_fill(flipped, torch.finfo(score.dtype).min)
        return score.masked_fill(~mask, -torch.inf)

    def _initial(self, s: Sparsifier, target: Target, number: int) -> Tensor:
        """The initial weight of a target in a round, before its mask: with ``reinit``, each round has one of its own."""
        keys = [f"start/{site.name}" for site in target.sites]  # of tied weights one name is kept
        values = s.state[next(key for key in keys if key in s.state)]
        if self.rewind != "reinit" or number == 0:
            return values
        order = torch.from_numpy(Stream(s.seed, "reinit", target.name, number - 1).permutation(target.size))
        return values.flatten()[order.to(values.device)].reshape(target.shape)


def _compared(criterion: str, initial: Tensor, final: Tensor, mask: Tensor) -> Tensor:
    """Scores of the criteria that compare trained weights with initial ones, or ignore the trained ones."""
    if criterion == "magnitude-increase":
        return final.abs() - initial.abs()
    if criterion == "movement":
        return (final - initial).abs()
    sign = -1.0 if criterion.startswith("small") else 1.0
    if criterion in ("large-init", "small-init"):
        return sign * initial.abs()
    return torch.minimum(_quantiles(sign * initial.abs(), mask), _quantiles(sign * final.abs(), mask))


def _quantiles(values: Tensor, mask: Tensor) -> Tensor:
    """The rank of each remaining value among them, in [0, 1); 0 elsewhere. Float64; among equals the earlier is higher."""
    order = values[mask].flip(0).argsort(stable=True).argsort().flip(0)
    out = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device)
    out[mask] = order.double() / max(1, order.numel())
    return out
