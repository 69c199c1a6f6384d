"""``supermask check``: the conformance suite on one method."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from supermask.cli import complete
from supermask.cli.options import AsJson

if TYPE_CHECKING:
    from supermask.core.checks import Result
    from supermask.core.method import Method

What = Annotated[
    str,
    typer.Argument(
        help="A registered method, or a Python file that registers some.",
        metavar="NAME|FILE",
        autocompletion=complete.methods_and_files,
    ),
]
_WORDS = {"pass": "pass", "skipped": "–", "refused": "refused", "fail": "FAILED"}
_ORDER = list(_WORDS)


def check(what: What, as_json: AsJson = False) -> None:
    """Run the conformance suite on a method: does it keep to what every method must keep to?"""
    from supermask.cli.output import print_grids, print_json
    from supermask.core.checks import check_method
    from supermask.report.grid import Grid

    results = {cls.name: _merge(check_method(cls).results) for cls in _find(what)}
    failed = sum(result["status"] == "fail" for merged in results.values() for result in merged)
    if as_json:
        reports = [{"method": name, "results": merged} for name, merged in results.items()]
        print_json({"schema": 1, "passed": not failed, "methods": reports})
    for name, merged in results.items() if not as_json else ():
        models = list(dict.fromkeys(result["model"] for result in merged))
        status = {(result["check"], result["model"]): _WORDS[result["status"]] for result in merged}
        rows = tuple((c, *(status[c, model] for model in models)) for c in dict.fromkeys(r["check"] for r in merged))
        print_grids([Grid(name, ("check", *models), rows, frozenset(range(len(models) + 1)))], _reasons(merged))
    if not as_json:
        typer.echo(f"\n{failed} failed" if failed else f"\n{', '.join(results)}: every check holds")
    if failed:
        raise typer.Exit(1)


def _find(what: str) -> list[type[Method]]:
    from supermask.core.registry import load_plugin, method_class

    return load_plugin(what) if what.endswith(".py") or Path(what).is_file() else [method_class(what)]


def _merge(results: Iterable[Result]) -> list[dict[str, Any]]:
    """One result a check and model, the worst of the method's examples."""
    worst: dict[tuple[str, str], Result] = {}
    for result in results:
        known = worst.setdefault((result.check, result.model), result)
        if _ORDER.index(result.status) > _ORDER.index(known.status):
            worst[result.check, result.model] = result
    return [{"check": r.check, "model": r.model, "status": r.status, "detail": r.detail} for r in worst.values()]


def _reasons(merged: list[dict[str, Any]]) -> list[str]:
    refused = dict.fromkeys(f"refused on {r['model']}: {r['detail']}" for r in merged if r["status"] == "refused")
    return [*refused, *(f"FAILED {r['check']} on {r['model']}: {r['detail']}" for r in merged if r["status"] == "fail")]
