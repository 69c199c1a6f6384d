"""What went wrong in a run, in words and in ``failed.json``; telling it must not fail itself."""

from __future__ import annotations

import errno
import sysconfig
import traceback
from pathlib import Path
from typing import Any, Final

from supermask.errors import SupermaskError
from supermask.lab.files import write_json
from supermask.lab.store import RESULT_SCHEMA, RunFolder

_NO_SPACE: Final = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_NO_RIGHT: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY: Final = (errno.EEXIST, errno.ENOTDIR)


def describe(error: BaseException, folder: Path) -> str:
    """An error as one message: what was wrong and the way out.

    Args:
        error: What a run ended in.
        folder: The run's folder, where most errors of the operating system come from.
    """
    if isinstance(error, SupermaskError):
        return str(error)
    if isinstance(error, OSError):
        reason, where = error.strerror, _path(error)
        if error.errno in _NO_SPACE:
            return (
                f"no disk space for {where or folder} ({reason}): make room, or lift the quota or file size limit, then "
                "give the same command again; the run resumes from its last checkpoint"
            )
        if where is not None and (where == folder or where in folder.parents or folder in where.parents):
            if error.errno in _IN_THE_WAY:
                return f"{where} is in the way of the run folder {folder} ({reason}): move it, or choose another --out"
            if error.errno in _NO_RIGHT:
                return (
                    f"cannot use {where} ({reason}): change its permissions, or choose another results folder by --out"
                )
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  (an error of the user's own code, with a broken __str__)
        text = "its message cannot be shown"
    return f"{type(error).__name__}: {text}{_place(error)}"


def _place(error: BaseException) -> str:
    """Where in the user's own code an error comes from; nothing where it does not."""
    libraries = (str(Path(__file__).parents[1]), *set(sysconfig.get_paths().values()))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*libraries, "<"))]
    return f" ({frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""


def record_failure(folder: RunFolder, run: dict[str, Any], message: str, trace: str) -> str:
    """Write ``failed.json``; it goes when the run is started again.

    Args:
        folder: The run's folder.
        run: Its ``run``, ``label`` and ``seed``.
        message: Why it failed.
        trace: The traceback; empty where there is none.

    Returns:
        The message; where the file cannot be written (disk full), it says so too.
    """
    try:
        write_json(folder.failed, {"schema": RESULT_SCHEMA, **run, "error": message, "traceback": trace})
    except OSError as problem:
        return f"{message} ({folder.failed.name} could not be written either: {problem.strerror})"
    return message


def _path(error: OSError) -> Path | None:
    return Path(error.filename) if isinstance(error.filename, str) else None
