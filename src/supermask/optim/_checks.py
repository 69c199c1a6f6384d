"""Range checks of hyper-parameters: every message names the field, the value and the way out."""

from __future__ import annotations

import math
from typing import Any

from supermask.errors import HyperparameterError


def real(
    field: str, value: Any, *, above: float = -math.inf, least: float = -math.inf, below: float = math.inf, hint: str
) -> float:
    """Return ``value`` as a float if it is a finite number in the range, else raise.

    Args:
        field: Name of the hyper-parameter.
        value: What the user gave.
        above: Exclusive lower limit.
        least: Inclusive lower limit.
        below: Exclusive upper limit.
        hint: End of the message: what is allowed and usual.

    Raises:
        HyperparameterError: Not a number, not finite, or out of range.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not (value > above and value >= least and value < below):
        raise HyperparameterError(f"{field} must be {hint}, got {value!r}")
    return float(value)


def whole(field: str, value: Any, *, least: int, hint: str) -> int:
    """Return ``value`` if it is an integer of at least ``least``, else raise.

    Raises:
        HyperparameterError: Not an integer, or too small.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise HyperparameterError(f"{field} must be {hint}, got {value!r}")
    return value


def flag(field: str, value: Any) -> bool:
    """Return ``value`` if it is True or False, else raise.

    Raises:
        HyperparameterError: It is anything else, 0 and 1 included.
    """
    if not isinstance(value, bool):
        raise HyperparameterError(f"{field} must be True or False, got {value!r}")
    return value


def learning_rate(value: Any) -> float:
    """Check ``lr``: a finite number >= 0."""
    return real("lr", value, least=0.0, hint="a finite number >= 0 (0.1 or 0.01 are usual)")


def momentum(value: Any) -> float:
    """Check ``momentum``: in [0, 1)."""
    return real("momentum", value, least=0.0, below=1.0, hint="in [0, 1) (0.9 is usual, 0 switches it off)")


def weight_decay(value: Any) -> float:
    """Check a ``weight_decay`` that is added to the gradient or multiplied by the learning rate: >= 0."""
    return real("weight_decay", value, least=0.0, hint="a finite number >= 0 (5e-4 is usual, 0 switches it off)")


def decoupled_decay(value: Any) -> float:
    """Check a ``weight_decay`` that is the very fraction taken off each step: in [0, 1)."""
    hint = "in [0, 1): it is the fraction each step takes off, not multiplied by lr (5e-4 is usual)"
    return real("weight_decay", value, least=0.0, below=1.0, hint=hint)
