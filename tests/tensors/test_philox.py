"""The pinned generator: known answers, pinned bits, and what a user may rely on."""

from __future__ import annotations

import hashlib
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supermask.tensors.philox import Stream, normal_quantile, philox4x32

ONES = 0xFFFFFFFF

# kat_vectors of the authors' Random123 library, philox4x32 with 10 rounds: counter, key, result
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    words = philox4x32(np.array([counter], np.uint64), key)
    assert tuple(int(word) for word in words[0]) == expected


def test_a_stream_is_philox_with_the_seed_as_key_and_the_name_in_the_high_counter() -> None:
    seed = 0x0123456789ABCDEF
    digest = hashlib.blake2b(b"'a'\x1f7", digest_size=8).digest()
    high = np.frombuffer(digest, "<u4").astype(np.uint64)
    counter = np.array([[0, 0, *high], [1, 0, *high]], np.uint64)
    expected = philox4x32(counter, (0x89ABCDEF, 0x01234567)).reshape(-1)
    assert np.array_equal(Stream(seed, "a", 7).bits32(8), expected)


# These hashes are a promise: what a seed stands for never changes.
PINNED = {
    "bits32": "6fd0bea1cdfdc46e",
    "bits64": "461c4e69db7e3c23",
    "uniform": "feedcba1bdda737f",
    "normal": "56bbc1899208fa13",
    "truncated_normal": "2137276639c9ca5b",
    "signs": "7dddc01b78408d64",
    "permutation": "1d33a4b092ab0df6",
}


@pytest.mark.parametrize("kind", PINNED)
def test_pinned_outputs(kind: str) -> None:
    values = getattr(Stream(20220425, "weights", "conv1.weight"), kind)(1000)
    little = values.astype(values.dtype.newbyteorder("<"))
    assert hashlib.sha256(little.tobytes()).hexdigest()[:16] == PINNED[kind]


def test_pinned_integer() -> None:
    assert Stream(20220425, "data order").integer() == 8_601_654_536_421_984_495


@given(st.integers(0, 2**64 - 1), st.integers(0, 300), st.integers(0, 300))
def test_a_shorter_draw_is_a_prefix_of_a_longer_one(seed: int, a: int, b: int) -> None:
    short, long = sorted((a, b))
    stream = Stream(seed, "x")
    for kind in ("bits32", "bits64", "uniform", "normal", "truncated_normal", "signs"):
        draw = getattr(stream, kind)
        assert draw(short).shape == (short,)
        assert np.array_equal(draw(short), draw(long)[:short]), kind


def test_chunks_do_not_show() -> None:
    """More blocks than are worked on at once."""
    n = 4 * (1 << 16) + 9
    late = philox4x32(
        np.array([[1 << 16, 0, *np.frombuffer(hashlib.blake2b(b"", digest_size=8).digest(), "<u4")]], np.uint64), (5, 0)
    )
    assert np.array_equal(Stream(5).bits32(n)[4 << 16 : (4 << 16) + 4], late[0])


def test_names_seeds_and_types_of_name_parts_separate_streams() -> None:
    streams = [
        Stream(0),
        Stream(1),
        Stream(2**32),
        Stream(0, "a"),
        Stream(0, "a", "b"),
        Stream(0, "ab"),
        Stream(0, "b", "a"),
        Stream(0, 1),
        Stream(0, "1"),
        Stream(0, "a\x1f'b'"),
    ]
    assert len({stream.bits32(8).tobytes() for stream in streams}) == len(streams)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, "0", None, np.int64(3)])
def test_seeds_out_of_range_are_refused(seed: object) -> None:
    with pytest.raises(ValueError, match=r"seed must be an integer in \[0, 2\*\*64\), got"):
        Stream(seed)  # type: ignore[arg-type]


def test_uniform_is_open_and_exact() -> None:
    stream = Stream(3, "u")
    values = stream.uniform(100_000)
    assert values.min() > 0.0
    assert values.max() < 1.0
    assert np.array_equal(values * 2.0**33, 2.0 * stream.bits32(100_000) + 1.0)
    assert abs(values.mean() - 0.5) < 0.005
    assert abs(values.var() - 1 / 12) < 0.001


def test_normal_and_truncated_normal_have_their_moments() -> None:
    normal = Stream(3, "n").normal(100_000)
    assert abs(normal.mean()) < 0.015
    assert abs(normal.std() - 1.0) < 0.01
    truncated = Stream(3, "t").truncated_normal(100_000)
    assert np.abs(truncated).max() < 2.0
    assert abs(truncated.std() - 0.87962566103423978) < 0.005


def test_signs_are_the_bits_of_the_words_from_low_to_high() -> None:
    stream = Stream(11, "s")
    word = int(stream.bits32(1)[0])
    expected = [1 if word >> i & 1 else -1 for i in range(32)]
    signs = stream.signs(40)
    assert signs.dtype == np.int8
    assert signs[:32].tolist() == expected
    assert abs(int(stream.signs(100_000).sum())) < 1500


def test_sides_are_the_top_bits_of_the_words_and_the_signs_of_normal_numbers() -> None:
    stream = Stream(3, "weights", "fc.weight")
    sides = stream.sides(1000)
    assert sides.dtype == np.int8
    assert np.array_equal(sides > 0, stream.bits32(1000) >= 1 << 31)
    for drawn in (stream.normal(1000), stream.truncated_normal(1000), stream.uniform(1000) - 0.5):
        assert np.array_equal(np.sign(drawn), sides)


def test_seed_and_number_are_all_there_is_to_a_stream() -> None:
    stream = Stream(2**64 - 3, "weights", "größe")
    again = Stream.numbered(2**64 - 3, stream.number)
    assert again.number == stream.number < 2**64
    assert np.array_equal(again.bits32(9), stream.bits32(9))


def test_words_can_be_skipped() -> None:
    stream = Stream(3, "weights")
    assert np.array_equal(stream.bits32(50, skip=7), stream.bits32(78)[28:])


def test_permutation_is_one() -> None:
    order = Stream(1, "p").permutation(1000)
    assert np.array_equal(np.sort(order), np.arange(1000))
    assert not np.array_equal(order, np.arange(1000))


def test_normal_quantile_against_the_standard_library() -> None:
    tails = [2.0**-33, 1e-9, 1e-5, 1e-3, 0.0749999, 0.075, 0.0750001, 0.25, 0.4999999, 0.5]
    p = np.array(tails + [1.0 - t for t in tails] + np.linspace(0.01, 0.99, 99).tolist())
    expected = np.array([statistics.NormalDist().inv_cdf(float(x)) for x in p])
    np.testing.assert_allclose(normal_quantile(p), expected, rtol=1e-14, atol=1e-16)


def test_normal_quantile_knows_the_published_values() -> None:
    # the check values printed with AS 241: p = .25, .001, 1e-20
    values = normal_quantile(np.array([0.25, 0.001, 1e-20]))
    np.testing.assert_allclose(values, [-0.6744897501960817, -3.090232306167814, -9.262340089798408], rtol=1e-15)


@given(st.integers(0, 2**32 - 1))
def test_normal_quantile_is_odd_for_our_uniforms(word: int) -> None:
    p = np.array([(word + 0.5) * 2.0**-32])
    assert np.array_equal(normal_quantile(1.0 - p), -normal_quantile(p))
