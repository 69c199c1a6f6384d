"""Augmentation of a whole batch at once, on its own device and with its own generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import torch
from torch import Tensor

from supermask.errors import HyperparameterError

_TRIES: Final = 10  # of a random part, before the middle is taken


class Rows(NamedTuple):
    """Which examples of a batch a process has; each is augmented as it would be in the whole batch.

    Args:
        places: Their places in the batch, int64, shape (b,).
        of: Examples of the whole batch.
    """

    places: Tensor
    of: int


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

    name: ClassVar[str] = "crop-flip"
    whole: ClassVar[bool] = False  # whether it wants stored images whole, not as they are tested

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.padding, bool) or not isinstance(self.padding, int) or self.padding < 0:
            raise HyperparameterError(f"padding must be an integer >= 0 (pixels), got {self.padding!r}")
        if not isinstance(self.flip, bool):
            raise HyperparameterError(f"flip must be true or false, got {self.flip!r}")

    def __call__(self, x: Tensor, generator: torch.Generator, part: Rows | None = None) -> Tensor:
        """Augment a batch.

        Args:
            x: Normalised images, shape (B, C, H, W), any dtype and device; not changed.
            generator: Source of the draws, on the CPU or on the device of ``x``.
            part: Where ``x`` is a part of a batch: which; the draws are those of the whole batch.

        Returns:
            New tensor, shape, dtype and device of ``x``, contiguous.
        """
        rows, columns, flips = (_of_part(drawn, part).to(x.device) for drawn in self.draw(_count(x, part), generator))
        return shift_flip(x, self.padding, rows, columns, flips if self.flip else None)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Row offsets, column offsets, and which images are flipped (none without ``flip``); each (B,)."""
        shifts, where = 2 * self.padding + 1, generator.device
        rows = torch.randint(shifts, (batch,), generator=generator, device=where)
        columns = torch.randint(shifts, (batch,), generator=generator, device=where)
        if not self.flip:
            return rows, columns, torch.zeros(batch, dtype=torch.bool, device=where)
        return rows, columns, torch.randint(2, (batch,), generator=generator, device=where).bool()


def _count(x: Tensor, part: Rows | None) -> int:
    """Examples of the whole batch."""
    return len(x) if part is None else part.of


def _of_part(drawn: Tensor, part: Rows | None) -> Tensor:
    """What was drawn for these examples, on the device of the generator."""
    return drawn if part is None else drawn[part.places.to(drawn.device)]


def shift_flip(x: Tensor, padding: int, rows: Tensor, columns: Tensor, flips: Tensor | None) -> Tensor:
    """Pad images with zeros, flip some, and cut out a part of their size.

    Args:
        x: Shape (B, C, H, W); not changed.
        padding: Pixels of zeros on every side.
        rows: First row of each part in the padded image, shape (B,), int64, on the device of ``x``, as the others.
        columns: First column of each part in the padded, flipped image.
        flips: Which images are flipped horizontally, shape (B,), bool; None: none.

    Returns:
        New tensor, shape, dtype and device of ``x``, contiguous.
    """
    batch, channels, height, width = x.shape
    p = padding
    row = rows[:, None] + torch.arange(height, device=x.device)
    column = columns[:, None] + torch.arange(width, device=x.device)
    if flips is not None:
        column = torch.where(flips[:, None], width + 2 * p - 1 - column, column)
    padded = torch.nn.functional.pad(x, (p, p, p, p))
    index = row[:, :, None] * (width + 2 * p) + column[:, None, :]
    flat = index.reshape(batch, 1, height * width).expand(batch, channels, height * width)
    return padded.reshape(batch, channels, -1).gather(2, flat).reshape(batch, channels, height, width)


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut out a random part of random shape, resize it, flip horizontally with probability 1/2: each image its own.

    The usual augmentation of ImageNet. Ten parts are tried: area = uniform(scale)·H·W, width / height =
    exp(uniform(log ratio)), both sides rounded; the first that fits is taken, at a uniform place. If none fits, the middle
    is taken, as large as ``ratio`` allows. Resizing is bilinear without smoothing: a part that is larger than ``size`` is
    shrunk by sampling, at most by stored size / size.

    Draws of the generator a batch, in this order, uniform in [0, 1) float64: areas (B, 10), ratios (B, 10), rows (B,),
    columns (B,); and flips (B,) integers when ``flip`` is set.

    Args:
        size: Height and width of the result, in pixels, >= 1.
        scale: Least and largest area of the part, as a share of the image, in (0, 1].
        ratio: Least and largest width / height of the part, > 0.
        flip: Whether to flip.

    Raises:
        HyperparameterError: A value is out of range.
    """

    name: ClassVar[str] = "random-resized-crop"
    whole: ClassVar[bool] = True

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise HyperparameterError(f"size must be an integer >= 1 (pixels), got {self.size!r}")
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise HyperparameterError(
                f"scale must be two shares of the area, 0 < least <= largest <= 1, got {self.scale}"
            )
        low, high = self.ratio
        if not 0 < low <= high < math.inf:
            raise HyperparameterError(f"ratio must be two numbers, 0 < least <= largest, got {self.ratio}")
        if not isinstance(self.flip, bool):
            raise HyperparameterError(f"flip must be true or false, got {self.flip!r}")

    def __call__(self, x: Tensor, generator: torch.Generator, part: Rows | None = None) -> Tensor:
        """Augment a batch.

        Args:
            x: Normalised images, shape (B, C, H, W), any floating-point type and device; not changed.
            generator: Source of the draws, on the CPU or on the device of ``x``.
            part: Where ``x`` is a part of a batch: which; the draws are those of the whole batch.

        Returns:
            New tensor (B, C, size, size), dtype and device of ``x``, contiguous.
        """
        batch, channels, height, width = x.shape
        whole = _count(x, part)
        top, left, rows, columns = (
            _of_part(drawn, part).to(x.device) for drawn in self.parts(whole, height, width, generator)
        )
        work = torch.float64 if x.dtype == torch.float64 else torch.float32
        if self.flip:
            flips = torch.randint(2, (whole,), generator=generator, device=generator.device)
            flips = _of_part(flips, part).to(x.device).bool()
        else:
            flips = torch.zeros(batch, dtype=torch.bool, device=x.device)
        first, second, share = _sample(top, rows, self.size)
        first, second = (index[:, None, :, None].expand(batch, channels, self.size, width) for index in (first, second))
        weight = share.to(work)[:, None, :, None]
        out = x.gather(2, first).to(work).lerp_(x.gather(2, second).to(work), weight)
        first, second, share = (
            torch.where(flips[:, None], part.flip(1), part) for part in _sample(left, columns, self.size)
        )
        first, second = (
            index[:, None, None, :].expand(batch, channels, self.size, self.size) for index in (first, second)
        )
        weight = share.to(work)[:, None, None, :]
        return out.gather(3, first).lerp_(out.gather(3, second), weight).to(x.dtype)

    def parts(
        self, batch: int, height: int, width: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw the part of each image.

        Returns:
            Top, left, height and width, each (B,), int64, on the device of the generator.
        """

        def draw(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)

        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * draw(batch, _TRIES))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        shape = torch.exp(low + (high - low) * draw(batch, _TRIES))
        columns, rows = (area * shape).sqrt().round().long(), (area / shape).sqrt().round().long()
        fits = (columns >= 1) & (columns <= width) & (rows >= 1) & (rows <= height)
        first = fits.int().argmax(dim=1, keepdim=True)  # the first of the largest
        found = fits.any(dim=1)
        middle_rows, middle_columns = self._middle(height, width)
        rows = torch.where(found, rows.gather(1, first)[:, 0], middle_rows)
        columns = torch.where(found, columns.gather(1, first)[:, 0], middle_columns)
        top = (draw(batch) * (height - rows + 1)).long()
        left = (draw(batch) * (width - columns + 1)).long()
        top = torch.where(found, top, (height - rows) // 2)
        return top, torch.where(found, left, (width - columns) // 2), rows, columns

    def _middle(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the part where no try fits."""
        if width / height < self.ratio[0]:
            return min(height, max(1, round(width / self.ratio[0]))), width
        if width / height > self.ratio[1]:
            return height, min(width, max(1, round(height * self.ratio[1])))
        return height, width


def _sample(start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where ``size`` points spread over ``length`` pixels from ``start`` on lie: the pixels around, the share of the second.

    Points are the middles of ``size`` equal intervals; those beyond the middle of the outermost pixels lie on it.
    """
    middles = torch.arange(size, device=start.device, dtype=torch.float64) + 0.5
    places = (middles * (length[:, None].double() / size) - 0.5).clamp_min(0.0)
    places = torch.minimum(places, (length[:, None] - 1).double())
    below = places.floor()
    first = below.long()
    second = torch.minimum(first + 1, length[:, None] - 1)
    return start[:, None] + first, start[:, None] + second, places - below


@dataclass(frozen=True)
class SubsetCropFlip:
    """:class:`CropFlip` with a random subset for each image: none, one or both of shift and flip.

    What the code of SNIP's authors does by imgaug's ``SomeOf((0, None))``: how many of the two act on an image is uniform in
    {0, 1, 2}, and one alone is either with equal probability. A flip that acts still flips with probability 1/2, and
    a shift may be by 0 pixels. The paper's text, "random flip and translation up to 4 pixels", is :class:`CropFlip`.

    Draws of the generator a batch, in this order: those of :class:`CropFlip`, and subsets (B,), uniform in 0..5.

    Args:
        padding: Largest shift in pixels, filled by zeros, >= 0.

    Raises:
        HyperparameterError: ``padding`` is not an integer >= 0.
    """

    name: ClassVar[str] = "subset-crop-flip"
    whole: ClassVar[bool] = False

    padding: int = 4

    def __post_init__(self) -> None:
        CropFlip(self.padding)

    def __call__(self, x: Tensor, generator: torch.Generator, part: Rows | None = None) -> Tensor:
        """Augment a batch; arguments and result as in :meth:`CropFlip.__call__`."""
        count = _count(x, part)
        rows, columns, flips = CropFlip(self.padding).draw(count, generator)
        subset = torch.randint(6, (count,), generator=generator, device=generator.device)
        shifted = subset >= 3  # 0, 1: neither; 2: flip; 3: shift; 4, 5: both
        rows, columns = (torch.where(shifted, shift, self.padding) for shift in (rows, columns))
        flips = flips & ((subset == 2) | (subset >= 4))
        rows, columns, flips = (_of_part(drawn, part).to(x.device) for drawn in (rows, columns, flips))
        return shift_flip(x, self.padding, rows, columns, flips)


Augmentation = CropFlip | RandomResizedCrop | SubsetCropFlip
AUGMENTATIONS: Final[dict[str, type[Augmentation]]] = {
    CropFlip.name: CropFlip,
    RandomResizedCrop.name: RandomResizedCrop,
    SubsetCropFlip.name: SubsetCropFlip,
}
