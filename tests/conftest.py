"""Where the tests find real data sets.

They are files that do not belong into the repository. The tests look for them in the folder that the environment variable
SUPERMASK_TEST_DATA names, otherwise in a folder `shared/data` beside the checkout. Without it the tests that need real data
are skipped, but fail where the environment variable CI is set.
"""

from __future__ import annotations

import os
import subprocess
import sys
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
