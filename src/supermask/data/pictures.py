"""Image files to pixels by Pillow; and, run as a program, the work of one decoding process.

A decoding process is started by the path of this file, so it imports neither torch nor a user's script. It reads one
request a line from its standard input and answers each with a line, both JSON; it ends with its input.

``{"do": "files", "out", "offset", "size", "exact", "files"}``  decode image files
``{"do": "shard", "out", "offset", "size", "exact", "shard"}``  decode the images of a WebDataset shard
``{"do": "labels", "shard"}``                                   list the class numbers of a shard

Pixels go straight into the file ``out`` from byte ``offset`` on, in the order of the request, (3, size, size) uint8
each, and are on the disk when the answer comes. An answer is ``{"bad": [...]}`` with a line for each image that cannot
be decoded, ``{"labels": [...]}``, or ``{"error": text, "kind": "damaged" or "system"}``.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from supermask.errors import DamagedDataError, DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
PICTURES: Final = ("jpg", "jpeg", "png")  # members of a shard that are images
BILINEAR: Final = 2  # Pillow's Resampling.BILINEAR: smoothed where an image shrinks
_GREY: Final = ("1", "L")
_WIDE: Final = ("I", "F")  # prefixes of the modes with more than eight bits a channel


def picture(source: Path | IO[bytes], where: str, channels: int | None) -> Image.Image:
    """Decode one image; its orientation tag is left alone.

    Args:
        source: A file, or its content.
        where: Its name, for messages.
        channels: 1: grey. 3: RGB, from grey, palettes and CMYK too; transparency is dropped. None: grey if it is grey,
            otherwise RGB.

    Returns:
        An image of mode L or RGB.

    Raises:
        MissingExtraError: Pillow is not installed.
        DamagedDataError: It is no image, cut off, or has more than 8 bits a channel.
        DataError: The file vanished.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "data", "a data set of image files") from error
    try:
        with Image.open(source) as opened:
            if opened.mode.startswith(_WIDE):
                raise DamagedDataError(f"{where}: more than 8 bits a channel (mode {opened.mode}); save it with 8 bits")
            grey = channels == 1 or (channels is None and opened.mode in _GREY)
            return opened.convert("L" if grey else "RGB")
    except DamagedDataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"cannot read {where}: it vanished while the folder was read") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DamagedDataError(f"{where}: not a readable image ({error}). Replace or remove it") from error


def square(image: Image.Image, where: str, size: int, exact: bool) -> Pixels:
    """The middle of an RGB image: its shorter side is resized to ``size`` (bilinear, antialiased), and the rest cut off.

    Args:
        image: Mode RGB.
        where: Its name, for messages.
        size: Height and width of the result, in pixels.
        exact: Refuse an image that is not ``size`` x ``size`` already.

    Returns:
        Shape (3, size, size).

    Raises:
        DamagedDataError: ``exact`` is set and the image has another size.
    """
    width, height = image.size
    if (width, height) != (size, size):
        if exact:
            raise DamagedDataError(f"{where}: {height} x {width} pixels (height x width), expected {size} x {size}")
        short = min(width, height)
        width, height = (size * side // short for side in (width, height))
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.resize((width, height), BILINEAR).crop((left, top, left + size, top + size))
    return np.asarray(image, np.uint8).transpose(2, 0, 1)


def members(shard: str) -> Iterator[tuple[str, bytes, bytes | None]]:
    """The samples of a WebDataset shard in order: key, image, and the content of its ``.cls``.

    Raises:
        MissingExtraError: webdataset is not installed.
        DamagedDataError: The shard is no whole tar file.
    """
    import tarfile

    try:
        from webdataset.tariterators import group_by_keys, tar_file_expander
    except ImportError as error:
        raise MissingExtraError("webdataset", "webdataset", "the data set 'webdataset'") from error
    with Path(shard).open("rb") as stream:
        try:
            for sample in group_by_keys(tar_file_expander([{"url": shard, "stream": stream}])):
                image = next((sample[suffix] for suffix in PICTURES if suffix in sample), None)
                if image is not None:
                    yield sample["__key__"], image, sample.get("cls")
        except (tarfile.TarError, EOFError, ValueError) as error:
            reason = str(error.args[0]) if error.args else type(error).__name__
            raise DamagedDataError(f"{shard}: not a whole tar file of samples ({reason}). Copy it anew") from error


def labels(shard: str) -> list[int]:
    """The class numbers of a shard.

    Raises:
        MissingExtraError: webdataset is not installed.
        DamagedDataError: The shard is damaged, or an image has no class number.
    """
    found = []
    for key, _, cls in members(shard):
        text = b"" if cls is None else cls.strip()
        if not text.isdigit():
            shown = "no .cls" if cls is None else f"the .cls {cls[:20]!r}"
            raise DamagedDataError(f"{shard} ({key}): {shown}; each image needs a class number >= 0 in KEY.cls")
        found.append(int(text))
    return found


def _sources(request: dict[str, Any]) -> Iterator[tuple[Path | IO[bytes], str]]:
    if request["do"] == "files":
        yield from ((Path(file), file) for file in request["files"])
    else:
        yield from ((io.BytesIO(image), f"{request['shard']} ({key})") for key, image, _ in members(request["shard"]))


def _decode(request: dict[str, Any]) -> list[str]:
    """Write the images of a request; what is wrong with those that cannot be decoded, which are left out."""
    bad, size = [], request["size"]
    with Path(request["out"]).open("r+b") as out:
        for index, (source, where) in enumerate(_sources(request)):
            try:
                pixels = square(picture(source, where, 3), where, size, request["exact"])
            except DataError as error:
                bad.append(str(error))
                continue
            out.seek(request["offset"] + index * pixels.size)
            out.write(np.ascontiguousarray(pixels).data)
        out.flush()
        os.fsync(out.fileno())
    return bad


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what one line of the input asks for."""
    try:
        if request["do"] == "labels":
            return {"labels": labels(request["shard"])}
        return {"bad": _decode(request)}
    except (DataError, MissingExtraError) as error:
        return {"error": str(error), "kind": "damaged" if isinstance(error, DamagedDataError) else "system"}
    except OSError as error:
        return {"error": f"{error.filename or request.get('out')}: {error.strerror or error}", "kind": "system"}


def serve(lines: Iterable[str], out: IO[str]) -> None:
    """Answer each line."""
    for line in lines:
        out.write(json.dumps(answer(json.loads(line))) + "\n")
        out.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked for the work stops it, by closing the input
    serve(sys.stdin, sys.stdout)
