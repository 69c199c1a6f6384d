"""The Rice coder: exact inverse, the same from C and numpy, close to the entropy, and safe with damaged codes."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supermask.errors import PackedFileError
from supermask.kernels import rice
from supermask.kernels.library import library
from supermask.tensors.entropy import entropy_bits

positions = st.sets(st.integers(0, 3000), min_size=1, max_size=200) | st.sets(
    st.integers(0, rice.LARGEST_UNIVERSE - 1), min_size=1, max_size=20
)


def as_array(members: set[int]) -> rice.Positions:
    return np.array(sorted(members), np.int64)


def as_bytes(code: bytes) -> rice.Bytes:
    return np.frombuffer(code, np.uint8)


def random_set(n: int, density: float, seed: int = 0) -> rice.Positions:
    return np.flatnonzero(np.random.default_rng(seed).random(n) < density)


def both(code: bytes, count: int, universe: int) -> list[list[int] | None]:
    """What the compiled and the plain decoder find; None where they refuse."""
    found: list[list[int] | None] = []
    for decode in (rice.decode, rice._decode):
        try:
            found.append(decode(as_bytes(code), count, universe).tolist())
        except PackedFileError:
            found.append(None)
    return found


@settings(deadline=None)
@given(positions)
def test_decoding_is_the_inverse(members: set[int]) -> None:
    wanted = as_array(members)
    code = rice.encode(wanted)
    assert both(code, len(wanted), int(wanted[-1]) + 1) == [wanted.tolist()] * 2


@settings(deadline=None)
@given(positions)
def test_a_member_beyond_the_end_is_refused(members: set[int]) -> None:
    wanted = as_array(members)
    if len(wanted) <= wanted[-1]:
        assert both(rice.encode(wanted), len(wanted), int(wanted[-1])) == [None, None]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4), st.integers(-2, 2)
)
def test_both_decoders_agree_on_damaged_codes(which: int, changes: list[tuple[int, int]], more: int) -> None:
    members = [
        random_set(3000, 0.02),
        random_set(400, 0.3),
        np.r_[random_set(500, 0.4), 1000 + random_set(9000, 0.004)],
    ]
    code = bytearray(rice.encode(members[which]))
    for at, value in changes:
        code[at % len(code)] = value
    first, second = both(bytes(code), len(members[which]) + more, 10_000)
    assert first == second
    assert first is None or (sorted(set(first)) == first and len(first) == len(members[which]) + more)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(1, 400), st.integers(1, rice.LARGEST_UNIVERSE))
def test_both_decoders_agree_on_any_bytes(code: bytes, count: int, universe: int) -> None:
    first, second = both(code, count, universe)
    assert first == second


def test_the_code_is_the_documented_one() -> None:
    # gaps 3, 0, 9 with one k of 1: low bits 1, 0, 1; quotients 1, 0, 4
    assert rice.encode(np.array([3, 4, 14])) == bytes([1, 0xF0, 0b101, 0b10000_1_10])


def test_blocks_have_parameters_of_their_own() -> None:
    uneven = np.r_[random_set(2000, 0.5), 2000 + random_set(400_000, 0.003)]
    code = rice.encode(uneven)
    assert code[1] & 15 > 0
    one_k = min(int((np.diff(uneven, prepend=-1) - 1 >> k).sum()) + (k + 1) * len(uneven) for k in range(20)) / 8
    assert len(code) < 0.9 * one_k
    assert both(code, len(uneven), 500_000) == [uneven.tolist()] * 2


@pytest.mark.parametrize("density", [0.0005, 0.0045, 0.01, 0.03, 0.08, 0.1, 0.3, 0.5])
def test_size_is_near_the_entropy(density: float) -> None:
    n = 400_000
    members = random_set(n, density)
    bound = entropy_bits([len(members), n - len(members)])
    # a sign bit a member stands beside this in a packed file: with it, all of these are within 2 %
    assert 8 * len(rice.encode(members)) + len(members) <= 1.02 * (bound + len(members)) + 64


@pytest.mark.parametrize(
    ("count", "universe"), [(0, 10), (-1, 10), (11, 10), (1 << 40, 1 << 45), (3, rice.LARGEST_UNIVERSE + 1)]
)
def test_counts_are_checked_before_memory_is_taken(count: int, universe: int) -> None:
    with pytest.raises(PackedFileError, match="cannot hold the positions"):
        rice.decode(as_bytes(rice.encode(np.arange(5))), count, universe)


def test_the_plain_decoder_is_used_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(rice, "kernel", lambda *_: None)
    monkeypatch.setattr(rice, "_decode", lambda *arguments: calls.append(arguments))
    rice.decode(as_bytes(rice.encode(np.arange(5))), 5, 5)
    assert len(calls) == 1


@pytest.mark.skipif(library() is None, reason="the kernels are not compiled")
def test_the_compiled_decoder_is_fast() -> None:
    members = random_set(2_000_000, 0.01)
    code = as_bytes(rice.encode(members))
    best = float("inf")
    for _ in range(20):
        start = time.process_time()
        rice.decode(code, len(members), 2_000_000)
        best = min(best, time.process_time() - start)
    assert best / len(members) < 20e-9
