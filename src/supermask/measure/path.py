"""The path of a search as curves: how many weights had entered after each step.

The input is what methods with a path leave in a run's ``extras.safetensors`` (or give as ``method.results(sparsifier)``)::

    curves = path_curves(load_arrays("extras.safetensors"))
    plt.plot(curves["fc1.weight"])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from supermask.errors import MaskError

_PREFIX: Final = "path/"


def path_curves(results: Mapping[str, Tensor], steps: int | None = None) -> dict[str, Tensor]:
    """Weights that had entered after each step, target by target.

    Args:
        results: Arrays by name; those named ``path/<target>`` are read: integers, the step after which each weight first was
            in the support, counted from 1; negative = never.
        steps: Length of the curves, >= 0; None: up to the last entry of any target.

    Returns:
        Target name -> int64 of shape (steps + 1,): entry k counts the weights that entered in the first k steps; it never
        falls. A weight that left the support again is still counted. The sum over targets is the whole model's curve.

    Raises:
        MaskError: There is no path, or it does not hold integers.
    """
    paths = {name.removeprefix(_PREFIX): path for name, path in results.items() if name.startswith(_PREFIX)}
    if not paths:
        raise MaskError(f"there is no path: no array is named {_PREFIX}<target>; names: {', '.join(results) or 'none'}")
    for name, path in paths.items():
        if path.is_floating_point() or path.dtype == torch.bool:
            raise MaskError(f"the path of {name} must hold integers (the step of entry, -1 = never), got {path.dtype}")
    if steps is None:
        steps = max(0, *(int(path.max()) for path in paths.values()))
    return {
        name: torch.bincount(path[(path >= 0) & (path <= steps)].flatten().long(), minlength=steps + 1).cumsum(0)
        for name, path in paths.items()
    }
