"""Zhou et al.'s supermask: random masks whose probabilities are learnt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from supermask.core.initialize import starting_weight
from supermask.core.method import Method, check_choice, check_count, check_initializer, check_range
from supermask.core.parametrizations import Sampled
from supermask.core.registry import register
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Target
from supermask.errors import AttachError, HyperparameterError
from supermask.tensors.initializers import Initializer
from supermask.tensors.noise import fast_uniform
from supermask.tensors.philox import Stream

Mode = Literal["sample", "round"]
Values = Literal["signed-constant", "drawn"]
Rescale = Literal["through", "detached", "none"]
Final = Literal["drawn", "rounded"]


@register
@dataclass(frozen=True, kw_only=True)
class ZhouSupermask(Method):
    """Zhou et al.'s supermask: frozen random weights under a random mask; training learns each entry's probability.

    Update, per layer of n entries, with frozen weight W, learnt score s, p = sigmoid(s) and G = dL/dweight::

        m      ~ Bernoulli(p)                              drawn anew for every step
        weight = W * m * c       c = n / max(1, sum(m))    dynamic weight rescaling
        dL/ds  = (c * G * W  -  c / max(1, sum(m)) * sum(G * W * m)) * p * (1 - p)

    The second term is the gradient through c, absent with ``rescale: detached``; ``none`` sets c = 1. The density is not
    controlled: it follows from the scores, and ``initial_probability`` is its only handle.

    **Source:** Hattie Zhou, Janice Lan, Rosanne Liu, Jason Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the
    Supermask", NeurIPS 2019, arXiv 1905.01067; code uber-research/deconstructing-lottery-tickets at dbad201.

    **Differs:** (1) One draw a step, which all forward passes of it share; the code draws in every forward pass. (2) The
    signed constant is computed once, from the weights that are there at the start. (3) The code's Glorot normal is cut at
    two standard deviations; whether its version of TensorFlow corrected the deviation for the cut is not known: ours is
    corrected. (4) Masks come from torch's generator, seeded for each step and target: a CPU and a GPU draw different ones.
    (5) Biases and other parameters that are not targeted train as usual; the paper froze them at zero: set them to zero and
    call ``requires_grad_(False)`` on them before ``attach``. (6) The paper keeps no mask: ``final`` says which one is left
    here.

    **Cost:** per step one random number and about fifteen more passes over the weights: on a CPU more than another dense
    step for the FCN at batch 128, little for convolutions. Memory: 5 bytes a weight more than dense training. A test
    takes ``draws`` passes over the data.

    Args:
        mode: ``sample`` (default): as above, also in tests. ``round``: in training each entry is, with probability 1/2,
            p itself (and has a gradient) or p rounded; in tests all are rounded, and p = 0.5 to 0.
        values: ``signed-constant`` (default, the paper's best): W = ±std of the layer's weights. ``drawn``: W as drawn.
        rescale: ``through`` (default, the authors' code), ``detached`` or ``none``.
        initial_probability: p at the start, in (0, 1). Default 0.5: a score of 0, the authors' default; smaller is sparser.
        draws: Masks that a test is averaged over, with ``mode: sample``; unused by ``round``. Default 10: the paper's.
        final: What ``finalize`` keeps with ``mode: sample``; unused by ``round``. ``drawn`` (default): the mask drawn after
            the last step. ``rounded``: entries of p > 0.5 from the last step on, and the last test is one of this mask.
        weights: Initialiser of W. Default Glorot normal, cut: the authors'.

    Raises:
        HyperparameterError: A field is out of range.
        AttachError: A layer's weights are all equal, so that its signed constant would be 0.
    """

    name: ClassVar[str] = "zhou-supermask"
    redraws: ClassVar[bool] = True

    mode: Mode = "sample"
    values: Values = "signed-constant"
    rescale: Rescale = "through"
    initial_probability: float = 0.5
    draws: int = 10
    final: Final = "drawn"
    weights: Initializer = Initializer(distribution="truncated-normal", rule="xavier")

    def __post_init__(self) -> None:
        check_choice(self.name, "mode", self.mode, get_args(Mode))
        check_choice(self.name, "values", self.values, get_args(Values))
        check_choice(self.name, "rescale", self.rescale, get_args(Rescale))
        check_choice(self.name, "final", self.final, get_args(Final))
        check_range(self.name, "initial_probability", self.initial_probability, 0.0, 1.0, open_low=True)
        if self.initial_probability == 1.0:
            raise HyperparameterError(f"{self.name}: initial_probability must be below 1, got 1: its score is infinite")
        check_count(self.name, "draws", self.draws, "masks")
        check_initializer(self.name, "weights", self.weights)

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Both modes, both kinds of weights, every rescaling, both final masks."""
        return (
            cls(),
            cls(values="drawn", rescale="none", initial_probability=0.8, draws=2, final="rounded"),
            cls(mode="round", rescale="detached", initial_probability=0.6),
        )

    def setup(self, s: Sparsifier) -> None:
        """Fix the weights, set every score to one value, draw the first masks."""
        p = self.initial_probability
        for target in s.targets:
            weight = starting_weight(s, target, self.weights)
            if self.values == "signed-constant":
                weight = self._signed_constant(target, weight)
            score = s.initial_score(target)
            if score is None:
                score = torch.full(target.shape, math.log(p / (1.0 - p)), dtype=torch.float64)
            rescale, through = self.rescale != "none", self.rescale == "through"
            s.install_score(target, Sampled(weight, soft=self.mode == "round", rescale=rescale, through=through), score)
        self._draw(s, "mask", 0)

    def after_step(self, s: Sparsifier) -> None:
        """Draw the masks of the next step, or take the final ones."""
        if self._is_final(s):
            for target in s.targets:
                _sampled(target).take(target.parameter > 0)
        else:
            self._draw(s, "mask", s.step)

    def test_draws(self, s: Sparsifier) -> int:
        """The paper's ten masks; one where masks are not random."""
        return 1 if self.mode == "round" or self._is_final(s) else self.draws

    def draw(self, s: Sparsifier, index: int) -> None:
        """Masks that no step is trained with."""
        self._draw(s, "test", s.step, index)

    def results(self, s: Sparsifier) -> dict[str, Tensor]:
        """Every entry's probability; their mean is the density that draws have on average."""
        return {f"{target.name}.probability": torch.sigmoid(target.parameter.detach()) for target in s.targets}

    def _is_final(self, s: Sparsifier) -> bool:
        ended = s.total_steps is not None and s.step >= s.total_steps
        return ended and self.mode == "sample" and self.final == "rounded"

    def _draw(self, s: Sparsifier, *purpose: str | int) -> None:
        for target in s.targets:
            score = target.parameter.detach()
            noise = fast_uniform(target.shape, Stream(s.seed, *purpose, target.name).integer(), score.device)
            p = torch.sigmoid(score.float()) if self.mode == "sample" else 0.5
            _sampled(target).take(noise < p)

    def _signed_constant(self, target: Target, weight: Tensor) -> Tensor:
        constant = weight.std(correction=0)
        if not constant > 0:
            raise AttachError(
                f"{self.name}: the weights of {target.name} are all equal, so that their standard deviation is 0; "
                "set values: drawn, or give other weights"
            )
        return torch.where(weight < 0, -constant, constant)


def _sampled(target: Target) -> Sampled:
    installed = target.parametrization
    assert isinstance(installed, Sampled)
    return installed
