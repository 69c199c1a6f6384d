"""Downloads: resumed where they broke off, tried on every mirror, and never in place before the checksum is right."""

from __future__ import annotations

import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from supermask._version import __version__
from supermask.core.locking import locked
from supermask.data.catalog import DATASETS, DataFile
from supermask.data.files import verify_file
from supermask.data.locate import download_folder, how_to_get
from supermask.errors import ConfigError, DamagedDataError, DataError, MissingDataError

Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, bytes in all if known
_BLOCK: Final = 1 << 18
_ATTEMPTS: Final = 5  # transfers without any new byte on one mirror
_NETWORK: Final = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def get(name: str, *, root: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> Path:
    """Download a data set from its official sources; what is there already and right is kept.

    Args:
        name: Name in the catalogue.
        root: Data folder; default $SUPERMASK_DATA, else the cache folder.
        progress: Called with (file name, bytes so far, bytes in all or None) after each block.

    Returns:
        The folder that now holds the files.

    Raises:
        ConfigError: The data set is none that is downloaded.
        MissingDataError: No mirror could be reached; the message says what to put where.
        DamagedDataError: Mirrors answered, but none with the right file.
        DataError: The folder cannot be written.
    """
    info = DATASETS.get(name)
    if info is None or not info.files:
        known = ", ".join(entry.name for entry in DATASETS.values() if entry.files)
        raise ConfigError(f"there is nothing to download for data set {name!r}; downloaded are {known}")
    folder = download_folder(root)
    if info.layouts[0].archive is None:
        folder = folder / info.layouts[0].folders[0]
    for file in info.files:
        try:
            fetch(file, info.mirrors, folder, progress=progress)
        except MissingDataError as error:
            raise MissingDataError(f"{error}\n{how_to_get(info, root)}") from error
    return folder


def fetch(
    file: DataFile, mirrors: Sequence[str], folder: Path, *, progress: Progress | None = None, timeout: float = 30.0
) -> Path:
    """Download one file, unless it is there already and right.

    The bytes go to ``NAME.part``. A transfer that breaks off leaves it there, and the next one asks for the rest only.
    The file gets its name when its checksum is right. Two processes that want the same file take turns.

    Args:
        file: Name and checksum.
        mirrors: Addresses to which the name is appended, tried in this order.
        folder: Made if missing.
        progress: As in :func:`get`.
        timeout: Seconds without an answer after which a mirror is given up.

    Returns:
        Path of the file.

    Raises:
        MissingDataError: No mirror delivered it.
        DamagedDataError: A mirror delivered it whole but with a wrong checksum, and no other had the right one.
        DataError: The folder cannot be written.
    """
    target = folder / file.name
    part = target.with_name(f"{file.name}.part")
    try:
        with locked(folder / ".download.lock"):
            if not _right(target, file):
                _from_mirrors(file, mirrors, part, progress, timeout)
                part.replace(target)
    except OSError as error:
        if isinstance(error, MissingDataError):
            raise
        raise DataError(
            f"cannot write {target}: {error.strerror or error}; choose another folder by --data-dir, root= or "
            "SUPERMASK_DATA"
        ) from error
    return target


def _from_mirrors(
    file: DataFile, mirrors: Sequence[str], part: Path, progress: Progress | None, timeout: float
) -> None:
    failures: list[str] = []
    wrong = False
    for mirror in mirrors:
        url = mirror + file.name
        idle = 0
        while idle < _ATTEMPTS:
            before = _size(part)
            try:
                _transfer(url, part, file.name, progress, timeout)
            except urllib.error.HTTPError as error:
                failures.append(f"{url}: HTTP {error.code} {error.reason}")
                error.close()
                if error.code != 416:
                    break
                idle += 1  # the part is longer than the file: start over
                part.unlink()
                continue
            except _NETWORK as error:
                failures.append(f"{url}: {getattr(error, 'reason', None) or error or type(error).__name__}")
                if _size(part) == before:
                    break
                idle = 0
                continue
            if _right(part, file):
                return
            part.unlink()
            if not before:  # one whole transfer: the mirror has another file
                failures.append(f"{url}: wrong checksum, expected {file.checksum}")
                wrong = True
                break
            idle += 1  # the resumed part may have been of another file: start over
    message = f"cannot download {file.name}: " + "; ".join(dict.fromkeys(failures))
    if wrong:
        raise DamagedDataError(f"{message}. Nothing was kept; try later, or copy the official file to {part.parent}")
    raise MissingDataError(message)


def _transfer(url: str, part: Path, name: str, progress: Progress | None, timeout: float) -> None:
    """Append the rest of a file to ``part``, or write all of it where the server ignores the range."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": f"supermask/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=timeout) as response:
        resumed = re.match(rf"bytes {have}-", response.headers.get("Content-Range", ""))
        if response.status != 206 or not resumed:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as out:
            while block := response.read(_BLOCK):
                out.write(block)
                have += len(block)
                if progress is not None:
                    progress(name, have, total)
            out.flush()
            os.fsync(out.fileno())
    if total is not None and have < total:
        raise ConnectionError(f"broke off after {have} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _right(path: Path, file: DataFile) -> bool:
    if not path.exists():
        return False
    try:
        verify_file(path, file.checksum, "")
    except DamagedDataError:
        return False
    return True
