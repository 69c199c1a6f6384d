"""The fully connected network 784-300-100-10 ("LeNet-300-100"), of any widths."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn

from supermask.models.layers import activation as make_activation
from supermask.models.layers import add_linear, batch_norm_1d, count, counts, flag


class FCN(nn.Sequential):
    """Linear layers ``fc1``, ``fc2``, …; an activation after each but the last.

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
    bias: bool = False,
) -> FCN:
    """Build a fully connected network.

    Args:
        inputs: Values an example; 784 for 28x28 images of one channel.
        hidden: Widths of the hidden layers; may be empty.
        classes: Outputs.
        activation: ``elu`` or ``relu``.
        batchnorm: Normalise before each activation.
        bias: Whether the linear layers have one.

    Raises:
        ConfigError: An option is out of range.
    """
    widths = [count("inputs", inputs), *counts("hidden", hidden), count("classes", classes)]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    add_linear(
        layers,
        widths,
        activation=partial(make_activation, activation),
        norm=batch_norm_1d if flag("batchnorm", batchnorm) else None,
        bias=flag("bias", bias),
    )
    return FCN(layers)


lenet_300_100 = partial(fcn, activation="relu", bias=True)
