from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from supermask.data import CropFlip
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
