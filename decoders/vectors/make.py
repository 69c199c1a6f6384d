"""Make the test vectors that all decoders are tested with. They are pinned: run this only for a new format, or to add some.

``expected.json``: file -> what a decoder finds, a line a tensor (name, type, shape, CRC-32 of the data), or null where it must
refuse the file.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from supermask.deploy import container, read
from supermask.deploy.cursor import members, text, varint
from supermask.deploy.packing import _FROM_NUMPY, pack
from supermask.tensors.philox import Stream

HERE = Path(__file__).parent
EXPECTED: dict[str, list[str] | None] = {}
Arrays = dict[str, np.ndarray[Any, Any]]


def ternary(shape: tuple[int, ...], density: float, scale: float, seed: int) -> np.ndarray[Any, Any]:
    """Random signs of one magnitude."""
    draw = np.random.default_rng(seed)
    signs = draw.choice([-1.0, 1.0], shape) * (draw.random(shape) < density)
    return (signs * scale).astype(np.float32)


def line(name: str, kind: str, shape: tuple[int, ...], data: bytes) -> str:
    """What a decoder prints of a tensor."""
    return f"{name} {kind} ({','.join(map(str, shape))}) {zlib.crc32(data):08x}"


def good(name: str, arrays: Mapping[str, Any], **options: Any) -> Path:
    """A file whose tensors come out as they went in."""
    path = HERE / f"{name}.smk.safetensors"
    report = pack(arrays, path, **options)
    found = read(path).arrays() if options.get("values") else arrays
    EXPECTED[path.name] = [
        line(key, _FROM_NUMPY[value.dtype], value.shape, (value + value.dtype.type(0)).tobytes())
        for key, value in found.items()
    ]
    print(path.name, report.size, sorted({layer.coding for layer in report.layers}))
    return path


def by_hand(name: str, entries: list[tuple[str, int, int, tuple[int, ...], bytes]], expected: list[str] | None) -> None:
    """A file of entries (name, coding, type, shape, payload) that this package would not write."""
    directory = varint(len(entries)) + b"".join(
        text(key) + bytes([coding, kind, len(shape)]) + b"".join(map(varint, shape)) + varint(len(payload))
        for key, coding, kind, shape, payload in entries
    )
    raw(name, container.to_bytes(directory + b"".join(entry[-1] for entry in entries), {}), expected)


def raw(name: str, content: bytes, expected: list[str] | None) -> None:
    """A file of these bytes."""
    path = HERE / f"{name}.smk.safetensors"
    path.write_bytes(content)
    EXPECTED[path.name] = expected


def good_files() -> None:
    """Everything that a file may hold."""
    dead = ternary((40, 30, 3, 3), 0.05, 0.5, 1)
    dead[5:25] = 0
    dead[:, ::2] = 0
    columns = np.zeros((64, 200), np.float32)
    columns[:, 7:19] = ternary((64, 12), 0.5, 0.25, 2)
    columns[3:60, 100:110] = ternary((57, 10), 0.02, 0.25, 3)
    rows = ternary((12, 20), 0.2, 1.0, 4) * np.linspace(0.1, 3, 12, dtype=np.float32)[:, None]
    uneven = np.concatenate([ternary((30, 100), 0.5, 1.5, 5), ternary((300, 100), 0.004, 1.5, 6)])
    names = ["dichte", "größe.重み", "uneven"]
    layers = {
        "dead.weight": dead,
        "columns.weight": columns,
        "rows.weight": rows,
        "uneven.weight": uneven,
        "nearly-full.weight": ternary((50, 40), 0.97, 0.125, 7),
        "half.weight": ternary((33, 31), 0.5, 0.125, 8),
        "vector": ternary((500,), 0.1, 2.0, 9),
        "double": ternary((9, 90), 0.1, 0.3, 10).astype(np.float64) / 3,
        "short": ternary((9, 90), 0.1, 0.3, 10).astype(np.float16),
    }
    provenance = {"run": "made by hand", 'quote\\"': "ü \u2028 \U0001f600"}
    good(
        "ternary", layers, classes=names, provenance=provenance, metadata={"nested": [[{}], {"a": None, "b": -1.5e-3}]}
    )
    draw = np.random.default_rng(11)
    normal = (draw.standard_normal((25, 10, 3, 3)) * (draw.random((25, 10, 3, 3)) < 0.2)).astype(np.float32)
    normal[3, 2, 1, 1], normal[20, 0, 0, 0] = np.nan, -np.inf
    others: Arrays = {
        "float": normal,
        "float64": normal[:, 0].astype(np.float64),
        "dense": draw.standard_normal((3, 5)).astype(np.float32),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "constant": np.full((4, 4), 1.5, np.float32),
        "zero": np.zeros((10, 3), np.float32),
        "codes": ternary((20, 20), 0.1, 1.0, 12).astype(np.int8),
        "flags": draw.random((7, 9)) < 0.5,
        "counts": (draw.integers(0, 9, (8, 8)) * (draw.random((8, 8)) < 0.1)).astype(np.int64),
        "tied": normal.copy(),
    }
    for kind in (np.uint8, np.uint16, np.uint32, np.uint64, np.int16, np.int32):
        others[np.dtype(kind).name] = draw.integers(0, 100, 5).astype(kind)
    good("values", others)
    finite = np.nan_to_num(normal, posinf=0, neginf=0)
    finite[0, 0, 0, 0], finite[0, 0, 0, 1] = 1e-7, 6e-5  # below the normal range of float16
    good("float16", {"weight": finite, "bias": finite[:, 0, 0, 0].copy()}, values="float16")
    good("int8", {"weight": finite, "bias": finite[:, 0, 0, 0].copy()}, values="int8")
    seed = 0x1234_5678_9ABC_DEF0
    drawn = {}
    for name, signs in (("bits.weight", Stream.signs), ("sides.weight", Stream.sides)):
        kept = np.random.default_rng(13).random((60, 70)) < 0.3
        exact = signs(Stream(seed, "weights", name), kept.size).reshape(kept.shape)
        drawn[name] = (exact * kept * np.float32(0.75)).astype(np.float32)
        drawn[name][0] *= -1  # some that do not follow
    good("generated", drawn, seed=seed)
    good("nothing", {})


def small_files() -> None:
    """What a writer may do and this one does not."""
    one = np.array([0, 1, 0, 1, 1], np.float32)
    payload = bytes([0, 1, 1, 2, 0b11010]) + np.float32(1).tobytes() + b"\0"
    by_hand("bitmap", [("w", 3, 1, (5,), payload)], [line("w", "F32", (5,), one.tobytes())])
    half = np.array([0x3F80, 0, 0x4000], np.uint16)
    by_hand("bfloat16", [("w", 0, 3, (3,), half.tobytes())], [line("w", "BF16", (3,), half.tobytes())])
    outer = json.dumps(
        {
            "packed": {"data_offsets": [0, 17], "shape": [17], "dtype": "U8"},
            "__metadata__": {"format": "pt", "supermask": "{}"},
        },
        indent=3,
    ).encode()
    blob = struct.pack("<4sHHII", b"SMKP", 1, 0, zlib.crc32(b"\0"), zlib.crc32(b"{}")) + b"\0"
    raw("other-writer", struct.pack("<Q", len(outer)) + outer + blob, [])


def bad_files() -> None:
    """What every decoder must refuse."""
    content = (HERE / "ternary.smk.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    raw("bad-cut-off", content[:-1], None)
    raw("bad-too-long", content + b"\0", None)
    raw("bad-header-cut", content[:40], None)
    raw("bad-length", (1 << 62).to_bytes(8, "little") + content[8:], None)
    raw("bad-bit", content[:-100] + bytes([content[-100] ^ 16]) + content[-99:], None)
    raw("bad-description", content.replace(b"made by hand", b"made by Hand"), None)
    raw("bad-newer", content[: start + 4] + b"\2" + content[start + 5 :], None)
    raw("bad-empty", b"", None)
    ones = np.float32(1).tobytes()
    plain: Callable[..., bytes] = lambda positions, rest=b"\0": b"\0\1\1" + positions + ones + rest  # noqa: E731
    by_hand("bad-bomb", [("w", 1, 1, (1 << 24, 1 << 24), ones)], None)
    by_hand("bad-many-bombs", [(f"w{i}", 1, 1, (1 << 14, 1 << 12), ones) for i in range(5)], None)
    by_hand("bad-shape", [("w", 1, 1, (1 << 40,) * 20, ones)], None)
    by_hand("bad-alias", [("w", 2, 1, (3,), b"\0")], None)
    by_hand("bad-alias-shape", [("w", 1, 1, (3,), ones), ("v", 2, 1, (4,), b"\0")], None)
    by_hand("bad-twice", [("w", 1, 1, (3,), ones), ("w", 1, 1, (3,), ones)], None)
    by_hand("bad-coding", [("w", 4, 1, (3,), ones)], None)
    by_hand("bad-type", [("w", 1, 13, (3,), ones)], None)
    by_hand("bad-dense", [("w", 0, 1, (3,), ones)], None)
    by_hand("bad-left-over", [("w", 1, 1, (3,), ones + b"\0")], None)
    by_hand("bad-bool", [("w", 0, 12, (2,), b"\1\2")], None)
    by_hand("bad-form", [("w", 3, 1, (3,), b"\x40\1\1\1" + ones + b"\0")], None)
    by_hand("bad-generator", [("w", 3, 1, (3,), b"\x29" + bytes(16) + b"\1\1\1" + 3 * ones)], None)
    by_hand("bad-integer-signs", [("w", 3, 5, (3,), plain(b"\1"))], None)
    by_hand("bad-scalar", [("w", 3, 1, (), plain(b"\1"))], None)
    by_hand("bad-mode", [("w", 3, 1, (3,), plain(b"\5"))], None)
    by_hand("bad-cut-payload", [("w", 3, 1, (3,), b"\0\1")], None)
    code = members(np.arange(0, 1000, 37), 1000)
    assert code[0] == 3
    for name, changed in {
        "count": code[:1] + b"\x7f" + code[2:],  # more members than ones
        "count-zero": code[:1] + b"\0" + code[2:],
        "fewer": code[:1] + bytes([code[1] - 1]) + code[2:],
        "base": code[:3] + b"\x1f" + code[4:],
        "width": code[:4] + bytes([code[4] | 5]) + code[5:],
        "tail": code[:2] + bytes([code[2] + 1]) + code[3:] + b"\0",
        "beyond": members(np.arange(0, 1000, 37) + 8, 1008),
        "short": b"\3\1\1\0",
        "long": b"\3\1\xff\xff\xff\xff\xff\xff\x01",
        "varint": b"\3\1" + b"\xff" * 9 + b"\1",
    }.items():
        by_hand(f"bad-set-{name}", [("w", 3, 1, (1000,), plain(changed))], None)


if __name__ == "__main__":
    good_files()
    small_files()
    bad_files()
    (HERE / "expected.json").write_text(json.dumps(EXPECTED, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
