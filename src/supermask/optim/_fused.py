"""Where torch has one-pass (fused) optimizer kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from torch import Tensor

FUSED_DEVICES: Final = frozenset({"cpu", "cuda", "mps", "xpu"})


def tensors(params: Iterable[Any]) -> list[Tensor]:
    """All tensors in what an optimizer accepts: tensors, ``(name, tensor)`` pairs, or group dicts of either."""
    found: list[Tensor] = []
    for entry in params:
        if isinstance(entry, Mapping):
            inner = entry["params"]
            found += tensors([inner] if isinstance(inner, Tensor) else inner)
        else:
            found.append(entry[1] if isinstance(entry, tuple) else entry)
    return found


def can_fuse(params: Iterable[Any]) -> bool:
    """Whether torch's fused kernels take every one of these parameters: real floating point, on a supported device."""
    return all(tensor.is_floating_point() and tensor.device.type in FUSED_DEVICES for tensor in tensors(params))
