"""GraSP: keep the flow of the gradient, before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self, get_args

from torch import Tensor, nn

from supermask.core.ablation import Ablation, check_promise, check_pruning, choose_masks, install
from supermask.core.method import Method, check_choice, check_count, check_flag, check_idle, check_range
from supermask.core.registry import register
from supermask.core.scoring import BatchNormMode, Examples, balanced, hessian_gradient_products, put, scoring, tempered
from supermask.core.select import Scope
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Target
from supermask.tensors.initializers import Initializer
from supermask.tensors.philox import Stream
from supermask.tensors.scores import gradient_flow

DEFAULT_EXAMPLES = 100
LINEAR_INIT = Initializer(distribution="normal", rule="xavier")


@register
@dataclass(frozen=True, kw_only=True)
class Grasp(Method):
    """GraSP: before training, remove the weights whose removal leaves the largest gradient.

    Update, once, with L the mean loss of ``outputs / temperature``, g its gradient and H its Hessian by the weights w::

        score = w * (H g)                (the paper's S is -score; it removes the largest S)
        mask  = the density * size largest scores

    Then ``weight = dense * mask`` is trained as usual.

    **Source:** Chaoqi Wang, Guodong Zhang, Roger Grosse, "Picking winning tickets before training by preserving gradient
    flow", ICLR 2020, arXiv 2002.07376; code alecwangcq/GraSP. ``absolute``: Frankle et al., "Pruning neural networks at
    initialization: why are we missing the mark?", ICLR 2021, arXiv 2009.08576.

    **Differs:** (1) g is that of all examples together, wherever it is used; the authors' code splits the examples into halves
    by class and mixes the sum over both with the gradient of each. (2) Linear layers are scored with their own initial weights;
    the authors' code draws them anew for scoring (``redraw_linear``). (3) Scoring examples are not augmented, dropout is off.
    (4) Counts are exact. (5) ``reinit`` permutes the initial weights of a layer.

    **Cost:** once, one gradient and one Hessian-gradient product over the examples, about four times forward and backward, and
    a selection over all weights; meanwhile memory for five more copies of the weights and about twice the activations. A step
    of training is as expensive as the dense one, plus the product with the mask; 1 byte a weight.

    Args:
        density: Fraction of the targeted weights that remains, in (0, 1]. Default 0.1: ours.
        scope: ``global`` (default, the paper's), ``uniform``, ``erk`` or ``er``: rank within shares of each layer.
        per_class: Examples of each class, the first ones in the data, which must then be batches (inputs, integer labels).
            Null: the first ``batch_size`` examples. Default 10: the authors' on CIFAR-10 (and 2 x 5 on CIFAR-100, 10 x 1 on
            Tiny-ImageNet).
        classes: Number of classes, so that the search for examples may end early; labels are in [0, classes). Default null:
            goes through all of the data. Not with ``per_class`` null.
        batch_size: Number of examples when ``per_class`` is null, and null otherwise. Default null: 100.
        temperature: Divides the outputs, in (0, 1e9]. Default 200: the authors'.
        absolute: Rank by ``|w * (H g)|``. Default false: the paper's.
        redraw_linear: Whether linear layers hold a Xavier normal draw of their own while they are scored. Default false.
        batchnorm: ``training`` (default, the authors' code): statistics of each batch; ``inference``: running statistics.
        ablation: ``none`` (default), ``shuffle`` (each layer's mask is permuted), ``random`` (it is drawn anew with the same
            count) or ``reinit`` (the layer's initial weights are permuted after scoring).
        min_per_layer: Fewest weights that each layer keeps (a smaller one keeps all), against layer collapse, >= 0. Default 0:
            off, as in the paper.

    Raises:
        HyperparameterError: A field is out of range, or would not be used.
        DataError: The data holds too few examples, or has no integer labels in range though ``per_class`` is set, or a batch
            norm has nothing to take statistics of.
        DivergedError: Loss or derivatives are not finite.
        AttachError: The model's output is not one tensor, so that it cannot be divided.
    """

    name: ClassVar[str] = "grasp"
    needs_data: ClassVar[bool] = True

    density: float = 0.1
    scope: Scope = "global"
    per_class: int | None = 10
    classes: int | None = None
    batch_size: int | None = None
    temperature: float = 200.0
    absolute: bool = False
    redraw_linear: bool = False
    batchnorm: BatchNormMode = "training"
    ablation: Ablation = "none"
    min_per_layer: int = 0

    def __post_init__(self) -> None:
        check_pruning(self)
        if self.per_class is not None:
            check_count(self.name, "per_class", self.per_class, "examples")
        if self.classes is not None:
            check_count(self.name, "classes", self.classes, "classes")
        if self.batch_size is not None:
            check_count(self.name, "batch_size", self.batch_size, "examples")
        if self.per_class is None:
            check_idle(self.name, "classes", self.classes, None, "set per_class")
        else:
            check_idle(self.name, "batch_size", self.batch_size, None, "set per_class to null")
        check_range(self.name, "temperature", self.temperature, 0.0, 1e9, open_low=True)
        check_flag(self.name, "absolute", self.absolute)
        check_flag(self.name, "redraw_linear", self.redraw_linear)
        check_choice(self.name, "batchnorm", self.batchnorm, get_args(BatchNormMode))

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Balanced and plain examples, both signs, and the guard."""
        return (
            cls(per_class=5, density=0.4),
            cls(
                per_class=None, batch_size=20, absolute=True, temperature=1.0, batchnorm="inference", ablation="random"
            ),
            cls(per_class=3, classes=4, redraw_linear=True, scope="uniform", min_per_layer=2, density=0.35),
        )

    def setup(self, s: Sparsifier) -> None:
        """Score, choose the masks, install them."""
        check_promise(self, s.targets)
        with scoring(s, self.batchnorm, second_order=True), tempered(s, self.temperature):
            if self.per_class is None:
                batches = Examples(s.data).take(self.batch_size or DEFAULT_EXAMPLES)
            else:
                batches = balanced(s.data, self.per_class, self.classes)
            if self.redraw_linear:
                put(s, [self._drawn(s, target) for target in s.targets])
            products = hessian_gradient_products(s, batches)
            scores = [
                gradient_flow(target.parameter, product, absolute=self.absolute)
                for target, product in zip(s.targets, products, strict=True)
            ]
        install(s, self, choose_masks(s, self, scores, self.density), scores)

    def _drawn(self, s: Sparsifier, target: Target) -> Tensor:
        """What a target holds while it is scored."""
        if target.kind != "linear":
            return target.parameter.detach()
        return LINEAR_INIT.draw(target.shape, target.fans, Stream(s.seed, "score-weights", target.name))
