"""Fuzzing of the readers of packed files: ``python tests/deploy/fuzz_packed.py --minutes 10``.

Hypothesis changes good files, on the outside or inside with the checksums made right again. Whatever comes of it, the package
must refuse it with a PackedFileError or decode it, with the compiled and the plain coder alike, within a bound on memory; the
Python decoder that stands alone must refuse it with a ValueError or find the same; the C decoder, which is compiled with
sanitizers, must refuse what the package refuses. A file that breaks a rule is kept in ``tests/deploy/seeds``, which the tests
replay.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.util
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from supermask.deploy import container
from supermask.deploy.unpacking import from_bytes
from supermask.errors import PackedFileError
from supermask.kernels import rice

ROOT = Path(__file__).parents[2]
SEEDS = Path(__file__).with_name("seeds")
LIMIT = 1 << 22
Found = dict[str, tuple[tuple[int, ...], bytes]] | None


@functools.cache
def good_files() -> list[bytes]:
    """The files that are changed."""
    folder = ROOT / "decoders" / "vectors"
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return [(folder / name).read_bytes() for name, lines in expected.items() if lines]


changes = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "insert", "delete", "copy", "number"]),
        st.integers(0, 1 << 20),
        st.integers(0, 255),
        st.integers(1, 12),
    ),
    min_size=1,
    max_size=6,
)


def changed(content: bytes, edits: list[tuple[str, int, int, int]]) -> bytes:
    """Bytes after some edits."""
    data = bytearray(content)
    for kind, place, value, length in edits:
        at = place % (len(data) + 1)
        if kind == "set":
            data[at : at + 1] = bytes([value])
        elif kind == "flip" and at < len(data):
            data[at] ^= 1 << value % 8
        elif kind == "insert":
            data[at:at] = bytes([value]) * length
        elif kind == "delete":
            del data[at : at + length]
        elif kind == "copy":
            data[at:at] = data[value : value + length]
        elif kind == "number":  # a long varint
            data[at : at + 1] = bytes([value | 128] * (length % 7) + [value & 127])
    return bytes(data)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Files with something wrong, mostly deep inside: the directory and the first payloads are where most is decided."""
    content = draw(st.sampled_from(good_files()))
    where = draw(st.sampled_from(["outside", "body", "directory", "sections", "payloads", "payloads"]))
    edits = draw(changes)
    if where == "outside":
        return changed(content, edits)
    body, sections, _ = container.from_bytes(content)
    if where == "sections":
        start = 8 + int.from_bytes(content[:8], "little")
        text = changed(content[8:start], edits)
        return len(text).to_bytes(8, "little") + text + content[start:]
    if where == "payloads":
        edits = [("set" if length < 6 else "flip", place, value, length) for _, place, value, length in edits]
    if where == "directory":
        edits = [(kind, place % 300, value, length) for kind, place, value, length in edits]
    return container.to_bytes(changed(bytes(body), edits), sections)


def by_package(content: bytes) -> Found:
    """What the package finds; None where it refuses."""
    try:
        packed = from_bytes(content, limit=LIMIT)
        arrays = {}
        for name, entry in packed.entries.items():
            array = packed.array(name)
            arrays[name] = (array.view(np.uint32) >> 16).astype(np.uint16) if entry.dtype == "BF16" else array
    except PackedFileError:
        return None
    return {name: (array.shape, array.tobytes()) for name, array in arrays.items()}


def python_decoder() -> Callable[[Path], Found]:
    """The decoder in Python that stands alone."""
    spec = importlib.util.spec_from_file_location("alone", ROOT / "decoders" / "python" / "supermask_unpack.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def decode(path: Path) -> Found:
        try:
            with np.errstate(all="ignore"):
                arrays = module.load(path, LIMIT)
        except ValueError:
            return None
        return {name: (array.shape, array.tobytes()) for name, array in arrays.items()}

    return decode


def c_decoder(folder: Path) -> Callable[[Path], bool] | None:
    """Whether the decoder in C takes a file; an error where it does what a sanitizer finds wrong. None without a compiler."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        return None
    source, program = ROOT / "decoders" / "c" / "supermask_unpack.c", folder / "unpack"
    flags = ["-std=c11", "-O1", "-g", "-DSUPERMASK_MAIN", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)

    def decode(path: Path) -> bool:
        done = subprocess.run([str(program), str(path), str(LIMIT)], capture_output=True, timeout=600, check=False)
        assert done.returncode in (0, 1), done.stderr.decode(errors="replace")
        assert done.stderr.count(b"\n") <= done.returncode, done.stderr.decode(errors="replace")
        return done.returncode == 0

    return decode


def same(first: Found, second: Found) -> bool:
    """Equal, where a NaN may come out as another one."""
    if first is None or second is None:
        return first is second
    return first.keys() == second.keys() and all(
        shape == second[name][0] and len(data) == len(second[name][1]) for name, (shape, data) in first.items()
    )


def check(content: bytes, path: Path, python: Callable[[Path], Found], c: Callable[[Path], bool] | None) -> bool:
    """Hold one file against all rules; whether it was decoded."""
    tracemalloc.start()
    found = by_package(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the arrays, their copies here (bfloat16 takes twice its size on the way), and what is needed to decode one
    assert peak <= 4 * LIMIT + 150 * len(content) + (10 << 20), f"{peak:,} bytes were taken"
    with mock.patch.object(rice, "kernel", return_value=None):
        assert by_package(content) == found, "the plain coder finds something else"
    path.write_bytes(content)
    assert same(python(path), found), "the Python decoder finds something else"
    assert c is None or c(path) == (found is not None), "the C decoder disagrees"
    return found is not None


def main() -> int:
    """Fuzz for some minutes; exit code 1 if a rule was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes: float = parser.parse_args().minutes
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end, rounds, counts = time.monotonic() + 60 * minutes, 0, {"files": 0, "decoded": 0}
    last: list[bytes] = []
    with tempfile.TemporaryDirectory() as name:
        path, python, c = Path(name) / "file.safetensors", python_decoder(), c_decoder(Path(name))
        while time.monotonic() < end:

            @seed(int(time.time()))
            @settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(files())
            def one_round(content: bytes) -> None:
                last[:] = [content]
                counts["files"] += 1
                counts["decoded"] += check(content, path, python, c if counts["files"] % 3 == 0 else None)

            try:
                one_round()
            except Exception:
                SEEDS.mkdir(exist_ok=True)
                kept = SEEDS / f"{hashlib.sha256(last[0]).hexdigest()[:12]}.safetensors"
                kept.write_bytes(last[0])
                sys.stderr.write(f"kept {kept}\n")
                raise
            rounds += 1
            sys.stdout.write(f"{counts['files']:,} files, of which {counts['decoded']:,} could be decoded\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
