"""Reference architectures: plain modules that know nothing of masks, each built by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from supermask.errors import ConfigError
from supermask.models.conv import conv2, conv4, conv6, conv8
from supermask.models.fcn import fcn
from supermask.models.resnet_signed import (
    resnet20_signed,
    resnet56_signed,
    resnet110_signed,
    resnet110_signed_masked,
)

__all__ = ["MODELS", "ModelInfo", "build"]

_SIGNED: Final = "Koster, Grothe, Rettinger: Signing the Supermask: Keep, Hide, Invert. ICLR 2022, arXiv 2201.13361"
_LENET: Final = "LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition. 1998"
_LOTTERY: Final = "Frankle, Carbin: The Lottery Ticket Hypothesis. ICLR 2019, arXiv 1803.03635"
_HIDDEN: Final = "Ramanujan et al.: What's Hidden in a Randomly Weighted Neural Network? CVPR 2020, arXiv 1911.13299"


@dataclass(frozen=True)
class ModelInfo:
    """One architecture of the list.

    Args:
        name: Name in configs and for :func:`build`.
        build: Makes the module; keyword options only.
        summary: One line.
        source: Where the architecture is from.
        input_shape: Of one example at default options.
        weights: Weights of all convolutions and linear layers at default options; batch norm not counted.
    """

    name: str
    build: Callable[..., nn.Module]
    summary: str
    source: str
    input_shape: tuple[int, ...]
    weights: int

    @property
    def options(self) -> dict[str, Any]:
        """Name -> default of every option."""
        return {name: parameter.default for name, parameter in inspect.signature(self.build).parameters.items()}


_IMAGE: Final = (3, 32, 32)
MODELS: Final[dict[str, ModelInfo]] = {
    info.name: info
    for info in (
        ModelInfo("fcn", fcn, "784-300-100-10, fully connected (LeNet-300-100)", _LENET, (1, 28, 28), 266_200),
        ModelInfo("conv2", conv2, "2 convolutions, 3 linear layers", _LOTTERY, _IMAGE, 4_300_992),
        ModelInfo("conv4", conv4, "4 convolutions, 3 linear layers", _LOTTERY, _IMAGE, 2_425_024),
        ModelInfo("conv6", conv6, "6 convolutions, 3 linear layers", _LOTTERY, _IMAGE, 2_261_184),
        ModelInfo("conv8", conv8, "8 convolutions, 3 linear layers", _HIDDEN, _IMAGE, 5_275_840),
        ModelInfo(
            "resnet20-signed", resnet20_signed, "ResNet20 of the signed supermask, CIFAR-10", _SIGNED, _IMAGE, 248_624
        ),
        ModelInfo(
            "resnet56-signed", resnet56_signed, "ResNet56 of the signed supermask, CIFAR-100", _SIGNED, _IMAGE, 834_992
        ),
        ModelInfo(
            "resnet110-signed",
            resnet110_signed,
            "ResNet110 of the signed supermask's dense baseline, CIFAR-100; ends at 8x8",
            _SIGNED,
            _IMAGE,
            1_705_904,
        ),
        ModelInfo(
            "resnet110-signed-masked",
            resnet110_signed_masked,
            "ResNet110 of the signed supermask's masked network, CIFAR-100; ends at 2x2",
            _SIGNED,
            _IMAGE,
            1_668_272,
        ),
    )
}


def build(name: str, **options: Any) -> nn.Module:
    """Make a model by name, with torch's default initialisation of its layers.

    Args:
        name: A key of :data:`MODELS`.
        **options: Of that model, see ``MODELS[name].options``.

    Raises:
        ConfigError: Unknown name or option, or a value out of range.
    """
    if name not in MODELS:
        raise ConfigError(f"there is no model {name!r}; {_suggest(name, list(MODELS))}")
    known = list(MODELS[name].options)
    for option in options:
        if option not in known:
            raise ConfigError(f"{name} has no option {option!r}; {_suggest(option, known)}")
    return MODELS[name].build(**options)


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(str(word), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
