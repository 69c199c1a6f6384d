"""A command line to type into, an experiment of a few seconds, and its finished runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from supermask.cli import app
from supermask.core import registry

TINY = """\
name: tiny
model: {name: fcn, inputs: 64, hidden: [16], classes: 10}
data: {name: digits}
train: {epochs: 2, batch_size: 128, optimizer: {name: sgdw, lr: 0.05}}
vary:
  seed: [0, 1]
  variant:
    supermask: {method: {name: signed-supermask}}
    plain: {method: {name: dense}}
"""

Invoke = Callable[..., Any]


def invoke(*arguments: object) -> Any:
    """Run a command line in this process; an exception that is not an exit is raised here."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def supermask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """`supermask("run", ...)` in an empty folder, with an empty cache and 100 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SUPERMASK_DATA", raising=False)
    monkeypatch.delenv("SUPERMASK_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return invoke


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The file of the experiment `tiny`."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tiny.yaml` and its finished runs in `runs`; not to be written to."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    result = invoke("run", folder / "tiny.yaml", "--out", folder / "runs", "--workers", 0)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def known_methods() -> Iterator[None]:
    """Forget the methods that a test registers."""
    before = registry.methods()
    yield
    registry._METHODS.clear()
    registry._METHODS.update(before)


@pytest.fixture
def environment() -> dict[str, str]:
    """What a process of its own needs to find the package."""
    quiet = {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(sys.path)}
