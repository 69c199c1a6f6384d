"""The page: results as one HTML file that needs no network and no server."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Final

from supermask._version import __version__
from supermask.errors import ConfigError, MissingExtraError
from supermask.report.content import Content
from supermask.report.page_charts import CONFIG, histograms, panels, pareto
from supermask.report.page_rows import block_values, blocks
from supermask.report.page_runs import Source, details
from supermask.report.page_verdict import verdict
from supermask.report.summary import Result

#: Bytes of a page at most.
LIMIT: Final = 2_500_000

_PROGRAM: Final = ("base", "tradeoff", "table", "atlas", "story", "pair", "proofs", "main")
_SLACK: Final = 20_000  # bytes that are left for what is not counted exactly
_FAILED: Final = 200  # failures that are listed


@dataclass(frozen=True)
class Heading:
    """What the page says of itself.

    Attributes:
        title: One line.
        about: One or a few sentences; may be empty.
        commands: What makes these results and this page, exactly.
        date: The day it was made.
    """

    title: str
    about: str
    commands: tuple[str, ...]
    date: str


def page(content: Content, results: Sequence[Result], sources: Mapping[str, Source], heading: Heading) -> str:
    """The page as HTML.

    Args:
        content: What the report says; its rankings without classes of remaining weights.
        results: The results that its rows hold.
        sources: Run id -> where it is, for what the page shows of single runs; as many of them as there is room for.
        heading: What it says of itself.

    Raises:
        ConfigError: There are so many settings that the page would become too large.
        MissingExtraError: altair, vl-convert or Pillow is not installed.
        RunError: A file of a run is damaged.
    """
    library = _library()
    told = page_data(content, results, heading)
    without = _document(told | _NOTHING, library, heading)
    bare = len(without.encode())
    free = room = LIMIT - bare - _SLACK
    found, headlines = blocks(content, results), [block["verdict"]["row"] for block in told["blocks"]]
    while room >= 0:
        single = details(found, headlines, sources, room)
        document = _document(told | single.to_dict(), library, heading)
        size = len(document.encode())
        if size <= LIMIT:
            return document
        room = room * free // (size - bare) - 1  # what runs take was estimated too low
    raise ConfigError(
        f"the page would have {bare + _SLACK - LIMIT:,} bytes more than {LIMIT:,} for {len(content.rows):,} settings alone; "
        "report fewer experiments at once, or take --format json"
    )


def page_data(content: Content, results: Sequence[Result], heading: Heading) -> dict[str, Any]:
    """All that the page shows but what it tells of single runs, as plain JSON values."""
    found = blocks(content, results)
    return {
        "schema": 1,
        "about": heading.about,
        "made": {"version": __version__, "date": heading.date, "commands": list(heading.commands)},
        "blocks": [
            block_values(block, content.quotes, alone=len(found) == 1) | {"verdict": verdict(block)} for block in found
        ],
        "failed": [
            {key: failure[key] for key in ("run", "label", "seed", "error")} for failure in content.failures[:_FAILED]
        ],
        "failures": len(content.failures),
        "missing": content.missing,
        "notes": [f"{sentence}." for sentence in content.sentences],
        "charts": {"config": CONFIG, "pareto": pareto(), "panels": panels(), "histograms": histograms()},
    }


#: What `Details` would tell of no run.
_NOTHING: Final[dict[str, Any]] = {
    "runs": {},
    "config": {},
    "changed": [],
    "environments": [],
    "targets": {},
    "left_out": [],
}


def _document(told: Mapping[str, Any], library: str, heading: Heading) -> str:
    style, program = _asset("page.css"), "\n".join(_asset(f"{name}.js") for name in _PROGRAM)
    program = f'(() => {{\n"use strict";\n{program}}})();\n'
    policy = [
        "default-src 'none'",
        f"script-src {_digest(library)} {_digest(program)}",
        f"style-src {_digest(style)}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return Template(_asset("page.html")).substitute(
        policy="; ".join(policy),
        version=__version__,
        title=escape(heading.title),
        style=style,
        data=_embedded(told),
        library=library,
        program=program,
    )


def _asset(name: str) -> str:
    return files("supermask.report").joinpath("html", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """What a policy calls an inline text that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(value: Mapping[str, Any]) -> str:
    """JSON that cannot end the element that it stands in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    try:
        from vl_convert import javascript_bundle
    except ImportError as error:
        raise MissingExtraError("vl-convert-python", "report", "a page") from error
    bundle: str = javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")
