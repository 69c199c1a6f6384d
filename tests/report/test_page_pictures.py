from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from supermask.errors import MissingExtraError
from supermask.report import page_pictures
from supermask.report.page_pictures import INVERT, KEEP, filters_picture, mask_picture


def pixels(shown: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The picture as RGBA."""
    image = Image.open(io.BytesIO(base64.b64decode(shown["src"].partition(",")[2])))
    assert image.size == (shown["width"], shown["height"])
    return np.asarray(image.convert("RGBA"))


def test_a_pixel_a_weight() -> None:
    shown = mask_picture(np.array([[1, 0, -1, 0]], np.int8), 100)
    assert (shown["block"], shown["turned"]) == ([1, 1], False)
    first, hidden, inverted, _ = pixels(shown)[0].tolist()
    assert first == [*KEEP, 255]
    assert hidden[3] == 0
    assert inverted == [*INVERT, 255]


def test_bool_masks_kernels_and_tall_layers() -> None:
    assert pixels(mask_picture(np.ones((2, 3, 2, 2), bool), 100)).shape == (2, 12, 4)
    tall = mask_picture(np.eye(5, 2).astype(bool), 100)
    assert (tall["turned"], tall["width"], tall["height"]) == (True, 5, 2)
    assert pixels(tall)[..., 3].astype(bool).tolist() == np.eye(2, 5).astype(bool).tolist()


def test_large_masks_are_shown_in_blocks() -> None:
    mask = np.zeros((10, 30), bool)
    mask[:5, :5] = True
    shown = mask_picture(mask, 12)
    rows, columns = shown["block"]
    assert shown["width"] * shown["height"] <= 12
    assert (shown["width"], shown["height"]) == (-(-30 // columns), -(-10 // rows))
    seen = pixels(shown)
    assert seen[0, 0, 3] == 255  # the fullest block in full colour
    assert seen[-1, -1, 3] == 0


def test_an_empty_mask() -> None:
    assert not pixels(mask_picture(np.zeros((3, 4), bool), 100))[..., 3].any()


def test_filters_of_a_linear_layer_are_square_images() -> None:
    weights = np.zeros((3, 16))
    weights[0, 0], weights[1, :2] = 2.0, -2.0
    shown = filters_picture(weights, None, 2)
    assert shown is not None
    assert (shown["shown"], shown["of"], shown["side"], shown["colour"]) == (2, 3, 4, False)
    seen = pixels(shown)
    assert seen.shape[:2] == (4, 9)
    assert seen[0, 0].tolist() == [*KEEP, 255]
    assert seen[0, 5].tolist() == [*INVERT, 255]
    assert 0 < seen[0, 4, 3] < 255  # the line between them
    assert seen[3, 3, 3] == 0


def test_filters_of_three_channels_are_in_colour() -> None:
    weights = np.zeros((1, 3, 2, 2))
    weights[0, 0, 0, 0], weights[0, 1, 1, 1] = 1.0, -1.0
    shown = filters_picture(weights, None, 9)
    assert shown is not None
    assert shown["colour"]
    assert pixels(shown)[0, 0].tolist() == [255, 128, 128, 255]
    assert pixels(shown)[1, 1].tolist() == [128, 0, 128, 255]


@pytest.mark.parametrize("shape", [(4, 15), (4, 4), (4, 3, 1, 1), (4, 3, 5)])
def test_inputs_that_are_no_images(shape: tuple[int, ...]) -> None:
    assert filters_picture(np.ones(shape), None, 9) is None


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"supermask\[report\]"):
        page_pictures.mask_picture(np.ones((2, 2), bool), 9)
