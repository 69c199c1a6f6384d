"""``supermask reproduce``: the tables of the papers, ours beside the published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supermask.cli.options import AsJson, Checkpoint, DataDir, Device, Download, Out, Settings, Table, Threads, Workers
from supermask.errors import ConfigError

List = Annotated[bool, typer.Option("--list", help="List every table and how far it is.")]
Fast = Annotated[
    bool, typer.Option("--fast", help="Few images, epochs and one seed, in a results folder of their own.")
]


def reproduce(
    table: Table = None,
    list_all: List = False,
    fast: Fast = False,
    settings: Settings = None,
    out: Out = Path("runs"),
    workers: Workers = None,
    threads: Threads = 1,
    device: Device = "cpu",
    data_dir: DataDir = None,
    download: Download = False,
    checkpoint_seconds: Checkpoint = 60.0,
    as_json: AsJson = False,
) -> None:
    """Reproduce a table of a paper: train what is missing of it, and print ours beside the published numbers.

    --fast does the same with few images and epochs: it shows that the table works, not what its numbers are.
    """
    from supermask.cli.prepare import resolve_device
    from supermask.cli.reproduction import make_plan, print_tables, print_without_runs
    from supermask.cli.training import train

    if list_all or table is None:
        if table is not None or settings or fast:
            raise ConfigError("--list shows all tables: leave out the table, --fast and --set; or leave out --list")
        print_tables(out, as_json=as_json)
        return
    plan = make_plan(table, settings or (), out, data_dir, fast=fast)
    if not plan.needed:
        print_without_runs(plan, as_json=as_json)
        return
    device = resolve_device(device)
    plan.print(workers=workers, device=device, as_json=as_json)
    outcome = train(
        plan.experiment,
        plan.specs,
        plan.out,
        device=device,
        data_dir=data_dir,
        download=download,
        as_json=as_json,
        workers=workers,
        threads=threads,
        checkpoint_seconds=checkpoint_seconds,
    )
    plan.print_table(outcome, as_json=as_json)
    if outcome.failed:
        raise typer.Exit(1)
