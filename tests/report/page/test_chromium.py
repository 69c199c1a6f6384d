"""The page in a real headless Chromium: nothing asked of the network, everything there, and everything usable."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright
from tests.browser import chromium, environment

from supermask.cli.collect import collect
from supermask.cli.page import heading
from supermask.report.content import Content
from supermask.report.page import LIMIT, Heading, page
from supermask.report.page_runs import Source
from supermask.report.quoted import Quote

from .runs import make_experiment

pytestmark = pytest.mark.slow

SECTIONS = ("verdict", "tradeoff", "table", "layers", "training", "runs", "proofs")
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
#: Keeps what is copied, by either way.
CLIPBOARD = """
    window.copied = [];
    if (navigator.clipboard) navigator.clipboard.writeText = async (text) => { window.copied.push(text); };
    document.execCommand = () => { window.copied.push(document.activeElement.value); return true; };
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of made runs, with two published numbers."""
    folder = tmp_path_factory.mktemp("page")
    runs = make_experiment(folder / "runs")
    found = collect([str(runs)], [], folder)
    content = found.ranked_content()
    quote = {"label": "Others 2019", "source": "a paper, table 1", "accuracy": [95.5, 95.0, 96.0], "remaining": [9.9]}
    content = replace(content, quotes=[Quote.of(quote), Quote.of({**quote, "data": "imagenet"})])
    sources = {result["run"]: Source(place) for (place, _), result in found.results.items()}
    path = folder / "report.html"
    told = heading(path, found, [str(runs)], [], folder)
    path.write_text(page(content, list(found.results.values()), sources, replace(told, about="Made </script> runs.")))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"], env=dict(environment(program))
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, file: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, open; whatever it says on the console, and whatever it asks of the network, fails the test."""
    with _context(browser, **getattr(request, "param", {})) as context:
        said: list[str] = []
        shown = context.new_page()
        shown.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        shown.on("pageerror", lambda error: said.append(f"error: {error}"))
        shown.on("request", lambda asked: said.append(asked.url) if not _local(asked.url) else None)
        _open(shown, file)
        yield shown
        assert said == []


def _context(browser: Browser, **options: Any) -> BrowserContext:
    context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", "offline": True, **options})
    context.add_init_script(CLIPBOARD)
    return context


def _local(address: str) -> bool:
    return address.startswith(("file:", "data:"))


def _open(shown: Page, file: Path) -> None:
    shown.goto(file.as_uri())
    shown.wait_for_function("document.querySelectorAll('.chart[data-drawn]').length >= 4")


def _first_column(shown: Page) -> list[str]:
    return [text.replace("\u00a0", " ") for text in shown.locator("#results tbody th").all_inner_texts()]


def test_one_small_file_that_may_not_ask_the_network(file: Path) -> None:
    text = file.read_text()
    assert len(text.encode()) <= LIMIT
    policy = text.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "secret-host" not in text  # names of hosts say nothing to a reader


def test_everything_is_there(opened: Page) -> None:
    for section in SECTIONS:
        expect(opened.locator(f"#{section}")).to_be_visible()
    expect(opened.locator("#sentence")).to_have_text(
        "Signed supermask, with 9.7\u00a0% of the weights, cannot be told apart from the dense network."
    )
    expect(opened.locator("#about")).to_have_text("Made </script> runs.")
    expect(opened.locator("#numbers dt")).to_have_text(
        ["Accuracy against dense", "Size as a packed file", "Training step"]
    )
    assert opened.locator("#machine").inner_text().startswith("a processor, 2 cores; 1 thread a run.")
    # trade-off, loss, accuracy, remaining weights, churn, scores
    expect(opened.locator(".chart svg")).to_have_count(6)
    for chart in opened.locator(".chart").all():
        assert chart.get_attribute("role") == "img"
        assert (chart.get_attribute("aria-label") or "").endswith("The data follow as a table.")
    expect(opened.locator("#results-notes")).to_contain_text("<b>a note & more</b>")
    assert "Others 2019" not in opened.locator("#results").inner_text()


def test_the_table_sorts_by_mouse_and_keyboard(opened: Page) -> None:
    assert _first_column(opened)[0] == "dense"
    assert opened.locator("#results th[aria-sort]").inner_text() == "Accuracy, %"
    opened.get_by_role("button", name="Remaining, %").click()
    header = opened.locator("#results th[aria-sort]")
    assert (header.inner_text(), header.get_attribute("aria-sort")) == ("Remaining, %", "ascending")
    ascending = _first_column(opened)
    assert ascending[0] == "edge-popup, 1 %"
    opened.keyboard.press("Enter")  # the button kept the focus
    assert header.get_attribute("aria-sort") == "descending"
    assert _first_column(opened) == ascending[::-1]


def test_the_table_is_copied_as_it_is_shown(opened: Page) -> None:
    opened.get_by_role("button", name="Setting", exact=True).click()
    for name in ("Markdown", "LaTeX", "CSV"):
        opened.get_by_role("button", name=name, exact=True).click()
        expect(opened.locator("#copied")).to_have_text(f"Copied as {name}")
    markdown, latex, csv = opened.evaluate("window.copied")
    lines = markdown.splitlines()
    assert lines[0].startswith("| Setting | Accuracy, % | To dense, points | Rank | Runs | Remaining, % |")
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| dense",
        "| edge-popup, 1 %",
        "| edge-popup, 5 %",
        "| edge-popup, 20 %",
        "| signed supermask",
    ]
    assert r"edge-popup, 20 \% & 95.20 [95.02, 95.38] & $-$2.00 [$-$2.00, $-$2.00]" in latex
    assert latex.count(r"\\") == 6
    head, *rows = csv.splitlines()
    assert head.startswith("setting,accuracy,accuracy 5 %,accuracy 95 %,difference to dense,")
    assert rows[1].startswith('"edge-popup, 1 %",0.2,0.2,0.2,')


def test_the_trade_off_switches(opened: Page) -> None:
    chart = opened.locator("#pareto")
    expect(chart).to_have_attribute("aria-label", _starts("Accuracy, % against remaining weights, %: 4 settings"))
    expect(opened.locator("#pareto-caption")).to_contain_text("Hollow: published numbers")
    expect(opened.locator("#pareto-caption")).to_contain_text("Outside this range: edge-popup, 1 %.")
    expect(opened.locator("#pareto-caption")).to_contain_text("Latency: not recorded in these runs.")
    opened.get_by_role("button", name="All", exact=True).click()
    expect(opened.locator("#pareto-caption")).not_to_contain_text("Outside this range")
    opened.get_by_role("button", name="Size", exact=True).click()
    expect(opened.get_by_role("button", name="Size", exact=True)).to_be_focused()
    expect(chart).to_have_attribute("aria-label", _starts("Accuracy, % against size as a packed file, B: 4 settings"))
    opened.locator("#focus").select_option("edge-popup")
    expect(chart).to_have_attribute("aria-label", _contains("edge-popup in colour"))
    opened.locator("#tradeoff summary").click()
    expect(opened.locator("#pareto-data tbody tr")).to_have_count(4)
    opened.get_by_role("button", name="Remaining weights", exact=True).click()
    expect(opened.locator("#pareto-data tbody tr")).to_have_count(5)
    expect(opened.locator("#pareto-data")).to_contain_text("a paper, table 1 (quoted, not run here)")


def _starts(words: str) -> re.Pattern[str]:
    return re.compile(f"^{re.escape(words)}")


def _contains(words: str) -> re.Pattern[str]:
    return re.compile(re.escape(words))


def test_published_numbers_tell_their_source_on_hover(opened: Page) -> None:
    mark = opened.locator("#pareto svg path[stroke='var(--ink)']").first
    mark.hover()
    expect(opened.locator("#vg-tooltip-element")).to_contain_text("a paper, table 1")


def test_the_atlas_shows_layers_masks_and_filters(opened: Page) -> None:
    rows = opened.locator("#atlas tbody tr")
    expect(rows).to_have_count(2)
    expect(opened.locator("#atlas thead")).to_contain_text("Invert, %")
    mask, filters = opened.locator("#mask img"), opened.locator("#filters img")
    _expect_size(mask, 75, 8)
    assert (mask.get_attribute("alt") or "").startswith("Mask of conv1.weight: 8 by 3 by 5 by 5")
    expect(filters).not_to_have_js_property("naturalWidth", 0)
    expect(opened.locator("#filters figcaption")).to_contain_text("All 8")
    opened.locator("#mask-layer").select_option("fc1.weight")
    _expect_size(mask, 64, 10)
    expect(opened.locator("#warnings")).to_be_empty()
    opened.locator("#setting").select_option(label="edge-popup, 1 %")
    expect(opened.locator("#warnings")).to_contain_text("fc1.weight is empty in 5 of 5 runs")
    expect(opened.locator("#atlas-legend")).to_contain_text("MACs of single layers: not recorded in these runs.")
    opened.locator("#setting").select_option(label="dense")
    expect(opened.locator("#mask")).to_have_text("A dense network hides nothing.")
    expect(filters).to_be_visible()


def _expect_size(image: Locator, width: int, height: int) -> None:
    expect(image).to_have_js_property("naturalWidth", width)  # once it is decoded
    expect(image).to_have_js_property("naturalHeight", height)


def test_the_training_story(opened: Page) -> None:
    expect(opened.locator("#story h3")).to_have_text(
        ["Loss", "Accuracy, %", "Remaining weights, %", "Mask churn, %", "Scores"]
    )
    summary = opened.locator("#story summary").first
    summary.click()
    expect(opened.locator("#story details table").first.locator("tbody tr")).to_have_count(5 * (8 + 4 + 4))
    opened.locator("#story-setting").select_option(label="edge-popup, 5 %")
    expect(opened.locator("#story h3")).to_have_text(
        ["Loss", "Accuracy, %", "Remaining weights, %", "Mask churn and score histograms"]
    )
    expect(opened.locator("#story .empty")).to_have_text("Not recorded in these runs.")


def test_two_runs_side_by_side(opened: Page) -> None:
    place = opened.locator("#comparison")
    expect(place).to_contain_text("method.density")
    expect(place).to_contain_text("The second run is right where the first is wrong")
    opened.locator("#right").select_option(label="edge-popup, 5 %, seed 1")
    expect(place).to_contain_text("Predictions were not recorded in these runs.")
    opened.locator("#right").select_option(opened.locator("#left").input_value())
    expect(place).to_have_text("The same run twice: choose two.")


def test_the_proofs(opened: Page) -> None:
    opened.locator("#proof-command").get_by_role("button").first.click()
    assert opened.evaluate("window.copied")[-1].startswith("supermask report ")
    proof = opened.locator("#proof")
    for words in ("2.13.0", "c0ffee", "48fedf", "train.optimizer.lr"):
        expect(proof).to_contain_text(words)
    expect(proof).to_contain_text("None: `supermask pack` and `supermask verify` write one")


@pytest.mark.parametrize("opened", [{"color_scheme": "dark"}], indirect=True)
def test_the_theme_follows_the_system_and_the_switch(opened: Page, file: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    assert opened.evaluate(ground) == "rgb(18, 20, 23)"
    ink = opened.locator("#pareto svg text").first
    dark = ink.evaluate("(text) => getComputedStyle(text).fill")
    opened.get_by_role("button", name="Switch to the light theme").click()
    assert opened.evaluate(ground) == "rgb(255, 255, 255)"
    assert ink.evaluate("(text) => getComputedStyle(text).fill") != dark  # charts that are drawn already change too
    _open(opened, file)
    assert opened.evaluate(ground) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("opened", [{"color_scheme": "dark"}], indirect=True)
def test_printing(opened: Page) -> None:
    opened.emulate_media(media="print")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for hidden in (".top", ".copy", "#runs"):
        expect(opened.locator(hidden).first).to_be_hidden()
    for section in ("verdict", "tradeoff", "table", "layers", "training", "proofs"):
        expect(opened.locator(f"#{section}")).to_be_visible()
    assert opened.pdf(format="A4").startswith(b"%PDF")


def test_the_keyboard_reaches_the_results_first(opened: Page) -> None:
    opened.keyboard.press("Tab")
    expect(opened.locator(".skip")).to_be_focused()
    opened.keyboard.press("Enter")
    expect(opened.locator("#main")).to_be_focused()


@pytest.mark.parametrize(
    "opened",
    [{}, {"color_scheme": "dark"}, {"viewport": PHONE}],
    ids=["light", "dark", "phone"],
    indirect=True,
)
def test_accessible_names_and_contrasts(opened: Page, request: pytest.FixtureRequest) -> None:
    found = Axe().run(opened)
    assert found.violations_count == 0, found.generate_report()
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing is wider than the screen
    shots = os.environ.get("SUPERMASK_SCREENSHOTS")
    name = request.node.callspec.id
    for section in SECTIONS:
        place = Path(shots) / f"{name}-{section}.png" if shots else None
        assert opened.locator(f"#{section}").screenshot(path=place, animations="disabled").startswith(b"\x89PNG")


def test_a_page_without_results(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "empty.html"
    path.write_text(page(Content(), [], {}, Heading("nothing", "", ("supermask run nothing",), "2026-01-01")))
    with _context(browser) as context:
        shown = context.new_page()
        shown.goto(path.as_uri())
        expect(shown.locator("main")).to_contain_text("No finished run here yet.")
