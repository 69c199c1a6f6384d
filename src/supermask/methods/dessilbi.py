"""DessiLBI, also known as SplitLBI: the regularisation path of a sparse twin, found while a dense model trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, Self, get_args

import torch
from torch import Tensor, nn

from supermask.core import path
from supermask.core.method import Method, check_choice, check_count, check_density, check_flag, check_idle, check_range
from supermask.core.registry import register
from supermask.core.select import promised
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Target
from supermask.tensors.prox import Unit

Stop = Literal["order", "early", "nu"]
Coupling = Literal["direct", "in-gradient"]
After = Literal["none", "fine-tune", "retrain"]

_LARGEST: Final = 1e9
_CORRECTIONS: Final = 100  # of nu, over one training
_NU_RANGE: Final = (0.01, 100.0)  # how far nu may be moved, relative to its start


@register
@dataclass(frozen=True, kw_only=True)
class DessiLBI(Method):
    """DessiLBI (SplitLBI): a dense model trains, coupled to a sparse twin that grows from nothing; its support is the mask.

    Update, with g what the bound optimizer makes of the gradient, its learning rate ``lr = kappa * alpha``, V and Gamma 0 at
    first, and everything on the right from before the step::

        W     <- W - lr * g - (lr / nu) * (W - Gamma)
        V     <- V + (lr / (kappa * nu)) * (W - Gamma)
        Gamma <- kappa * prox(V)                          mask = support of Gamma
        prox(V)   = sign(V) * max(|V| - lambda, 0)        entry by entry
        prox(V_g) = V_g * max(1 - lambda / ||V_g||, 0)    for a group g of a convolution

    While Gamma is 0, V is ``sum(alpha * W) / nu``: a weight enters when ``|sum(alpha * W)|`` over the steps passes
    ``lambda * nu``, so density falls with nu, lambda and a faster decay of lr.
    "Full" is the dense model W that trains; "Sparse" is W where Gamma is not 0: ``sparsifier.sparse()``, and what
    ``finalize`` leaves. The paper calls the fraction of NON-zero weights "sparsity"; here that is the density.

    **Source:** Fu, Liu, Li, Sun, Zeng, Yao, "DessiLBI: Exploring Structural Sparsity of Deep Networks via Differential
    Inclusion Paths", ICML 2020, arXiv 2007.02010; code in DessiLBI2020/DessiLBI, commit d9d7e24. Plain, with momentum and
    with decay are the bound optimizer's: SGD as in their code, SGDW for a decay of W itself.

    **Differs:** the optimizer's learning rate is ``kappa * alpha``, the step of W, where their code multiplies by kappa: for
    kappa other than 1 multiply theirs by kappa. V is kept times kappa, so that kappa enters as the threshold
    ``kappa * lambda`` alone. Convolutions of any dimension have groups (theirs of one and three stay empty), and those of
    transposed ones lie along the second dimension. The order of the path is a true lexicographic key (theirs subtracts the
    epoch from a norm), and one for all layers; theirs orders the units of one layer at a time and can remove the biases of
    filters with them, which stay here. A promised density, Adam, kernels and layers as groups are ours. Their "extended"
    optimizer has, in effect, ``path_speed=0.01`` (while no ``|W|`` passes 1 and the density stays below 0.99),
    ``conv_prox="elementwise"`` and lambdas of 3e-4.

    **Cost:** four passes over the weights and some over their masks, about 1.2 times the dense step of the FCN at batch 128
    (``docs/performance.md``), less for convolutions. Memory: 15 bytes for each targeted weight (V and Gamma 8, the path 6,
    the mask 1; in float64 8 more); ``after="retrain"`` keeps one more copy of the model. The search computes densely.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1], or None (default): what the path gives.
        stop: How a density is reached, and only with one. ``order`` (default): at the end of the round the weights remain
            that entered first; among those of one step the group of the larger root mean square, then the larger
            magnitude; what never entered comes last. ``early``: the mask stays as it is from the first step at which
            the support is large enough, what is too much removed by the same order; V and W train on, Gamma within the
            mask; if the support never gets there, as ``order``, with a note. ``nu``: 100 to 200 times in a training nu is set
            so that, if weights and lr stayed as they are, the density would be met at the end (a falling lr makes it fall
            short); then as ``order``.
        nu: Weakness of the coupling, in (0, 1e9]; with ``stop="nu"`` where it starts, kept within [nu / 100, 100 * nu].
            Default 100: the authors' code.
        kappa: Damping, in (0, 1e9]. Default 1: the authors' code.
        linear_lambda: Threshold for linear and all other layers that are no convolutions, in (0, 1e9]. Default 1: the
            authors' code.
        conv_lambda: Threshold for convolutions, in (0, 1e9]. Default 1: the authors' code.
        conv_prox: Groups of a convolution: ``filter`` (one output channel; default, the authors'), ``kernel``, ``layer``
            or ``elementwise``.
        size_normalised: Multiply lambda by the square root of a group's size, as the authors' code for lottery tickets.
            Default False.
        coupling: ``direct`` (default): outside the optimizer's momentum, as the authors' code; with Adam, decoupled; not for
            weights below float32.
            ``in-gradient``: ``(W - Gamma) / nu`` is added to the gradient, so that it passes through momentum, as the
            paper writes it; with Adam, through its moments.
        path_speed: Step size of V over that of W, ``alpha_gamma / alpha``, in (0, 1e9]. Default 1. Adam's lr of 0.001 needs
            about 100, or nothing enters.
        after: ``none`` (default); ``fine-tune``: a second round trains the sparse model on from the trained weights;
            ``retrain``: from the weights of ``rewind_step``, masked (the winning ticket).
        rewind_step: With ``retrain`` only: the step from whose weights and on which the second round goes on, at least 0.
            Default 0, the initial weights: the authors'.

    Raises:
        HyperparameterError: A field is out of range or would not be used; at the first steps also if ``nu`` is too small for lr
            to be stable, or ``rewind_step`` is not before the end.
        AttachError: Weights are below float32 and the coupling is direct.
    """

    name: ClassVar[str] = "dessilbi"

    density: float | None = None
    stop: Stop = "order"
    nu: float = 100.0
    kappa: float = 1.0
    linear_lambda: float = 1.0
    conv_lambda: float = 1.0
    conv_prox: Unit = "filter"
    size_normalised: bool = False
    coupling: Coupling = "direct"
    path_speed: float = 1.0
    after: After = "none"
    rewind_step: int = 0

    def __post_init__(self) -> None:
        if self.density is not None:
            check_density(self.name, self.density)
        for field in ("nu", "kappa", "linear_lambda", "conv_lambda", "path_speed"):
            check_range(self.name, field, getattr(self, field), 0.0, _LARGEST, open_low=True)
        for field, choices in (("stop", Stop), ("conv_prox", Unit), ("coupling", Coupling), ("after", After)):
            check_choice(self.name, field, getattr(self, field), get_args(choices))
        check_flag(self.name, "size_normalised", self.size_normalised)
        check_count(self.name, "rewind_step", self.rewind_step, "optimizer steps", least=0)
        if self.density is None:
            check_idle(self.name, "stop", self.stop, "order", "set density")
        if self.after != "retrain":
            check_idle(self.name, "rewind_step", self.rewind_step, 0, "set after to retrain")

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Every stop, prox and coupling, with a path that begins within eight steps."""
        return (
            cls(nu=2.0, linear_lambda=0.05, conv_lambda=0.1, density=0.3),
            cls(nu=200.0, linear_lambda=5e-4, conv_lambda=2e-4, conv_prox="kernel", coupling="in-gradient"),
            cls(nu=2.0, linear_lambda=0.05, conv_lambda=0.3, conv_prox="layer", density=0.1, stop="early", kappa=2.0),
            cls(nu=2.0, conv_prox="elementwise", density=0.2, stop="nu", path_speed=10.0, after="fine-tune"),
            cls(nu=2.0, linear_lambda=0.05, conv_lambda=0.01, size_normalised=True, after="retrain", rewind_step=3),
        )

    def setup(self, s: Sparsifier) -> None:
        """Install empty, tracked masks; V and Gamma are zero."""
        self._promised(s)  # refused here if it is nothing
        for target in s.targets:
            weight = target.parameter
            s.install_mask(target, torch.zeros_like(weight, dtype=torch.bool), applied=False)
            kind = torch.promote_types(weight.dtype, torch.float32)
            s.state |= {f"{key}/{target.name}": torch.zeros_like(weight, dtype=kind) for key in ("v", "gamma")}
        path.begin(s, wide_weights=self.coupling == "direct")
        if self.after == "retrain" and self.rewind_step == 0:
            s.keep_values("start")

    def before_step(self, s: Sparsifier) -> None:
        """Take Gamma - W before W moves; it stands in Gamma's place until the step is done."""
        if s.total_steps is not None and self.after == "retrain":
            check_range(self.name, "rewind_step", self.rewind_step, 0, s.total_steps - 1, meaning="within a round")
        moving = [target for target in s.targets if target.parameter.grad is not None]
        if s.round > 0 or not moving:
            return
        path.require_fitting(s, wide_weights=self.coupling == "direct")
        gaps = [s.state.pop(f"gamma/{target.name}") for target in moving]
        s.state |= {f"gap/{target.name}": gap for target, gap in zip(moving, gaps, strict=True)}
        torch._foreach_sub_(gaps, [target.parameter for target in moving])
        if self.coupling == "in-gradient":
            gradients = [gradient for target in moving if (gradient := target.parameter.grad) is not None]
            torch._foreach_add_(gradients, gaps, alpha=-s.grad_scale / self._nu(s))

    def after_step(self, s: Sparsifier) -> None:
        """Move V, Gamma and, coupled directly, W; record who entered; stop or steer when due."""
        if s.round > 0:
            return
        self._move(s)
        if "stopped" not in s.state:
            for target in s.targets:
                s.set_mask(target, s.state[f"gamma/{target.name}"])
            path.record(s)
            assert s.total_steps is not None
            if s.step >= s.total_steps or self._reached(s):
                self._end(s)
            elif self.density and self.stop == "nu" and s.step % max(1, s.total_steps // _CORRECTIONS) == 0:
                self._steer(s, s.total_steps - s.step)
        if self.after == "retrain" and s.step == self.rewind_step:
            s.keep_values("start")

    def settle(self, s: Sparsifier) -> None:
        """Fix the mask, if the search is not over yet."""
        if s.round == 0:
            self._end(s)

    def next_round(self, s: Sparsifier) -> bool:
        """After the search: apply the mask, to the trained weights or to those of the rewinding step."""
        if s.round > 0 or self.after == "none":
            return False
        s.apply_masks()
        if self.after == "retrain":
            s.restore_values("start")
        s.state = {key: value for key, value in s.state.items() if key.startswith(path.STATE)}
        return True

    def first_step(self, s: Sparsifier) -> int:  # noqa: ARG002
        """The second round of a ticket goes on from the step it was rewound to."""
        return self.rewind_step if self.after == "retrain" else 0

    def results(self, s: Sparsifier) -> dict[str, Tensor]:
        """``path/<target>``: int32, the step after which each weight first was in the support, -1 = never."""
        return {f"path/{target.name}": path.entered(s, target) for target in s.targets}

    def _move(self, s: Sparsifier) -> None:
        moving = {target: s.lr(target) for target in s.targets if f"gap/{target.name}" in s.state}
        for rate in dict.fromkeys(moving.values()):
            targets = [target for target in moving if moving[target] == rate]
            bound = 0.5 * rate * (1.0 + self.path_speed)  # W - Gamma shrinks by 1 - (1 + path_speed) * rate / nu a step
            check_range(self.name, "nu", self.nu, bound, _LARGEST, meaning="less is unstable at this learning rate")
            pull = rate / max(self._nu(s), bound)
            gaps = [s.state.pop(f"gap/{target.name}") for target in targets]
            duals = [s.state[f"v/{target.name}"] for target in targets]
            if self.coupling == "direct":
                torch._foreach_add_([target.parameter for target in targets], gaps, alpha=pull)
            torch._foreach_add_(duals, gaps, alpha=-pull * self.path_speed)
            for target, dual, gamma in zip(targets, duals, gaps, strict=True):
                path.grouping(target, self.conv_prox).prox(dual, *self._threshold(target), out=gamma)
                if "stopped" in s.state:
                    gamma.mul_(target.mask)
                s.state[f"gamma/{target.name}"] = gamma

    def _reached(self, s: Sparsifier) -> bool:
        return self.stop == "early" and 0 < self._promised(s) <= s.remaining()

    def _end(self, s: Sparsifier) -> None:
        """Fix the mask, at the promised density if there is one."""
        if "stopped" in s.state:
            return
        if self.density is not None:
            masks = path.masks_by_path(s, self.conv_prox, self._promised(s), present=self._reached(s))
            for target, mask in zip(s.targets, masks, strict=True):
                s.set_mask(target, mask)
                s.state[f"gamma/{target.name}"].mul_(mask)
        s.state["stopped"] = torch.tensor(s.step)
        if empty := [target.name for target in s.targets if not bool(target.mask.any())]:
            s.note(f"nothing remains of {', '.join(empty)}; a smaller nu or lambda, or more steps let more enter")

    def _steer(self, s: Sparsifier, steps: int) -> None:
        """Set nu so that the promised number enters within so many steps, if weights and lr stay as they are."""
        wait, rate = path.steps_left(s, self.conv_prox, self.path_speed, self._threshold, self._promised(s))
        least, most = (self.nu * bound for bound in _NU_RANGE)
        nu = min(max((steps - 0.5) / max(wait, 1e-30), least, rate * (1.0 + self.path_speed)), most)
        s.state["nu"] = torch.tensor(nu, dtype=torch.float64)

    def _promised(self, s: Sparsifier) -> int:
        return 0 if self.density is None else promised(s.targets, self.density)

    def _nu(self, s: Sparsifier) -> float:
        return float(s.state["nu"]) if "nu" in s.state else self.nu

    def _threshold(self, target: Target) -> tuple[float, bool]:
        return self.kappa * (self.conv_lambda if target.kind == "conv" else self.linear_lambda), self.size_normalised
