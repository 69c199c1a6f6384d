"""When connections move and how many: what methods share that move them every so often."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from supermask.core.method import check_choice, check_count, check_density, check_flag, check_range
from supermask.core.select import LAWS, Law
from supermask.core.sparsifier import Sparsifier
from supermask.tensors.schedules import cosine

Anneal = Literal["cosine", "constant"]


class Moving(Protocol):
    """The fields that these methods share."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def density(self) -> float: ...  # noqa: D102
    @property
    def scope(self) -> Law: ...  # noqa: D102
    @property
    def first_dense(self) -> bool: ...  # noqa: D102
    @property
    def drop_fraction(self) -> float: ...  # noqa: D102
    @property
    def anneal(self) -> Anneal: ...  # noqa: D102
    @property
    def every(self) -> int: ...  # noqa: D102
    @property
    def end(self) -> float: ...  # noqa: D102


def check_moving(method: Moving) -> None:
    """Check the shared fields.

    Raises:
        HyperparameterError: One is out of range.
    """
    check_density(method.name, method.density)
    check_choice(method.name, "scope", method.scope, LAWS)
    check_flag(method.name, "first_dense", method.first_dense)
    check_range(method.name, "drop_fraction", method.drop_fraction, 0.0, 1.0, open_low=True)
    check_choice(method.name, "anneal", method.anneal, get_args(Anneal))
    check_count(method.name, "every", method.every, "steps")
    check_range(method.name, "end", method.end, 0.0, 1.0, open_low=True)


def fraction_due(s: Sparsifier, method: Moving) -> float | None:
    """Fraction of the active weights that is dropped at this step; None when no event is due.

    Events are at steps t > 0 that are multiples of ``every``, and t < T = end * total_steps; step 0 counts as one here, and
    the method decides on it. ``cosine``: ``drop_fraction / 2 * (1 + cos(pi * t / T))``. A note says when there will be none.
    """
    assert s.total_steps is not None
    end = round(method.end * s.total_steps)
    if s.step <= 1 and method.every >= end:
        s.note(
            f"{method.name}: no connection moves after step 0: of {s.total_steps:,} steps, none before step {end:,} is a "
            f"multiple of every={method.every:,}; lower every, or train longer"
        )
    if s.step % method.every or s.step >= end:
        return None
    return cosine(s.step, end=end, initial=method.drop_fraction) if method.anneal == "cosine" else method.drop_fraction
