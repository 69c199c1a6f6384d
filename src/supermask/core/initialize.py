"""Drawing a whole model's initial weights from one seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from supermask.core.select import Scope, layer_counts
from supermask.core.targets import Target, find_targets
from supermask.errors import HyperparameterError
from supermask.tensors.initializers import DensityScale, Initializer, density_factor
from supermask.tensors.philox import Stream
from supermask.tensors.scores import wide

if TYPE_CHECKING:
    from supermask.core.sparsifier import Sparsifier


def initialize(model: nn.Module, initializer: Initializer, seed: int) -> None:
    """Draw every default target with an initialiser, in place, and set the biases of those layers to zero.

    Norms and embeddings keep what their constructors gave them. The draw of a tensor depends on the seed and its name
    only, so equal layers of different models, and all methods at one seed, start from the same numbers.

    Args:
        model: Any module with at least one default target.
        initializer: Distribution and rule.
        seed: Integer in [0, 2**64).
    """
    with torch.no_grad():
        for target in find_targets(model):
            values = initializer.draw(target.shape, target.fans, Stream(seed, "weights", target.name))
            target.parameter.copy_(values)
            for site in target.sites:
                for name, parameter in site.module.named_parameters(recurse=False):
                    if "bias" in name:
                        parameter.zero_()


def starting_weight(s: Sparsifier, target: Target, initializer: Initializer) -> Tensor:
    """The weight that a method starts from: drawn with its initialiser, or the model's own where the user wants that."""
    weight = target.parameter.detach()
    if not s.redraw:
        return weight
    target.redrawn = True
    return initializer.draw(target.shape, target.fans, Stream(s.seed, "weights", target.name)).to(weight)


def density_factors(s: Sparsifier, scale: DensityScale, density: float, scope: Scope) -> list[float]:
    """Factor on the drawn weights of each target, for the share of them that remains.

    Under ``uniform`` and ``global`` that is ``density``; under ``erk`` and ``er`` the share that the target really keeps.
    Weights that were not drawn (``weights="keep"``, or given) are taken as they are: their factors are 1.

    Raises:
        HyperparameterError: ``pruned-bug``, and a target stays dense.
    """
    if scale == "none" or not s.redraw:
        return [1.0] * len(s.targets)
    shares = [density] * len(s.targets)
    if scope in ("erk", "er"):
        counts = layer_counts(s.targets, density, scope)
        # a layer that keeps nothing has no scale; any will do
        shares = [max(1, count) / target.size for count, target in zip(counts, s.targets, strict=True)]
    for target, share in zip(s.targets, shares, strict=True):
        if scale == "pruned-bug" and share == 1.0:
            raise HyperparameterError(
                f"{s.method.name}: scale 'pruned-bug' divides by 1 - density, and {target.name} stays dense under scope "
                f"{scope}; use 'kept', or another scope"
            )
    return [density_factor(scale, share) for share in shares]


def starting_score(s: Sparsifier, target: Target, initializer: Initializer) -> Tensor:
    """The score that a method starts from: the one given to ``attach``, or drawn with its initialiser."""
    score = s.initial_score(target)
    if score is not None:
        return score
    drawn = initializer.draw(target.shape, target.fans, Stream(s.seed, "scores", target.name))
    return drawn.to(target.parameter.device, wide(target.parameter.dtype))
