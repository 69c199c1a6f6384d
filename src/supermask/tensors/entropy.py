"""The size that no code of independent symbols goes below."""

from __future__ import annotations

import math
from collections.abc import Iterable


def entropy_bits(counts: Iterable[int]) -> float:
    """Bits of an ideal code for a sequence of independent symbols that occur ``counts`` times each."""
    known = [count for count in counts if count]
    total = sum(known)
    return sum(count * math.log2(total / count) for count in known)
