"""How much remains where: from one density of the whole network to a density, or a count, for each tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

Shape = Sequence[int]


def uniform(shapes: Sequence[Shape], density: float) -> list[float]:
    """The same density in every tensor."""
    return [density] * len(shapes)


def erk(shapes: Sequence[Shape], density: float) -> list[float]:
    """Erdős-Rényi-Kernel densities: proportional to sum(shape) / prod(shape).

    A factor is solved for so that the total is met; tensors that would exceed 1 become dense and the factor is solved
    again for the rest.

    Source: Evci et al., "Rigging the Lottery", ICML 2020, after Mocanu et al. 2018.

    Args:
        shapes: Full shapes, kernel dimensions included.
        density: Density of all tensors together, in (0, 1].

    Returns:
        One density per tensor in (0, 1]; the weighted mean equals ``density``.
    """
    return _proportional([sum(shape) / math.prod(shape) for shape in shapes], shapes, density)


def er(shapes: Sequence[Shape], density: float) -> list[float]:
    """Erdős-Rényi densities: proportional to (in + out) / (in * out) of the channels, whatever the kernel.

    Source: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity", 2018.

    Args:
        shapes: Full shapes; the channels are the first two dimensions.
        density: Density of all tensors together, in (0, 1].

    Returns:
        As :func:`erk`; the same for tensors of two dimensions.
    """
    return _proportional([sum(shape[:2]) / math.prod(shape[:2]) for shape in shapes], shapes, density)


def _proportional(raw: Sequence[float], shapes: Sequence[Shape], density: float) -> list[float]:
    """Densities proportional to ``raw``, at most 1, whose weighted mean is ``density``."""
    sizes = [math.prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        sparse = [i for i in range(len(shapes)) if i not in dense]
        if not sparse:
            return [1.0] * len(shapes)
        wanted = density * sum(sizes) - sum(sizes[i] for i in dense)
        factor = wanted / sum(raw[i] * sizes[i] for i in sparse)
        over = {i for i in sparse if factor * raw[i] > 1.0}
        if not over:
            return [1.0 if i in dense else factor * raw[i] for i in range(len(shapes))]
        # the largest raw densities go dense first; making the rest dense too early would waste budget
        top = max(raw[i] for i in over)
        dense |= {i for i in over if raw[i] == top}


def counts(
    densities: Sequence[float], sizes: Sequence[int], total: int, limits: Sequence[int] | None = None
) -> list[int]:
    """Whole numbers near ``densities * sizes`` that sum to exactly ``total`` (largest remainder).

    Args:
        densities: Density per tensor in [0, 1].
        sizes: Number of entries per tensor.
        total: Promised sum, in [0, sum(limits)].
        limits: The most that each tensor may get, in [0, size]; None: its size. What a limit cuts off goes to the others.

    Returns:
        One count per tensor, each in [0, limit]. Among equal remainders the earlier tensor is served first.

    Raises:
        ValueError: ``total`` is out of range or, without limits, lies more than rounding away from the densities.
    """
    most = sizes if limits is None else limits
    if not 0 <= total <= sum(most):
        raise ValueError(f"total must be in [0, {sum(most)}], got {total}")
    exact = [min(d, 1.0) * n for d, n in zip(densities, sizes, strict=True)]
    result = [min(n, math.floor(e + 1e-9)) for e, n in zip(exact, most, strict=True)]
    missing = total - sum(result)
    order = sorted(range(len(sizes)), key=lambda i: -(exact[i] - result[i]))
    if missing < 0 or (limits is None and missing > sum(r < n for r, n in zip(result, most, strict=True))):
        raise ValueError(f"total {total} is not what these densities stand for (their sum is {sum(exact):.3f})")
    while missing > 0:
        for i in [i for i in order if result[i] < most[i]][:missing]:
            result[i] += 1
            missing -= 1
    return result
