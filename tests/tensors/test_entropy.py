"""The entropy that packed sizes are compared with."""

from __future__ import annotations

import math

from supermask.tensors.entropy import entropy_bits


def test_entropy_of_known_counts() -> None:
    assert entropy_bits([8, 8]) == 16.0
    assert entropy_bits([4, 4, 8]) == 24.0
    assert entropy_bits([5, 0, 0]) == entropy_bits([]) == 0.0
    assert math.isclose(entropy_bits([1, 99]), math.log2(100) + 99 * math.log2(100 / 99))
