from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from supermask.data import CropFlip, RandomResizedCrop, SubsetCropFlip
from supermask.errors import HyperparameterError


def one_by_one(x: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """The definition, image by image: pad, flip, crop."""
    batch, channels, height, width = x.shape
    rows = torch.randint(2 * padding + 1, (batch,), generator=generator).tolist()
    columns = torch.randint(2 * padding + 1, (batch,), generator=generator).tolist()
    flips = torch.randint(2, (batch,), generator=generator).tolist() if flip else [0] * batch
    out = torch.empty_like(x)
    for i in range(batch):
        padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=x.dtype)
        padded[:, padding : padding + height, padding : padding + width] = x[i]
        if flips[i]:
            padded = padded.flip(2)
        out[i] = padded[:, rows[i] : rows[i] + height, columns[i] : columns[i] + width]
    return out


@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (50, 1, 6, 9), (1, 2, 5, 3)])
@pytest.mark.parametrize(("padding", "flip"), [(4, True), (4, False), (0, True), (0, False), (7, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_the_definition(shape: tuple[int, ...], padding: int, flip: bool, dtype: torch.dtype) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = x.clone()
    out = CropFlip(padding, flip)(x, torch.Generator().manual_seed(5))
    assert torch.equal(out, one_by_one(x, padding, flip, torch.Generator().manual_seed(5)))
    assert torch.equal(x, before)
    assert out.dtype == dtype
    assert out.is_contiguous()


def test_channels_last_input() -> None:
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    out = CropFlip(2)(x.contiguous(memory_format=torch.channels_last), torch.Generator().manual_seed(5))
    assert torch.equal(out, CropFlip(2)(x, torch.Generator().manual_seed(5)))


def test_every_place_and_both_directions_occur() -> None:
    x = torch.zeros(4000, 1, 5, 5)
    x[:, 0, 2, 1] = 1.0
    out = CropFlip(1)(x, torch.Generator().manual_seed(0))
    seen = out.reshape(4000, 25).argmax(1).bincount(minlength=25).reshape(5, 5)
    # column 1 with shifts of -1..1, or mirrored column 3 with the same: columns 0 to 4, of which 2 by both ways
    assert seen[1:4].min() > 4000 / 18 * 0.7
    assert seen[0].sum() == seen[4].sum() == 0
    assert seen[1:4, 2].min() > 4000 / 9 * 0.7


def test_draws_come_from_its_generator_alone() -> None:
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    state = torch.random.get_rng_state()
    generator = torch.Generator().manual_seed(3)
    first, second = CropFlip()(x, generator), CropFlip()(x, generator)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(first, second)
    assert torch.equal(first, CropFlip()(x, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("shape", [(40, 3, 16, 16), (30, 1, 12, 20), (30, 2, 20, 9)])
@pytest.mark.parametrize("size", [7, 16, 23])
def test_random_parts_equal_cutting_and_resizing_one_by_one(shape: tuple[int, ...], size: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = x.clone()
    augment = RandomResizedCrop(size, scale=(0.2, 1.0))
    out = augment(x, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    parts = torch.stack(augment.parts(shape[0], shape[2], shape[3], generator), dim=1).tolist()
    flips = torch.randint(2, (shape[0],), generator=generator).tolist()
    for i, (top, left, height, width) in enumerate(parts):
        part = x[i : i + 1, :, top : top + height, left : left + width]
        wanted = torch.nn.functional.interpolate(part, (size, size), mode="bilinear", align_corners=False)[0]
        assert torch.allclose(out[i], wanted.flip(2) if flips[i] else wanted, rtol=0, atol=1e-12), i
    assert 0 < sum(flips) < shape[0]
    assert torch.equal(x, before)
    assert out.shape == (*shape[:2], size, size)
    assert out.is_contiguous()


def test_random_parts_by_hand() -> None:
    """A row of four pixels that fills the part: halves and doubles as worked out on paper."""
    x = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64).expand(1, 1, 4, 4)
    for size, row in ((2, [0.5, 2.5]), (4, [0, 1, 2, 3]), (8, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0])):
        out = RandomResizedCrop(size, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)(x, torch.Generator())
        assert out[0, 0].tolist() == [row] * size


def test_random_parts_have_the_areas_and_shapes_that_were_asked_for() -> None:
    augment = RandomResizedCrop(8, scale=(0.1, 0.5), ratio=(0.5, 2.0))
    top, left, rows, columns = augment.parts(4000, 100, 120, torch.Generator().manual_seed(0))
    area, shape = rows * columns / 12000, columns / rows
    assert 0.095 < float(area.min()) < 0.12
    assert 0.47 < float(area.max()) < 0.505
    assert float(area.mean()) == pytest.approx(0.3, abs=0.01)  # uniform
    assert 0.48 < float(shape.min()) < 0.55
    assert 1.85 < float(shape.max()) < 2.05
    assert float(shape.log().mean()) == pytest.approx(0.0, abs=0.03)  # uniform in the logarithm
    assert int(top.min()) == int(left.min()) == 0
    assert int((top + rows).max()) == 100
    assert int((left + columns).max()) == 120
    free = rows < 100
    assert float((top[free] / (100 - rows[free])).mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("height", "width", "part"), [(40, 10, (13, 0, 13, 10)), (10, 40, (0, 13, 10, 13)), (10, 10, (0, 0, 10, 10))]
)
def test_where_nothing_fits_the_middle_is_taken(height: int, width: int, part: tuple[int, ...]) -> None:
    augment = RandomResizedCrop(8, scale=(1.0, 1.0))
    found = torch.stack(augment.parts(50, height, width, torch.Generator().manual_seed(0)), dim=1)
    if height != width:
        assert found.tolist() == [list(part)] * 50
    else:  # a square fits where the drawn shape rounds to it
        assert list(part) in found.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_parts_in_other_precisions(dtype: torch.dtype) -> None:
    x = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    out = RandomResizedCrop(12)(x, torch.Generator().manual_seed(5))
    wanted = RandomResizedCrop(12)(x.double(), torch.Generator().manual_seed(5))
    assert out.dtype == dtype
    assert float((out.double() - wanted).abs().max()) <= torch.finfo(dtype).eps


def test_subsets_are_those_of_the_authors() -> None:
    """None, one, two of (shift, flip) a third each; counted on an image that tells what happened to it."""
    n, padding = 12000, 4
    x = torch.zeros(n, 1, 20, 20)
    x[:, 0, 9, 6] = 1.0
    out = SubsetCropFlip(padding)(x, torch.Generator().manual_seed(0))
    place = out.reshape(n, 400).argmax(1)
    row, column = place // 20 - 9, place % 20
    assert int(row.min()) == -4
    assert int(row.max()) == 4
    # shift: 1/6 + 1/3; its row is 0 in one of nine cases
    assert float((row != 0).float().mean()) == pytest.approx(0.5 * 8 / 9, abs=0.015)
    # untouched: not shifted (1/2, or 1/2 times 1/81), not flipped: no flip in the subset, or a flip that leaves it
    unflipped = (column == 6) & (row == 0)
    assert float(unflipped.float().mean()) == pytest.approx(1 / 3 + 1 / 12 + (1 / 6 + 1 / 6) / 81, abs=0.015)
    # flipped and not shifted: subset of the flip alone, which flips every other time
    assert float(((column == 13) & (row == 0)).float().mean()) == pytest.approx(1 / 12 + 1 / 6 / 81, abs=0.01)
    assert torch.equal(out, SubsetCropFlip()(x, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be an integer >= 1 (pixels), got 0"),
        (
            {"size": 8, "scale": (0.0, 1.0)},
            "scale must be two shares of the area, 0 < least <= largest <= 1, got (0.0, 1.0)",
        ),
        ({"size": 8, "scale": (0.5, 1.5)}, "scale must be two shares"),
        ({"size": 8, "ratio": (2.0, 0.5)}, "ratio must be two numbers, 0 < least <= largest, got (2.0, 0.5)"),
        ({"size": 8, "ratio": (1.0, math.nan)}, "ratio must be two numbers"),
        ({"size": 8, "flip": 1}, "flip must be true or false, got 1"),
    ],
)
def test_bad_arguments_of_random_parts(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=re.escape(message)):
        RandomResizedCrop(**arguments)


def test_bad_arguments_of_subsets() -> None:
    with pytest.raises(HyperparameterError, match="padding must be an integer >= 0"):
        SubsetCropFlip(-1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": -1}, "padding must be an integer >= 0 (pixels), got -1"),
        ({"padding": 1.5}, "padding must be an integer >= 0 (pixels), got 1.5"),
        ({"padding": True}, "padding must be an integer >= 0 (pixels), got True"),
        ({"flip": "yes"}, "flip must be true or false, got 'yes'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=re.escape(message)):
        CropFlip(**arguments)
