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

_MAGIC: Final = b"supermask checkpoint 1\n"
_DIGEST: Final = 64  # hex digits of SHA-256


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    atomic_write(path, _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote; no code from the file is run.

    Raises:
        CheckpointError: The file is damaged.
    """
    content = path.read_bytes()
    start = len(_MAGIC) + _DIGEST + 1
    digest, payload = content[len(_MAGIC) : start - 1], content[start:]
    if not content.startswith(_MAGIC) or hashlib.sha256(payload).hexdigest().encode() != digest:
        raise CheckpointError(
            f"the checkpoint {path} is damaged (its checksum differs): put back a copy of it, or delete the folder "
            f"{path.parent} to train this run again from its start"
        )
    state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    assert isinstance(state, dict)
    return state


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and its folder, if they are there."""
    shutil.rmtree(path.parent, ignore_errors=True)
