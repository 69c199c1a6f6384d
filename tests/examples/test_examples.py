"""The examples run, and do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_minimal(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the biases of the user's own module
        accuracy, density = _load("minimal").main(epochs=20)
    assert accuracy > 0.9
    assert density < 0.5
    assert "inverted" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_save_init(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _load("save_init").main(tmp_path)
    assert (tmp_path / "weights.npz").is_file()
    assert (tmp_path / "scores.npz").is_file()
    assert "bitwise the same start" in capsys.readouterr().out


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'_load("{path.stem}")' in text, f"{path.name} has no test"
