"""Ordinary training: the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from supermask.core.method import Method
from supermask.core.registry import register
from supermask.core.sparsifier import Sparsifier


@register
@dataclass(frozen=True, kw_only=True)
class Dense(Method):
    """Ordinary training of every weight, the baseline of all comparisons.

    Update: the optimizer's own; nothing is masked.

    **Source:** none; it goes through the same protocol so that conditions are equal.

    **Differs:** none.

    **Cost:** none of its own: a step and its memory are those of model and optimizer, which all other costs are told against.
    """

    name: ClassVar[str] = "dense"

    def setup(self, s: Sparsifier) -> None:
        """Install nothing: every targeted weight remains and is trained."""
