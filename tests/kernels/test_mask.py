"""Values times a mask, in place: the compiled form against torch, bit by bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from supermask.kernels import library
from supermask.kernels import mask as module
from supermask.kernels.mask import mask_in_place

needs_library = pytest.mark.skipif(library.library() is None, reason="the kernels are not compiled here")


def special(*shape: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    some = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-42, -1e-42])
    values.view(-1)[: some.numel()] = some[: values.numel()]
    return values


def drawn(like: Tensor) -> Tensor:
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(1)) < 0.4


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (300, 784), (5, 3, 3, 3), (2, 3)])
def test_torchs_bits(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for flip in (False, True):
        ours, theirs, plain = special(*shape), special(*shape), special(*shape)
        mask = drawn(ours) ^ flip
        mask_in_place(ours, mask)
        theirs.mul_(mask.view(torch.uint8))
        with monkeypatch.context() as patch:
            patch.setattr(module, "_loaded", lambda: None)
            mask_in_place(plain, mask)
        numbers = [torch.nan_to_num(values, nan=7.0).view(torch.int32) for values in (ours, theirs, plain)]
        assert torch.equal(numbers[0], numbers[1])
        assert torch.equal(numbers[0], numbers[2])


def test_memory_that_is_laid_out_otherwise() -> None:
    """Channels last, transposed, with gaps, a mask laid out differently, other types: one result."""
    image = special(4, 3, 6, 6)
    for values in (image.to(memory_format=torch.channels_last), image.transpose(0, 1), image[..., ::2], image.double()):
        mask = drawn(values)
        expected = values * mask
        for beside in (mask, torch.empty_like(values, dtype=torch.bool).copy_(mask)):
            ours = values.clone() if values.is_contiguous() else values
            ours = ours.clone(memory_format=torch.preserve_format)
            mask_in_place(ours, beside)
            assert torch.equal(torch.nan_to_num(ours), torch.nan_to_num(expected))
    gaps = torch.ones(4, 6)[:, ::2]
    mask_in_place(gaps, torch.zeros(4, 3, dtype=torch.bool))
    assert not gaps.any()


@needs_library
def test_what_it_leaves_to_torch() -> None:
    plain, mask = torch.ones(3), torch.ones(3, dtype=torch.bool)
    assert module._readable(plain, mask)
    refused = [plain.double(), plain.to("meta"), plain.as_subclass(type("Special", (Tensor,), {})), plain.to_sparse()]
    refused += [torch.ones(2), torch.ones(6)[::2], torch.complex(plain, plain).conj().imag]
    for other in refused:
        assert not module._readable(other, mask)
    assert not module._readable(torch.ones(3, 1), mask)


def test_torch_counts_the_change() -> None:
    """So that a graph that needs the values from before is refused."""
    weight = torch.ones(4, requires_grad=True)
    loss = (weight * weight).sum()
    with torch.no_grad():
        mask_in_place(weight, torch.tensor([True, False, True, False]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
