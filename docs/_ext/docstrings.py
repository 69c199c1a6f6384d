"""Docstrings of this package as reStructuredText: what stands in them as plain text is meant as plain text."""

from __future__ import annotations

import inspect
import re

# what keeps its meaning: literals, roles, bold text
_MARKED = re.compile(r"(``.+?``|:[\w:+-]+:`[^`]+`|\*\*[^*]+\*\*)")
_PAGE = re.compile(r"``docs/([\w-]+)\.md``")
_PAPER = re.compile(r"arXiv (\d{4}\.\d{5})")


def clean(cls: type) -> str:
    """The docstring of a class without its indentation."""
    return inspect.cleandoc(cls.__doc__ or "")


def escape(text: str) -> str:
    """Text in which ``|x|``, ``2 * x`` and ``x_`` are not markup."""
    parts = _MARKED.split(text)
    return "".join(part if index % 2 else re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for index, part in enumerate(parts))


def escape_lines(lines: list[str]) -> list[str]:
    """The same for a docstring; literal blocks and bullets stay as they are."""
    escaped, literal = [], -1  # the indentation below which a literal block ends; -1 outside
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= literal:
            literal = -1
        if literal >= 0 or re.match(r"\s*(\* |\.\. )", line):
            escaped.append(line)
            continue
        escaped.append(escape(line))
        if line.rstrip().endswith("::"):
            literal = indent
    return escaped


def link(text: str) -> str:
    """``docs/NAME.md`` as a link to that page, and papers as links to arXiv."""
    return _PAPER.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", _PAGE.sub(r":doc:`/\1`", text))


def body(doc: str) -> str:
    """What stands between the first line and the sections ``Args`` and ``Raises``."""
    return re.split(r"^(?:Args|Raises):$", doc, flags=re.MULTILINE)[0].partition("\n")[2].strip()


def arguments(doc: str) -> dict[str, str]:
    """Name -> explanation, of the section ``Args``."""
    section = re.search(r"^Args:\n((?: +.*\n?|\n)*)", doc, flags=re.MULTILINE)
    if section is None:
        return {}
    entries = re.split(r"^ {4}(\w+): ", section[1], flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)}
