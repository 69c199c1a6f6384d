"""All decoders find the same in the shared files: the package (compiled and plain), and the three that stand alone."""

from __future__ import annotations

import http.server
import importlib.util
import json
import shutil
import subprocess
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.browser import chromium, environment
from tests.test_package import _code_lines

from supermask.deploy import read
from supermask.errors import PackedFileError
from supermask.kernels import rice

ROOT = Path(__file__).parents[2]
DECODERS = ROOT / "decoders"
VECTORS = DECODERS / "vectors"
EXPECTED: dict[str, list[str] | None] = json.loads((VECTORS / "expected.json").read_text(encoding="utf-8"))
Decode = Callable[[Path], list[str] | None]


def lines(arrays: dict[str, np.ndarray[Any, Any]], kinds: dict[str, str]) -> list[str]:
    return [
        f"{name} {kinds[name]} ({','.join(map(str, array.shape))}) {zlib.crc32(array.tobytes()):08x}"
        for name, array in arrays.items()
    ]


def kinds_of(path: Path) -> dict[str, str]:
    return {name: entry.dtype for name, entry in read(path).entries.items()}


def by_package(path: Path) -> list[str] | None:
    try:
        packed = read(path)
        arrays = packed.arrays()
    except PackedFileError as error:
        return None if str(error).startswith(f"{path}: ") else [f"a message that does not name the file: {error}"]
    for name, entry in packed.entries.items():
        if entry.dtype == "BF16":  # which numpy gets as float32
            arrays[name] = (arrays[name].view(np.uint32) >> 16).astype(np.uint16)
    return lines(arrays, kinds_of(path))


def by_python(path: Path) -> list[str] | None:
    spec = importlib.util.spec_from_file_location("alone", DECODERS / "python" / "supermask_unpack.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        arrays = module.load(path)
    except ValueError:
        return None
    return lines(arrays, kinds_of(path))


def by_command(*command: str | Path) -> Decode:
    def decode(path: Path) -> list[str] | None:
        done = subprocess.run(
            [*map(str, command), str(path)], capture_output=True, text=True, encoding="utf-8", timeout=600
        )
        if done.returncode == 1 and not done.stdout:
            assert len(done.stderr.splitlines()) == 1, done.stderr  # a message of its own, no trace and no sanitizer
            return None
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return done.stdout.splitlines()

    return decode


def needed(*names: str) -> str:
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    return found


@pytest.fixture(scope="session")
def c_decoder(tmp_path_factory: pytest.TempPathFactory) -> Decode:
    program = tmp_path_factory.mktemp("c") / "unpack"
    source = DECODERS / "c" / "supermask_unpack.c"
    flags = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-DSUPERMASK_MAIN"]
    sanitizers = "-fsanitize=address,undefined,float-cast-overflow"
    command = [
        needed("cc", "gcc", "clang"),
        *flags,
        sanitizers,
        "-fno-sanitize-recover=all",
        str(source),
        "-o",
        str(program),
    ]
    subprocess.run(command, check=True)
    return by_command(program)


def test_the_vectors_are_all_there() -> None:
    assert sorted(EXPECTED) == sorted(path.name for path in VECTORS.glob("*.safetensors"))
    assert sum(found is None for found in EXPECTED.values()) > 30
    assert sum(found is not None for found in EXPECTED.values()) > 8


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "plain"])
def test_package(name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(rice, "kernel", lambda *_: None)
    assert by_package(VECTORS / name) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_python(name: str) -> None:
    assert by_python(VECTORS / name) == EXPECTED[name]


def test_c(c_decoder: Decode) -> None:
    assert {name: c_decoder(VECTORS / name) for name in EXPECTED} == EXPECTED


def test_javascript_in_node() -> None:
    decode = by_command(needed("node"), DECODERS / "javascript" / "list.mjs")
    some = [name for name, found in EXPECTED.items() if found is not None] + ["bad-bit.smk.safetensors"]
    assert {name: decode(VECTORS / name) for name in some} == {name: EXPECTED[name] for name in some}


@pytest.mark.slow
def test_javascript_in_a_headless_browser(tmp_path: Path) -> None:
    program = chromium()
    answers: list[dict[str, Any]] = []
    done = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(DECODERS))

        def do_POST(self) -> None:
            answers.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/javascript/browser.html?files={','.join(EXPECTED)}"
        flags = [
            "--headless",
            "--no-sandbox",
            "--single-process",
            "--no-zygote",
            "--disable-gpu",
            "--remote-debugging-port=0",
        ]
        process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={tmp_path / 'profile'}", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(program),
        )
        try:
            assert done.wait(300), f"{program} has not opened the page"
        finally:
            process.kill()
            process.wait()
            server.shutdown()
    assert "Chrome" in answers[0]["agent"]
    assert answers[0]["found"] == EXPECTED


def test_the_python_decoder_is_short_and_needs_numpy_alone() -> None:
    source = (DECODERS / "python" / "supermask_unpack.py").read_text()
    assert _code_lines(DECODERS / "python" / "supermask_unpack.py") <= 100
    imported = {line.split()[1] for line in source.splitlines() if line.startswith(("import", "from"))}
    assert imported == {"json", "math", "zlib", "numpy"}
