"""Where the tests find real data sets, and a user without special rights.

Data sets are files that do not belong into the repository. The tests look for them in the folder that the environment variable
SUPERMASK_TEST_DATA names, otherwise in a folder `shared/data` beside the checkout. Without it the tests that need real data
are skipped, but fail where the environment variable CI is set.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from supermask.core.locking import locked

_REPOSITORY = Path(__file__).resolve().parents[1]
_UNPACKED = _REPOSITORY / ".cache" / "test-data"


def _source() -> Path:
    named = os.environ.get("SUPERMASK_TEST_DATA")
    folder = Path(named) if named else _REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        reason = f"no test data: {folder} is missing (set SUPERMASK_TEST_DATA)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


def _unpacked(name: str) -> Path:
    """Unpack a data set once a checkout; test processes that start together take turns."""
    source = _source()
    done = _UNPACKED / f".{name}.done"
    with locked(_UNPACKED / f".{name}.lock"):
        if not done.exists():
            subprocess.run([sys.executable, str(source / "unpack.py"), str(_UNPACKED), name], check=True)
            done.touch()
    return _UNPACKED


@pytest.fixture(scope="module", autouse=True)
def little_garbage_collection() -> None:
    """What is alive between two files, modules above all, is not looked through again: each run starts with a collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """A data folder that holds the official files of MNIST in `mnist/`."""
    return _source()


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """A data folder that holds CIFAR-10 in `cifar-10-batches-bin/`; unpacked at the first use, which takes a while."""
    return _unpacked("cifar10")


@pytest.fixture(scope="session")
def tiny_imagenet() -> Path:
    """A folder of JPEG images: `train/CLASS/*`, `val/CLASS/*`, 64 x 64 pixels, 20 classes."""
    return _unpacked("tiny-imagenet-20") / "tiny-imagenet-20"


@pytest.fixture(scope="session")
def ordinary_user() -> Callable[[], AbstractContextManager[None]]:
    """Within it, permissions bind this thread even if it is root's: it gives up the right to override them (Linux)."""
    return _without_override


@contextmanager
def _without_override() -> Iterator[None]:
    if os.name == "posix" and os.geteuid() != 0:
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("an administrator's rights cannot be put aside here")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the interface, this thread
    rights = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(header, rights) == 0
    before = rights[0]
    rights[0] = before & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, rights) == 0
    try:
        yield
    finally:
        rights[0] = before
        assert libc.capset(header, rights) == 0
