"""The Sphinx extension of this site: pages made from code, the contents from ``index.md``, links that leave ``docs``.

Pages in Markdown stay what they are for a reader of the repository. For the site, ``index.md`` gets hidden tables of
contents: its headings are their captions, its links their entries; a comment ``<!-- site: TITLE (PAGE) WHAT -->`` is an entry
for a page that only the site has. Links to files outside ``docs`` lead to the copies of pages that are in :data:`COPIES`; to
other files they become downloads.

References to code that has no page here, ours or another package's, are only checked: what cannot be imported is a warning.
"""

from __future__ import annotations

import os
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

import api_pages
import method_pages
from docstrings import escape_lines
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from supermask.core.registry import methods

# pages of the repository -> pages of the site; search.html is Sphinx's own
COPIES = {
    "docs/search.md": "project/search.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "experiments/README.md": "project/experiments.md",
}
# made anew by each build, and not in the repository
MADE = ("methods", "api", "project")

_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_COMMENT = re.compile(r"<!-- site: (.+?) \((\S+)\)(.*?) -->")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", _make_pages)
    app.connect("source-read", _prepare)
    app.connect("autodoc-process-docstring", _plain_text, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", _readable)
    app.connect("missing-reference", _not_on_the_site)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _make_pages(app: Sphinx) -> None:
    """Write what is made from code, and nothing else, below the folders :data:`MADE`."""
    docs = Path(app.srcdir)
    every = method_pages.experiments()
    pages = {f"methods/{name}.rst": method_pages.page(cls, every) for name, cls in methods().items()}
    pages["methods/index.rst"] = method_pages.overview(methods())
    pages |= {f"api/{name}.rst": api_pages.page(name) for name in api_pages.PACKAGES}
    pages |= {"api/index.rst": api_pages.overview(), "api/errors.rst": api_pages.errors()}
    pages |= {page: _moved(docs.parent / source, docs / page, docs) for source, page in COPIES.items()}
    for folder in MADE:
        for old in (docs / folder).rglob("*"):
            if old.is_file() and old.relative_to(docs).as_posix() not in pages:
                old.unlink()
    for name, text in pages.items():
        path = docs / name
        if not path.exists() or path.read_text() != text:  # Sphinx reads again what is newer
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def _moved(source: Path, page: Path, docs: Path) -> str:
    """The text of a page of the repository with its relative links as they are from its place on the site."""

    def link(found: re.Match[str]) -> str:
        target = _on_site(Path(os.path.normpath(source.parent / found[1])), docs)
        return f"]({os.path.relpath(target, page.parent)}{found[2] or ''})"

    return _LINK.sub(link, source.read_text())


def _on_site(target: Path, docs: Path) -> Path:
    """The file that a link of the repository means on the site."""
    copies = {docs.parent / source: docs / page for source, page in COPIES.items()}
    return copies.get(target, docs / "index.md" if target == docs.parent / "README.md" else target)


def _prepare(app: Sphinx, name: str, content: list[str]) -> None:
    """Turn the Markdown of the repository into that of the site."""
    docs = Path(app.srcdir)
    path = docs / f"{name}.md"
    if not path.exists():
        return

    def link(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(path.parent / found[1]))  # not where links of the disk lead
        return f"]({os.path.relpath(_on_site(target, docs), path.parent)}{found[2] or ''})"

    text = _COMMENT.sub(r"- {doc}`\1 <\2>`\3", content[0])
    text = _LINK.sub(link, text)
    text = re.sub(r"\[([^\]]+)\]\((_static/[^)]+)\)", r'<a href="\2">\1</a>', text)
    content[0] = text + _contents(text) if name == "index" else text


def _contents(text: str) -> str:
    """Hidden tables of contents: a heading and the links of its list."""
    tables = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        entry = r"^- (?:\[([^\]]+)\]\(([^)]+)\.md\)|\{doc\}`(.+?) <(.+?)>`)"
        found = re.findall(entry, section, flags=re.MULTILINE)
        entries = [f"{title or made_title} <{page or made}>" for title, page, made_title, made in found]
        if entries:
            caption = section.partition("\n")[0]
            tables.append("\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""]))
    return "\n".join(tables)


def _plain_text(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:  # noqa: ARG001
    """Docstrings use ``**Source:**``, literals and roles; a star or a bar in them is what it is."""
    lines[:] = escape_lines(lines)
    starts = [index + 1 for index, line in enumerate(lines) if line.strip() in ("Returns:", "Yields:")]
    for index in [0] * (
        what in ("attribute", "property")
    ) + starts:  # napoleon takes what stands before a colon for a type
        text = lines[index].lstrip()
        lines[index] = lines[index].removesuffix(text) + f": {text}"


def _readable(
    app: Sphinx,  # noqa: ARG001
    what: str,  # noqa: ARG001
    name: str,  # noqa: ARG001
    value: object,  # noqa: ARG001
    options: object,  # noqa: ARG001
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Defaults that are made by a call are written ``...``, which Sphinx can read."""
    return (signature and re.sub(r"<[^<>]+>", "...", signature)), returns


def _not_on_the_site(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.Element) -> Any:  # noqa: ARG001
    """Text without a link for what exists but has no page; None, and so a warning, for what does not exist."""
    if node.get("refdomain") != "py":
        return None
    inside = ".".join([node.get("py:module") or "", node.get("py:class") or "", node["reftarget"]])
    return shown if _exists(node["reftarget"]) or _exists(inside) else None


def _exists(name: str) -> bool:
    """Whether a dotted name can be imported, or is one that a module of ours knows."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        first, *rest = name.split(".")
        ours = [module for key, module in list(sys.modules.items()) if key.startswith("supermask")]
        return any(_holds(getattr(module, first), rest) for module in ours if hasattr(module, first))
    return True


def _holds(value: object, names: list[str]) -> bool:
    return not names or (hasattr(value, names[0]) and _holds(getattr(value, names[0]), names[1:]))
