"""The code of README and docs runs: Python blocks in order, in one namespace a page; ``supermask`` commands in a folder that
holds the page's YAML and method blocks as files.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from supermask.cli import app
from supermask.core import registry

ROOT = Path(__file__).parents[2]
MIXED = ROOT / "docs" / "deploy.md"  # its commands use the files that its Python code writes
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# files that a page's commands use -> language and first words of the block that holds them
FILES = {"digits.yaml": ("yaml", "name: digits"), "first_half.py": ("python", "from dataclasses")}


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def known_methods() -> Iterator[None]:
    """Forget what a page registers."""
    before = registry.methods()
    yield
    registry._METHODS.clear()
    registry._METHODS.update(before)


@pytest.mark.parametrize("page", [p for p in PAGES if p != MIXED and _blocks(p, "python")], ids=lambda p: p.name)
@pytest.mark.usefixtures("known_methods")
def test_python_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "block"}
    monkeypatch.setitem(__import__("sys").modules, "block", type(torch)("block"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in _blocks(page, "python"):
            exec(compile(block, str(page), "exec"), namespace)


def _commands(page: Path) -> list[str]:
    lines = [line for block in _blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("supermask ")]


@pytest.mark.slow
@pytest.mark.usefixtures("known_methods")
@pytest.mark.parametrize("page", [ROOT / "README.md"], ids=lambda p: p.name)
def test_commands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, (language, start) in FILES.items():
        (block,) = [b for b in _blocks(page, language) if b.startswith(start)]
        (tmp_path / name).write_text(block)
    commands = _commands(page)
    assert all(any(name in command for command in commands) for name in FILES)
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command, comments=True)[1:])
        # doctor reports what is missing on this machine by its exit code
        assert result.exit_code == 0 or command.startswith("supermask doctor"), f"{command}\n{result.output}"


@pytest.mark.slow
def test_code_and_commands_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "block"}
    monkeypatch.setitem(__import__("sys").modules, "block", type(torch)("block"))
    found = re.findall(r"^```(python|bash)\n(.*?)^```$", MIXED.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert {language for language, _ in found} == {"python", "bash"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for language, block in found:
            if language == "python":
                exec(compile(block, str(MIXED), "exec"), namespace)
                continue
            for command in [line for line in block.splitlines() if line.startswith("supermask ")]:
                result = CliRunner().invoke(app, shlex.split(command, comments=True)[1:])
                assert result.exit_code == 0, f"{command}\n{result.output}"


def test_links_point_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
