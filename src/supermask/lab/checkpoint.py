"""Checkpoint files: written whole or not at all, and checked before a byte of them is believed."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any, Final

import torch

from supermask.core.arrays import atomic_write
from supermask.errors import CheckpointError

_MAGIC: Final = b"supermask checkpoint "
_FORMAT: Final = b"1\n"
_HEAD: Final = _MAGIC + _FORMAT
_DIGEST: Final = 64  # hex digits of SHA-256


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    atomic_write(path, _head(payload) + payload)


def _head(payload: bytes) -> bytes:
    return _HEAD + hashlib.sha256(payload).hexdigest().encode() + b"\n"


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote; no code from the file is run.

    Raises:
        CheckpointError: The file is damaged, or of another version.
    """
    return parse_checkpoint(path.read_bytes(), path, device)


def parse_checkpoint(content: bytes, path: Path, device: torch.device) -> dict[str, Any]:
    """The state in the bytes of a checkpoint.

    Args:
        content: What the file holds.
        path: Its name, for messages.
        device: Where tensors go.

    Raises:
        CheckpointError: The content is damaged, or of another version.
    """
    start = len(_HEAD) + _DIGEST + 1
    payload = content[start:]
    form, line_break, _ = content.removeprefix(_MAGIC).partition(b"\n")
    if content.startswith(_MAGIC) and line_break and form.isdigit() and form + line_break != _FORMAT:
        raise CheckpointError(of_another_version(path, form.decode()))
    if content[:start] != _head(payload):
        raise CheckpointError(
            f"the checkpoint {path} is damaged (its checksum differs): put back a copy of it, or delete the folder "
            f"{path.parent} to train this run again from its start"
        )
    try:
        state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except Exception as error:  # whole, but this torch cannot read it: it raises a dozen kinds
        raise CheckpointError(of_another_version(path, f"of another torch: {error}")) from error
    assert isinstance(state, dict)
    return state


def of_another_version(path: Path, form: str) -> str:
    """The message about a checkpoint that is sound but not ours to read."""
    return (
        f"the checkpoint {path} was written by another version (format {form}): finish the run with that version, or "
        f"delete the folder {path.parent} to train this run again from its start"
    )


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and its folder, if they are there."""
    shutil.rmtree(path.parent, ignore_errors=True)
