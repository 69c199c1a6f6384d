from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supermask.tensors.schedules import cosine, cubic, exponential, linear


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


@pytest.mark.parametrize("final", [1.0, 0.3, 0.1, 0.05, 1e-4])
def test_exponential_and_linear_begin_at_one_and_end_exactly(final: float) -> None:
    assert exponential(0.0, final=final) == 1.0
    assert linear(0.0, final=final) == pytest.approx(1.0)
    assert exponential(1.0, final=final) == linear(1.0, final=final) == final


def test_exponential_and_linear_by_hand() -> None:
    assert [exponential(t / 3, final=0.001) for t in (1, 2)] == pytest.approx([0.1, 0.01])
    assert [linear(t / 4, final=0.2) for t in (1, 2, 3)] == pytest.approx([0.8, 0.6, 0.4])


@pytest.mark.parametrize(("step", "fraction"), [(0, 0.3), (250, 0.256066), (500, 0.15), (750, 0.043934), (1000, 0.0)])
def test_the_drop_fractions_of_rigl(step: int, fraction: float) -> None:
    """From alpha = 0.3 to nothing over 1,000 steps."""
    assert cosine(step, end=1000, initial=0.3) == pytest.approx(fraction, abs=5e-7)
    assert cosine(step + 40, start=40, end=1040, initial=0.3) == pytest.approx(fraction, abs=5e-7)
    assert cosine(2000, end=1000, initial=0.3) == 0.0
