"""``supermask reproduce``: the tables of the papers, ours beside the published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from supermask.cli.options import (
    AsJson,
    Checkpoint,
    DataDir,
    Device,
    Download,
    Executor,
    Fast,
    ListTables,
    Out,
    Settings,
    Store,
    Table,
    Threads,
    With,
    Workers,
)
from supermask.cli.tracking import Track


def reproduce(
    table: Table = None,
    list_all: ListTables = False,
    fast: Fast = False,
    settings: Settings = None,
    out: Out = Path("runs"),
    workers: Workers = None,
    executor: Executor = "local",
    options: With = None,
    threads: Threads = 1,
    device: Device = "cpu",
    data_dir: DataDir = None,
    download: Download = False,
    checkpoint_seconds: Checkpoint = 60.0,
    track: Track = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Reproduce a table of a paper: train what is missing of it, and print ours beside the published numbers.

    --fast does the same with few images and epochs: it shows that the table works, not what its numbers are.
    """
    from supermask.cli.reproduction import make_plan, print_tables, print_without_runs, refuse_beside_list
    from supermask.cli.training import choose

    if list_all or table is None:
        refuse_beside_list(table, given=bool(settings or fast), list_all=list_all)
        print_tables(out, as_json=as_json)
        return
    plan = make_plan(table, settings or (), out, data_dir, fast=fast)
    if not plan.needed:
        print_without_runs(plan, as_json=as_json)
        return
    made, device = choose(executor, options or (), workers=workers, device=device)
    plan.print(workers=workers, device=device if made.here else None, as_json=as_json)
    how: dict[str, Any] = {"device": device, "data_dir": data_dir, "download": download, "as_json": as_json}
    how |= {"workers": workers, "executor": executor, "options": options or (), "track": track or (), "store": store}
    outcome = plan.train(threads=threads, checkpoint_seconds=checkpoint_seconds, **how)
    plan.print_table(outcome, as_json=as_json)
    if outcome.failed:
        raise typer.Exit(1)
