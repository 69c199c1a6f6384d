from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from supermask.report.paired import Difference, letters, student_quantile


@pytest.mark.parametrize(
    ("degrees", "level", "printed"),
    [(1, 0.95, 12.706), (2, 0.95, 4.303), (3, 0.95, 3.182), (4, 0.95, 2.776), (9, 0.95, 2.262), (60, 0.95, 2.000),
     (4, 0.90, 2.132), (5, 0.99, 4.032)],
)  # fmt: skip
def test_student_quantiles_are_those_of_printed_tables(degrees: int, level: float, printed: float) -> None:
    assert student_quantile(degrees, level) == pytest.approx(printed, abs=5e-4)


def test_student_quantiles_of_one_and_two_degrees_have_closed_forms() -> None:
    assert student_quantile(1) == pytest.approx(math.tan(0.95 * math.pi / 2), rel=1e-11)
    assert student_quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-11)


def test_two_differences_by_hand() -> None:
    # resampled means of (0, 2): 0, 1, 1, 2. Position of the 2.5 % quantile is .075: 0.075, which is .925 below the mean;
    # stretched by t(1) * sqrt(2) / z = 12.7062 * 1.41421 / 1.95996 = 9.16815
    found = Difference.of([0.0, 2.0])
    assert found is not None
    assert (found.mean, found.pairs) == (1.0, 2)
    assert found.low == pytest.approx(1 - 0.925 * 9.16815, abs=1e-4)
    assert found.high == pytest.approx(1 + 0.925 * 9.16815, abs=1e-4)


def test_three_differences_against_all_resamples() -> None:
    sample = (0.5, -1.0, 2.0)
    means = sorted(sum(drawn) / 3 for drawn in itertools.product(sample, repeat=3))
    assert len(means) == 27
    # the 2.5 % quantile lies at .65 of the way from the first to the second value, the 97.5 % one at .35
    low, high = means[0] + 0.65 * (means[1] - means[0]), means[25] + 0.35 * (means[26] - means[25])
    stretch = 4.302653 * math.sqrt(1.5) / 1.959964
    found = Difference.of(sample)
    assert found is not None
    assert found.mean == 0.5
    assert found.low == pytest.approx(0.5 - (0.5 - low) * stretch, abs=1e-5)
    assert found.high == pytest.approx(0.5 + (high - 0.5) * stretch, abs=1e-5)


def test_many_differences_are_resampled_the_same_way_each_time() -> None:
    sample = np.random.default_rng(5).normal(0.3, 1.0, size=40)
    first, second = Difference.of(sample), Difference.of(list(sample))
    assert first == second
    assert first is not None
    assert first.low is not None
    assert first.high is not None
    # near the interval of the normal distribution, whose arms are t(39) * s / sqrt(40)
    arm = 2.0227 * sample.std(ddof=1) / math.sqrt(40)
    assert first.low == pytest.approx(first.mean - arm, abs=0.06 * arm)
    assert first.high == pytest.approx(first.mean + arm, abs=0.06 * arm)


def test_units_do_not_matter() -> None:
    one, hundred = Difference.of([0.01, 0.02, 0.04]), Difference.of([1.0, 2.0, 4.0])
    assert one is not None
    assert hundred is not None
    assert one.low == pytest.approx(hundred.low / 100) if hundred.low else False
    assert one.high == pytest.approx(hundred.high / 100) if hundred.high else False


def test_few_differences() -> None:
    assert Difference.of([]) is None
    assert Difference.of([0.5]) == Difference(mean=0.5, low=None, high=None, pairs=1)
    one, same, other = Difference.of([0.5]), Difference.of([0.1] * 5), Difference.of([0.0] * 4)
    assert one is not None
    assert same is not None
    assert other is not None
    assert (same.low, same.high) == (same.mean, same.mean)
    # a single pair tells nothing; equal differences are an interval of no width
    assert [difference.is_none for difference in (one, same, other)] == [True, False, True]
    assert [difference.trusted for difference in (one, same, other)] == [False, True, False]


@pytest.mark.parametrize(
    ("n", "lowest", "highest"), [(2, 0.90, 0.95), (3, 0.89, 0.94), (4, 0.92, 0.96), (5, 0.93, 0.97), (10, 0.93, 0.97)]
)
def test_coverage_on_normal_differences(n: int, lowest: float, highest: float) -> None:
    """How often the interval holds the true mean; the plain percentile interval does so in .84 of samples of five."""
    rng = np.random.default_rng(n)
    found = [Difference.of(rng.normal(0.7, 2.0, size=n) - 0.7) for _ in range(1500)]
    assert lowest <= np.mean([difference is not None and difference.is_none for difference in found]) <= highest


def apart(rows: int, *pairs: tuple[int, int]) -> np.ndarray:
    matrix = np.zeros((rows, rows), dtype=bool)
    for one, other in pairs:
        matrix[one, other] = matrix[other, one] = True
    return matrix


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (apart(1), ["a"]),
        (apart(3), ["a", "a", "a"]),
        (apart(2, (0, 1)), ["a", "b"]),
        # the first and the last differ, the middle one is like both
        (apart(3, (0, 2)), ["a", "ab", "b"]),
        (apart(3, (0, 1), (0, 2), (1, 2)), ["a", "b", "c"]),
        # Piepho's kind of example: 1 ~ 2, 2 ~ 3, 3 ~ 4, no others
        (apart(4, (0, 2), (0, 3), (1, 3)), ["a", "ab", "bc", "c"]),
        # a row that scatters widely is like all
        (apart(4, (0, 1), (0, 3), (1, 3)), ["a", "b", "abc", "c"]),
        (apart(0), []),
    ],
)
def test_letters(matrix: np.ndarray, expected: list[str]) -> None:
    assert letters(matrix) == expected


def test_letters_are_shared_exactly_by_those_that_are_not_apart() -> None:
    rng = np.random.default_rng(3)
    for rows in range(2, 9):
        upper = np.triu(rng.random((rows, rows)) < 0.5, 1)
        matrix = upper | upper.T
        found = letters(matrix)
        for one, other in itertools.combinations(range(rows), 2):
            assert bool(set(found[one]) & set(found[other])) == (not matrix[one, other])


def test_more_than_26_groups() -> None:
    matrix = ~np.eye(28, dtype=bool)
    assert letters(matrix)[24:] == ["y", "z", "a2", "b2"]
