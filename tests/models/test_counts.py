"""Numbers of weights, biases, filters and multiply-accumulates that the papers print, or that follow from their tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from supermask.measure import macs
from supermask.models import MODELS, build

from .helpers import biases, parameters, weights

TINY = {"size": 64, "classes": 200}


def on_meta(name: str, options: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return build(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "shape", "total", "with_biases"),
    [
        ("lenet-300-100", {}, (1, 28, 28), 266_200, 266_610),
        ("lenet5-caffe", {}, (1, 28, 28), 430_500, 431_080),
        ("lenet5-dessilbi", {}, (1, 28, 28), 61_470, 61_706),
        ("alexnet-s", {}, (3, 32, 32), 5_066_784, 5_070_218),
        ("alexnet-b", {}, (3, 32, 32), 8_484_896, 8_490_378),
        ("vgg-c", {}, (3, 32, 32), 10_521_280, 10_526_538),
        ("vgg-d", {}, (3, 32, 32), 15_239_872, 15_245_130),
        ("vgg-like", {}, (3, 32, 32), 14_977_728, 14_982_474),
        ("alexnet-s", {"stride": 4, **TINY}, (3, 64, 64), 5_261_344, 5_264_968),
        ("alexnet-b", {"stride": 4, **TINY}, (3, 64, 64), 8_874_016, 8_879_688),
        ("vgg-c", {"stride": 2, **TINY}, (3, 64, 64), 10_618_560, 10_624_008),
        ("vgg-d", {"stride": 2, **TINY}, (3, 64, 64), 15_337_152, 15_342_600),
        ("vgg-like", {"stride": 2, **TINY}, (3, 64, 64), 15_075_008, 15_079_944),
        ("lstm-s", {}, (1, 28, 28), 135_936, 136_586),
        ("lstm-b", {}, (1, 28, 28), 534_016, 535_306),
        ("gru-s", {}, (1, 28, 28), 103_168, 103_690),
        ("gru-b", {}, (1, 28, 28), 402_944, 403_978),
    ],
)
def test_weights_and_biases(
    name: str, options: dict[str, Any], shape: tuple[int, ...], total: int, with_biases: int
) -> None:
    model = on_meta(name, options)
    assert (weights(model), weights(model) + biases(model)) == (total, with_biases)
    out = model.eval()(torch.zeros(1, *shape, device="meta"))
    assert out.shape == (1, options.get("classes", 10))


@pytest.mark.parametrize(
    ("name", "total"),
    [("wrn-16-8", 10_961_370), ("wrn-16-10", 17_116_634), ("wrn-22-8", 17_158_106)],
)
def test_wide_resnets_of_snip_with_batch_norm(name: str, total: int) -> None:
    assert parameters(on_meta(name, {})) == total


# counts of structured pruning. MAC: multiply-accumulates of convolutions and linear layers for one example, biases and batch
# norm not counted. BN elements: of all inputs of batch norms, for one example.
MASKCONVNET = {"stride_conv": 2, "shortcut": "raw"}


@pytest.mark.parametrize(
    ("name", "options", "total", "convolutions", "linear", "filters", "normalised"),
    [
        ("vgg16-bn", {"hidden": [512]}, 14_987_722, 313_196_544, 267_264, 4_224, 276_992),
        ("vgg16-bn", {}, 14_724_042, 313_196_544, 5_120, 4_224, 276_480),
        ("vgg19-bn", {}, 20_035_018, 398_131_200, 5_120, 5_504, 303_104),
        ("resnet56", {}, 853_018, 125_485_056, 640, 2_032, 532_480),
        ("resnet56", {"shortcut": "average"}, 853_018, 125_485_056, 640, 2_032, 532_480),
        ("resnet164", {}, 1_703_258, 247_644_160, 2_560, 12_560, 3_149_824),
        ("wrn-28-10", {}, 36_479_194, 5_243_322_368, 6_400, 10_096, 2_310_144),
        ("wrn-28-10", MASKCONVNET, 36_479_194, 5_951_111_168, 6_400, 10_096, 2_678_784),
        ("wrn-22-12", {}, 38_577_882, 5_505_466_368, 7_680, 9_424, 2_080_768),
        ("resnet34", {}, 21_797_672, 3_663_249_408, 512_000, 8_512, 3_738_112),
    ],
)
def test_networks_of_structured_pruning(
    name: str, options: dict[str, Any], total: int, convolutions: int, linear: int, filters: int, normalised: int
) -> None:
    model = on_meta(name, options)
    assert parameters(model) == total
    by_layer = macs(model, MODELS[name].input_shape, {})
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert sum(m.weight.numel() for m in layers) == linear  # each is used once
    assert by_layer["dense"] == convolutions + linear
    assert sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)) == filters
    assert norm_elements(model, MODELS[name].input_shape) == normalised


def norm_elements(model: nn.Module, shape: tuple[int, ...]) -> int:
    seen = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
    model.eval()(torch.zeros(1, *shape, device="meta"))
    return sum(seen)


@pytest.mark.parametrize(
    ("name", "parts"), [("vgg16-bn", 4), ("vgg19-bn", 8), ("resnet56", 2), ("resnet164", 4), ("wrn-16-4", 2)]
)
def test_networks_of_reduced_width(name: str, parts: int) -> None:
    """Every convolution has a part of its channels, in and out, but for the images and the classes."""
    model, whole = on_meta(name, {"width": 1 / parts}), on_meta(name, {})
    assert model.state_dict().keys() == whole.state_dict().keys()
    for (key, tensor), other in zip(model.state_dict().items(), whole.state_dict().values(), strict=True):
        if tensor.dim() > 1:
            out, into = other.shape[:2]
            expected = (out if "fc" in key else out // parts, into if into == 3 else into // parts, *other.shape[2:])
            assert tensor.shape == expected
    assert model.eval()(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("alexnet", 61_100_840),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
    ],
)
def test_networks_for_imagenet_have_the_counts_of_torchvision(name: str, total: int) -> None:
    assert parameters(on_meta(name, {})) == total


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("conv2", [576, 36_864, 3_211_264, 65_536, 2_560]),
        ("conv4", [576, 36_864, 73_728, 147_456, 1_605_632, 65_536, 2_560]),
    ],
)
def test_conv2_and_conv4_on_images_of_28_are_those_of_dessilbi(name: str, layers: list[int]) -> None:
    model = on_meta(name, {"channels": 1, "size": 28})
    assert [m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)] == layers


def test_the_support_of_dessilbis_released_lenet_has_its_published_density() -> None:
    """Filters and densities by layer, 6/6, 15/16, 88/120, .0461, .2012, weigh up to .6220 with our sizes of the layers."""
    sizes = [m.weight.numel() for m in on_meta("lenet5-dessilbi", {}).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    densities = [6 / 6, 15 / 16, 88 / 120, 0.0461, 0.2012]
    kept = sum(size * density for size, density in zip(sizes, densities, strict=True))
    assert kept / sum(sizes) == pytest.approx(0.6220, abs=5e-5)


def test_macs_of_the_recurrent_models() -> None:
    """28 rows of each product; the classifier once."""
    assert macs(on_meta("lstm-s", {}), (1, 28, 28), {})["dense"] == 28 * (28 * 128 + 2 * 4 * 128 * 128) + 128 * 10
    assert macs(on_meta("gru-s", {}), (1, 28, 28), {})["dense"] == 28 * (28 * 128 + 2 * 3 * 128 * 128) + 128 * 10
