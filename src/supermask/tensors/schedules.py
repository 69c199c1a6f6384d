"""Density as a function of progress."""

from __future__ import annotations


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
