"""Learning-rate schedules: functions of the step as frozen dataclasses, and the two drivers that apply them.

A schedule knows no optimizer. ``schedule.bind(optimizer, total_steps=n)`` gives its driver, with the same three calls for
each: ``step()`` after every optimizer step, ``epoch_end(train_loss)`` after every epoch, ``finished`` to ask whether the
rule wants training to stop.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from torch.optim import Optimizer

from supermask.errors import BindError, DivergedError, HyperparameterError, StateError
from supermask.optim import _checks
from supermask.optim.sgdw import SGDW

BETTER_BY: Final = 1e-4  # a loss is better than another if it stays below it with this added


@dataclass(frozen=True)
class Schedule(abc.ABC):
    """A factor on the base learning rate as a function of the number of optimizer steps taken."""

    name: ClassVar[str]

    @abc.abstractmethod
    def factor(self, step: int) -> float:
        """Factor for the optimizer step with index ``step`` (the first is 0)."""

    def complete(self, total_steps: int | None) -> Schedule:  # noqa: ARG002
        """The same schedule with what it lacks filled in from the length of the training, in optimizer steps."""
        return self

    def bind(self, optimizer: Optimizer, *, total_steps: int | None = None, decay: bool | None = None) -> Scheduler:
        """Make the :class:`Scheduler` that applies this schedule to ``optimizer``."""
        return Scheduler(optimizer, self, decay=decay, total_steps=total_steps)


@dataclass(frozen=True)
class Constant(Schedule):
    """factor = 1."""

    name: ClassVar[str] = "constant"

    def factor(self, step: int) -> float:  # noqa: ARG002
        """1, always."""
        return 1.0


@dataclass(frozen=True)
class Exponential(Schedule):
    """factor = rate ** (step / every), the exponent rounded down if ``staircase``.

    The defaults are the signed supermask's: 0.96 after each 3900 steps (10 "epochs" of 390 steps, also for MNIST).

    Args:
        rate: In (0, 1].
        every: Optimizer steps per factor of ``rate``, >= 1.
        staircase: Cut at once after ``every`` steps, instead of a little each step.

    Raises:
        HyperparameterError: A value is out of range.
    """

    name: ClassVar[str] = "exponential"

    rate: float = 0.96
    every: int = 3900
    staircase: bool = True

    def __post_init__(self) -> None:
        _rate("rate", self.rate)
        _checks.whole("every", self.every, least=1, hint="a number of optimizer steps >= 1")
        _checks.flag("staircase", self.staircase)

    def factor(self, step: int) -> float:
        """``rate`` to the power of the steps taken over ``every``."""
        return float(self.rate ** (step // self.every if self.staircase else step / self.every))


@dataclass(frozen=True)
class Cosine(Schedule):
    """factor = (1 + cos(pi * step / steps)) / 2, and exactly 0 from ``steps`` on.

    Args:
        steps: Optimizer steps from factor 1 to 0; None: all steps of the training, filled in when bound.

    Raises:
        HyperparameterError: ``steps`` is below 1, or needed and not known.
    """

    name: ClassVar[str] = "cosine"

    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            _checks.whole("steps", self.steps, least=1, hint="a number of optimizer steps >= 1, or None")

    def complete(self, total_steps: int | None) -> Cosine:
        """With ``steps`` set to ``total_steps`` unless it is set already."""
        return self if self.steps is not None else Cosine(_known_length(self, total_steps))

    def factor(self, step: int) -> float:
        """Half a cosine from 1 to 0."""
        steps = _known_length(self, self.steps)
        if step >= steps:
            return 0.0
        return 0.5 * (1.0 + math.cos(math.pi * step / steps))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from ``start`` to 1 and down to ``end``, all in one cycle; the optimizer's own learning rate is the peak.

    With n steps, the rise ends at step rise * n - 1 and the fall at n - 1, the last step; after it the factor stays
    ``end``. With ``three_phases`` the fall is as long as the rise and goes back to ``start``, and what is left of the
    steps goes from there to ``end``. Between two values a and b a phase goes, at its share p in [0, 1]::

        cosine:  b + (a - b) * (1 + cos(pi * p)) / 2            linear:  a + (b - a) * p

    **Source:** Leslie N. Smith, "A disciplined approach to neural network hyper-parameters: Part 1", 2018,
    arXiv:1803.09820.

    **Differs:** the learning rate follows ``torch.optim.lr_scheduler.OneCycleLR`` with pct_start = ``rise``,
    div_factor = 1 / ``start`` and final_div_factor = ``start`` / ``end``, and the defaults are its own; the momentum is
    not cycled.

    Args:
        steps: Optimizer steps of the cycle; None: all steps of the training, filled in when bound.
        rise: Share of the steps until the peak, in (0, 1); at most 0.5 with ``three_phases``.
        start: Factor of the first step, in (0, 1].
        end: Factor of the last step, in [0, 1].
        anneal: ``cosine`` or ``linear``.
        three_phases: The form of the paper, with ``anneal="linear"``.

    Raises:
        HyperparameterError: A value is out of range, or ``steps`` is needed and not known.
    """

    name: ClassVar[str] = "one-cycle"

    steps: int | None = None
    rise: float = 0.3
    start: float = 0.04
    end: float = 4e-6
    anneal: Literal["cosine", "linear"] = "cosine"
    three_phases: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None:
            _checks.whole("steps", self.steps, least=1, hint="a number of optimizer steps >= 1, or None")
        _checks.flag("three_phases", self.three_phases)
        _checks.real("rise", self.rise, above=0.0, below=1.0, hint="in (0, 1) (0.3 is usual)")
        if self.three_phases and self.rise > 0.5:
            raise HyperparameterError(
                f"rise must be at most 0.5 with three_phases, got {self.rise}: the fall is as long"
            )
        _checks.real("start", self.start, above=0.0, hint="in (0, 1] (0.04 is usual); it multiplies the peak")
        _checks.real("end", self.end, least=0.0, hint="in [0, 1] (4e-6 is usual); it multiplies the peak")
        for field in ("start", "end"):
            if getattr(self, field) > 1.0:
                raise HyperparameterError(
                    f"{field} must be at most 1, got {getattr(self, field)}; it multiplies the peak"
                )
        if self.anneal not in ("cosine", "linear"):
            raise HyperparameterError(f"anneal must be 'cosine' or 'linear', got {self.anneal!r}")

    def complete(self, total_steps: int | None) -> OneCycle:
        """With ``steps`` set to ``total_steps`` unless it is set already."""
        return self if self.steps is not None else dataclasses.replace(self, steps=_known_length(self, total_steps))

    def factor(self, step: int) -> float:
        """From ``start`` to 1 and down to ``end``."""
        steps = _known_length(self, self.steps)
        phases = [(self.rise * steps - 1, self.start, 1.0)]
        if self.three_phases:
            phases += [(2 * self.rise * steps - 2, 1.0, self.start), (steps - 1, self.start, self.end)]
        else:
            phases += [(steps - 1, 1.0, self.end)]
        begin = 0.0
        for last, low, high in phases:
            if step <= last:
                share = (step - begin) / (last - begin) if last > begin else 1.0
                return self._between(low, high, share)
            begin = last
        return float(self.end)

    def _between(self, a: float, b: float, share: float) -> float:
        return a + (b - a) * share if self.anneal == "linear" else b + (a - b) * (1.0 + math.cos(math.pi * share)) / 2.0


@dataclass(frozen=True)
class Step(Schedule):
    """factor = rate ** (number of milestones reached).

    Args:
        milestones: Optimizer steps, ascending; at each one the learning rate is multiplied by ``rate``.
        rate: In (0, 1].

    Raises:
        HyperparameterError: A value is out of range or the milestones do not ascend.
    """

    name: ClassVar[str] = "step"

    milestones: tuple[int, ...]
    rate: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.milestones, list | tuple):
            raise HyperparameterError(f"milestones must be a list of optimizer steps, got {self.milestones!r}")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for milestone in self.milestones:
            _checks.whole("milestones", milestone, least=1, hint="optimizer steps >= 1")
        if any(later <= earlier for earlier, later in zip(self.milestones, self.milestones[1:])):
            raise HyperparameterError(f"milestones must ascend, got {list(self.milestones)}; sort them, no step twice")
        _rate("rate", self.rate)

    def factor(self, step: int) -> float:
        """``rate`` once for each milestone that ``step`` has reached."""
        return float(self.rate ** sum(step >= milestone for milestone in self.milestones))


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Up from ``start`` to 1 on a straight line, then another schedule from its own step 0.

    factor = start + (1 - start) * step / steps before step ``steps``, and then.factor(step - steps) from there on. With
    ``start=0`` the first step therefore moves nothing.

    Args:
        steps: Optimizer steps of the warm-up, >= 1.
        then: What follows; the steps that are left are all of the training for it.
        start: Factor of the first step, in [0, 1].

    Raises:
        HyperparameterError: A value is out of range, ``then`` is no schedule of the steps, or the training has no step
            left after the warm-up.
    """

    name: ClassVar[str] = "warm-up"

    steps: int
    then: Schedule
    start: float = 0.0

    def __post_init__(self) -> None:
        _checks.whole("steps", self.steps, least=1, hint="a number of optimizer steps >= 1")
        then: object = self.then
        if isinstance(then, Plateau):
            raise HyperparameterError(
                "then must be a schedule of the steps, got the plateau rule, which judges epochs; use another schedule "
                "after the warm-up, or the plateau rule without one (its `start` is the first epoch it judges)"
            )
        if not isinstance(then, Schedule):
            raise HyperparameterError(f"then must be a schedule such as Cosine(), got {then!r}")
        _checks.real("start", self.start, least=0.0, hint="in [0, 1] (0 is usual)")
        if self.start > 1.0:
            raise HyperparameterError(f"start must be in [0, 1], got {self.start}; a warm-up goes up to 1")

    def complete(self, total_steps: int | None) -> WarmUp:
        """With what ``then`` lacks filled in from the steps that are left."""
        left = None if total_steps is None else total_steps - self.steps
        if left is not None and left < 1:
            raise HyperparameterError(
                f"steps of the warm-up must be below those of the training, got {self.steps} of {total_steps}; shorten the "
                "warm-up or train longer"
            )
        return dataclasses.replace(self, then=self.then.complete(left))

    def factor(self, step: int) -> float:
        """The straight line, then ``then``."""
        if step >= self.steps:
            return self.then.factor(step - self.steps)
        return self.start + (1.0 - self.start) * step / self.steps


@dataclass(frozen=True)
class Plateau:
    """Cut the learning rate when the training loss stalls; applied by :class:`PlateauRule`, which tells the rule.

    Args:
        factor: Learning rate (and decay) are multiplied by it at a cut, in (0, 1).
        patience: Epochs without progress before a cut, >= 3.
        max_cuts: The rule is finished after so many cuts, >= 1.
        cooldown: Epochs after a cut that are not judged, >= 0.
        start: Index of the first epoch (from 0) that is judged, >= 0.
        reset_wait: Count epochs without progress afresh after progress and after a cut. False is the original's rule.

    Raises:
        HyperparameterError: A value is out of range.
    """

    name: ClassVar[str] = "plateau"

    factor: float
    patience: int
    max_cuts: int
    cooldown: int = 10
    start: int = 10
    reset_wait: bool = False

    def __post_init__(self) -> None:
        _checks.real("factor", self.factor, above=0.0, below=1.0, hint="in (0, 1) (0.1 or 0.2 are usual)")
        _checks.whole("patience", self.patience, least=3, hint="a number of epochs >= 3 (patience - 2 are looked back)")
        _checks.whole("max_cuts", self.max_cuts, least=1, hint="a number of cuts >= 1")
        _checks.whole("cooldown", self.cooldown, least=0, hint="a number of epochs >= 0")
        _checks.whole("start", self.start, least=0, hint="the index of an epoch, >= 0")
        _checks.flag("reset_wait", self.reset_wait)

    def bind(self, optimizer: Optimizer, *, total_steps: int | None = None, decay: bool | None = None) -> PlateauRule:  # noqa: ARG002
        """Make the :class:`PlateauRule` that applies this to ``optimizer``; it needs no length of the training."""
        return PlateauRule(optimizer, **dataclasses.asdict(self), decay=decay)


class _Rates:
    """The base learning rate and weight decay of each parameter group, and how to scale both."""

    def __init__(self, optimizer: Optimizer, decay: bool | None) -> None:
        self.optimizer = optimizer
        self.decay = isinstance(optimizer, SGDW) if decay is None else _checks.flag("decay", decay)
        if self.decay and any("weight_decay" not in group for group in optimizer.param_groups):
            raise BindError(f"{type(optimizer).__name__} has no weight_decay to schedule; use decay=False")
        self.lr = [float(group["lr"]) for group in optimizer.param_groups]
        self.weight_decay = [float(group["weight_decay"]) for group in optimizer.param_groups] if self.decay else []

    def scale(self, factor: float) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.lr):
            raise BindError(
                f"the optimizer has {len(groups)} parameter groups, but had {len(self.lr)} when its schedule was made; "
                "make the schedule after all groups are added"
            )
        for group, lr in zip(groups, self.lr, strict=True):
            group["lr"] = lr * factor
        if self.decay:
            for group, weight_decay in zip(groups, self.weight_decay, strict=True):
                group["weight_decay"] = weight_decay * factor

    def state_dict(self) -> dict[str, Any]:
        return {"lr": list(self.lr), "weight_decay": list(self.weight_decay), "decay": self.decay}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["lr"]) != len(self.optimizer.param_groups) or state["decay"] != self.decay:
            raise StateError(
                f"the schedule was saved for {len(state['lr'])} parameter groups and decay={state['decay']}, here are "
                f"{len(self.optimizer.param_groups)} groups and decay={self.decay}; make the optimizer as it was"
            )
        self.lr, self.weight_decay = list(state["lr"]), list(state["weight_decay"])


class Scheduler:
    """Applies a schedule: lr = base lr * factor(steps taken), and the same factor on the weight decay if ``decay``.

    Base values are what the optimizer's groups hold now. Call :meth:`step` after each optimizer step.

    Args:
        optimizer: Any optimizer.
        schedule: Gives the factor.
        decay: Scale the weight decay as well; None: True for :class:`~supermask.optim.SGDW`, False for others (whose
            decay is multiplied by lr anyway).
        total_steps: Length of the training in optimizer steps, for schedules that need it.

    Raises:
        BindError: ``decay`` for an optimizer without weight decay, or groups added later.
        HyperparameterError: The schedule needs ``total_steps``.
    """

    finished: Final = False

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule, *, decay: bool | None = None, total_steps: int | None = None
    ) -> None:
        self.schedule = schedule.complete(total_steps)
        self.steps = 0
        self._rates = _Rates(optimizer, decay)
        self._rates.scale(self.factor)

    @property
    def factor(self) -> float:
        """The factor in force, for the next optimizer step."""
        return self.schedule.factor(self.steps)

    def step(self) -> None:
        """Count one optimizer step and set the rates for the next one."""
        self.steps += 1
        self._rates.scale(self.factor)

    def epoch_end(self, train_loss: float) -> None:
        """Nothing: this schedule looks at steps only."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs for an exact continuation; plain numbers and lists."""
        return {"steps": self.steps, "schedule": _describe(self.schedule), "rates": self._rates.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the state was saved, and set the optimizer's rates accordingly.

        Raises:
            StateError: Another schedule or another number of parameter groups.
        """
        _require_same(state["schedule"], _describe(self.schedule))
        self._rates.load_state_dict(state["rates"])
        self.steps = int(state["steps"])
        self._rates.scale(self.factor)


class PlateauRule:
    """Cuts learning rate and decay when the training loss stalls: the rule of the signed supermask's ResNets.

    At the end of each epoch, from epoch index ``start`` on::

        if cooling down:  cooldown left -= 1
        elif loss + 1e-4 < min(losses of the patience - 2 epochs before):  progress
        else:  wait += 1;  if wait > patience:  lr *= factor, cooldown left = cooldown, cuts += 1

    Differs:
        None with ``reset_wait=False``: ``wait`` never returns to 0, so that after the first cut every epoch without
        progress outside a cooldown cuts again. ``reset_wait=True`` sets it to 0 after progress and after a cut.

    Args:
        optimizer: Any optimizer.
        factor: See :class:`Plateau`, as for the next five.
        patience: Epochs.
        max_cuts: Cuts.
        cooldown: Epochs.
        start: Index of an epoch.
        decay: Cut the weight decay as well; None: True for :class:`~supermask.optim.SGDW`, False for others.
        reset_wait: Repair the rule.

    Raises:
        HyperparameterError: A value is out of range.
        BindError: ``decay`` for an optimizer without weight decay.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float,
        patience: int,
        max_cuts: int,
        cooldown: int = 10,
        start: int = 10,
        decay: bool | None = None,
        reset_wait: bool = False,
    ) -> None:
        self.rule = Plateau(factor, patience, max_cuts, cooldown, start, reset_wait)
        self.cuts = 0
        self._rates = _Rates(optimizer, decay)
        self._losses: list[float] = []
        self._wait = 0
        self._cooldown_left = 0

    @property
    def factor(self) -> float:
        """The factor in force: ``rule.factor`` to the power of the cuts."""
        return float(self.rule.factor**self.cuts)

    @property
    def finished(self) -> bool:
        """Whether all cuts are made: the original stops training here."""
        return self.cuts >= self.rule.max_cuts

    def step(self) -> None:
        """Nothing: this rule looks at epochs only."""

    def epoch_end(self, train_loss: float) -> None:
        """Judge an epoch by its mean training loss; no more cuts once the rule is finished.

        Raises:
            DivergedError: The loss is not finite.
        """
        if not math.isfinite(train_loss):
            raise DivergedError(f"the training loss of epoch index {len(self._losses)} is {train_loss}; lower lr")
        before = self._losses[-(self.rule.patience - 2) :]
        self._losses.append(float(train_loss))
        if len(self._losses) <= self.rule.start or self.finished:
            return
        if self._cooldown_left:
            self._cooldown_left -= 1
        elif train_loss + BETTER_BY < min(before, default=math.inf):
            self._wait = 0 if self.rule.reset_wait else self._wait
        else:
            self._wait += 1
            if self._wait > self.rule.patience:
                self._cut()

    def _cut(self) -> None:
        self.cuts += 1
        self._cooldown_left = self.rule.cooldown
        self._wait = 0 if self.rule.reset_wait else self._wait
        self._rates.scale(self.factor)

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs for an exact continuation; plain numbers and lists."""
        return {
            "rule": _describe(self.rule),
            "rates": self._rates.state_dict(),
            "losses": list(self._losses),
            "wait": self._wait,
            "cooldown_left": self._cooldown_left,
            "cuts": self.cuts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the state was saved, and set the optimizer's rates accordingly.

        Raises:
            StateError: Another rule or another number of parameter groups.
        """
        _require_same(state["rule"], _describe(self.rule))
        self._rates.load_state_dict(state["rates"])
        self._losses = [float(loss) for loss in state["losses"]]
        self._wait, self._cooldown_left = int(state["wait"]), int(state["cooldown_left"])
        self.cuts = int(state["cuts"])
        self._rates.scale(self.factor)


SCHEDULES: Final[dict[str, type[Schedule] | type[Plateau]]] = {
    schedule.name: schedule for schedule in (Constant, Exponential, Cosine, Step, OneCycle, WarmUp, Plateau)
}


def _describe(schedule: Schedule | Plateau) -> dict[str, Any]:
    described: dict[str, Any] = {"name": schedule.name}
    for field in dataclasses.fields(schedule):
        value = getattr(schedule, field.name)
        value = _describe(value) if isinstance(value, Schedule) else value
        described[field.name] = list(value) if isinstance(value, tuple) else value
    return described


def _known_length(schedule: Schedule, steps: int | None) -> int:
    if steps is None:
        name = type(schedule).__name__
        raise HyperparameterError(f"steps of {name} is not known; give {name}(steps=n) or total_steps=n")
    return steps


def _require_same(saved: dict[str, Any], here: dict[str, Any]) -> None:
    if saved != here:
        raise StateError(f"the state was saved by the schedule {saved}, not by {here}; make the schedule as it was")


def _rate(field: str, value: Any) -> None:
    real = _checks.real(field, value, above=0.0, hint="in (0, 1] (0.96 or 0.1 are usual)")
    if real > 1.0:
        raise HyperparameterError(f"{field} must be in (0, 1], got {value!r}; it multiplies the learning rate")
