"""Pages that are run: their files, code and commands in turn, and whether what they show is what comes out.

``python tests/docs/pages.py docs/tutorial-module.md`` runs a page and writes the numbers that came out into it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

import torch
from typer.testing import CliRunner

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
_TIME = re.compile(r"\s?(?:s|ms|µs|min)\b")


@dataclass(frozen=True)
class Block:
    """A fenced block: a file if the paragraph before it says "Save this as", code, commands, or what these print.

    Args:
        language: After the fence.
        text: Its lines.
        file: The name to save it under; empty for all others.
        place: Where its text is on the page.
    """

    language: str
    text: str
    file: str
    place: tuple[int, int]


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    for found in _FENCE.finditer(page):
        named = re.search(r"[Ss]ave (?:this|it) as `([\w.]+)`[^\n]*\n\n\Z", page[: found.start()])
        yield Block(found[1], found[2], named[1] if named else "", found.span(2))


def run(page: Path) -> Iterator[tuple[Block, str]]:
    """Run a page in the current folder: each block that shows an output, with what was printed before it.

    Python blocks share one namespace. Of commands only our own are run; installing is the reader's.
    """
    namespace: dict[str, object] = {"__name__": "block"}
    sys.modules["block"] = type(sys)("block")
    sys.path.insert(0, str(Path.cwd()))
    known = set(sys.modules)
    printed = ""
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for block in blocks(page.read_text()):
                if block.file:
                    Path(block.file).write_text(block.text)
                elif block.language == "python":
                    with contextlib.redirect_stdout(io.StringIO()) as out:
                        exec(compile(block.text, str(page), "exec"), namespace)
                    printed = out.getvalue()
                elif block.language == "bash":
                    printed = "".join(_command(line) for line in block.text.splitlines())
                elif block.language == "text":
                    yield block, printed
    finally:
        sys.path.remove(str(Path.cwd()))
        for name in {"block"} | {block.file.removesuffix(".py") for block in blocks(page.read_text())} - known:
            sys.modules.pop(name, None)


def _command(line: str) -> str:
    from supermask.cli import app

    words = shlex.split(line, comments=True)
    if not words or words[:4] == ["python", "-m", "pip", "install"]:
        return ""
    assert words[0] == "supermask", f"a page that is run has a command of its own only: {line}"
    result = CliRunner().invoke(app, words[1:])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, f"{line}\n{result.output}"
    return result.output


def same(shown: str, real: str) -> bool:
    """Whether a line is true: the same words, and numbers within 3 % and half a unit; times are the machine's own."""
    if _words(shown) != _words(real):
        return False
    pairs = zip(_NUMBER.finditer(shown), _NUMBER.finditer(real), strict=True)
    return all(_TIME.match(shown, a.end()) or _near(_value(a[0]), _value(b[0])) for a, b in pairs)


def _words(line: str) -> str:
    return re.sub(r"-{2,}", "--", " ".join(_NUMBER.sub("#", line).split()))


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 0.5 + 0.03 * max(a, b)


def missing(shown: str, printed: str) -> list[str]:
    """The lines of a block that do not come out, in their order; others may stand between them."""
    left = printed.splitlines()
    absent = []
    for line in filter(str.strip, shown.splitlines()):
        rest = list(dropwhile(lambda real, line=line: not same(line, real), left))
        if rest:
            left = rest[1:]
        else:
            absent.append(line)
    return absent


def _renewed(shown: str, printed: str) -> str:
    """A block with the numbers that came out."""
    left = printed.splitlines()
    lines = []
    for line in shown.splitlines():
        rest = list(dropwhile(lambda real, line=line: _words(line) != _words(real), left))
        lines.append(rest[0].rstrip() if rest else line)
        left = rest[1:] if rest else left
        if not rest:
            print(f"nothing like this was printed: {line}\n{printed}")
    return "\n".join(lines) + "\n"


def _write(page: Path) -> None:
    os.environ["COLUMNS"] = "100"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        renewed = [(block.place, _renewed(block.text, printed)) for block, printed in run(page)]
    text = page.read_text()
    for (start, end), new in reversed(renewed):
        text = text[:start] + new + text[end:]
    page.write_text(text)


if __name__ == "__main__":
    _write(Path(sys.argv[1]).resolve())
