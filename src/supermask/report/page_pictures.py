"""Pictures of masks and of first-layer filters: small PNG files with a palette that is seen on light and on dark ground."""

from __future__ import annotations

import base64
import io
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supermask.errors import MissingExtraError

#: What remains, or is positive; what is inverted, or negative. Everything else shows the page behind the picture.
KEEP: Final = (47, 111, 222)
INVERT: Final = (139, 146, 156)

_SHADES: Final = 15  # of each of the two colours, beside transparent
_GAP: Final = 2 * _SHADES + 1  # index of the lines between filters
_MOST_SIDE: Final = 2048  # pixels


def mask_picture(mask: npt.NDArray[Any], most: int) -> dict[str, Any]:
    """A mask as a picture: a row an output, a column an input, turned where that is wider; what is hidden is transparent.

    Args:
        mask: ``(outputs, ...)``, bool or of -1, 0 and 1.
        most: Pixels at most; a larger mask is shown in blocks, stronger where a larger share of the block remains.

    Returns:
        `src`, `width` and `height` in pixels, `turned`, and `block`, the weights of a pixel as [rows, columns].

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    flat = mask.reshape(mask.shape[0], -1).astype(np.int8)
    turned = flat.shape[0] > flat.shape[1]
    flat = flat.T if turned else flat
    rows, columns = _block(flat.shape, most)
    kept, inverted = _shares(flat == 1, rows, columns), _shares(flat == -1, rows, columns)
    shares = kept + inverted
    strength = _strength(shares)
    indices = np.where(strength == 0, 0, np.where(kept >= inverted, strength, strength + _SHADES)).astype(np.uint8)
    return {**_png(indices), "block": [rows, columns], "turned": turned}


def filters_picture(weights: npt.NDArray[Any], mask: npt.NDArray[Any] | None, most: int) -> dict[str, Any] | None:
    """The filters of a first layer side by side; None where its inputs are no images.

    Those of a convolution are its kernels, in colour where it has three inputs; a linear layer's inputs are taken for a square
    image where their number is a square. Shown are those of which the most weights remain.

    Args:
        weights: ``(outputs, channels, height, width)`` or ``(outputs, inputs)``, zero where hidden.
        mask: Of the same shape; None: all remain.
        most: Filters at most.

    Returns:
        As :func:`mask_picture`, with `shown` and `of`, numbers of filters, `side`, of a filter in pixels, and `colour`.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    images = _images(weights)
    if images is None:
        return None
    remain = (weights != 0) if mask is None else (mask != 0)
    order = np.argsort(-remain.reshape(len(remain), -1).sum(axis=1), kind="stable")[:most]
    chosen = images[np.sort(order)]
    colour = chosen.shape[-1] == 3
    tiled = _tile(chosen)
    shown = {"shown": len(chosen), "of": len(images), "side": int(images.shape[2]), "colour": colour}
    if colour:
        largest = float(np.abs(chosen).max()) or 1.0
        pixels = np.where(np.isnan(tiled), 0.0, 127.5 + 127.5 * tiled / largest).round().astype(np.uint8)
        alpha = np.where(np.isnan(tiled[..., :1]), 0, 255).astype(np.uint8)
        return {**_rgba(np.concatenate([pixels, alpha], axis=-1)), **shown}
    values = np.nan_to_num(tiled[..., 0])
    strength = _strength(np.abs(values))
    indices = np.where(values < 0, strength + _SHADES * (strength > 0), strength).astype(np.uint8)
    return {**_png(np.where(np.isnan(tiled[..., 0]), _GAP, indices).astype(np.uint8)), **shown}


def _strength(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Shades by the square root of what is shown, the largest in full colour: small values would not be seen otherwise."""
    shades: npt.NDArray[np.uint8] = np.ceil(_SHADES * np.sqrt(values / (values.max() or 1.0))).astype(np.uint8)
    return shades


def _images(weights: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
    """``(filters, height, width, 1 or 3)``; None where these are no images."""
    if weights.ndim == 4 and min(weights.shape[2:]) > 1:
        values = weights.astype(np.float64)
        if weights.shape[1] == 3:
            return values.transpose(0, 2, 3, 1)
        return values.reshape(-1, *weights.shape[2:])[..., None]
    if weights.ndim == 2 and (side := math.isqrt(weights.shape[1])) ** 2 == weights.shape[1] and side > 2:
        return weights.astype(np.float64).reshape(-1, side, side)[..., None]
    return None


def _tile(images: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Images in a grid about twice as wide as high, one pixel of NaN between them."""
    count, height, width, channels = images.shape
    columns = min(count, max(1, math.ceil(math.sqrt(2 * count * height / width))))
    lines = -(-count // columns)
    sheet = np.full((lines * (height + 1) - 1, columns * (width + 1) - 1, channels), np.nan)
    sheet[(lines - 1) * (height + 1) :, (count - (lines - 1) * columns) * (width + 1) :] = (
        0.0  # places without a filter
    )
    for index, image in enumerate(images):
        line, column = divmod(index, columns)
        top, left = line * (height + 1), column * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _block(shape: tuple[int, ...], most: int) -> tuple[int, int]:
    """Rows and columns of a block, such that a picture of that shape has not too many pixels."""
    rows = columns = 1
    while (
        math.ceil(shape[0] / rows) * math.ceil(shape[1] / columns) > most
        or max(math.ceil(shape[0] / rows), math.ceil(shape[1] / columns)) > _MOST_SIDE
    ):
        if shape[0] / rows > shape[1] / columns:
            rows += 1
        else:
            columns += 1
    return rows, columns


def _shares(flags: npt.NDArray[np.bool_], rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Share of each block; those at the lower and right edges may be smaller."""
    down, right = np.arange(0, flags.shape[0], rows), np.arange(0, flags.shape[1], columns)
    sums = np.add.reduceat(np.add.reduceat(flags.astype(np.float64), down, axis=0), right, axis=1)
    heights = np.diff(np.append(down, flags.shape[0]))
    widths = np.diff(np.append(right, flags.shape[1]))
    shares: npt.NDArray[np.float64] = sums / np.outer(heights, widths)
    return shares


def _png(indices: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """A picture with one palette entry for transparent, fifteen shades of each colour, and one for lines."""
    image = _pillow().fromarray(indices)
    image.putpalette([0, 0, 0, *KEEP * _SHADES, *INVERT * _SHADES, *INVERT])
    alpha = bytes([0, *(2 * [round(255 * shade / _SHADES) for shade in range(1, _SHADES + 1)]), 90])
    return _encoded(image, transparency=alpha)


def _rgba(pixels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    return _encoded(_pillow().fromarray(pixels))


def _encoded(image: Any, **options: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, **options)
    text = base64.b64encode(buffer.getvalue()).decode()
    return {"src": f"data:image/png;base64,{text}", "width": image.width, "height": image.height}


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "report", "a picture of a mask") from error
    return Image
