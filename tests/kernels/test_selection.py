"""The compiled selection against numpy's, on every variant that runs here, and against sorting."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from supermask.kernels import library, selection

Floats = NDArray[np.float32] | NDArray[np.float64]
MANY = 200_000  # more than the number from which a sample is taken


@pytest.fixture(params=["compiled", "generic", "off"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param != "off" and library.library() is None:
        pytest.skip("the kernels are not compiled here")
    if request.param != "compiled":
        monkeypatch.setenv(library.SETTING, request.param)
    library.loaded.cache_clear()
    selection._loaded.cache_clear()
    yield request.param
    library.loaded.cache_clear()
    selection._loaded.cache_clear()


def check(values: Floats, k: int) -> None:
    """Against a stable sort, of the values and of their magnitudes."""
    for magnitude in (False, True):
        ranked = np.abs(values) if magnitude else values
        order = np.argsort(-ranked, kind="stable")
        assert selection.kth_largest(values, k, magnitude=magnitude) == ranked[order[k - 1]]
        expected = np.zeros(len(values), dtype=bool)
        expected[order[:k]] = True
        np.testing.assert_array_equal(selection.largest(values, k, magnitude=magnitude), expected)


DRAWS: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "normal": lambda rng: rng.standard_normal(MANY),
    "magnitudes": lambda rng: np.abs(rng.standard_normal(MANY)),
    "few values": lambda rng: rng.integers(-3, 3, MANY) / 2.0,
    "one value": lambda _: np.full(MANY, 0.37),
    "half zeros": lambda rng: np.where(rng.random(MANY) < 0.5, -0.0, rng.standard_normal(MANY)),
    "rounded": lambda rng: np.round(rng.standard_normal(MANY), 1),
    "a value between the bounds": lambda rng: np.where(rng.random(MANY) < 0.03, 0.0, rng.standard_normal(MANY)),
    "ties before what is above": lambda rng: np.where(np.arange(MANY) > MANY // 2, rng.integers(1, 4, MANY), 1.0),
    "ties behind what is above": lambda rng: np.where(np.arange(MANY) < MANY // 2, rng.integers(1, 4, MANY), -1.0),
    "extremes": lambda rng: rng.choice([0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf], MANY),
    "huge and tiny": lambda rng: rng.standard_normal(MANY) * 10.0 ** rng.integers(-40, 38, MANY),
    "sorted": lambda rng: np.sort(rng.standard_normal(MANY)),
    "in step with the sample": lambda _: np.where(np.arange(MANY) % 24 == 0, 5.0, np.arange(MANY) / MANY),
    "infinities": lambda rng: np.where(rng.random(MANY) < 0.3, np.inf * rng.choice([-1, 1], MANY), rng.random(MANY)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("draw", DRAWS)
def test_many_values(form: str, draw: str, dtype: type) -> None:
    values = DRAWS[draw](np.random.default_rng(0)).astype(dtype)
    for k in (1, 1_000, MANY // 2, MANY - 7, MANY):
        check(values, k)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=60), st.data())
def test_few_values(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    for dtype in (np.float32, np.float64):
        check(np.array(values, dtype=dtype), k)


def test_zeros_of_both_signs_are_equal(form: str) -> None:
    values = np.array([-0.0, 0.0, -0.0, 0.0, -1.0], dtype=np.float32)
    assert selection.largest(values, 2).tolist() == [True, True, False, False, False]
    for k in range(1, 5):
        assert str(selection.kth_largest(values, k)) == "0.0"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_values_in_many(form: str, dtype: type) -> None:
    """Every rank near a change of value, where the value is a bound from the sample, or beside it."""
    rng = np.random.default_rng(0)
    values = rng.choice([-2.0, -1.0, 0.0, 3.0], MANY, p=[0.2, 0.3, 0.49, 0.01]).astype(dtype)
    for changes in (np.abs(values) >= 3, values >= 0, np.abs(values) >= 2, values >= -1):
        count = int(changes.sum())
        for k in (count - 1, count, count + 1, count + 100):
            check(values, min(k, MANY))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [5, MANY])
def test_nan(form: str, size: int, dtype: type) -> None:
    for place in (0, size // 2, size - 1):
        for nan in (np.nan, -np.nan):
            values = np.arange(size).astype(dtype)
            values[place] = nan
            with pytest.raises(ValueError, match="a score is NaN"):
                selection.largest(values, 2)
            with pytest.raises(ValueError, match="a score is NaN"):
                selection.largest(values, 2, magnitude=True)
            assert np.isnan(selection.kth_largest(values, 1))
            assert selection.kth_largest(values, 2) == (size - 2 if place == size - 1 else size - 1)


def test_arguments_are_checked() -> None:
    values = np.zeros(3, dtype=np.float32)
    for k in (0, 4):
        with pytest.raises(ValueError, match=rf"k must be in \[1, 3\] .*got {k}"):
            selection.largest(values, k)
    shifted = np.frombuffer(bytearray(13), np.float32, count=3, offset=1)
    for wrong in (values.astype(np.float16), values.reshape(1, 3), np.zeros(6, dtype=np.float32)[::2], shifted):
        with pytest.raises(ValueError, match="must be 1-D, contiguous, aligned, float32 or float64"):
            selection.kth_largest(wrong, 1)


def test_a_failed_allocation_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_loaded", lambda name, dtype: lambda *_: library.NO_MEMORY)
    with pytest.raises(MemoryError, match="selection of the largest scores"):
        selection.largest(np.zeros(3, dtype=np.float32), 1)
