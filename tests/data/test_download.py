from __future__ import annotations

import hashlib
import http.server
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from supermask.data import DATASETS, get, load
from supermask.data.catalog import DataFile
from supermask.data.download import fetch
from supermask.errors import ConfigError, DamagedDataError, DataError, MissingDataError

from . import writers

CONTENT = bytes(range(256)) * 4000  # about a million bytes: several blocks
FILE = DataFile("set.bin", "md5:" + hashlib.md5(CONTENT).hexdigest())


@dataclass
class Server:
    """A web server on this machine whose faults can be set."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True  # whether it honours Range
    break_after: list[int] = field(default_factory=list)  # bytes after which the next transfers break off
    seen: list[str] = field(default_factory=list)  # Range of each request, "" for none


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(files={"/good/set.bin": CONTENT, "/bad/set.bin": b"x" + CONTENT[1:]})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            state.seen.append(wanted)
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            body = content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.break_after.pop(0)] if state.break_after else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


def closed() -> str:
    """An address on this machine that nobody answers at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_downloads_and_reports_progress(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    path = fetch(FILE, [f"{server.url}/good/"], tmp_path / "new", progress=lambda *now: seen.append(now))
    assert path == tmp_path / "new" / "set.bin"
    assert path.read_bytes() == CONTENT
    assert left(tmp_path / "new") == ["set.bin"]
    assert seen[-1] == ("set.bin", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert server.seen == [""]


def test_what_is_there_and_right_is_kept(server: Server, tmp_path: Path) -> None:
    fetch(FILE, [f"{server.url}/good/"], tmp_path)
    fetch(FILE, [f"{server.url}/good/"], tmp_path)
    assert len(server.seen) == 1
    (tmp_path / "set.bin").write_bytes(b"damaged")
    assert fetch(FILE, [f"{server.url}/good/"], tmp_path).read_bytes() == CONTENT


def test_a_broken_transfer_is_resumed_at_once(server: Server, tmp_path: Path) -> None:
    server.break_after = [300_000, 500_000]
    assert fetch(FILE, [f"{server.url}/good/"], tmp_path).read_bytes() == CONTENT
    assert server.seen == ["", "bytes=300000-", "bytes=800000-"]
    assert left(tmp_path) == ["set.bin"]


def test_a_broken_transfer_is_resumed_by_the_next_call(server: Server, tmp_path: Path) -> None:
    server.break_after = [400_000, 0]
    with pytest.raises(MissingDataError, match="broke off after 400000 of 1024000 bytes"):
        fetch(FILE, [f"{server.url}/good/"], tmp_path)
    assert left(tmp_path) == ["set.bin.part"]
    assert (tmp_path / "set.bin.part").read_bytes() == CONTENT[:400_000]
    server.seen.clear()
    assert fetch(FILE, [f"{server.url}/good/"], tmp_path).read_bytes() == CONTENT
    assert server.seen == ["bytes=400000-"]


def test_resumed_on_another_mirror(server: Server, tmp_path: Path) -> None:
    server.files["/two/set.bin"] = CONTENT
    server.break_after = [400_000, 0]
    assert fetch(FILE, [f"{server.url}/good/", f"{server.url}/two/"], tmp_path).read_bytes() == CONTENT
    assert server.seen == ["", "bytes=400000-", "bytes=400000-"]


def test_a_server_that_ignores_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.break_after = [300_000]
    assert fetch(FILE, [f"{server.url}/good/"], tmp_path).read_bytes() == CONTENT
    assert server.seen == ["", "bytes=300000-"]


@pytest.mark.parametrize("part", [b"of another file", CONTENT + b"too long", b"wrong" + CONTENT[5:]])
def test_a_part_that_does_not_fit_is_thrown_away(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "set.bin.part").write_bytes(part)
    assert fetch(FILE, [f"{server.url}/good/"], tmp_path).read_bytes() == CONTENT
    assert server.seen == [f"bytes={len(part)}-", ""]


def test_wrong_checksum_never_takes_the_name(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DamagedDataError, match=r"/bad/set\.bin: wrong checksum, expected md5:.*Nothing was kept"):
        fetch(FILE, [f"{server.url}/bad/"], tmp_path)
    assert left(tmp_path) == []
    assert fetch(FILE, [f"{server.url}/bad/", f"{server.url}/good/"], tmp_path).read_bytes() == CONTENT


def test_mirrors_are_tried_in_order(server: Server, tmp_path: Path) -> None:
    mirrors = [closed(), f"{server.url}/missing/", f"{server.url}/good/"]
    assert fetch(FILE, mirrors, tmp_path).read_bytes() == CONTENT
    with pytest.raises(MissingDataError) as caught:
        fetch(FILE, mirrors[:2], tmp_path / "other")
    message = str(caught.value)
    assert f"{mirrors[0]}set.bin: " in message
    assert f"{mirrors[1]}set.bin: HTTP 404" in message


def test_two_at_once_take_turns(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(FILE, [f"{server.url}/good/"], tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    assert server.seen == [""]


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write .*set\.bin: .*; choose another folder by --data-dir"):
        fetch(FILE, [f"{server.url}/good/"], tmp_path / "file")


def served(server: Server, monkeypatch: pytest.MonkeyPatch) -> writers.Small:
    """A small CIFAR-10 whose archive the server has."""
    small = writers.cifar(10, "binary")
    packed = writers.archive("cifar-10-batches-bin/", small.files)
    server.files["/cifar-10-binary.tar.gz"] = packed
    file = DataFile("cifar-10-binary.tar.gz", writers.sha256(packed))
    monkeypatch.setitem(DATASETS, "cifar10", replace(small.info, files=(file,), mirrors=(f"{server.url}/",)))
    return small


def test_load_downloads_only_when_asked(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = served(server, monkeypatch)
    with pytest.raises(MissingDataError):
        load("cifar10", root=tmp_path)
    assert server.seen == []
    data = load("cifar10", root=tmp_path, download=True)
    assert data.train.y.tolist() == small.train_labels.tolist()
    assert left(tmp_path) == ["cifar-10-binary.tar.gz"]
    load("cifar10", root=tmp_path, download=True)
    assert server.seen == [""]


def test_get_puts_files_where_load_looks(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import gzip

    small = writers.fashion()
    packed = {f"{name}.gz": gzip.compress(content) for name, content in small.files.items()}
    server.files = {f"/{name}": content for name, content in packed.items()}
    files = tuple(DataFile(name, writers.sha256(content)) for name, content in packed.items())
    info = replace(small.info, files=files, mirrors=(f"{server.url}/",))
    monkeypatch.setitem(DATASETS, "fashion-mnist", info)
    monkeypatch.setenv("SUPERMASK_DATA", str(tmp_path / "mine"))
    assert get("fashion-mnist") == tmp_path / "mine" / "fashion-mnist"
    assert left(tmp_path / "mine" / "fashion-mnist") == sorted(packed)
    assert load("fashion-mnist").test.y.tolist() == small.test_labels.tolist()


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], mirrors=(closed(), closed())))
    with pytest.raises(MissingDataError) as caught:
        load("mnist", root=tmp_path, download=True)
    message = str(caught.value)
    assert message.startswith("cannot download train-images-idx3-ubyte.gz: http://127.0.0.1:")
    assert f"put the official files (http://yann.lecun.com/exdb/mnist/) there:\n  {tmp_path / 'mnist'}" in message
    assert "SUPERMASK_DATA" in message


@pytest.mark.parametrize("name", ["digits", "npz", "nothing"])
def test_nothing_to_download(name: str) -> None:
    message = (
        f"there is nothing to download for data set {name!r}; downloaded are mnist, fashion-mnist, cifar10, cifar100"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        get(name)


def test_sources_are_official_and_every_file_has_a_checksum() -> None:
    hosts = {
        "ossci-datasets.s3.amazonaws.com",
        "storage.googleapis.com",
        "yann.lecun.com",
        "fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "github.com",
        "www.cs.toronto.edu",
    }
    for info in DATASETS.values():
        assert bool(info.files) == bool(info.mirrors) == bool(info.layouts)
        assert all(file.checksum for file in info.files)
        assert all(mirror.endswith("/") and mirror.split("/")[2] in hosts for mirror in info.mirrors)
