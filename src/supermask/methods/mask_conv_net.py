"""MaskConvNet: a learnt factor for each filter, pressed towards 0 and 1 by a controller that watches a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Final, Literal, Self, get_args

import torch
from torch import Tensor, nn

from supermask.core.budget import check_budget, fractions
from supermask.core.channels import Residual, draw_noise, filters_and_weights, install_gates, meet_budget, used
from supermask.core.gates import Empty, Gate
from supermask.core.method import Method, check_choice, check_count, check_flag, check_globs, check_range
from supermask.core.registry import register
from supermask.core.sparsifier import Sparsifier
from supermask.errors import HyperparameterError
from supermask.tensors.gates import hard_sigmoid, moments
from supermask.tensors.scores import wide

Pool = Literal["filter", "weight"]

_LARGEST: Final = 1e9


@register
@dataclass(frozen=True, kw_only=True)
class MaskConvNet(Method):
    """MaskConvNet: filters are gated, and a controller presses the gates apart until the pruned network meets a budget.

    Update, with one learnt m for each channel, k its gate, and for each unit r of the budget a target sparsity
    ``s*_r = 1 - budget_r``::

        k      = clip(T * m + 1/2, 0, 1)                  on filter, bias, batch norm's scale and shift
        loss   = cross-entropy + sum over r of  D_r * (lam_mean_r * mu - lam_var_r * var / mu)
        mu, var                                           mean and unbiased variance of all gates together

    and every ``interval`` steps, ``c_r`` being the cost of the network without the channels of k = 0::

        s_r   <- a * (1 - c_r / dense_r) + (1 - a) * s_r
        D_r    = s*_r - s_r  (+ clip(integral * sum of s*_r - s_r, -s*_r, s*_r))

    D_r is negative once too much is gone, which turns the pressure around. m has a weight decay of its own, which pulls
    gates that are stuck at 0 or 1, where no gradient reaches them, back towards 1/2. At the end gates are folded into what
    they multiply, and a channel of k = 0 is removed.

    **Source:** "MaskConvNet: Training Efficient ConvNets from Scratch via Budget-constrained Filter Pruning", submitted to
    ICLR 2020, OpenReview S1gyl6Vtvr; what the paper leaves open is read from its first author's tsauri/soft-binary-mask.
    The paper's form is ``project: false``, ``empty: keep-all``, ``integral: 0``, ``noise: 0``, ``alternate: 0``.

    **Differs:** (1) At the last step the budget is met by removing the channels of the smallest m, or by letting those of
    the largest m remain, at their gate of 0 (``project``); what the controller reached alone is kept in the results as
    ``used/<unit>``. (2) A layer without an open gate keeps one channel (``empty``). (3) Controllers run through all steps;
    the code begins its interval anew with each epoch. (4) With several units each has its own pair of multipliers; in the
    code the second metric's multiplier of the variance is by mistake the first one's of the mean. (5) Weight decay of the
    weights is the optimizer's; in the code it is 0 by a misspelt key. (6) The cost is a closed form, not a rebuilt network.
    (7) ``residual: shared`` has a gate for each channel of each stream; the code ties those of all stages.
    Unknown of the paper, and so ours or the code's: the start, ``mask_decay``, ``warmup`` as a share, ``pool``.

    **Cost:** a factor on each gated tensor and some operations on vectors of channels: a few percent of a step of a
    convolutional network. Memory: three numbers a channel.

    Args:
        budget: Unit -> fraction of the dense network's cost that may remain, in (0, 1]; each unit has a controller. Default
            ``{macs: 0.5}``: the paper's most frequent.
        lam_mean: Multiplier of the mean, at least 0, one number or one for each unit. Default 3: the paper's VGG.
        lam_var: The same of the variance. Default 4: the paper's VGG.
        warmup: Share of training at the beginning without pressure, in [0, 1]; the gates learn, the controller measures.
            Default 0.1: the paper's 20 epochs, of 200 presumably.
        mask_decay: Weight decay of m, at least 0. Default 1e-5: the code's; its larger runs had 5e-4.
        residual: ``inner`` (default, the paper's except perhaps for WideResNet): channels that residual additions share stay;
            ``shared``: they have one gate for all layers that add to them.
        whole: Globs on names of channel groups that stay as they are. Default none; the paper leaves the stem, which is a
            group of its own, ``[conv1]``, in networks whose blocks begin with batch norm.
        pool: What mean and variance are taken over: ``filter`` (default): each filter's gate counts once; ``weight``: as often
            as the filter has weights; with several units that is for ``params`` alone.
        interval: Optimizer steps between measurements. Default 50: the code's.
        smoothing: The a above, weight of the new measurement, in (0, 1]. Default 0.9: the code's.
        integral: Share of the summed errors that is added to D, at least 0; summed while there is pressure. Default 0: the
            paper has none.
        start: k at the beginning, in (0, 1]. Default 0.5, m = 0: the code's.
        temperature: The T above, in (0, 1e9]. Default 1: the paper's.
        noise: Standard deviation of normal noise on m while training, at least 0. Default 0: the code's.
        alternate: Steps without pressure that take turns with as many under it, at least 0. Default 0: always pressure;
            the code can take odd epochs alone.
        empty: What remains of a layer all of whose gates are 0: ``keep-one`` (default), the channel of the largest m, or
            ``keep-all`` (the code's). Either is counted as such, and computes nothing.
        project: Whether the budget is met at the last step. Default true: ours; the paper has no such step.

    Raises:
        HyperparameterError: A field is out of range, or multipliers are not for the units of the budget.
        BudgetError: No choice of channels meets the budget, or a unit's cost is not known.
    """

    name: ClassVar[str] = "maskconvnet"
    needs_structure: ClassVar[bool] = True

    budget: Mapping[str, float] = field(default_factory=lambda: {"macs": 0.5}, hash=False)
    lam_mean: float | Mapping[str, float] = field(default=3.0, hash=False)
    lam_var: float | Mapping[str, float] = field(default=4.0, hash=False)
    warmup: float = 0.1
    mask_decay: float = 1e-5
    residual: Residual = "inner"
    whole: tuple[str, ...] = ()
    pool: Pool = "filter"
    interval: int = 50
    smoothing: float = 0.9
    integral: float = 0.0
    start: float = 0.5
    temperature: float = 1.0
    noise: float = 0.0
    alternate: int = 0
    empty: Empty = "keep-one"
    project: bool = True

    def __post_init__(self) -> None:
        check_budget(self.name, self.budget)
        for name in ("lam_mean", "lam_var"):
            value = getattr(self, name)
            if isinstance(value, Mapping) and value.keys() != self.budget.keys():
                raise HyperparameterError(
                    f"{self.name}: {name} must have one number for each unit of budget, {', '.join(self.budget)}; got "
                    f"{', '.join(map(str, value)) or 'none'}"
                )
            for unit in self.budget:
                check_range(self.name, name, value[unit] if isinstance(value, Mapping) else value, 0.0, _LARGEST)
        for name in ("warmup", "mask_decay"):
            check_range(self.name, name, getattr(self, name), 0.0, 1.0)
        for name in ("integral", "noise"):
            check_range(self.name, name, getattr(self, name), 0.0, _LARGEST)
        for name in ("smoothing", "start"):
            check_range(self.name, name, getattr(self, name), 0.0, 1.0, open_low=True)
        check_range(self.name, "temperature", self.temperature, 0.0, _LARGEST, open_low=True)
        check_count(self.name, "interval", self.interval, "steps")
        check_count(self.name, "alternate", self.alternate, "steps", least=0)
        for name, choices in (("residual", Residual), ("pool", Pool), ("empty", Empty)):
            check_choice(self.name, name, getattr(self, name), get_args(choices))
        check_flag(self.name, "project", self.project)
        check_globs(self.name, "whole", self.whole)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """One and two budgets, with and without the options, measured often enough for a short run."""
        faithful = cls(budget={"params": 0.6}, interval=2, warmup=0.25, pool="weight", empty="keep-all", project=False)
        two: dict[str, float] = {"macs": 0.7, "params": 0.6}
        options = cls(
            budget=two,
            lam_mean={"macs": 1.0, "params": 2.0},
            residual="shared",
            interval=1,
            integral=0.1,
            noise=0.1,
            alternate=2,
        )
        return (cls(interval=2), faithful, options)

    def promised_budget(self) -> Mapping[str, float] | None:
        """The budget, where it is projected to."""
        return self.budget if self.project else None

    def setup(self, s: Sparsifier) -> None:
        """Put on the gates; the controllers have measured nothing yet."""
        assert s.structure is not None
        first, dtype = s.targets[0].parameter, wide(s.targets[0].parameter.dtype)
        function = partial(hard_sigmoid, slope=self.temperature)
        gates, counts = {}, []
        for group in s.groups:
            start = torch.full((group.channels,), (self.start - 0.5) / self.temperature, dtype=dtype)
            gates[group.name] = Gate(start, function, noisy=self.noise > 0.0, empty=self.empty)
            counts.append(torch.tensor(filters_and_weights(s.structure, group)).expand(group.channels, 2))
        install_gates(s, gates)
        s.gate_decay = self.mask_decay
        s.state["counts"] = torch.cat(counts).to(first.device)
        for unit, fraction in self.budget.items():
            s.state[f"sparsity/{unit}"] = torch.zeros((), dtype=torch.float64)
            s.state[f"deviation/{unit}"] = torch.tensor(1.0 - fraction, dtype=torch.float64)
            s.state[f"summed/{unit}"] = torch.zeros((), dtype=torch.float64)
        self._renew(s)

    def penalty(self, s: Sparsifier) -> Tensor | None:
        """The sum above, while there is pressure."""
        if not self._pressed(s):
            return None
        factors = torch.cat([gate() for gate in s.gates.values()])
        pools = {unit: int(self.pool == "weight" and unit in ("params", *self._alone())) for unit in self.budget}
        pooled = {pool: moments(factors, s.state["counts"][:, pool]) for pool in set(pools.values())}
        terms = []
        for unit, pool in pools.items():
            mean, spread = pooled[pool]
            pressure = self._multiplier("lam_mean", unit) * mean - self._multiplier("lam_var", unit) * spread
            terms.append(s.state[f"deviation/{unit}"] * pressure)
        return torch.stack(terms).sum()

    def after_step(self, s: Sparsifier) -> None:
        """Measure when due."""
        if s.step % self.interval == 0:
            self._measure(s)
        self._renew(s)

    def settle(self, s: Sparsifier) -> None:
        """Meet the budget."""
        for name, gate in s.gates.items():
            if not bool((gate.values() > 0.0).any()):
                kept = "one channel of it" if self.empty == "keep-one" else "all of it"
                s.note(f"{self.name}: no gate of {name} is open, so it computes nothing; {kept} is kept and counted")
        meet_budget(s, self.budget, {name: gate.m for name, gate in s.gates.items()}, project=self.project)

    def results(self, s: Sparsifier) -> dict[str, Tensor]:
        """``gates/<group>``: every k as learnt; ``used/<unit>``: fraction that the controller alone came to."""
        return {**{f"gates/{name}": gate.values() for name, gate in s.gates.items()}, **used(s)}

    def _measure(self, s: Sparsifier) -> None:
        pressed = self._pressed(s)
        for unit, spent in fractions({unit: s.costs[unit] for unit in self.budget}, s.channels()).items():
            wanted = 1.0 - self.budget[unit]
            sparsity, summed, deviation = (s.state[f"{key}/{unit}"] for key in ("sparsity", "summed", "deviation"))
            sparsity.mul_(1.0 - self.smoothing).add_(self.smoothing * (1.0 - spent))
            if pressed:
                summed.add_(wanted - sparsity)
            deviation.copy_(wanted - sparsity + (self.integral * summed).clamp(-wanted, wanted))

    def _renew(self, s: Sparsifier) -> None:
        if self.noise > 0.0:
            draw_noise(s, "normal", s.step, scale=self.noise)

    def _pressed(self, s: Sparsifier) -> bool:
        return s.progress >= self.warmup and (self.alternate == 0 or s.step // self.alternate % 2 == 1)

    def _alone(self) -> tuple[str, ...]:
        return tuple(self.budget) if len(self.budget) == 1 else ()

    def _multiplier(self, name: str, unit: str) -> float:
        value: float | Mapping[str, float] = getattr(self, name)
        return float(value[unit] if isinstance(value, Mapping) else value)
