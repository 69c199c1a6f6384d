"""The code of README and docs runs: Python blocks in order, in one namespace a page; ``supermask`` commands in a folder that
holds the page's YAML and method blocks as files. Tutorials run from top to bottom, and what they show is what comes out.
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

from .pages import blocks, missing, run, same

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# files, code and commands in turn: each block may use what those before it made
IN_TURN = [DOCS / f"{name}.md" for name in ("deploy", "own-method", "tutorial-experiment", "tutorial-module")]
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
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


@pytest.mark.parametrize("page", [p for p in PAGES if p not in IN_TURN and _blocks(p, "python")], ids=lambda p: p.name)
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
@pytest.mark.usefixtures("known_methods")
@pytest.mark.parametrize("page", IN_TURN, ids=lambda p: p.name)
def test_pages_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for block, printed in run(page):
        absent = missing(block.text, printed)
        assert not absent, f"{page.name} shows what does not come out: {absent}\n{printed}"


@pytest.mark.parametrize("name", ["tutorial-experiment.md", "tutorial-module.md"])
def test_tutorials_show_what_comes_out(name: str) -> None:
    """Each tells the reader what to expect: blocks of output are there, right behind code or commands."""
    languages = [block.language for block in blocks((DOCS / name).read_text())]
    assert languages.count("text") >= 2
    assert all(languages[i - 1] in ("python", "bash") for i, language in enumerate(languages) if language == "text")


def test_numbers_may_differ_a_little_and_words_may_not() -> None:
    assert same("dense   3*  98.06 [97.81, 98.31]", "dense  3*   97.50 [96.97, 98.22]")
    assert not same("dense   3*  98.06", "dense   3*  91.02")
    assert not same("dense   3*  98.06", "random  3*  98.06")
    assert same("1,004 weights in 2.1 s", "1,010 weights in 40 s")
    assert missing("a 1\nb 2\n", "a 1\nsomething else\nb 2\n") == []
    assert missing("b 2\na 1\n", "a 1\nb 2\n") == ["a 1"]


def test_links_point_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
