"""The tables of the papers that this package reproduces, and how far each one is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import yaml

from supermask.core.arrays import atomic_write
from supermask.errors import ConfigError
from supermask.lab.files import require_writable
from supermask.lab.load import Experiment, Shipped, index, load_experiment
from supermask.lab.plan import RunSpec, expand
from supermask.lab.reduced import reduce
from supermask.lab.store import run_folder
from supermask.lab.validate import suggest

State = Literal["no runs needed", "not run", "partly", "done"]

#: Papers whose tables are all here, in this order.
PAPERS: Final = ("signed-supermask", "dessilbi", "maskconvnet", "snip")
_TABLE: Final = re.compile(r"[\w-]+/(table-\d+|readme-[\w-]+)")


@dataclass(frozen=True)
class Progress:
    """How far the runs of a table are.

    Attributes:
        runs: How many there are; 0 for tables of settings and of literature, which are printed without any.
        done: How many are finished.
        failed: How many ended in an error at their last attempt.
    """

    runs: int
    done: int
    failed: int

    @property
    def state(self) -> State:
        """In words."""
        if not self.runs:
            return "no runs needed"
        return "not run" if not self.done else "done" if self.done == self.runs else "partly"


def tables() -> list[Shipped]:
    """Every table, paper by paper."""
    found = [entry for entry in index() if entry.paper in PAPERS and _TABLE.fullmatch(entry.id)]
    return sorted(found, key=lambda entry: PAPERS.index(str(entry.paper)))


def find_table(name: str) -> Shipped:
    """A table by its id.

    Raises:
        ConfigError: There is none.
    """
    known = {entry.id: entry for entry in tables()}
    if name not in known:
        raise ConfigError(f"no table is called {name!r}; {suggest(name, known)} (`supermask reproduce --list` has all)")
    return known[name]


def planned(experiment: Experiment) -> list[RunSpec]:
    """The runs that a table needs: those of a table of results."""
    return expand(experiment) if experiment.table.kind == "results" else []


def progress(specs: Sequence[RunSpec], out: Path) -> Progress:
    """Count the runs of a table in the results folder."""
    folders = [run_folder(out, spec.experiment, spec.id) for spec in specs]
    left = [folder for folder in folders if not folder.result.exists()]
    return Progress(len(folders), len(folders) - len(left), sum(folder.failed.exists() for folder in left))


def fast_folder(out: Path) -> Path:
    """Where the results of reduced tables go: beside those of whole ones, so that no report on a folder has both."""
    named = out if out.name not in ("", "..") else out.resolve()
    return named.with_name(f"{named.name}-fast")


def fast_file(table: str, out: Path) -> Path:
    """The experiment file of a reduced table."""
    return fast_folder(out) / "tables" / f"{table.replace('/', '-')}.yaml"


def make_fast(table: str, out: Path, *, settings: Sequence[str] = (), root: Path | None = None) -> tuple[Path, str]:
    """Write the experiment file of a reduced table, see :mod:`supermask.lab.reduced`.

    Args:
        table: Its id.
        out: Results folder of whole tables.
        settings: ``key=value`` strings that change the table before it is reduced.
        root: Searched first for data sets.

    Returns:
        The file, and a sentence on what was reduced.

    Raises:
        RunError: Its folder cannot be written.
    """
    file = fast_file(table, out)
    require_writable(file.parent)
    reduced = reduce(load_experiment(table, settings=settings), file, root=root)
    text = yaml.safe_dump(reduced.raw, sort_keys=False, allow_unicode=True, width=120)
    content = f"# {table}. {reduced.sentence()}.\n# Made by `supermask reproduce {table} --fast`.\n{text}".encode()
    if not file.exists() or file.read_bytes() != content:
        atomic_write(file, content)
    return file, reduced.sentence()
