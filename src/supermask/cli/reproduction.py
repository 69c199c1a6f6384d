"""What ``supermask reproduce`` prints and draws: the list of the tables, a plan, one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from supermask.cli.collect import Collected, collect_planned
from supermask.cli.costs import cost_table
from supermask.cli.outcome import print_outcome
from supermask.cli.output import print_document, print_grids, print_json, write_figures
from supermask.cli.progress import UNKNOWN
from supermask.cli.training import train
from supermask.errors import ConfigError
from supermask.lab.cost import Cost
from supermask.lab.distributed import is_first
from supermask.lab.load import Experiment, load_experiment
from supermask.lab.plan import RunSpec, expand
from supermask.lab.reproductions import (
    Progress,
    State,
    fast_file,
    fast_folder,
    find_table,
    make_fast,
    planned,
    progress,
    tables,
)
from supermask.lab.run import Outcome
from supermask.report.grid import Grid
from supermask.report.table import build, render


@dataclass(frozen=True)
class Plan:
    """A table that is to be reproduced.

    Attributes:
        table: Its id.
        experiment: The whole or the reduced one.
        specs: Its runs.
        out: Where their results go.
        needed: Whether the table is made of their results.
        reduction: What was reduced; empty for a whole table.
        file: The reduced experiment.
    """

    table: str
    experiment: Experiment
    specs: list[RunSpec]
    out: Path
    needed: bool
    reduction: str = ""
    file: Path | None = None

    def print(self, *, workers: int | None, device: str | None, as_json: bool) -> None:
        """Say what there is and what is left.

        Args:
            workers: Runs at once.
            device: Where to train; None: on other machines, whose speed is not known here.
            as_json: Keep stdout free.
        """
        if not is_first():  # of the processes of torchrun: it tells
            return
        there = progress(self.specs, self.out)
        say = [f"{self.table}: {there.runs} runs, {there.done} done, {there.runs - there.done} to train"]
        if self.reduction:
            say = [f"{self.reduction}.", f"Its settings: {self.file}", *say]
        typer.echo("\n".join(say), err=as_json)
        if there.done < there.runs and device is not None and not as_json:
            cost = Cost.of(self.specs, self.out, workers=workers, device=device)
            if cost.seconds is not None:  # otherwise `supermask plan --measure` would have to find out first
                grid, notes = cost_table(cost)
                print_grids([grid], notes)

    def train(self, **how: Any) -> Outcome:
        """Train what is missing, see :func:`supermask.cli.training.train`."""
        return train(self.experiment, self.specs, self.out, **how)

    def print_table(self, outcome: Outcome, *, as_json: bool) -> None:
        """Print ours beside what was published, and draw what was recorded of the channels."""
        about = {"table": self.table, "fast": bool(self.reduction)}
        print_outcome(
            outcome, self.experiment, self.specs, self.out, as_json=as_json, remark=self.reduction, about=about
        )
        found = Collected()
        collect_planned(self.experiment, self.specs, self.out, found)
        if any((folder / "channels.safetensors").exists() for folder, _ in found.results):
            folder = self.out / self.experiment.name / "figures" / self.table.rpartition("/")[2]
            write_figures(folder, found.figures(found.content().rows))


def make_plan(table: str, settings: Sequence[str], out: Path, data_dir: Path | None, *, fast: bool) -> Plan:
    """Look a table up, and reduce it where that is asked for; tables that need no runs are the same either way.

    Raises:
        ConfigError: There is no such table, or a setting is wrong.
    """
    entry = find_table(table)
    if entry.kind != "results":
        experiment = load_experiment(table, settings=settings)
        return Plan(table, experiment, expand(experiment), out, needed=False)
    if not fast:
        experiment = load_experiment(table, settings=settings)
        return Plan(table, experiment, planned(experiment), out, needed=True)
    file, sentence = make_fast(table, out, settings=settings, root=data_dir)
    experiment = load_experiment(file)
    return Plan(table, experiment, planned(experiment), fast_folder(out), needed=True, reduction=sentence, file=file)


def print_without_runs(plan: Plan, *, as_json: bool) -> None:
    """Print a table of settings or of literature."""
    found = Collected()
    collect_planned(plan.experiment, plan.specs, plan.out, found)
    found.results.clear()
    found.failures.clear()
    found.missing.clear()
    content = found.content()
    if as_json:
        head = {"schema": 1, "table": plan.table, "fast": False}
        head |= {"experiment": plan.experiment.name, "folder": str(plan.out / plan.experiment.name)}
        print_json(head | {"runs": [], "report": json.loads(render(content, "json"))})
    else:
        print_document(build(content))


def refuse_beside_list(table: str | None, *, given: bool, list_all: bool) -> None:
    """Refuse what the list of tables cannot use.

    Args:
        table: The table that was named.
        given: Whether anything says how to train one.
        list_all: Whether the list was asked for.

    Raises:
        ConfigError: There is such a thing.
    """
    if not list_all and given:
        raise ConfigError("name a table; `supermask reproduce --list` shows all of them")
    if table is not None or given:
        raise ConfigError("--list shows all tables: leave out the table, --fast and --set; or leave out --list")


def print_tables(out: Path, *, as_json: bool) -> None:
    """List every table, and how far it is."""
    entries = [_entry(shipped.id, shipped.title, shipped.kind, out) for shipped in tables()]
    if as_json:
        print_json({"schema": 1, "tables": entries})
        return
    rows = tuple(
        (
            entry["table"],
            entry["title"],
            entry["state"],
            f"{entry['done']}/{entry['runs']}" if entry["runs"] else UNKNOWN,
            entry["fast"],
        )
        for entry in entries
    )
    headers = ("table", "what it shows", "state", "runs done", "--fast")
    notes = [
        "`supermask reproduce TABLE` trains what is missing and prints ours beside the published numbers; --fast does it",
        f"with few images and epochs, in {fast_folder(out)}.",
        "Tables of settings and of literature are printed without any runs.",
    ]
    failed = sum(entry["failed"] for entry in entries)
    notes += [f"{failed} runs failed at their last attempt; the next one tries them again."] if failed else []
    print_grids([Grid(f"{len(entries)} tables", headers, rows, frozenset({0, 1, 2, 4}))], [" ".join(notes)])


def _entry(table: str, title: str, kind: str, out: Path) -> dict[str, Any]:
    """One line of the list, with the keys of docs/json.md."""
    whole = progress(planned(load_experiment(table)), out) if kind == "results" else Progress(0, 0, 0)
    file = fast_file(table, out)
    fast: State = whole.state if kind != "results" else "not run"
    if kind == "results" and file.exists():
        fast = _fast_state(file, out)
    return {
        "table": table,
        "title": title,
        "kind": kind,
        "state": whole.state,
        "runs": whole.runs,
        "done": whole.done,
        "failed": whole.failed,
        "fast": fast,
    }


def _fast_state(file: Path, out: Path) -> State:
    """How far the reduced table is, as its file says; "not run" where its images are gone."""
    try:
        return progress(planned(load_experiment(file)), fast_folder(out)).state
    except ConfigError:
        return "not run"
