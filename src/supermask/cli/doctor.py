"""``supermask doctor``: what is installed and found, and what is wrong with the way out."""

from __future__ import annotations

from pathlib import Path

import typer

from supermask.cli.options import AsJson, DataDir, Out


def doctor(out: Out = Path("runs"), data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Look at versions, devices, threads, data sets and the results folder; exit code 1 if something is wrong."""
    from supermask.cli.findings import examine
    from supermask.cli.output import print_grids, print_json
    from supermask.report.grid import Grid

    findings = examine(out, data_dir)
    wrong = [finding for finding in findings if finding.problem]
    if as_json:
        entries = [{"name": f.name, "value": f.value, "problem": f.problem, "hint": f.hint} for f in findings]
        print_json({"schema": 1, "healthy": not wrong, "findings": entries})
    else:
        rows = tuple((f.name, f.value, "WRONG" if f.problem else "") for f in findings)
        notes = [f"{f.name}: {f.hint}" for f in findings if f.hint and not f.problem]
        print_grids([Grid("", ("what", "value", ""), rows, frozenset({0, 1, 2}))], notes)
        for finding in wrong:
            typer.secho(f"WRONG {finding.name}: {finding.problem}", fg=typer.colors.RED)
        typer.echo(f"\n{len(wrong)} wrong" if wrong else "\nnothing is wrong")
    if wrong:
        raise typer.Exit(1)
