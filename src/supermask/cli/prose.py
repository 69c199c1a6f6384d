"""Docstrings as text of any width: paragraphs and argument lists are refilled, displayed equations are kept."""

from __future__ import annotations

import re
import textwrap


def fill_docstring(doc: str, width: int) -> str:
    """Refill a cleaned docstring.

    Lines of a paragraph are joined and broken anew; indented entries (``name: text``) keep a hanging indent; what
    follows a line that ends in ``::`` stays as it is.
    """
    blocks = doc.split("\n\n")
    filled = []
    for index, block in enumerate(blocks):
        literal = index > 0 and blocks[index - 1].endswith("::") and block.startswith(" ")
        filled.append(block if literal else "\n".join(_fill(entry, width) for entry in _entries(block)))
    return "\n\n".join(filled)


def _entries(block: str) -> list[str]:
    """Lines of a block, each with its continuation lines (deeper indented, or all of a paragraph) joined to it."""
    entries: list[str] = []
    for line in block.splitlines():
        starts = not entries or entries[-1].endswith(":") or re.match(r" {1,4}\S", line) is not None
        entries[len(entries) - (not starts) :] = [line if starts else f"{entries[-1]} {line.strip()}"]
    return entries


def _fill(entry: str, width: int) -> str:
    indent = " " * (len(entry) - len(entry.lstrip()))
    hanging = indent + "    " if indent else ""
    return textwrap.fill(
        entry.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
