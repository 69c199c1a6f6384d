"""Reading packed files of others: clear errors, nothing taken that was not checked, the same from several threads."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from supermask.deploy import annotate, container, pack, read
from supermask.deploy.cursor import text, varint
from supermask.deploy.unpacking import from_bytes
from supermask.errors import PackedFileError

from .fuzz_packed import LIMIT, SEEDS, c_decoder, check, files, python_decoder

VECTORS = Path(__file__).parents[2] / "decoders" / "vectors"
GOOD = (VECTORS / "ternary.smk.safetensors").read_bytes()
START = 8 + int.from_bytes(GOOD[:8], "little")
Entry = tuple[str, int, int, tuple[int, ...], bytes]
ONE = np.float32(1).tobytes()


def body_of(*entries: Entry) -> bytes:
    directory = varint(len(entries)) + b"".join(
        text(name) + bytes([coding, kind, len(shape)]) + b"".join(map(varint, shape)) + varint(len(payload))
        for name, coding, kind, shape, payload in entries
    )
    return directory + b"".join(entry[-1] for entry in entries)


def file_of(*entries: Entry) -> bytes:
    return container.to_bytes(body_of(*entries), {})


def with_header(change: Callable[[dict[str, object]], object]) -> bytes:
    header = json.loads(GOOD[8:START])
    change(header)
    outer = json.dumps(header).encode()
    return len(outer).to_bytes(8, "little") + outer + GOOD[START:]


def sparse(payload: bytes, shape: tuple[int, ...] = (3,), kind: int = 1) -> bytes:
    return file_of(("w", 3, kind, shape, payload))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes: not a packed file, or cut off"),
        (b"PK\3\4" * 10, "its header should have"),
        (GOOD[:-1], r"it should hold [\d,]+ bytes after its header, there are [\d,]+"),
        (GOOD + b"\0", r"it should hold [\d,]+ bytes after its header, there are [\d,]+"),
        (GOOD[: START + 8] + b"\0" * 8 + GOOD[START + 16 :], "checksum .* not 00000000: it is damaged"),
        (GOOD[: START + 4] + b"\2" + GOOD[START + 5 :], "format 2, this version of supermask reads 1; install a newer version"),
        (GOOD[: START + 4] + b"\0" + GOOD[START + 5 :], "it has format 0, .*; it is damaged"),
        (GOOD[:START] + b"PK" + GOOD[START + 2 :], "its blob starts with b'PKKP', not with b'SMKP'"),
        (GOOD[:-9] + b"x" + GOOD[-8:], "its weights have the checksum [0-9a-f]{8}, not [0-9a-f]{8}: it is damaged"),
        (GOOD.replace(b"by hand", b"by Hand"), "its description have the checksum"),
        (with_header(lambda h: h.update(more={"dtype": "U8"})), "it is a safetensors file, but not a packed one"),
        (with_header(lambda h: h.pop("packed")), "it is a safetensors file, but not a packed one"),
        (with_header(lambda h: h.update(packed=3)), "it is a safetensors file, but not a packed one"),
        (with_header(lambda h: h["packed"].update(dtype="I8")), "its tensor 'packed' is not a row of bytes"),  # type: ignore[attr-defined]
        (with_header(lambda h: h["__metadata__"].update(supermask=1)), "it is a safetensors file, but"),  # type: ignore[attr-defined]
        (b"\x10" + bytes(7) + b'{"a":1,"a":2}   ', "its header is not JSON .a key is given twice"),
        (b"\x10" + bytes(7) + b'{"a":NaN}       ', "its header is not JSON .NaN is not JSON"),
        (b"\x10" + bytes(7) + b'[1,2]           ', "its header is no JSON object"),
        ((20000).to_bytes(8, "little") + b"[" * 20000, "its header is not JSON"),
        (container.to_bytes(b"", {}), "1 bytes should follow, there are 0"),
        (container.to_bytes(b"\0\0", {}), "1 bytes are left over after the last tensor"),
        (container.to_bytes(b"\xff" * 20, {}), "a number has more than 7 bytes"),
        (file_of(("w", 5, 1, (3,), ONE)), "the tensor 'w' has the unknown coding 5 or type 1"),
        (file_of(("w", 1, 99, (3,), ONE)), "the tensor 'w' has the unknown coding 1 or type 99"),
        (file_of(("w", 1, 1, (1,) * 33, ONE)), "the tensor 'w' has 33 axes; at most 32"),
        (file_of(("w", 1, 1, (1 << 30, 1 << 30), ONE)), r"has the shape \(1073741824, 1073741824\), which is too large"),
        (file_of(("w", 1, 1, (1 << 15, 1 << 14), ONE)), r"would decode to more than 1,073,741,824 bytes .* a larger limit"),
        (file_of(("w", 0, 1, (3,), ONE)), r"the tensor 'w' of shape \(3,\) has 4 bytes, which its coding does not allow"),
        (file_of(("w", 1, 1, (0,), ONE)), r"the tensor 'w' of shape \(0,\) has 4 bytes, which its coding does not allow"),
        (file_of(("w", 1, 1, (3,), ONE), ("w", 1, 1, (3,), ONE)), "the tensor 'w' is there twice"),
        (file_of(("v", 1, 1, (3,), ONE), ("w", 2, 1, (4,), b"\0")), "'w' should be equal to tensor 0, which it cannot be"),
        (file_of(("v", 1, 1, (3,), ONE), ("w", 2, 1, (3,), b"\1")), "'w' should be equal to tensor 1, which it cannot be"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_when_it_is_opened(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.smk.safetensors"
    path.write_bytes(content)
    with pytest.raises(PackedFileError, match=rf"^{re.escape(str(path))}: .*({message})"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (sparse(b""), "1 bytes should follow, there are 0"),
        (sparse(b"\x40\1\1\1" + ONE + b"\0"), "its form 64 is unknown or does not go with F32"),
        (sparse(b"\x28" + bytes(16) + b"\1\1\1" + ONE + b"\0"), "its form 40 is unknown"),
        (sparse(b"\0\1\1\1\1\0", kind=7), "its form 0 is unknown or does not go with I8"),
        (sparse(b"\2\1\1\1" + bytes(6), kind=2), "its form 2 is unknown or does not go with F16"),
        (sparse(b"\0\1\1\7" + ONE + b"\0"), "a set has the unknown mode 7"),
        (sparse(b"\0\1\1\2\x08" + ONE + b"\0"), "a bitmap has members beyond its end"),
        (sparse(b"\0\1\1\3\5\2\0\0" + ONE + b"\0"), "2 bytes cannot hold the positions of 5 of 3 weights"),
        (sparse(b"\0\1\1\3\1\3\0\0\0" + ONE + b"\0"), "the positions of its weights are damaged"),
        (sparse(b"\0\1\1\1" + ONE), "1 bytes should follow, there are 0"),
        (sparse(b"\0\1\1\1" + ONE + b"\0\0"), "1 bytes are left over"),
        (sparse(b"\1\1\1\1" + ONE), "12 bytes should follow, there are 4"),
        (file_of(("w", 0, 12, (3,), b"\0\1\2")), "a bool is neither 0 nor 1"),
    ],
)
def test_a_damaged_tensor_is_refused_when_it_is_asked_for(content: bytes, message: str) -> None:
    packed = from_bytes(content, source="here")
    with pytest.raises(PackedFileError, match=f"^here: the tensor 'w' is damaged: {message}"):
        packed.array("w")


@pytest.mark.parametrize(
    ("name", "section", "message"),
    [
        ("architecture", {"name": "fcn"}, "it should have a name"),
        ("architecture", {"name": 1, "options": {}}, "it should have a name"),
        ("classes", {"a": 1}, "it should be a list of names"),
        ("classes", [1], "it should be a list of names"),
        ("graph", [], "it should be an object, is list"),
        ("unheard-of", "text", "it should be an object, is str"),
    ],
)
def test_sections_are_checked(name: str, section: object, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(container, "check_section", lambda *_: None)
        content = container.to_bytes(b"\0", {name: section})  # type: ignore[dict-item]
    with pytest.raises(PackedFileError, match=f"its {name} is damaged: {message}"):
        from_bytes(content)


def test_sections_of_later_versions_are_kept() -> None:
    assert from_bytes(container.to_bytes(b"\0", {"later": {"a": 1}})).sections == {"later": {"a": 1}}


def test_the_limit_counts_all_tensors() -> None:
    content = file_of(*((f"w{i}", 1, 1, (1000,), ONE) for i in range(10)))
    assert len(from_bytes(content, limit=40_000).arrays()) == 10
    with pytest.raises(PackedFileError, match="it would decode to more than 39,999 bytes"):
        from_bytes(content, limit=39_999)


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(PackedFileError, match="has no tensor 'v'; it has w"):
        from_bytes(file_of(("w", 1, 1, (3,), ONE))).array("v")


@pytest.mark.parametrize(
    "content",
    [
        file_of(("w", 1, 1, (1 << 24, 1 << 24), ONE)),
        sparse(b"\0\1\1\3\xff\xff\xff\xff\x7f\x05\0\xf0\0\0\1" + ONE + b"\0", (1 << 40,)),
        sparse(b"\0\1\1\3\xff\xff\xff\x7f\x05\0\xf0\0\0\1" + ONE + b"\0", (1 << 27,)),
        sparse(b"\0\1\1\3\x21\x05\0\xf4\0\0\1" + ONE + b"\0", (1 << 27,)),
        container.to_bytes(b"\xff\xff\xff\xff\xff\xff\x7f", {}),
        container.to_bytes(b"\1\xff\xff\xff\xff\xff\xff\x7f", {}),
        (1 << 26).to_bytes(8, "little") + b"{}",
    ],
)
def test_no_memory_is_taken_for_what_a_file_only_claims(content: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(PackedFileError):
        from_bytes(content).arrays()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("form", [b"\0", b"\x08" + bytes(16), b"\x20" + bytes(16)], ids=["stored", "bits", "sides"])
@pytest.mark.parametrize("shape", [(1 << 22,), (1 << 11, 1 << 11), (1, 1 << 21, 2)])
def test_sets_that_stand_for_much_take_no_memory(form: bytes, shape: tuple[int, ...]) -> None:
    """A file of some bytes whose tensor is full: more than the tensor itself is not needed."""
    full = b"\1" if len(shape) == 1 else b"\4\1\3\0\xf0\1"  # all, or all but the first
    content = sparse(form + b"\1\1" + full + ONE + b"\1", shape)
    packed = from_bytes(content)
    tracemalloc.start()
    array = packed.array("w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.count_nonzero(array) >= array.size - 1
    assert peak <= 1.05 * array.nbytes + (10 << 20)


def test_memory_of_decoding_is_bounded(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (1000, 1000)).astype(np.float32)
    weight[::3] = 0
    path = pack({"w": weight}, tmp_path / "m.safetensors").path
    packed = read(path)
    tracemalloc.start()
    array = packed.array("w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(array, weight)
    assert peak <= weight.nbytes + 100 * packed.size + (10 << 20)


def test_threads_read_the_same(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).choice([-1.0, 0.0, 0.0, 1.0], (300, 400)).astype(np.float32)
    packed = read(pack({f"w{i}": weight * (i + 1) for i in range(8)}, tmp_path / "m.safetensors").path)
    with ThreadPoolExecutor(8) as pool:
        for i, array in enumerate(pool.map(packed.array, [f"w{i % 8}" for i in range(64)])):
            assert np.array_equal(array, weight * (i % 8 + 1))


def test_what_is_read_can_be_written_to(tmp_path: Path) -> None:
    state = {"dense": np.arange(6.0), "constant": np.ones((3, 3)), "sparse": np.eye(30), "alias": np.eye(30)}
    packed = read(pack(state, tmp_path / "m.safetensors").path)
    for name in state:
        packed.array(name)[...] = 7
        assert np.array_equal(packed.array(name), state[name])


@settings(max_examples=40, deadline=None)
@given(files())
def test_changed_files_are_refused_or_read_alike(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check(content, tmp_path_factory.getbasetemp() / "changed.safetensors", python_decoder(), None)


def test_files_that_once_broke_a_rule(tmp_path: Path) -> None:
    c = c_decoder(tmp_path)
    seeds = sorted(SEEDS.glob("*.safetensors"))
    assert seeds
    for path in seeds:
        check(path.read_bytes(), tmp_path / "seed.safetensors", python_decoder(), c)
    assert LIMIT < 1 << 30


def test_a_file_larger_than_its_tensors_could_be_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write(GOOD)
        file.truncate(1 << 40)
    with pytest.raises(PackedFileError, match=r"it has 1,099,511,627,776 bytes, more than a packed file of tensors of"):
        read(path)
    with pytest.raises(PackedFileError, match="is a folder"):
        read(tmp_path)


def test_a_file_beyond_the_limit_can_be_annotated(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(file_of(("w", 1, 1, (1 << 15, 1 << 14), ONE)))
    annotate(path, certificate={"n": 1})
    assert read(path, limit=1 << 31).certificate == {"n": 1}
    path.write_bytes(b"nothing")
    with pytest.raises(PackedFileError, match="m.safetensors: it has 7 bytes"):
        annotate(path, certificate={"n": 1})
