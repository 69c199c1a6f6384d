"""The fully connected network 784-300-100-10 ("LeNet-300-100"), of any widths."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from supermask.errors import ConfigError
from supermask.models.layers import activation as make_activation
from supermask.models.layers import batch_norm_1d, count, flag


class FCN(nn.Sequential):
    """Linear layers ``fc1``, ``fc2``, …, without biases; an activation after each but the last.

    Input (N, ...) with ``inputs`` values an example, flattened; output (N, classes), logits. The batch norm of ``fc1`` is
    ``bn_fc1``, its activation ``act_fc1``.
    """


def fcn(
    *,
    inputs: int = 784,
    hidden: Sequence[int] = (300, 100),
    classes: int = 10,
    activation: str = "elu",
    batchnorm: bool = False,
) -> FCN:
    """Build a fully connected network.

    Args:
        inputs: Values an example; 784 for 28x28 images of one channel.
        hidden: Widths of the hidden layers; may be empty.
        classes: Outputs.
        activation: ``elu`` or ``relu``.
        batchnorm: Normalise before each activation.

    Raises:
        ConfigError: An option is out of range.
    """
    if not isinstance(hidden, list | tuple):
        raise ConfigError(f"hidden must be a list of widths such as [300, 100], got {hidden!r}")
    widths = [count("inputs", inputs), *(count("hidden", width) for width in hidden), count("classes", classes)]
    flag("batchnorm", batchnorm)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        layers[f"fc{number}"] = nn.Linear(before, after, bias=False)
        if number <= len(hidden):
            if batchnorm:
                layers[f"bn_fc{number}"] = batch_norm_1d(after)
            layers[f"act_fc{number}"] = make_activation(activation)
    return FCN(layers)
