"""SNIP: one look at the data, one mask, before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, get_args

import torch
from torch import Tensor, nn

from supermask.core.ablation import Ablation, check_promise, check_pruning, choose_masks, install
from supermask.core.method import Method, check_choice, check_count, check_flag, check_initializer
from supermask.core.registry import register
from supermask.core.scoring import BatchNormMode, Examples, loss_gradients, put, scoring
from supermask.core.select import Scope
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Target
from supermask.errors import HyperparameterError
from supermask.tensors.initializers import Initializer
from supermask.tensors.philox import Stream
from supermask.tensors.scores import sensitivity

AUTHORS_INIT = Initializer(distribution="truncated-normal", rule="lecun")


@register
@dataclass(frozen=True, kw_only=True)
class Snip(Method):
    """SNIP: before training, keep the weights whose removal would change the loss of one batch the most.

    Update, once, with L the mean loss over ``batch_size`` examples and w the weights that the score is computed on::

        score = |w * dL/dw|              (= |dL/dc| at c = 1 for weights c * w)
        mask  = the density * size largest scores

    Then ``weight = dense * mask`` is trained as usual. The gradient is summed over the examples before its absolute value.

    **Source:** Namhoon Lee, Thalaiyasingam Ajanthan, Philip Torr, "SNIP: Single-shot network pruning based on connection
    sensitivity", ICLR 2019, arXiv 1810.02340; code namhoonlee/snip-public at f028496.

    **Differs:** (1) The authors prune biases, too, and compute the score on a draw of its own, from which no training starts;
    most later work does neither, and so do the defaults here. The published variant is ``biases=True, reuse_init=False``;
    biases are then 0 when the score is computed, so that their score is 0 and all of them go. (2) ``reinit`` permutes the
    initial weights of a layer. (3) Scores are not divided by their sum, which changes no rank. (4) Weight decay is no part of
    the loss, and scoring examples are not augmented, as in the authors' code. Dropout is off.

    **Cost:** once, forward and backward over ``batch_size`` examples and one selection over all weights; meanwhile memory for
    about four more copies of the weights. A step of training is as expensive as the dense one, plus the product with the mask;
    1 byte a weight.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.1: the paper's study of initialisations.
        scope: ``global`` (default, the paper's), ``uniform``, ``erk`` or ``er``: rank within shares of each layer.
        biases: Whether the biases of the targeted layers are pruned and counted, too; only with ``scope="global"``, as the
            other scopes' shares are made for matrices. Default false; true: the authors' code.
        reuse_init: Whether the score is computed on the very weights that are trained. Default true; false: the authors' code.
        score_init: With ``reuse_init=False``, the initialiser of the draw that the score is computed on. Default null: a
            truncated normal with variance 1 / fan_in, the authors' code ("vs").
        batch_size: Examples that the score is computed on, exactly; they may come from several batches of the data, whose
            gradients are summed. Default 100: the paper's on MNIST (128 on CIFAR-10).
        batchnorm: ``inference`` (default, the authors' code): running statistics, which are the identity at the start;
            ``training``: those of each batch, as most later code does.
        ablation: ``none`` (default), ``shuffle`` (each layer's mask is permuted), ``random`` (it is drawn anew with the same
            count) or ``reinit`` (the layer's initial weights are permuted after scoring).
        min_per_layer: Fewest weights that each layer keeps (a smaller one keeps all), against layer collapse, >= 0. Default 0:
            off, as in the paper.

    Raises:
        HyperparameterError: A field is out of range, ``score_init`` is given though ``reuse_init`` is true, or ``biases`` is
            true with shares of each layer.
        DataError: The data holds fewer than ``batch_size`` examples, or a batch norm has nothing to take statistics of.
        DivergedError: Loss or gradient are not finite.
    """

    name: ClassVar[str] = "snip"
    needs_data: ClassVar[bool] = True

    density: float = 0.1
    scope: Scope = "global"
    biases: bool = False
    reuse_init: bool = True
    score_init: Initializer | None = None
    batch_size: int = 100
    batchnorm: BatchNormMode = "inference"
    ablation: Ablation = "none"
    min_per_layer: int = 0

    def __post_init__(self) -> None:
        check_pruning(self)
        check_flag(self.name, "biases", self.biases)
        check_flag(self.name, "reuse_init", self.reuse_init)
        check_count(self.name, "batch_size", self.batch_size, "examples")
        check_choice(self.name, "batchnorm", self.batchnorm, get_args(BatchNormMode))
        if self.score_init is not None:
            check_initializer(self.name, "score_init", self.score_init)
        if self.score_init is not None and self.reuse_init:
            raise HyperparameterError(
                f"{self.name}: score_init is the draw that replaces the model's weights while scoring; set reuse_init to false"
            )
        if self.biases and self.scope != "global":
            raise HyperparameterError(
                f"{self.name}: biases ranks biases among all weights, but scope {self.scope!r} gives each tensor a share "
                "of its own; set biases to false or scope to global"
            )

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """The defaults, the published variant, and the guard."""
        return (
            cls(batch_size=20, density=0.3),
            cls(batch_size=16, biases=True, reuse_init=False, density=0.3),
            cls(batch_size=40, scope="erk", batchnorm="training", min_per_layer=3, ablation="reinit", density=0.4),
        )

    def also_targets(self, targets: Sequence[Target]) -> list[str]:
        """The trainable biases of the targeted layers, if they are wanted."""
        if not self.biases:
            return []
        sites = [site for target in targets for site in target.sites]
        return [
            f"{site.path}.{name}" if site.path else name
            for site in sites
            for name, parameter in site.module.named_parameters(recurse=False)
            if "bias" in name and parameter.requires_grad
        ]

    def setup(self, s: Sparsifier) -> None:
        """Score, choose the masks, install them."""
        check_promise(self, s.targets)
        with scoring(s, self.batchnorm):
            if not self.reuse_init:
                put(s, [self._drawn(s, target) for target in s.targets])
            gradients = loss_gradients(s, Examples(s.data).take(self.batch_size))
            scores = [sensitivity(t.parameter, g) for t, g in zip(s.targets, gradients, strict=True)]
        install(s, self, choose_masks(s, self, scores, self.density), scores)

    def _drawn(self, s: Sparsifier, target: Target) -> Tensor:
        """What a target holds while it is scored, when that is not what is trained; a bias is 0."""
        if target.kind == "other" and len(target.shape) == 1:
            return torch.zeros_like(target.parameter)
        initializer = AUTHORS_INIT if self.score_init is None else self.score_init
        return initializer.draw(target.shape, target.fans, Stream(s.seed, "score-weights", target.name))
