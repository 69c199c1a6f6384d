"""Bytes of a sparse model under four accountings, computed from its masks without writing a file.

All four hold the same information and count no file header. With n the size of a targeted layer, r its remaining
weights, and U the untargeted weights, which every accounting keeps as float32 (4 U bytes):

* **signed layer** (a sign mask in {-1, 0, +1} times one magnitude): position and sign of the remaining weights, and 4
  bytes for the magnitude;
* **unsigned layer** (a mask on weights of many values): position and float32 value of the remaining weights.

===============  =====================================  ==========================================
accounting       signed layer, bytes                    unsigned layer, bytes
===============  =====================================  ==========================================
``two_bit``      2n/8 + 4                               2n/8 + 4r
``sparse_index`` 33r/8 + 4 (32-bit index, sign bit)     8r (32-bit index, float32)
``entropy``      n H(-1, 0, +1)/8 + 4                   n H(0, 1)/8 + 4r
===============  =====================================  ==========================================

H is the entropy in bits of a symbol drawn with the layer's own frequencies: no code that treats the symbols of a layer
alike and independent can be smaller. Codes are rounded up to whole bytes, layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from supermask.core.masks import Masks
from supermask.errors import MaskError
from supermask.tensors.entropy import entropy_bits

_FLOAT_BYTES: Final = 4
_INDEX_BITS: Final = 32


def sizes(weights_total: int, masks: Mapping[str, Tensor], signs: Mapping[str, Tensor] | None = None) -> dict[str, int]:
    """Bytes of a model, see the module's table.

    Args:
        weights_total: All weights of the model, targeted or not.
        masks: Target name -> bool tensor, True = remaining. Without any, all accountings give the dense size.
        signs: Target name -> tensor of -1, 0, +1, for the targets whose remaining weights have one common magnitude.
            None: what a :class:`~supermask.core.masks.Masks` knows itself, nothing of other mappings.

    Returns:
        ``dense_float32`` (4 * weights_total), ``two_bit``, ``sparse_index``, ``entropy``.

    Raises:
        MaskError: A mask is not bool, a sign mask does not fit its mask, or the masks exceed ``weights_total``.
    """
    if signs is None:
        entries = masks.signed if isinstance(masks, Masks) else {}
        signs = {name: entry.sign_mask for name, entry in entries.items() if entry.scale is not None}
    for name in signs:
        if name not in masks:
            raise MaskError(f"there is a sign mask of {name}, but no mask; masks: {', '.join(masks) or 'none'}")
    targeted = sum(mask.numel() for mask in masks.values())
    if targeted > weights_total:
        raise MaskError(
            f"the masks have {targeted} entries, but weights_total is {weights_total}; is it the same model?"
        )
    untargeted = _FLOAT_BYTES * (weights_total - targeted)
    two_bit = sparse_index = entropy = untargeted
    for name, mask in masks.items():
        counts = _symbol_counts(name, mask, signs.get(name))
        remaining = sum(counts[1:])
        is_signed = name in signs
        values = _FLOAT_BYTES if is_signed else _FLOAT_BYTES * remaining
        two_bit += _bytes(2 * mask.numel()) + values
        sparse_index += _bytes((_INDEX_BITS + is_signed) * remaining) + values
        entropy += _bytes(entropy_bits(counts)) + values
    return {
        "dense_float32": _FLOAT_BYTES * weights_total,
        "two_bit": two_bit,
        "sparse_index": sparse_index,
        "entropy": entropy,
    }


def compression_rate(size: int, weights_total: int) -> float:
    """Share of the dense float32 size that is saved: 1 - size / (4 * weights_total). Negative if nothing is.

    Args:
        size: Bytes of the compressed model.
        weights_total: All weights of the model, >= 1.
    """
    return 1.0 - size / (_FLOAT_BYTES * weights_total)


def _symbol_counts(name: str, mask: Tensor, sign: Tensor | None) -> list[int]:
    """How often 0, and then either 1, or -1 and +1, occur."""
    if mask.dtype != torch.bool:
        raise MaskError(f"the mask of {name} must be bool (True = remaining), got {mask.dtype}")
    remaining = int(mask.count_nonzero())
    if sign is None:
        return [mask.numel() - remaining, remaining]
    if sign.shape != mask.shape or not torch.equal(sign != 0, mask):
        raise MaskError(f"the sign mask of {name} does not fit its mask: it must be 0 exactly where the mask is False")
    negative, positive = int((sign == -1).sum()), int((sign == 1).sum())
    if negative + positive != remaining:
        raise MaskError(f"the sign mask of {name} must hold -1, 0 and +1 only")
    return [mask.numel() - remaining, negative, positive]


def _bytes(bits: float) -> int:
    return math.ceil(bits / 8)
