"""FORCE and iterative SNIP: the mask in many small steps, before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import nn

from supermask.core.ablation import Ablation, check_promise, check_pruning, choose_masks, install
from supermask.core.method import Method, check_choice, check_count, check_flag
from supermask.core.registry import register
from supermask.core.scoring import BatchNormMode, Examples, loss_gradients, put, scoring
from supermask.core.select import Scope
from supermask.core.sparsifier import Sparsifier
from supermask.tensors.schedules import exponential, linear
from supermask.tensors.scores import sensitivity

Schedule = Literal["exponential", "linear"]


@register
@dataclass(frozen=True, kw_only=True)
class Force(Method):
    """FORCE and iterative SNIP: before training, prune in small steps by what matters in the pruned network.

    Update, for t = 1 … T = ``steps``, with w the initial weights, c the mask of the step before (c = 1 at first), and L the
    mean loss over the next ``batch_size`` examples::

        score     = |w * dL/dw at c * w|            (of every weight, also of those that c hides)
        density_t = density**(t / T)                (exponential)  or  density + (1 - t / T) * (1 - density)   (linear)
        c         = the density_t * size largest scores

    With ``resurrect`` false (iterative SNIP), a weight that is hidden once stays hidden: masks are nested. ``steps=1`` is SNIP.
    Then ``weight = dense * mask`` is trained as usual.

    **Source:** Pau de Jorge, Amartya Sanyal, Harkirat Behl, Philip Torr, Grégory Rogez, Puneet Dokania, "Progressive
    skeletonization: trimming more fat from a network at initialization", ICLR 2021, arXiv 2006.09081; code naver/force.

    **Differs:** examples of a step are the next batches of the data in their order, where the authors shuffle for each step;
    a batch of which only a part is needed is cut, and its rest comes first in the next step. Scoring examples are not
    augmented, dropout is off. Counts are exact. The authors' further variant that ranks by the squared gradient is left out.
    ``reinit`` permutes the initial weights of a layer.

    **Cost:** once, ``steps`` times forward and backward over ``batch_size`` examples and a selection over all weights;
    meanwhile memory for five more copies of the weights. A step of training is as expensive as the dense one, plus the product
    with the mask; 1 byte a weight.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.1: ours.
        scope: ``global`` (default, the paper's), ``uniform``, ``erk`` or ``er``: rank within shares of each layer.
        resurrect: Whether hidden weights may return. Default true: FORCE; false: iterative SNIP.
        steps: T, >= 1. Default 60: the authors' README (10 in their code).
        schedule: ``exponential`` (default, the paper's) or ``linear``.
        batch_size: Examples of a step, exactly. Default 128: the authors' one batch on CIFAR-10 (CIFAR-100: 1280,
            Tiny-ImageNet: 2560).
        batchnorm: ``training`` (default, the authors' code): statistics of each batch; ``inference``: running statistics.
        ablation: ``none`` (default), ``shuffle`` (each layer's mask is permuted), ``random`` (it is drawn anew with the same
            count) or ``reinit`` (the layer's initial weights are permuted after scoring).
        min_per_layer: Fewest weights that each layer keeps at every step (a smaller one keeps all), against layer collapse,
            >= 0. Default 0: off.

    Raises:
        HyperparameterError: A field is out of range.
        DataError: The data holds fewer than ``batch_size`` examples, or cannot be gone through again, or a batch norm has
            nothing to take statistics of.
        DivergedError: Loss or gradient are not finite.
    """

    name: ClassVar[str] = "force"
    needs_data: ClassVar[bool] = True

    density: float = 0.1
    scope: Scope = "global"
    resurrect: bool = True
    steps: int = 60
    schedule: Schedule = "exponential"
    batch_size: int = 128
    batchnorm: BatchNormMode = "training"
    ablation: Ablation = "none"
    min_per_layer: int = 0

    def __post_init__(self) -> None:
        check_pruning(self)
        check_flag(self.name, "resurrect", self.resurrect)
        check_count(self.name, "steps", self.steps, "pruning steps")
        check_choice(self.name, "schedule", self.schedule, get_args(Schedule))
        check_count(self.name, "batch_size", self.batch_size, "examples")
        check_choice(self.name, "batchnorm", self.batchnorm, get_args(BatchNormMode))

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """FORCE and iterative SNIP, both schedules, and the guard."""
        return (
            cls(batch_size=20, steps=5, density=0.3),
            cls(
                batch_size=16,
                steps=6,
                resurrect=False,
                schedule="linear",
                min_per_layer=9,
                ablation="shuffle",
                density=0.4,
            ),
            cls(batch_size=16, steps=3, resurrect=False, scope="uniform", batchnorm="inference", density=0.27),
        )

    def setup(self, s: Sparsifier) -> None:
        """Prune step by step, then install the last mask."""
        check_promise(self, s.targets)
        weights = [target.parameter.detach().clone() for target in s.targets]
        masks = [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
        law = exponential if self.schedule == "exponential" else linear
        examples = Examples(s.data)
        with scoring(s, self.batchnorm):
            for step in range(1, self.steps + 1):
                put(s, [weight * mask for weight, mask in zip(weights, masks, strict=True)])
                gradients = loss_gradients(s, examples.take(self.batch_size))
                scores = [sensitivity(w, g) for w, g in zip(weights, gradients, strict=True)]
                limits = None
                if not self.resurrect:
                    scores = [torch.where(mask, score, -1.0) for mask, score in zip(masks, scores, strict=True)]
                    limits = [int(mask.sum()) for mask in masks]
                masks = choose_masks(s, self, scores, law(step / self.steps, final=self.density), limits)
        install(s, self, masks, scores)
