"""The list of architectures: name, builder, source and counts of each."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from supermask.errors import ConfigError
from supermask.models.alexnet import alexnet, alexnet_b, alexnet_s
from supermask.models.conv import conv2, conv4, conv6, conv8
from supermask.models.fcn import fcn, lenet_300_100
from supermask.models.lenet import lenet5_caffe, lenet5_dessilbi
from supermask.models.recurrent import gru_b, gru_s, lstm_b, lstm_s
from supermask.models.resnet import (
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet50,
    resnet50_cifar,
    resnet56,
    resnet110,
)
from supermask.models.resnet_preact import resnet164
from supermask.models.resnet_signed import (
    resnet20_signed,
    resnet56_signed,
    resnet110_signed,
    resnet110_signed_masked,
)
from supermask.models.vgg import vgg16_bn, vgg19_bn, vgg_c, vgg_d, vgg_like
from supermask.models.wide_resnet import wrn_16_4, wrn_16_8, wrn_16_10, wrn_22_2, wrn_22_8, wrn_22_12, wrn_28_10

_SIGNED: Final = "Koster, Grothe, Rettinger: Signing the Supermask: Keep, Hide, Invert. ICLR 2022, arXiv 2201.13361"
_LECUN: Final = "LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition. 1998"
_LOTTERY: Final = "Frankle, Carbin: The Lottery Ticket Hypothesis. ICLR 2019, arXiv 1803.03635"
_HIDDEN: Final = "Ramanujan et al.: What's Hidden in a Randomly Weighted Neural Network? CVPR 2020, arXiv 1911.13299"
_SNIP: Final = "Lee, Ajanthan, Torr: SNIP: Single-shot Network Pruning. ICLR 2019, arXiv 1810.02340"
_DESSILBI: Final = "Fu et al.: DessiLBI. ICML 2020, arXiv 2007.02010"
_RETHINKING: Final = "Liu et al.: Rethinking the Value of Network Pruning. ICLR 2019, arXiv 1810.05270"
_SLIMMING: Final = "Liu et al.: Learning Efficient Convolutional Networks through Network Slimming. ICCV 2017"
_HE: Final = "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. CVPR 2016, arXiv 1512.03385"
_IDENTITY: Final = "He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks. ECCV 2016, arXiv 1603.05027"
_WIDE: Final = "Zagoruyko, Komodakis: Wide Residual Networks. BMVC 2016, arXiv 1605.07146"
_WEIRD: Final = "Krizhevsky: One weird trick for parallelizing convolutional neural networks. 2014, arXiv 1404.5997"

_GREY: Final = (1, 28, 28)
_COLOUR: Final = (3, 32, 32)
_IMAGENET: Final = (3, 224, 224)


@dataclass(frozen=True)
class ModelInfo:
    """One architecture of the list.

    Args:
        name: Name in configs and for :func:`build`.
        build: Makes the module; keyword options only.
        summary: One line.
        source: Where the architecture is from.
        input_shape: Of one example at default options.
        weights: Weights of all convolutions and linear layers at default options; biases and batch norm not counted.
        parameters: All trained numbers at default options: weights, biases, scales and shifts of batch norm.
    """

    name: str
    build: Callable[..., nn.Module]
    summary: str
    source: str
    input_shape: tuple[int, ...]
    weights: int
    parameters: int

    @property
    def options(self) -> dict[str, Any]:
        """Name -> default of every option."""
        return {name: parameter.default for name, parameter in inspect.signature(self.build).parameters.items()}


MODELS: Final[dict[str, ModelInfo]] = {
    info.name: info
    for info in (
        ModelInfo("fcn", fcn, "784-300-100-10, fully connected, ELU, no biases", _LECUN, _GREY, 266_200, 266_200),
        ModelInfo(
            "lenet-300-100",
            lenet_300_100,
            "784-300-100-10, fully connected, ReLU, biases",
            _LECUN,
            _GREY,
            266_200,
            266_610,
        ),
        ModelInfo(
            "lenet5-caffe",
            lenet5_caffe,
            "LeNet-5 of Caffe and SNIP: 20 and 50 channels, 800-500-10, biases",
            _SNIP,
            _GREY,
            430_500,
            431_080,
        ),
        ModelInfo(
            "lenet5-dessilbi",
            lenet5_dessilbi,
            "LeNet of DessiLBI's authors: 6, 16 and 120 channels, 120-84-10, biases",
            _DESSILBI,
            _GREY,
            61_470,
            61_706,
        ),
        ModelInfo("lstm-s", lstm_s, "LSTM of 128 over the rows of an image", _SNIP, _GREY, 135_936, 136_586),
        ModelInfo("lstm-b", lstm_b, "LSTM of 256 over the rows of an image", _SNIP, _GREY, 534_016, 535_306),
        ModelInfo("gru-s", gru_s, "GRU of 128 over the rows of an image", _SNIP, _GREY, 103_168, 103_690),
        ModelInfo("gru-b", gru_b, "GRU of 256 over the rows of an image", _SNIP, _GREY, 402_944, 403_978),
        ModelInfo("conv2", conv2, "2 convolutions, 3 linear layers", _LOTTERY, _COLOUR, 4_300_992, 4_300_992),
        ModelInfo("conv4", conv4, "4 convolutions, 3 linear layers", _LOTTERY, _COLOUR, 2_425_024, 2_425_024),
        ModelInfo("conv6", conv6, "6 convolutions, 3 linear layers", _LOTTERY, _COLOUR, 2_261_184, 2_261_184),
        ModelInfo("conv8", conv8, "8 convolutions, 3 linear layers", _HIDDEN, _COLOUR, 5_275_840, 5_275_840),
        ModelInfo(
            "alexnet-s",
            alexnet_s,
            "SNIP's AlexNet with k = 1, CIFAR-10: strides, no pools, biases",
            _SNIP,
            _COLOUR,
            5_066_784,
            5_077_066,
        ),
        ModelInfo(
            "alexnet-b",
            alexnet_b,
            "SNIP's AlexNet with k = 2, CIFAR-10: strides, no pools, biases",
            _SNIP,
            _COLOUR,
            8_484_896,
            8_501_322,
        ),
        ModelInfo(
            "vgg-c",
            vgg_c,
            "SNIP's VGG-C, CIFAR-10: 13 convolutions, three of them 1x1, 512-512-10, biases",
            _SNIP,
            _COLOUR,
            10_521_280,
            10_537_034,
        ),
        ModelInfo(
            "vgg-d",
            vgg_d,
            "SNIP's VGG-D, CIFAR-10: 13 convolutions, 512-512-10, biases",
            _SNIP,
            _COLOUR,
            15_239_872,
            15_255_626,
        ),
        ModelInfo(
            "vgg-like",
            vgg_like,
            "SNIP's VGG-like, CIFAR-10: 13 convolutions, 512-10, biases",
            _SNIP,
            _COLOUR,
            14_977_728,
            14_991_946,
        ),
        ModelInfo(
            "vgg16-bn",
            vgg16_bn,
            "VGG-16 with batch norm, CIFAR-10: 13 convolutions, average pool, one linear layer",
            _RETHINKING,
            _COLOUR,
            14_715_584,
            14_724_042,
        ),
        ModelInfo(
            "vgg19-bn",
            vgg19_bn,
            "VGG-19 with batch norm, CIFAR-10: 16 convolutions, average pool, one linear layer",
            _SLIMMING,
            _COLOUR,
            20_024_000,
            20_035_018,
        ),
        ModelInfo(
            "resnet20",
            resnet20,
            "ResNet-20 for CIFAR, shortcuts without weights (option A)",
            _HE,
            _COLOUR,
            268_336,
            269_722,
        ),
        ModelInfo(
            "resnet32",
            resnet32,
            "ResNet-32 for CIFAR, shortcuts without weights (option A)",
            _HE,
            _COLOUR,
            461_872,
            464_154,
        ),
        ModelInfo(
            "resnet50-cifar",
            resnet50_cifar,
            "ResNet-50 for CIFAR: 8 basic blocks a stage, shortcuts without weights (option A)",
            _RETHINKING,
            _COLOUR,
            752_176,
            755_802,
        ),
        ModelInfo(
            "resnet56",
            resnet56,
            "ResNet-56 for CIFAR, shortcuts without weights (option A)",
            _HE,
            _COLOUR,
            848_944,
            853_018,
        ),
        ModelInfo(
            "resnet110",
            resnet110,
            "ResNet-110 for CIFAR, shortcuts without weights (option A)",
            _HE,
            _COLOUR,
            1_719_856,
            1_727_962,
        ),
        ModelInfo(
            "resnet164",
            resnet164,
            "ResNet-164 for CIFAR: 18 bottlenecks a stage, batch norm and ReLU before each convolution",
            _IDENTITY,
            _COLOUR,
            1_679_024,
            1_703_258,
        ),
        ModelInfo(
            "resnet20-signed",
            resnet20_signed,
            "ResNet20 of the signed supermask, CIFAR-10",
            _SIGNED,
            _COLOUR,
            248_624,
            250_224,
        ),
        ModelInfo(
            "resnet56-signed",
            resnet56_signed,
            "ResNet56 of the signed supermask, CIFAR-100",
            _SIGNED,
            _COLOUR,
            834_992,
            839_280,
        ),
        ModelInfo(
            "resnet110-signed",
            resnet110_signed,
            "ResNet110 of the signed supermask's dense baseline, CIFAR-100; ends at 8x8",
            _SIGNED,
            _COLOUR,
            1_705_904,
            1_714_224,
        ),
        ModelInfo(
            "resnet110-signed-masked",
            resnet110_signed_masked,
            "ResNet110 of the signed supermask's masked network, CIFAR-100; ends at 2x2",
            _SIGNED,
            _COLOUR,
            1_668_272,
            1_676_816,
        ),
        ModelInfo(
            "wrn-16-4", wrn_16_4, "wide ResNet of 16 layers, 4 times as wide", _WIDE, _COLOUR, 2_745_264, 2_748_890
        ),
        ModelInfo(
            "wrn-16-8", wrn_16_8, "wide ResNet of 16 layers, 8 times as wide", _WIDE, _COLOUR, 10_954_160, 10_961_370
        ),
        ModelInfo(
            "wrn-16-10", wrn_16_10, "wide ResNet of 16 layers, 10 times as wide", _WIDE, _COLOUR, 17_107_632, 17_116_634
        ),
        ModelInfo(
            "wrn-22-2", wrn_22_2, "wide ResNet of 22 layers, 2 times as wide", _WIDE, _COLOUR, 1_076_912, 1_079_642
        ),
        ModelInfo(
            "wrn-22-8", wrn_22_8, "wide ResNet of 22 layers, 8 times as wide", _WIDE, _COLOUR, 17_147_312, 17_158_106
        ),
        ModelInfo(
            "wrn-22-12", wrn_22_12, "wide ResNet of 22 layers, 12 times as wide", _WIDE, _COLOUR, 38_561_712, 38_577_882
        ),
        ModelInfo(
            "wrn-28-10", wrn_28_10, "wide ResNet of 28 layers, 10 times as wide", _WIDE, _COLOUR, 36_461_232, 36_479_194
        ),
        ModelInfo(
            "alexnet", alexnet, "AlexNet for ImageNet, torchvision's layout", _WEIRD, _IMAGENET, 61_090_496, 61_100_840
        ),
        ModelInfo(
            "resnet18", resnet18, "ResNet-18 for ImageNet, torchvision's layout", _HE, _IMAGENET, 11_678_912, 11_689_512
        ),
        ModelInfo(
            "resnet34", resnet34, "ResNet-34 for ImageNet, torchvision's layout", _HE, _IMAGENET, 21_779_648, 21_797_672
        ),
        ModelInfo(
            "resnet50",
            resnet50,
            "ResNet-50 for ImageNet, torchvision's layout (stride on the 3x3 convolutions)",
            _HE,
            _IMAGENET,
            25_502_912,
            25_557_032,
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
