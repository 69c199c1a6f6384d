"""Augmentation of a whole batch at once, on its own device and with its own generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from supermask.errors import HyperparameterError


@dataclass(frozen=True)
class CropFlip:
    """Zero-pad, flip horizontally with probability 1/2, crop at a random place: each image its own.

    Three draws of the generator a batch, in this order: row offsets (B,), column offsets (B,), both uniform in
    0..2·padding, and flips (B,) when ``flip`` is set. A generator on the CPU gives the same crops on every device.

    Args:
        padding: Pixels of zeros on every side, >= 0; 4 is the common choice for images of 32 x 32.
        flip: Whether to flip; switch it off where left and right matter (digits, letters).

    Raises:
        HyperparameterError: ``padding`` is not an integer >= 0, or ``flip`` not a bool.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.padding, bool) or not isinstance(self.padding, int) or self.padding < 0:
            raise HyperparameterError(f"padding must be an integer >= 0 (pixels), got {self.padding!r}")
        if not isinstance(self.flip, bool):
            raise HyperparameterError(f"flip must be true or false, got {self.flip!r}")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a batch.

        Args:
            x: Normalised images, shape (B, C, H, W), any dtype and device; not changed.
            generator: Source of the draws, on the CPU or on the device of ``x``.

        Returns:
            New tensor, shape, dtype and device of ``x``, contiguous.
        """
        batch, channels, height, width = x.shape
        p, where = self.padding, generator.device
        shifts = 2 * p + 1
        rows = torch.randint(shifts, (batch,), generator=generator, device=where).to(x.device)
        columns = torch.randint(shifts, (batch,), generator=generator, device=where).to(x.device)
        row = rows[:, None] + torch.arange(height, device=x.device)
        column = columns[:, None] + torch.arange(width, device=x.device)
        if self.flip:
            flips = torch.randint(2, (batch,), generator=generator, device=where).to(x.device).bool()
            column = torch.where(flips[:, None], width + 2 * p - 1 - column, column)
        padded = torch.nn.functional.pad(x, (p, p, p, p))
        index = row[:, :, None] * (width + 2 * p) + column[:, None, :]
        flat = index.reshape(batch, 1, height * width).expand(batch, channels, height * width)
        return padded.reshape(batch, channels, -1).gather(2, flat).reshape(batch, channels, height, width)
