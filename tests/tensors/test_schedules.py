from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supermask.tensors.schedules import cubic


@pytest.mark.parametrize(
    ("step", "sparsity"),
    [(-5, 0.0), (0, 0.0), (100, 0.2439), (250, 0.5203125), (500, 0.7875), (750, 0.8859375), (1000, 0.9), (2000, 0.9)],
)
def test_the_vector_of_zhu_and_gupta(step: int, sparsity: float) -> None:
    """From nothing pruned to 90 % over 1,000 steps."""
    assert 1.0 - cubic(step, start=0, end=1000, final=0.1) == pytest.approx(sparsity, abs=1e-12)


@given(st.floats(-1, 2), st.floats(-1, 2))
def test_it_never_rises(a: float, b: float) -> None:
    early, late = sorted((a, b))
    values = [cubic(p, start=0.2, end=0.7, initial=0.8, final=0.3) for p in (early, late)]
    assert 0.8 >= values[0] >= values[1] >= 0.3 - 1e-15
