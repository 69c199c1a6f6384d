"""Runs in a store elsewhere, at any URL that fsspec knows: S3, Google Cloud Storage, a folder.

::

    URL/<experiment>/<run id>/
        spec.json            what was asked for, from the first checkpoint on
        checkpoint.zip       the last checkpoint with the files that belong to it, while the run is unfinished
        weights.safetensors, ...  the files of the run folder
        result.json          uploaded last: a run that has it is done

Runs are trained in run folders of the machine at work (:mod:`supermask.lab.store`); what is here are copies of them. A
checkpoint is one object with checksums inside, so half of one is never taken for a whole one.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from supermask.core.arrays import atomic_write
from supermask.core.locking import locked
from supermask.errors import MissingExtraError, RunError, StoreError
from supermask.lab.checkpoint import load_checkpoint
from supermask.lab.files import make_folder
from supermask.lab.leases import look
from supermask.lab.store import RunFolder

ARCHIVE_SCHEMA: Final = 1
_ARCHIVE: Final = "checkpoint.zip"
_MANIFEST: Final = "manifest.json"
_EXTRAS: Final = {"s3fs": "s3", "gcsfs": "gcs", "fsspec": "stores"}  # package -> our extra


@dataclass(frozen=True)
class Store:
    """A store of runs. Plain values only, so that it travels to workers.

    Args:
        url: Where it is: `s3://bucket/folder`, `gs://bucket/folder`, `file:///folder`.

    Raises:
        StoreError: It is no URL.
    """

    url: str

    def __post_init__(self) -> None:
        if "://" not in self.url:  # which would be a folder below the current one, whichever that is on each machine
            raise StoreError(
                f"a store is a URL such as s3://bucket/folder or file:///folder, got {self.url!r}; for a folder say "
                f"file://{Path(self.url).absolute().as_posix()}"
            )

    def finished(self, experiment: str) -> set[str]:
        """Ids of the experiment's runs that are whole here.

        Raises:
            StoreError: The store cannot be read.
            MissingExtraError: The package for this kind of store is missing.
        """
        with self._explained("read"):
            fs, root = self._open()
            found = fs.glob(f"{root}/{experiment}/*/result.json")
            return {path.rsplit("/", 2)[1] for path in found}

    def fetch(self, folder: RunFolder, experiment: str, before_write: Callable[[], None] = lambda: None) -> None:
        """Bring what is here of a run into its folder: the finished run, or a checkpoint that is further than its own.

        Args:
            folder: Its folder, held by the caller; a finished run in it stays as it is.
            experiment: Name of its experiment.
            before_write: Called before each file; raises where another process has taken the run over.

        Raises:
            StoreError: The store cannot be read, or a file in it is damaged.
            CheckpointError: The folder's own checkpoint is damaged.
        """
        if folder.result.exists():
            return
        with self._explained("read", folder):
            fs, there = self._open(folder, experiment)
            names = {path.rpartition("/")[2] for path in fs.find(there)} if fs.exists(there) else set()
            if folder.result.name in names:
                make_folder(folder.path)
                for file in (*_files(folder), folder.result):
                    if file.name in names:
                        data = fs.cat_file(f"{there}/{file.name}")
                        before_write()
                        atomic_write(file, data)
            elif _ARCHIVE in names:
                self._unpack(fs.cat_file(f"{there}/{_ARCHIVE}"), folder, there, before_write)

    def push_checkpoint(self, folder: RunFolder, experiment: str, place: tuple[int, int]) -> None:
        """Upload the checkpoint of a run, with the files that belong to it.

        Args:
            folder: Its folder, just after a checkpoint was written.
            experiment: Name of its experiment.
            place: How far it is: epoch and batch.

        Raises:
            StoreError: It cannot be uploaded; the run's own checkpoint is not touched.
        """
        with self._explained("write", folder):
            fs, there = self._open(folder, experiment)
            self._put(fs, f"{there}/{folder.spec.name}", folder.spec.read_bytes())
            self._put(fs, f"{there}/{_ARCHIVE}", _pack(folder, place))

    def push_finished(self, folder: RunFolder, experiment: str) -> None:
        """Upload a finished run, its result last; nothing where it is here already.

        Raises:
            StoreError: It cannot be uploaded; the run folder is not touched.
        """
        with self._explained("write", folder):
            fs, there = self._open(folder, experiment)
            if not fs.exists(f"{there}/{folder.result.name}"):
                for file in (*_files(folder), folder.result):
                    if file.exists():
                        self._put(fs, f"{there}/{file.name}", file.read_bytes())
            if fs.exists(f"{there}/{_ARCHIVE}"):
                fs.rm_file(f"{there}/{_ARCHIVE}")

    def exchange(self, folder: RunFolder, experiment: str, *, here: bool) -> None:
        """Make a finished run the same at both ends, unless another process holds its folder.

        Args:
            folder: Its folder.
            experiment: Name of its experiment.
            here: Whether the store has its result.

        Raises:
            StoreError: As :meth:`fetch` and :meth:`push_finished`.
        """
        if here == folder.result.exists():
            return
        make_folder(folder.path)
        with locked(folder.lock, wait=False, optional=True) as held:
            if held and not here:
                self.push_finished(folder, experiment)
            elif held and look(folder.lease).free:
                self.fetch(folder, experiment)

    def _open(self, folder: RunFolder | None = None, experiment: str = "") -> tuple[Any, str]:
        """The file system, without its cache of listings, and the path of the store or of a run in it."""
        import fsspec

        fs, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        root = root.rstrip("/")
        return fs, root if folder is None else f"{root}/{experiment}/{folder.path.name}"

    @staticmethod
    def _put(fs: Any, path: str, data: bytes) -> None:
        """Write a file whole or not at all: object stores do that themselves."""
        if "file" in fs.protocol:
            make_folder(Path(path).parent)
            atomic_write(Path(path), data)
        else:
            fs.pipe_file(path, data)

    def _unpack(self, data: bytes, folder: RunFolder, there: str, before_write: Callable[[], None]) -> None:
        try:
            place, files = _read_archive(data)
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise StoreError(
                f"{there}/{_ARCHIVE}: damaged ({error}); delete it there, and the run goes on from its own "
                "folder or starts anew"
            ) from error
        if folder.checkpoint.exists():
            own = load_checkpoint(folder.checkpoint, torch.device("cpu"))["trainer"]
            if (own["epoch"], own["batch"]) >= place:
                return
        last = folder.checkpoint.relative_to(folder.path).as_posix()
        make_folder(folder.checkpoint.parent)
        for name in sorted(files, key=lambda name: name == last):  # the checkpoint last: it says what the others hold
            before_write()
            atomic_write(folder.path / name, files[name])

    @contextmanager
    def _explained(self, what: str, folder: RunFolder | None = None) -> Iterator[None]:
        """Turn what file systems of other people raise into our errors."""
        try:
            yield
        except RunError:
            raise
        except ImportError as error:
            package = next((name for name in _EXTRAS if name in str(error)), "fsspec")
            raise MissingExtraError(package, _EXTRAS[package], f"the store {self.url}") from error
        except Exception as error:  # each kind of store has its own dozen
            own = "" if folder is None else f"; the run folder {folder.path} keeps what it has"
            raise StoreError(
                f"cannot {what} the store {self.url} ({type(error).__name__}: {error}){own}. See to the address, the "
                "credentials and the network, then give the same command again: only what is missing is done"
            ) from error


def mirror(url: str, cache: Path, *, on_start: Callable[[int], None] | None = None) -> Path:
    """Copy what reports read of a store's runs, except weights and masks; what is there already is not copied again.

    Args:
        url: A store, or a folder in it.
        cache: The folder of all mirrors.
        on_start: Told how many files are fetched.

    Returns:
        The folder with the runs that are in the store now.

    Raises:
        StoreError: The store cannot be read.
        MissingExtraError: The package for this kind of store is missing.
    """
    store = Store(url)
    top = cache / hashlib.sha256(url.encode()).hexdigest()[:12]
    with store._explained("read"):
        fs, root = store._open()
        if not fs.exists(root):
            raise StoreError(f"there is nothing at {url}; `supermask run --store {url}` puts runs there")
        sizes = {path: entry["size"] for path, entry in fs.find(root, detail=True).items()}
        for path in sizes:
            if ".." in path.split("/"):
                raise StoreError(f"{path!r} in the store {url} would lie outside of the cache folder; delete it there")
        wanted = {path: top / Path(path).relative_to(root) for path in sizes if _is_reported(path)}
        known = {path.parent for path in wanted.values()}
        for folder in [path.parent for path in top.rglob("spec.json")]:
            if folder not in known:
                shutil.rmtree(folder)  # of a run that the store has no more
        missing = {
            path: file
            for path, file in wanted.items()
            if file.suffix == ".json" or not file.exists() or file.stat().st_size != sizes[path]
        }
        if on_start is not None:
            on_start(len(missing))
        for folder in {file.parent for file in missing.values()}:
            folder.mkdir(parents=True, exist_ok=True)
        if missing:
            fs.get(list(missing), [str(file) for file in missing.values()])
    top.mkdir(parents=True, exist_ok=True)
    return top


def _files(folder: RunFolder) -> tuple[Path, ...]:
    """What a finished run has, without its result."""
    named = (folder.spec, folder.env, folder.metrics, folder.weights, folder.masks)
    return (*named, folder.extras, folder.channels, folder.story)


def _is_reported(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name in {"spec.json", "env.json", "metrics.jsonl", "result.json"} or name.startswith(
        ("extras.", "channels.", "story.")
    )


def _pack(folder: RunFolder, place: tuple[int, int]) -> bytes:
    """A checkpoint and the files that it belongs to, as one zip file with a manifest."""
    wanted = (folder.spec, folder.env, folder.metrics, folder.channels, folder.checkpoint)
    files = {file.relative_to(folder.path).as_posix(): file.read_bytes() for file in wanted if file.exists()}
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = {"schema": ARCHIVE_SCHEMA, "epoch": place[0], "batch": place[1], "sha256": sums}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (files | {_MANIFEST: json.dumps(manifest).encode()}).items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _read_archive(data: bytes) -> tuple[tuple[int, int], dict[str, bytes]]:
    """How far a packed checkpoint is, and its files.

    Raises:
        ValueError: A file in it is not what the manifest says, or its schema is another.
        KeyError: A file is missing in it.
        BadZipFile: It is not a whole zip file.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        manifest = json.loads(archive.read(_MANIFEST))
        if manifest["schema"] != ARCHIVE_SCHEMA:
            raise ValueError(f"its schema is {manifest['schema']}, this version reads {ARCHIVE_SCHEMA}")
        files = {name: archive.read(name) for name in manifest["sha256"]}
    for name, digest in manifest["sha256"].items():
        if hashlib.sha256(files[name]).hexdigest() != digest or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name} is not what was uploaded")
    return (manifest["epoch"], manifest["batch"]), files
