from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from supermask.core.masks import Masks, SignedEntry
from supermask.errors import MaskError
from supermask.measure import compression_rate, sizes


def ternary(size: int, density: float, seed: int = 0) -> Tensor:
    """A random sign mask with exactly the asked share of entries, half of them negative, up to one."""
    remaining = round(density * size)
    flat = torch.zeros(size, dtype=torch.int8)
    flat[:remaining] = 1
    flat[: remaining // 2] = -1
    return flat[torch.randperm(size, generator=torch.Generator().manual_seed(seed))]


def test_hand_computed_signed_layer() -> None:
    sign = torch.tensor([[1, 0, 0, -1], [0, 0, 0, 0]], dtype=torch.int8)
    result = sizes(8 + 5, {"a": sign != 0}, {"a": sign})
    # 8 symbols: 6 zeros, one of each sign: 6 log2(8/6) + 2 log2(8) = 8.49 bits
    assert result == {
        "dense_float32": 52,
        "two_bit": 20 + 2 + 4,
        "sparse_index": 20 + math.ceil(66 / 8) + 4,
        "entropy": 20 + 2 + 4,
    }


def test_hand_computed_unsigned_layer() -> None:
    mask = torch.tensor([True, False, False, True, False, False, False, False])
    # 6 log2(8/6) + 2 log2(4) = 6.49 bits
    assert sizes(8, {"a": mask}) == {"dense_float32": 32, "two_bit": 2 + 8, "sparse_index": 16, "entropy": 1 + 8}


def test_signed_and_unsigned_layers_add_up() -> None:
    sign, mask = ternary(1000, 0.1), ternary(500, 0.5, 1) != 0
    both = sizes(1600, {"a": sign != 0, "b": mask}, {"a": sign})
    first, second = sizes(1000, {"a": sign != 0}, {"a": sign}), sizes(500, {"b": mask})
    for key, value in both.items():
        assert value == first[key] + second[key] + 4 * 100


def test_masks_bring_the_signs_of_their_constant_magnitude_layers() -> None:
    sign = ternary(1000, 0.1)
    plain = {"a": sign != 0, "b": sign != 0}
    masks = Masks(plain, {"a": SignedEntry(sign, scale=0.1), "b": SignedEntry(sign, scale=None)})
    assert sizes(2000, masks) == sizes(2000, plain, {"a": sign})
    assert sizes(2000, masks, {}) == sizes(2000, plain)
    assert sizes(2000, masks) != sizes(2000, plain)


def test_without_masks_every_accounting_is_dense() -> None:
    assert set(sizes(123, {}).values()) == {492}


@pytest.mark.parametrize("kept", [False, True])
def test_a_layer_without_choice_has_no_entropy(kept: bool) -> None:
    mask = torch.full((64,), kept)
    result = sizes(64, {"a": mask})
    assert result["entropy"] == (256 if kept else 0)
    assert result["sparse_index"] == (512 if kept else 0)


def test_entropy_never_exceeds_two_bits_a_weight() -> None:
    for density in (0.001, 0.1, 2 / 3, 1.0):
        sign = ternary(9999, density)
        result = sizes(9999, {"a": sign != 0}, {"a": sign})
        assert result["entropy"] <= result["two_bit"]


FC = {"conv2": (16384, 0.0045), "conv4": (8192, 0.021), "conv6": (4096, 0.0032), "conv8": (2048, 0.0086)}
CHANNELS = [3, 64, 64, 128, 128, 256, 256, 512, 512]
NETWORKS = {
    "fcn": ([235_200, 30_000, 1_000], [0.03, 0.08, 0.40], 266_200, 124),
    "conv2": ([], [0.30, 0.10, 0.0045, 0.03, 0.20], 4_300_992, 590),
    "conv4": ([], [0.30, 0.10, 0.10, 0.09, 0.021, 0.03, 0.20], 2_425_024, 154),
    "conv6": ([], [0.30, 0.10, 0.08, 0.06, 0.04, 0.03, 0.0032, 0.03, 0.20], 2_261_184, 188),
    "conv8": ([], [0.30, 0.10, 0.04, 0.03, 0.02, 0.015, 0.01, 0.008, 0.0086, 0.02, 0.20], 5_275_840, 313),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_published_densities_give_the_measured_entropy_ratios(network: str) -> None:
    layers, densities, total, ratio = NETWORKS[network]
    if not layers:
        convs = len(densities) - 3
        layers = [9 * CHANNELS[i] * CHANNELS[i + 1] for i in range(convs)] + [256 * FC[network][0], 65_536, 2_560]
    assert sum(layers) == total
    signs = {str(i): ternary(size, density) for i, (size, density) in enumerate(zip(layers, densities, strict=True))}
    result = sizes(total, {name: sign != 0 for name, sign in signs.items()}, signs)
    assert result["dense_float32"] / result["entropy"] == pytest.approx(ratio, rel=0.02)
    assert result["dense_float32"] / result["two_bit"] == pytest.approx(16, rel=1e-2)
    assert compression_rate(result["two_bit"], total) == pytest.approx(0.9375, abs=1e-3)
    assert compression_rate(result["entropy"], total) > compression_rate(result["sparse_index"], total) > 0.93


def test_compression_rate() -> None:
    assert compression_rate(400, 100) == 0.0
    assert compression_rate(100, 100) == 0.75
    assert compression_rate(800, 100) == -1.0


def test_damaged_input_is_refused() -> None:
    mask = torch.tensor([True, False])
    with pytest.raises(MaskError, match=r"mask of a must be bool \(True = remaining\), got torch.float32"):
        sizes(2, {"a": mask.float()})
    with pytest.raises(MaskError, match="sign mask of a does not fit its mask: it must be 0 exactly where"):
        sizes(2, {"a": mask}, {"a": torch.tensor([0, 1])})
    with pytest.raises(MaskError, match="sign mask of a does not fit"):
        sizes(2, {"a": mask}, {"a": torch.tensor([[1, 0]])})
    with pytest.raises(MaskError, match="sign mask of a must hold -1, 0 and"):
        sizes(2, {"a": mask}, {"a": torch.tensor([2, 0])})
    with pytest.raises(MaskError, match="there is a sign mask of b, but no mask; masks: a"):
        sizes(2, {"a": mask}, {"b": torch.tensor([1, 0])})
    with pytest.raises(MaskError, match="masks have 2 entries, but weights_total is 1"):
        sizes(1, {"a": mask})
