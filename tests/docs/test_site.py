"""The documentation site: it is built without a warning, its links lead somewhere, and a browser shows it without a network."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
import torch
import yaml
from playwright.sync_api import Browser, sync_playwright
from tests.browser import chromium, environment

from supermask import Masks
from supermask.core.registry import methods
from supermask.lab.load import make_experiment
from supermask.lab.plan import expand
from supermask.lab.run import run_experiment
from supermask.lab.store import read_results

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
import api_pages  # noqa: E402
import docstrings  # noqa: E402
import method_pages  # noqa: E402

OURS = {name: cls for name, cls in methods().items() if cls.__module__.startswith("supermask.methods.")}
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
PAGES = ["index.html", "methods/signed-supermask.html", "experiments.html", "api/supermask.html"]


@pytest.fixture(scope="module")
def every() -> dict[str, Any]:
    return method_pages.experiments()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, as two processes may build at a time."""
    folder = tmp_path_factory.mktemp("site")
    made = shutil.ignore_patterns("methods", "api", "project", "__pycache__")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=made)
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments", "decoders", "src"):
        (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(folder / "docs"), str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-5000:]
    return folder / "out"


# ---------------------------------------------------------------------- pages of methods


@pytest.mark.parametrize("name", OURS)
def test_every_field_is_explained(name: str, every: dict[str, Any]) -> None:
    fields = [field.name for field in dataclasses.fields(OURS[name])]
    explained = docstrings.arguments(docstrings.clean(OURS[name]))
    assert list(explained) == fields
    page = method_pages.page(OURS[name], every)
    for field in fields:
        assert f"``{field}``\n" in page
        assert docstrings.link(docstrings.escape(explained[field])) in page
    for part in ("**Source:**", "**Differs:**", "**Cost:**"):
        assert page.count(part) == 1


@pytest.mark.parametrize("name", OURS)
def test_every_example_can_be_planned(name: str, every: dict[str, Any], tmp_path: Path) -> None:
    """Through YAML, as a reader copies it."""
    found, _ = method_pages.example(OURS[name], every)
    Masks({"fc1.weight": torch.ones(300, 64, dtype=torch.bool)}).save(tmp_path / "masks.safetensors")
    specs = expand(make_experiment(yaml.safe_load(yaml.safe_dump(found)), folder=tmp_path))
    assert {spec.seed for spec in specs} == {0, 1, 2}
    assert {spec.sections["method"]["name"] for spec in specs} == {name, "dense"}


def test_uses_are_those_of_the_plans(every: dict[str, Any]) -> None:
    """Of one experiment with many variants, read both ways."""
    planned = {spec.sections["method"]["name"] for spec in expand(make_experiment(every["compare/digits"][1]))}
    read = {name for name in OURS if "compare/digits" in {shipped.id for shipped in method_pages.uses(name, every)}}
    assert read == planned


def test_types_are_told_in_words() -> None:
    page = method_pages.page(OURS["signed-supermask"], method_pages.experiments())
    assert "``absolute``, ``relative`` or ``variable``; default ``absolute``" in page
    assert ":class:`~supermask.Initializer`; default ``{distribution: uniform, rule: xavier, gain: null}``" in page


def test_plain_text_is_not_markup() -> None:
    escaped = docstrings.escape_lines(["|w| * 2, ``a * b``, **bold**::", "", "    x * |y|", "", "a_ b_c"])
    assert escaped == [r"\|w\| \* 2, ``a * b``, **bold**::", "", "    x * |y|", "", r"a\_ b_c"]


def test_every_public_name_has_an_entry() -> None:
    for name in api_pages.PACKAGES:
        module = __import__(api_pages._title(name), fromlist=["__all__"])
        page = api_pages.page(name)
        for key in module.__all__:
            shown = (f".{key}\n", f".{key}\n\n", f":: {key}\n", f":doc:`{key} <")
            assert key.startswith("__") or any(text in page for text in shown), f"{name}.{key}"


def test_keys_of_a_result(tmp_path: Path) -> None:
    """docs/files.md names every key of result.json, and no other."""
    raw = {
        "model": {"name": "fcn", "inputs": 64, "hidden": [4], "classes": 10},
        "data": {"name": "digits"},
        "method": {"name": "dense"},
        "train": {"epochs": 1, "batch_size": 500, "optimizer": {"name": "sgd", "lr": 0.1}},
    }
    run_experiment(make_experiment(raw, name="keys", folder=tmp_path), out=tmp_path / "runs", workers=0)
    (result,) = read_results(tmp_path / "runs" / "keys")
    section = (ROOT / "docs" / "files.md").read_text().partition("### result.json")[2].partition("\n##")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {key for row in rows for key in row.replace("`", "").replace(",", " ").split()} == set(result)


# ---------------------------------------------------------------------- the site


class Links(HTMLParser):
    """Links, ids and what a page loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {key: value or "" for key, value in attrs}
        self.ids |= {told[key] for key in ("id", "name") if key in told}
        if tag == "a" and "href" in told:
            self.links.append(told["href"])
        elif tag == "link" and told.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(told["href"])
        elif "src" in told:
            self.loads.append(told["src"])


@pytest.mark.slow
def test_links_lead_somewhere(site: Path) -> None:
    pages = {path: Links(path) for path in site.rglob("*.html") if "_static" not in path.parts}
    assert len(pages) > len(OURS) + 30
    for path, found in pages.items():
        for link in found.links:
            target, anchor = urldefrag(link)
            if "://" in target or target.startswith("mailto:"):
                continue
            file = (path.parent / unquote(target)).resolve() if target else path
            assert file.exists(), f"{path.relative_to(site)} links to {link}"
            if anchor and file in pages:
                assert unquote(anchor) in pages[file].ids, f"{path.relative_to(site)} links to {link}"


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        if "_static" not in path.parts:
            for load in Links(path).loads:
                assert "//" not in load, f"{path.relative_to(site)} loads {load}"


@pytest.mark.slow
def test_every_page_is_there(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").exists()
    assert "optuna" in (site / "project" / "search.html").read_text()  # search.html is Sphinx's own
    for name in OURS:
        assert (site / "methods" / f"{name}.html").exists()
    assert (site / "_static" / "example-report.html").exists()
    assert list((site / "_downloads").rglob("load_shrunk.py"))
    index = (site / "index.html").read_text()
    for caption in ("Start", "Compare", "Compress and deploy", "Methods", "Reference", "Results", "The project"):
        assert f'<span class="caption-text">{caption}</span>' in index


@pytest.fixture(scope="module")
def pictures() -> Path | None:
    """Where pictures go, if somebody wants to look at them."""
    wanted = os.environ.get("SUPERMASK_PICTURES")
    return Path(wanted) if wanted else None


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments, env=dict(environment(program)))
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_in_a_browser(site: Path, browser: Browser, size: str, theme: str, pictures: Path | None) -> None:
    """No complaint, no request but for files, no line that the page's width cuts, and the theme that was asked for."""
    width, height = SIZES[size]
    with browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme) as context:
        shown = context.new_page()
        said: list[str] = []
        shown.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("request", lambda asked: None if asked.url.startswith("file://") else said.append(asked.url))
        for page in PAGES:
            shown.goto((site / page).as_uri())
            assert shown.evaluate("document.documentElement.scrollWidth") <= width, page
            background = shown.evaluate("getComputedStyle(document.body).backgroundColor")
            brightness = sum(int(part) for part in background.strip("rgba()").split(",")[:3])
            assert (brightness > 380) == (theme == "light"), page
            if pictures is not None:
                name = page.replace("/", "-").removesuffix(".html")
                shown.screenshot(path=pictures / f"{name}-{size}-{theme}.png")
        assert said == []


@pytest.mark.slow
def test_search_finds_a_method(site: Path, browser: Browser) -> None:
    with browser.new_context() as context:
        shown = context.new_page()
        shown.goto(f"{(site / 'search.html').as_uri()}?q=edge-popup")
        shown.wait_for_selector("#search-results a")
        assert "methods/edge-popup.html" in shown.inner_html("#search-results")
