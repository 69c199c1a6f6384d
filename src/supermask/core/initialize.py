"""Drawing a whole model's initial weights from one seed."""

from __future__ import annotations

import torch
from torch import nn

from supermask.core.targets import find_targets
from supermask.tensors.initializers import Initializer
from supermask.tensors.philox import Stream


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
