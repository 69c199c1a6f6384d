"""The charts of the page as Vega-Lite, made by altair; their data are filled in where they are drawn.

Colours are the page's own, ``var(--name)``: a change of the theme, and printing, reach drawn charts. For figures that stand
alone, :func:`in_print` puts plain colours in their place.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

from supermask.errors import MissingExtraError

INK: Final = "var(--ink)"
MUTED: Final = "var(--muted)"
FAINT: Final = "var(--faint)"
LINE: Final = "var(--line)"
ACCENT: Final = "var(--accent)"

#: What the names are on paper.
_PRINT: Final = {INK: "#16181d", MUTED: "#5a616c", FAINT: "#a9b0ba", LINE: "#e3e5e9", ACCENT: "#1d5fd1"}

_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

#: What all charts have in common.
CONFIG: Final[dict[str, Any]] = {
    "background": None,
    "font": _FONT,
    "aria": False,  # the page names each chart, and has its data as a table
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 11,
        "gridColor": LINE,
        "domain": False,
        "tickColor": LINE,
        "titlePadding": 10,
        "labelPadding": 5,
    },
    "axisX": {"grid": False, "domain": True, "domainColor": LINE},
    "axisY": {"ticks": False},
    "header": {"labelColor": MUTED, "labelFontSize": 11, "labelPadding": 6, "labelAnchor": "start", "title": None},
    "facet": {"spacing": 22},
}


def load_altair() -> ModuleType:
    """The library that makes and checks the specifications.

    Raises:
        MissingExtraError: altair is not installed.
    """
    try:
        import altair
    except ImportError as error:
        raise MissingExtraError("altair", "report", "a page or a figure") from error
    return altair


def pareto() -> dict[str, Any]:
    """Quality against a cost: settings as grey lines over quantile bars, one series in the accent colour with its band.

    Data: `settings` (label, series, x, value, low, high, n), `dense` (value, low, high), `published` (label, source, word, x,
    value). Parameters: `focus`, the series in colour, and the ends `bottom` and `top` of the vertical axis.
    """
    alt = load_altair()
    settings = alt.Chart(alt.NamedData("settings"))
    dense = alt.Chart(alt.NamedData("dense"))
    published = alt.Chart(alt.NamedData("published"))
    ends = alt.Scale(domainMin={"expr": "bottom"}, domainMax={"expr": "top"}, zero=False, nice=False)
    x = alt.X("x:Q", title="cost", scale=alt.Scale(type="log", padding=14, nice=False))
    x = x.axis(format="~r", tickCount=8, labelOverlap="greedy", labelFlush=False)
    y = alt.Y("value:Q", title="quality", scale=ends, axis=alt.Axis(tickCount=6))
    focused, others = "datum.series === focus", "datum.series !== focus"
    detail = alt.Detail("series:N")
    told = [
        alt.Tooltip("label:N", title="setting"),
        alt.Tooltip("quality:N", title="mean [5 %, 95 %]"),
        alt.Tooltip("cost:N", title="cost"),
        alt.Tooltip("n:Q", title="runs"),
    ]
    quoted = [
        alt.Tooltip("label:N", title="published"),
        alt.Tooltip("quality:N", title="value"),
        alt.Tooltip("cost:N", title="cost"),
        alt.Tooltip("source:N", title="source"),
        alt.Tooltip("word:N", title="how"),
    ]
    across = {"x": alt.value(0), "x2": alt.value("width")}
    layers = [
        dense.mark_rect(color=FAINT, opacity=0.22, clip=True).encode(
            y=alt.Y("low:Q", scale=ends), y2="high:Q", **across
        ),
        dense.mark_rule(color=MUTED, strokeDash=[4, 3], clip=True).encode(y=y, **across),
        dense.mark_text(align="right", dx=-4, dy=-7, color=MUTED, fontSize=11, clip=True).encode(
            y=y, x=alt.value("width"), text=alt.value("dense")
        ),
        settings.mark_rule(color=FAINT, opacity=0.7, clip=True)
        .transform_filter(others)
        .encode(x=x, y=alt.Y("low:Q", scale=ends), y2="high:Q"),
        settings.mark_line(color=FAINT, strokeWidth=1, clip=True)
        .transform_filter(others)
        .encode(x=x, y=y, detail=detail),
        settings.mark_point(color=FAINT, filled=True, size=26, opacity=1, clip=True)
        .transform_filter(others)
        .encode(x=x, y=y, tooltip=told),
        published.mark_point(shape="diamond", color=INK, filled=False, size=60, strokeWidth=1.3, clip=True).encode(
            x=x, y=y, tooltip=quoted
        ),
        settings.mark_area(color=ACCENT, opacity=0.16, clip=True)
        .transform_filter(focused)
        .encode(x=x, y=alt.Y("low:Q", scale=ends), y2="high:Q"),
        settings.mark_rule(color=ACCENT, clip=True)
        .transform_filter(focused)
        .encode(x=x, y=alt.Y("low:Q", scale=ends), y2="high:Q"),
        settings.mark_line(color=ACCENT, strokeWidth=2, clip=True).transform_filter(focused).encode(x=x, y=y),
        settings.mark_point(color=ACCENT, filled=True, size=60, opacity=1, clip=True)
        .transform_filter(focused)
        .encode(x=x, y=y, tooltip=told),
    ]
    params = [alt.param(name=name, value=value) for name, value in (("focus", ""), ("bottom", 0), ("top", 1))]
    return _spec(alt.layer(*layers).add_params(*params).properties(width=640, height=360))


def panels() -> dict[str, Any]:
    """Small multiples of curves: one panel a seed or a layer.

    Data: `curves` (panel, line, x, y, who: "setting" or "dense", kind: "test" or "train").
    """
    alt = load_altair()
    chart = (
        alt.Chart(alt.NamedData("curves"))
        .mark_line(strokeWidth=1.6, clip=True)
        .encode(
            x=alt.X("x:Q", title=None, axis=alt.Axis(tickCount=3, format="d"), scale=alt.Scale(nice=False)),
            y=alt.Y("y:Q", title=None, axis=alt.Axis(tickCount=4), scale=alt.Scale(zero=False)),
            color=alt.Color("who:N", legend=None, scale=alt.Scale(domain=["setting", "dense"], range=[ACCENT, MUTED])),
            strokeDash=alt.StrokeDash(
                "kind:N", legend=None, scale=alt.Scale(domain=["test", "train"], range=[[1, 0], [2, 3]])
            ),
            detail=alt.Detail("line:N"),
        )
        .properties(width=150, height=110)
        .facet(facet=alt.Facet("panel:N", title=None, sort=None), columns=5)
    )
    return _spec(chart)


def histograms() -> dict[str, Any]:
    """Scores from epoch to epoch, one panel a layer: the darker, the larger the share of the weights.

    Data: `cells` (panel, from, to, low, high, share).
    """
    alt = load_altair()
    chart = (
        alt.Chart(alt.NamedData("cells"))
        .mark_rect(color=ACCENT, clip=True)
        .encode(
            x=alt.X(
                "from:Q", title=None, axis=alt.Axis(tickCount=3, format="d"), scale=alt.Scale(nice=False, zero=False)
            ),
            x2="to:Q",
            y=alt.Y("low:Q", title="score", axis=alt.Axis(tickCount=5), scale=alt.Scale(nice=False, zero=False)),
            y2="high:Q",
            opacity=alt.Opacity("share:Q", legend=None, scale=alt.Scale(type="sqrt", range=[0, 1])),
        )
        .properties(width=200, height=150)
        .facet(facet=alt.Facet("panel:N", title=None, sort=None), columns=3)
        .resolve_scale(y="independent", opacity="independent")
    )
    return _spec(chart)


def in_print(value: Any) -> Any:
    """A specification with plain colours, for figures that stand alone."""
    if isinstance(value, dict):
        return {key: in_print(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [in_print(entry) for entry in value]
    return _PRINT.get(value, value) if isinstance(value, str) else value


def _spec(chart: Any) -> dict[str, Any]:
    """What altair checked, without its address of the schema and its own theme."""
    spec: dict[str, Any] = chart.to_dict()
    del spec["$schema"]
    spec.pop("config", None)
    return spec
