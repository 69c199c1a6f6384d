"""Fast uniform noise that follows from a seed, for masks that are drawn afresh at every step."""

from __future__ import annotations

import torch
from torch import Tensor


def fast_uniform(shape: torch.Size | tuple[int, ...], seed: int, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1], about ten times faster than :class:`~supermask.tensors.philox.Stream`.

    They come from torch's generator: the same on every run, but not on another kind of device, nor promised to be the
    same in another version of torch. For noise that nobody needs to draw again.

    Args:
        shape: Shape of the result.
        seed: Integer in [0, 2**63).
        device: Where to draw.

    Returns:
        Float32, multiples of 2**-31 rounded to float32.
    """
    n = torch.Size(shape).numel()
    generator = torch.Generator(device).manual_seed(seed)
    words = torch.empty(-(-n // 2), dtype=torch.int64, device=device).random_(generator=generator)
    # 63 random bits a word: two numbers of 31 each
    return words.view(torch.int32)[:n].bitwise_and_(0x7FFFFFFF).to(torch.float32).mul_(2.0**-31).reshape(shape)
