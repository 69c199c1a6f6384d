"""``supermask compare``: two finished runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supermask.cli.options import AsJson, Out
from supermask.errors import ConfigError

Run = Annotated[str, typer.Argument(help="A run's folder, or its id (or how it begins) below --out.", metavar="RUN")]


def compare(first: Run, second: Run, out: Out = Path("runs"), as_json: AsJson = False) -> None:
    """Compare two finished runs: settings, results, layers and masks, and the test examples they judge differently."""
    from supermask.cli.output import print_grids, print_json
    from supermask.report.pair import Side, grids
    from supermask.report.pair import compare as side_by_side

    found = side_by_side(Side.read(_find(first, out)), Side.read(_find(second, out)))
    if as_json:
        print_json(found)
    else:
        print_grids(*grids(found))


def _find(run: str, out: Path) -> Path:
    """The folder of a run.

    Raises:
        ConfigError: There is none, or several ids begin like this.
    """
    if Path(run).is_dir():
        return Path(run)
    known = sorted(path.parent for path in out.rglob("spec.json")) if out.is_dir() else []
    found = [path for path in known if path.name.startswith(run)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(
            f"{run!r} is neither a run's folder nor the id of one below {out}; `supermask plan` lists ids"
        )
    some = ", ".join([*map(str, found[:4]), *["..."] * (len(found) > 4)])
    raise ConfigError(f"{len(found)} runs below {out} begin with {run!r} ({some}): name one by its folder")
