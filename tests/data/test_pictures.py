from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data import trees

from supermask.data import pictures
from supermask.data.pictures import picture, square
from supermask.errors import DamagedDataError, DataError


@pytest.mark.parametrize(("mode", "change"), [("L", 4), ("RGB", 6), ("CMYK", 12)])
def test_modes_of_jpeg_become_rgb(tmp_path: Path, mode: str, change: int) -> None:
    file = trees.jpeg(tmp_path / "a.JPEG", 1, (40, 30), mode)
    image = picture(file, str(file), 3)
    assert (image.mode, image.size) == ("RGB", (40, 30))
    wanted = trees.smooth(1, 40, 30)
    if mode == "L":
        wanted = wanted.convert("L").convert("RGB")
    assert np.abs(np.asarray(image, int) - np.asarray(wanted, int)).mean() < change


def test_a_png_under_the_name_of_a_jpeg(tmp_path: Path) -> None:
    wanted = trees.smooth(1, 20, 10)
    wanted.save(tmp_path / "a.JPEG", "PNG")
    assert np.array_equal(np.asarray(picture(tmp_path / "a.JPEG", "a", 3)), np.asarray(wanted))
    wanted.quantize(200).save(tmp_path / "b.png")
    wanted.convert("RGBA").save(tmp_path / "c.png")
    assert picture(tmp_path / "b.png", "b", 3).mode == "RGB"
    assert np.array_equal(np.asarray(picture(tmp_path / "c.png", "c", 3)), np.asarray(wanted))


def test_an_image_is_resized_by_its_shorter_side_and_cut_in_the_middle() -> None:
    for width, height, left, top in ((40, 30, 2, 0), (30, 40, 0, 2), (25, 61, 0, 12), (16, 16, 0, 0)):
        image = trees.smooth(3, width, height)
        scaled = image.resize((16 * width // min(width, height), 16 * height // min(width, height)), Image.BILINEAR)
        wanted = np.asarray(scaled.crop((left, top, left + 16, top + 16))).transpose(2, 0, 1)
        assert np.array_equal(square(image, "a", 16, exact=False), wanted), (width, height)
    # the middle of the long side is still in the middle
    line = Image.fromarray(np.zeros((20, 60, 3), np.uint8))
    line.paste((255, 255, 255), (29, 0, 31, 20))
    columns = square(line, "a", 20, exact=False)[0, 0]
    assert columns.argmax() in (9, 10)
    assert int((columns > 0).sum()) == 2


def test_an_image_of_its_size_stays_as_it_is() -> None:
    image = trees.smooth(3, 16, 16)
    for exact in (False, True):
        assert np.array_equal(square(image, "a", 16, exact), np.asarray(image).transpose(2, 0, 1))
    message = "a.JPEG: 30 x 16 pixels (height x width), expected 16 x 16"
    with pytest.raises(DamagedDataError, match=re.escape(message)):
        square(trees.smooth(3, 16, 30), "a.JPEG", 16, exact=True)


def test_smoothing_is_that_of_torch() -> None:
    """Antialiased: a factor of four leaves no trace of single pixels."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
    x = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())[None].double()
    wanted = torch.nn.functional.interpolate(x, (16, 16), mode="bilinear", antialias=True)[0]
    assert float((torch.from_numpy(square(image, "a", 16, exact=False).copy()) - wanted).abs().max()) <= 1.0


def damaged(tmp_path: Path) -> dict[str, Path]:
    cut = trees.jpeg(tmp_path / "cut.JPEG", 1)
    cut.write_bytes(cut.read_bytes()[:-40])
    empty, page, wide = tmp_path / "empty.JPEG", tmp_path / "page.JPEG", tmp_path / "wide.png"
    empty.touch()
    page.write_text("<html></html>")
    Image.new("I;16", (4, 4), 1000).save(wide)
    return {"truncated": cut, "cannot identify": empty, "identify": page, "more than 8 bits": wide}


def test_damaged_images_are_named(tmp_path: Path) -> None:
    for words, file in damaged(tmp_path).items():
        with pytest.raises(DamagedDataError, match=f"^{re.escape(str(file))}: .*{words}"):
            picture(file, str(file), 3)
    with pytest.raises(DataError, match=r"cannot read gone: it vanished"):
        picture(tmp_path / "gone", "gone", 3)


def ask(*requests: dict[str, Any]) -> list[dict[str, Any]]:
    out = io.StringIO()
    pictures.serve([json.dumps(request) for request in requests], out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_process_writes_pixels_in_their_places(tmp_path: Path) -> None:
    files = [trees.jpeg(tmp_path / f"{i}.JPEG", i, (8, 8)) for i in range(3)]
    out = tmp_path / "out"
    out.write_bytes(b"\x07" * (10 + 3 * 192))
    bad = tmp_path / "bad.JPEG"
    bad.touch()
    names = [str(files[0]), str(bad), str(files[2])]
    request = {"do": "files", "out": str(out), "offset": 10, "size": 8, "exact": True, "files": names}
    (reply,) = ask(request)
    assert [line.partition(": ")[0] for line in reply["bad"]] == [str(bad)]
    content = out.read_bytes()
    assert content[:10] == b"\x07" * 10
    assert content[10:202] == trees.pixels(files[0]).tobytes()
    assert content[202:394] == b"\x07" * 192
    assert content[394:] == trees.pixels(files[2]).tobytes()


def test_a_process_survives_what_it_cannot_do(tmp_path: Path) -> None:
    file = trees.jpeg(tmp_path / "a.JPEG", 1, (8, 8))
    request = {
        "do": "files",
        "out": str(tmp_path / "none"),
        "offset": 0,
        "size": 8,
        "exact": True,
        "files": [str(file)],
    }
    nowhere, damage = ask(request, {"do": "labels", "shard": str(file)})
    assert nowhere == {"error": f"{tmp_path / 'none'}: No such file or directory", "kind": "system"}
    assert damage["kind"] == "damaged"
    assert damage["error"].startswith(f"{file}: not a whole tar file of samples (")
