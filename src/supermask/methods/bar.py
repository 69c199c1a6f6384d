"""BAR, budget-aware regularization: random gates behind batch norm, and a barrier that closes in on the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Final, Literal, Self, get_args

import torch
from torch import Tensor, nn

from supermask.core.budget import check_budget, fractions
from supermask.core.channels import Residual, draw_noise, fix_gates, install_gates, meet_budget, used
from supermask.core.gates import Gate
from supermask.core.groups import ChannelGroup, Structure
from supermask.core.method import Method, check_choice, check_flag, check_globs, check_range
from supermask.core.registry import register
from supermask.core.sparsifier import Sparsifier
from supermask.errors import AttachError, HyperparameterError
from supermask.tensors.gates import Opening, barrier, chance_open, hard_concrete, opening
from supermask.tensors.philox import Stream
from supermask.tensors.scores import wide

Phase = Literal["pretrain", "prune", "fine-tune"]
End = Literal["fold", "binary"]

_PHASES: Final[tuple[Phase, ...]] = ("pretrain", "prune", "fine-tune")
_LARGEST: Final = 1e10
_SPREAD: Final = 0.01  # of the start
_SLACK: Final = 1.01  # of the first limit over the dense network
_MARGIN: Final = 1e-4 * _SLACK  # below the budget, where the barrier begins


@register
@dataclass(frozen=True, kw_only=True)
class BAR(Method):
    """BAR: each channel has a random gate that may be exactly 0, and a barrier around a shrinking budget closes gates.

    Update, with one learnt a for each channel (the logarithm of the paper's alpha), u uniform in (0, 1) at every step, g the
    ``stretch``, and t the ``temperature``::

        s = sigmoid((ln u - ln(1 - u) + a) / t)           in tests  s = sigmoid(a)
        z = clip(s * (1 + 2 * g) - g, 0, 1)               on batch norm's scale and shift
        loss = cross-entropy + lam * f(V, b) * sum over channels of  A * sigmoid(a + t * ln((1 + g) / g))

    A is what a channel costs, V the cost of the channels whose gate is open in tests, and b a limit that moves from 1.01 of
    the dense network's cost to the budget B while the round's progress p goes from 0 to 1::

        b = (1 - T(p)) * 1.01 + T(p) * B,   T from 0 to 1, a sigmoid in p or exponential
        f = q**2 / (1 - q),  q = (V - l) / (b - l),  0 for V <= l and ``cap`` for V >= b,  l = B - 0.000101

    There are up to three rounds of training: ``pretrain``, with all gates open, which also gives the teacher for
    distillation (an option of the loss, not of this method); the search; and ``fine_tune`` of what remains.

    **Source:** Carl Lemaire, Andrew Achkar, Pierre-Marc Jodoin, "Structured Pruning of Neural Networks with Budget-Aware
    Regularization", CVPR 2019, arXiv 1811.09332; formulas from the unofficial code
    A-LinCui/Structured-Pruning-of-Neural-Networks-with-Budget-Aware-Regularization.

    **Differs:** (1) At the end of the search the budget is met by removing the channels of the smallest a, or by letting
    those of the largest a remain (``project``): at their gate of 0, or whole if fine-tuning follows. (2) Channels that
    residual additions share stay, or are removed for all layers of the stream (``residual``); the paper removes them
    layer by layer, which needs a network of another form. (3) Units beyond volume: A is the saving of one channel of the
    dense network, scaled so that the dense network costs as much as its volume; with several units their terms add up.
    (4) A layer without batch norm is gated at its weights and bias. (5) The unofficial code divides lam by the batch size,
    and adds a term to distillation; neither is here. (6) It clips gradients with the barrier's in them; here the barrier's is
    added after clipping, as that of every method.

    **Cost:** noise for every channel and a measurement at each step, a few percent of a step of a convolutional network; but
    two or three rounds of training. Memory: three numbers a channel.

    Args:
        budget: Unit -> fraction of the dense network's cost that may remain, in (0, 1]. Default ``{volume: 0.5}``: the
            paper's unit and its largest budget.
        lam: Weight of the size, in [0, 1e10]. Default 1e-5: the unofficial code's.
        schedule: The T above: ``sigmoidal`` (default, the paper's) or ``exponential``.
        steepness: The factor in T's exponent, in (0, 1000]. Default 10: the code's; for ``exponential`` it has 4.
        cap: Value of f at and beyond the limit, in (0, 1e10]. Default 1e10: the code's, for Adam; SGD needs less.
        start: sigmoid(a) at the beginning, in (0, 1); a small random number is added to a. Default 0.5, a = 0: the code's.
        temperature: The t above, in (0, 1]. Default 2/3: the paper's.
        stretch: The g above, in (0, 1]. Default 0.1: the paper's.
        residual: ``inner`` (default) or ``shared``.
        whole: Globs on names of channel groups that stay as they are. Default none.
        pretrain: Whether a round with open gates comes first. Default true: the paper's.
        fine_tune: Whether a round with what remains follows. Default true: the unofficial code's.
        end: What happens to gates before that round, unused without it: ``fold`` (default): they are multiplied in, the
            network stays the same function but for what came back; ``binary``: those that remain become 1, as in the
            unofficial code.
        project: Whether the budget is met at the end of the search. Default true: ours.

    Raises:
        HyperparameterError: A field is out of range.
        BudgetError: No choice of channels meets the budget, or a unit's cost is not known.
        AttachError: The structure does not know the volume, by which other units are scaled.
    """

    name: ClassVar[str] = "bar"
    needs_structure: ClassVar[bool] = True

    budget: Mapping[str, float] = field(default_factory=lambda: {"volume": 0.5}, hash=False)
    lam: float = 1e-5
    schedule: Opening = "sigmoidal"
    steepness: float = 10.0
    cap: float = _LARGEST
    start: float = 0.5
    temperature: float = 2.0 / 3.0
    stretch: float = 0.1
    residual: Residual = "inner"
    whole: tuple[str, ...] = ()
    pretrain: bool = True
    fine_tune: bool = True
    end: End = "fold"
    project: bool = True

    def __post_init__(self) -> None:
        check_budget(self.name, self.budget)
        check_range(self.name, "lam", self.lam, 0.0, _LARGEST)
        check_range(self.name, "steepness", self.steepness, 0.0, 1000.0, open_low=True)
        check_range(self.name, "cap", self.cap, 0.0, _LARGEST, open_low=True)
        for name in ("start", "temperature", "stretch"):
            check_range(self.name, name, getattr(self, name), 0.0, 1.0, open_low=True)
        if self.start == 1.0:
            raise HyperparameterError(
                f"{self.name}: start must be below 1, got 1: its logarithm of the odds is infinite"
            )
        for name, choices in (("schedule", Opening), ("residual", Residual), ("end", End)):
            check_choice(self.name, name, getattr(self, name), get_args(choices))
        for name in ("pretrain", "fine_tune", "project"):
            check_flag(self.name, name, getattr(self, name))
        check_globs(self.name, "whole", self.whole)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """All three rounds, and the search alone with two units and the other schedule."""
        search = cls(
            budget={"macs": 0.7, "params": 0.6}, schedule="exponential", pretrain=False, fine_tune=False, cap=100.0
        )
        volume = {"volume": 0.75}
        binary = cls(budget=volume, residual="shared", pretrain=False, end="binary", cap=100.0)
        return (cls(budget=volume, cap=100.0), binary, search)

    def promised_budget(self) -> Mapping[str, float] | None:
        """The budget, where it is projected to."""
        return self.budget if self.project else None

    def setup(self, s: Sparsifier) -> None:
        """Put on the gates; open ones where a round of pre-training comes first."""
        if "volume" not in s.costs:
            raise AttachError(
                f"{self.name} scales what channels cost by the volume, which this structure does not know; find it with an "
                "example: find_structure(model, example)"
            )
        dtype = wide(s.targets[0].parameter.dtype)
        function = partial(hard_concrete, temperature=self.temperature, stretch=self.stretch)
        middle, gates = math.log(self.start / (1.0 - self.start)), {}
        for group in s.groups:
            drawn = torch.from_numpy(Stream(s.seed, "gates", group.name).uniform(group.channels))
            gates[group.name] = Gate((middle + _SPREAD * drawn).to(dtype), function, noisy=True)
        structure = s.structure
        assert structure is not None
        install_gates(s, gates, lambda group: _gated(structure, group))
        for unit in self.budget:
            sizes = [s.costs[unit]({}) - s.costs[unit]({g.name: _but_one(g)}) for g in s.groups]
            scale = s.costs["volume"]({}) / s.costs[unit]({})
            each = [
                torch.full((g.channels,), size * scale, dtype=dtype) for g, size in zip(s.groups, sizes, strict=True)
            ]
            s.state[f"size/{unit}"] = torch.cat(each)
        if self._phase(0) == "pretrain":
            for gate in gates.values():
                gate.fix(torch.ones_like(gate.keep))
        else:
            self._look(s, 0.0, 0)

    def penalty(self, s: Sparsifier) -> Tensor | None:
        """The second term of the loss, during the search."""
        if self._phase(s.round) != "prune":
            return None
        m = torch.cat([gate.m for gate in s.gates.values()])
        chance = chance_open(m, temperature=self.temperature, stretch=self.stretch)
        terms = [s.state[f"barrier/{unit}"] * (s.state[f"size/{unit}"] * chance).sum() for unit in self.budget]
        return self.lam * torch.stack(terms).sum()

    def after_step(self, s: Sparsifier) -> None:
        """During the search draw the next step's noise and measure."""
        if self._phase(s.round) == "prune":
            self._look(s, s.progress, s.step)

    def settle(self, s: Sparsifier) -> None:
        """At the end of the search meet the budget."""
        if self._phase(s.round) == "prune":
            ranks = {name: gate.m for name, gate in s.gates.items()}
            meet_budget(s, self.budget, ranks, project=self.project)

    def next_round(self, s: Sparsifier) -> bool:
        """After pre-training open the gates; after the search fix them, and fine-tune."""
        if self._phase(s.round) == "pretrain":
            for gate in s.gates.values():
                gate.open()
            self._look(s, 0.0, 0)
            return True
        if self._phase(s.round) == "prune":
            s.state |= {f"gates/{name}": gate.values() for name, gate in s.gates.items()}
            if self.fine_tune:
                fix_gates(s, fold=self.end == "fold")
                return True
        return False

    def results(self, s: Sparsifier) -> dict[str, Tensor]:
        """``gates/<group>``: every z as learnt, without noise; ``used/<unit>``: fraction that the barrier alone came to."""
        return {
            **{f"gates/{name}": s.state.get(f"gates/{name}", gate.values()) for name, gate in s.gates.items()},
            **used(s),
        }

    def _phase(self, number: int) -> Phase:
        return _PHASES[number + (not self.pretrain)]

    def _look(self, s: Sparsifier, progress: float, step: int) -> None:
        """Draw noise, and measure how near the limits are."""
        draw_noise(s, "logistic", step)
        way = opening(progress, self.schedule, steepness=self.steepness)
        for unit, spent in fractions({unit: s.costs[unit] for unit in self.budget}, s.channels()).items():
            limit = (1.0 - way) * _SLACK + way * self.budget[unit]
            height = barrier(spent, self.budget[unit] - _MARGIN, limit, cap=self.cap)
            s.state[f"barrier/{unit}"] = torch.tensor(height, dtype=torch.float64, device=s.targets[0].parameter.device)


def _gated(structure: Structure, group: ChannelGroup) -> list[str]:
    """What a group's gate multiplies: scales and shifts of batch norm; where there are none, weights and biases."""
    norms = [member.tensor for member in group.of_role("norm") if member.tensor in structure.shapes]
    return norms or [member.tensor for member in group.of_role("out")]


def _but_one(group: ChannelGroup) -> Tensor:
    return torch.arange(group.channels) > 0
