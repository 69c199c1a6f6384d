from __future__ import annotations

import pickle
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supermask.data import cifar
from supermask.errors import DamagedDataError

from . import writers

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)


def test_binary_records() -> None:
    record = bytes([7]) + bytes([1] * 1024 + [2] * 1024 + [3] * 1023 + [4])
    x, y = cifar.parse_binary("f", record * 2, 10)
    assert y.tolist() == [7, 7]
    assert x.shape == (2, 3, 32, 32)
    assert [int(x[0, channel, 0, 0]) for channel in range(3)] == [1, 2, 3]
    assert int(x[1, 2, 31, 31]) == 4


def test_binary_records_of_cifar100_use_the_fine_label() -> None:
    _, y = cifar.parse_binary("f", bytes([19, 99]) + bytes(3072), 100)
    assert y.tolist() == [99]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "f.bin: 0 bytes are not a whole number of records of 3073 bytes"),
        (bytes(3072), "f.bin: 3072 bytes are not a whole number"),
        (bytes(3073) + bytes([10]) + bytes(3072), "f.bin: label 10 of image 1 is out of range; labels must be 0 to 9"),
    ],
)
def test_binary_damage(content: bytes, message: str) -> None:
    with pytest.raises(DamagedDataError, match=re.escape(message)):
        cifar.parse_binary("f.bin", content, 10)


@pytest.mark.parametrize("version", ["python2", "python3-2", "python3-3", "python3-4"])
@pytest.mark.parametrize(("classes", "key"), [(10, "labels"), (100, "fine_labels")])
def test_python_batches(version: str, classes: int, key: str) -> None:
    entries = {"data": PIXELS, key: [3, 0, 9], "coarse_labels": [1, 1, 1], "batch_label": "x"}
    if version == "python2":
        content = writers.dumps_python2(entries)
        reference = pickle.loads(content, encoding="bytes")[b"data"]  # noqa: S301 -- bytes made above; the reader must agree with pickle
        assert np.array_equal(reference, PIXELS)
    else:
        content = pickle.dumps(entries, protocol=int(version[-1]))
    x, y = cifar.parse_python("f", content, classes)
    assert np.array_equal(x.reshape(3, 3072), PIXELS)
    assert y.tolist() == [3, 0, 9]


def test_python_batch_in_fortran_order() -> None:
    content = pickle.dumps({"data": np.asfortranarray(PIXELS), "labels": [0, 1, 2]}, protocol=2)
    assert np.array_equal(cifar.parse_python("f", content, 10)[0].reshape(3, 3072), PIXELS)


class _Attack:
    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call


def test_no_code_of_a_pickle_runs(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for function, arguments, name in [
        (subprocess.call, (["touch", str(trace)],), r"(subprocess|commands)\.call"),
        (exec, (f"open({str(trace)!r}, 'w')",), r"(builtins|__builtin__)\.exec"),
    ]:
        for protocol in (2, 4):
            content = pickle.dumps({"data": _Attack(function, *arguments), "labels": [0]}, protocol=protocol)
            with pytest.raises(DamagedDataError, match=f"^bad: not a batch .*it asks for {name}, which no batch needs"):
                cifar.parse_python("bad", content, 10)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"labels": [0, 1, 2]}, "'data'"),
        ({"data": PIXELS}, "'labels'"),
        ({"data": PIXELS, "labels": [0, 1]}, "it holds 2 labels but pixels of shape (3, 3072)"),
        ({"data": PIXELS, "labels": [0, 1, 10]}, "f: label 10 of image 2 is out of range"),
        ({"data": PIXELS, "labels": [0, 1, "2"]}, "its labels are not a list of integers"),
        ({"data": PIXELS.astype(np.float32), "labels": [0, 1, 2]}, "its pixels are not of type uint8"),
        ({"data": [1, 2], "labels": [0, 1, 2]}, "its pixels are not a numpy array"),
        ({1: 2}, "one of its keys is no string but int"),
        ([1, 2], "not a batch of the Python version of CIFAR"),
        ({"data": {1, 2}}, "not a batch of the Python version of CIFAR"),
    ],
)
def test_python_damage(entries: object, message: str) -> None:
    with pytest.raises(DamagedDataError, match=re.escape(message)):
        cifar.parse_python("f", pickle.dumps(entries, protocol=2), 10)


VALID = writers.dumps_python2({"data": PIXELS[:1], "labels": [1], "filenames": ["a.png"]})
OPERATIONS = st.sampled_from(
    [bytes([code]) for code in VALID[:60] + VALID[-60:]] + [b"c", b"R", b"b", b"0", b"2", b"Q"]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, len(VALID)), st.lists(OPERATIONS, max_size=12), st.integers(0, 30))
def test_a_mangled_batch_is_refused_or_read_but_never_crashes(start: int, inserted: list[bytes], removed: int) -> None:
    content = VALID[:start] + b"".join(inserted) + VALID[start + removed :]
    try:
        x, y = cifar.parse_python("f", content, 10)
    except DamagedDataError:
        return
    assert len(x) == len(y)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(DamagedDataError):
        cifar.parse_python("f", content, 10)
