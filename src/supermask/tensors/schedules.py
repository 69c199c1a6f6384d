"""Densities and fractions as a function of progress."""

from __future__ import annotations

import math


def cubic(progress: float, *, start: float, end: float, initial: float = 1.0, final: float) -> float:
    """Zhu and Gupta's cubic decrease from one density to another.

    With ``p`` the progress between ``start`` and ``end``, clamped to [0, 1]:
    ``density = final + (initial - final) * (1 - p)**3``.

    Source: Zhu and Gupta, "To prune, or not to prune", 2017, arXiv 1710.01878 (there in terms of sparsity).

    Args:
        progress: Where training is, step / total_steps.
        start: Progress at which the decrease begins.
        end: Progress at which ``final`` is reached; greater than ``start``.
        initial: Density before ``start``.
        final: Density from ``end`` on.

    Returns:
        The density at this progress.
    """
    p = min(1.0, max(0.0, (progress - start) / (end - start)))
    return float(final + (initial - final) * (1.0 - p) ** 3)


def exponential(progress: float, *, final: float) -> float:
    """Density that falls by an equal factor in equal times: ``final**progress``, from 1 to ``final``."""
    return float(final**progress)


def linear(progress: float, *, final: float) -> float:
    """Density that falls by an equal amount in equal times: ``final + (1 - progress) * (1 - final)``, from 1 to ``final``."""
    return final + (1.0 - progress) * (1.0 - final)


def cosine(progress: float, *, start: float = 0.0, end: float, initial: float) -> float:
    """Half a cosine from ``initial`` down to 0.

    With ``p`` the progress between ``start`` and ``end``, clamped to [0, 1]: ``initial / 2 * (1 + cos(pi * p))``.

    Source: Evci et al., "Rigging the Lottery", ICML 2020 (the fraction of weights that an update drops).

    Args:
        progress: Where training is, in the unit of ``start`` and ``end``.
        start: Where the decrease begins.
        end: Where 0 is reached; greater than ``start``.
        initial: Value until ``start``.

    Returns:
        The value at this progress.
    """
    p = min(1.0, max(0.0, (progress - start) / (end - start)))
    return initial / 2.0 * (1.0 + math.cos(math.pi * p))
