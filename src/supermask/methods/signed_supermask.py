"""Signed Supermask: keep, hide or invert frozen random weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from supermask.core.initialize import starting_score, starting_weight
from supermask.core.method import Method, Status, check_choice, check_flag, check_initializer, check_range
from supermask.core.parametrizations import Thresholded
from supermask.core.registry import register
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Target
from supermask.errors import HyperparameterError
from supermask.tensors.initializers import Initializer
from supermask.tensors.topk import keep_count, kth_largest

ThresholdRule = Literal["absolute", "relative", "variable"]
BatchNorm = Literal["frozen", "trained"]


@register
@dataclass(frozen=True, kw_only=True)
class SignedSupermask(Method):
    """Signed Supermask: weights stay random and frozen; training decides which to keep, hide or invert.

    Update, per layer, with frozen weight W, learnt score M and threshold tau > 0 (strictly: a score on tau is hidden)::

        code   = +1 if M > tau, -1 if M < -tau, else 0
        weight = W * code
        dL/dM  = dL/dweight * W                      (straight through)

    Thresholds are fixed when the method is attached. ``absolute``: tau = ``threshold``. ``relative``: tau = ``threshold`` *
    max|M| of the layer's initial scores. ``variable``: after every step, the k largest scores of a layer are kept and
    the k smallest inverted, k = fraction * size.

    **Source:** Nils Koster, Oliver Grothe, Achim Rettinger, "Signing the Supermask: Keep, Hide, Invert", ICLR 2022,
    arXiv 2201.13361; code kosnil/signed_supermasks at 57fcb0c.

    **Differs:** (1) The default is the absolute threshold 0.01 with W = ±sqrt(6 / fan_in): it reproduces the published
    FCN numbers, the relative rule of the published code does not (see ``docs/reproductions.md``). Residual networks
    used ``relative``. (2) ``variable`` ranks all scores of a layer; the authors' unreachable code ranked a sample of
    5,000. (3) Scores are stored times the sign of W where that is exact, which keeps no frozen tensor. (4) Biases and
    other parameters that are not targeted train as usual; the paper's networks have none.

    **Cost:** 5 to 8 % of a dense step of the FCN at batch 128 more (a fifth without the compiled kernels), on convolutional
    networks nothing that could be measured (``docs/performance.md``); ``variable`` also selects twice in each layer after
    every step. Memory: 8 bytes a layer; 1 byte a weight where the signs do not follow from the seed, with ``signed=False``
    and with ``variable``; 4 bytes a weight where the magnitudes of W differ.

    Args:
        threshold: tau in units of the score (``absolute``, default 0.01) or as a share in (0, 1) of the largest initial
            |score| (``relative``; the paper's .4, .6, .75, .8, .85). Unused by ``variable``.
        threshold_rule: ``absolute`` (default), ``relative`` or ``variable``.
        conv_fraction: ``variable``: k / size of each side, for convolutions, in (0, 0.5]. Default .25: the authors' code.
        linear_fraction: The same for all other layers. Default .5: the authors' code.
        signed: False never inverts: the binary mask of the ablation.
        batchnorm: ``frozen`` (default, the paper's masked networks): inference mode, initial statistics, untrained;
            ``trained``: as in the paper's "BN" variants.
        weights: Initialiser of W. Default ELUS signed constant with gain sqrt(6), that is c = sqrt(6 / fan_in), which
            reproduces the FCN. In deeper networks it can make the first losses explode (it did on Conv2); gain sqrt(3), the
            paper's other constant, trained there: ``Initializer(distribution="signed-constant", rule="elus")``.
        scores: Initialiser of M. Default Xavier uniform.

    Raises:
        HyperparameterError: A field is out of range.
    """

    name: ClassVar[str] = "signed-supermask"
    status: ClassVar[Status] = "explained"  # of its FCN on MNIST; larger networks are not run in full
    redraws: ClassVar[bool] = True

    threshold: float = 0.01
    threshold_rule: ThresholdRule = "absolute"
    conv_fraction: float = 0.25
    linear_fraction: float = 0.5
    signed: bool = True
    batchnorm: BatchNorm = "frozen"
    weights: Initializer = Initializer(distribution="signed-constant", rule="elus", gain=math.sqrt(6.0))
    scores: Initializer = Initializer(distribution="uniform", rule="xavier")

    def __post_init__(self) -> None:
        check_choice(self.name, "threshold_rule", self.threshold_rule, get_args(ThresholdRule))
        check_choice(self.name, "batchnorm", self.batchnorm, get_args(BatchNorm))
        highest = 1.0 if self.threshold_rule == "relative" else math.inf
        check_range(self.name, "threshold", self.threshold, 0.0, highest)
        if not self.threshold < highest:
            raise HyperparameterError(f"{self.name}: threshold must be below {highest:g}, got {self.threshold!r}")
        check_range(self.name, "conv_fraction", self.conv_fraction, 0.0, 0.5, open_low=True)
        check_range(self.name, "linear_fraction", self.linear_fraction, 0.0, 0.5, open_low=True)
        check_flag(self.name, "signed", self.signed)
        check_initializer(self.name, "weights", self.weights)
        check_initializer(self.name, "scores", self.scores)

    def setup(self, s: Sparsifier) -> None:
        """Draw weights and scores, fix the thresholds, freeze batch norm."""
        drawn_signs = s.redraw and self.weights.distribution == "signed-constant"
        for target in s.targets:
            weight, score = starting_weight(s, target, self.weights), starting_score(s, target, self.scores)
            low, high = self._thresholds(target, score)
            scored = Thresholded(
                weight,
                low,
                high,
                origin=(s.seed, target.name) if drawn_signs else None,
                fixed_thresholds=self.threshold_rule != "variable",
            )
            s.install_score(target, scored, score)
        s.freeze_batchnorm(self.batchnorm)

    def after_step(self, s: Sparsifier) -> None:
        """Move variable thresholds."""
        if self.threshold_rule == "variable":
            for target in s.targets:
                installed = target.parametrization
                assert isinstance(installed, Thresholded)
                installed.set_thresholds(*self._thresholds(target, target.parameter))

    def _thresholds(self, target: Target, score: Tensor) -> tuple[float, float]:
        """(low, high) of a layer."""
        if self.threshold_rule == "variable":
            fraction = self.conv_fraction if target.kind == "conv" else self.linear_fraction
            k = max(1, keep_count(fraction, target.size))
            high, low = _beyond(score, k), -_beyond(-score, min(k, target.size - k))
        else:
            high = self.threshold
            if self.threshold_rule == "relative":
                high = (high * score.abs().max()).item()
            low = -high
        return (low if self.signed else -math.inf), high


def _beyond(score: Tensor, k: int) -> float:
    """The value that exactly the k largest scores exceed (fewer where the k-th ties with the next)."""
    if k == 0:
        return math.inf
    return -math.inf if k >= score.numel() else float(kth_largest(score, k + 1))
