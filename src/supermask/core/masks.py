"""Masks: what remains, by name. The common currency of measuring, reports and deployment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from supermask.core.arrays import load_arrays_and_metadata, save_arrays
from supermask.errors import MaskError

_FORMAT: Final = 1
_KEY: Final = "supermask-masks"  # the one metadata key: safetensors writes several in random order


@dataclass(frozen=True)
class SignedEntry:
    """What a signed supermask knows of one target beside its mask.

    Args:
        sign_mask: int8, shape of the weight: +1 keep, 0 hide, -1 invert, relative to the frozen weight.
        scale: The frozen weights' one magnitude; None when they differ in size.
        seed: Seed that reproduces the frozen signs; None when they were given.
        generator: Name of the generator and stream that the seed belongs to.
    """

    sign_mask: Tensor
    scale: float | None = None
    seed: int | None = None
    generator: str | None = None


class Masks(Mapping[str, Tensor]):
    """Name -> bool tensor, True = remaining; signed supermasks add a :class:`SignedEntry` per name.

    Args:
        masks: Name -> mask; must be bool.
        signed: Name -> entry, for a subset of the names.

    Raises:
        MaskError: A mask is not bool, or an entry does not fit its mask.
    """

    def __init__(self, masks: Mapping[str, Tensor], signed: Mapping[str, SignedEntry] | None = None) -> None:
        self._masks = dict(masks)
        self.signed: dict[str, SignedEntry] = dict(signed or {})
        for name, mask in self._masks.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                got = mask.dtype if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
                raise MaskError(f"the mask of {name} must be a bool tensor (True = remaining), got {got}")
        for name, entry in self.signed.items():
            if name not in self._masks or not torch.equal(entry.sign_mask != 0, self._masks[name]):
                raise MaskError(f"the sign mask of {name} does not fit its mask")

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        return f"Masks({len(self)} tensors, {self.remaining():,} of {self.total():,} remain)"

    def total(self) -> int:
        """Number of targeted weights."""
        return sum(mask.numel() for mask in self.values())

    def remaining(self) -> int:
        """Number of weights that remain."""
        return sum(int(mask.sum()) for mask in self.values())

    def density(self) -> float:
        """Fraction of targeted weights that remain."""
        if not self.total():
            raise MaskError("there are no masks, so there is no density")
        return self.remaining() / self.total()

    def save(self, path: str | Path) -> None:
        """Write to a ``.safetensors`` or ``.npz`` file, safely (see :func:`supermask.core.arrays.atomic_write`).

        Each entry is one array of the weight's shape: bool, or int8 in {-1, 0, +1} for a signed mask.
        """
        notes = {
            name: {"scale": entry.scale, "seed": entry.seed, "generator": entry.generator}
            for name, entry in self.signed.items()
        }
        arrays = {name: self.signed[name].sign_mask if name in self.signed else mask for name, mask in self.items()}
        save_arrays(path, arrays, {_KEY: json.dumps({"format": _FORMAT, "signed": notes}, sort_keys=True)})

    @classmethod
    def load(cls, path: str | Path) -> Masks:
        """Read what :meth:`save` wrote, or any file of named bool or {0, 1} or {-1, 0, +1} arrays.

        Raises:
            MaskError: The file is missing, damaged, of a newer format, or holds other values.
        """
        arrays, metadata = load_arrays_and_metadata(path)
        notes = _read_notes(path, metadata[_KEY]) if _KEY in metadata else {}  # files of others have none
        masks: dict[str, Tensor] = {}
        signed: dict[str, SignedEntry] = {}
        for name, value in arrays.items():
            inverted = (value == -1) & value.is_signed()  # an unsigned 255 is equal to -1 for torch
            if not bool(((value == 0) | (value == 1) | inverted).all()):
                raise MaskError(f"{path}: the mask of {name} holds values other than -1, 0 and 1")
            masks[name] = value != 0
            if name in notes or bool(inverted.any()):
                signed[name] = SignedEntry(value.to(torch.int8), **notes.get(name, {}))
        return cls(masks, signed)

    @classmethod
    def from_prune(cls, model: nn.Module) -> Masks:
        """Masks that ``torch.nn.utils.prune`` put on a model (its ``*_mask`` buffers).

        Raises:
            MaskError: The model carries no such mask.
        """
        masks: dict[str, Tensor] = {}
        for name, buffer in model.named_buffers():
            owner, _, attribute = name.rpartition(".")
            module = model.get_submodule(owner)
            weight = attribute.removesuffix("_mask")
            if attribute.endswith("_mask") and f"{weight}_orig" in dict(module.named_parameters(recurse=False)):
                masks[f"{owner}.{weight}" if owner else weight] = buffer.detach() != 0
        if not masks:
            raise MaskError("this model carries no masks of torch.nn.utils.prune (no *_orig parameter with a *_mask)")
        return cls(masks)


def _read_notes(path: str | Path, text: str) -> dict[str, dict[str, Any]]:
    """The scale, seed and generator of each signed entry."""
    try:
        content = json.loads(text)
        form, notes = content["format"], dict(content["signed"])
        for note in notes.values():
            SignedEntry(torch.empty(0), **note)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MaskError(f"{path} is damaged: its notes on signed masks cannot be read: {error}") from error
    if form != _FORMAT:
        raise MaskError(f"{path} has format {form!r}; this version reads {_FORMAT}")
    return notes
