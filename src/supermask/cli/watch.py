"""``supermask watch``: the runs of an experiment while other processes train them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from supermask.cli.options import AsJson, Experiment, Out, Settings

Once = Annotated[bool, typer.Option("--once", help="Print how the runs are now, and end.")]


def watch(
    experiment: Experiment,
    settings: Settings = None,
    out: Out = Path("runs"),
    once: Once = False,
    as_json: AsJson = False,
) -> None:
    """Watch the runs of an experiment: how far they are, how fast, when they end, and why some failed.

    It only reads the run folders, so it can be started, left by Ctrl-C and started again at any time, from any machine
    that sees them.
    """
    from rich.console import Console

    from supermask.cli.output import print_json
    from supermask.cli.watching import Watch, follow_lines, follow_screen, print_once
    from supermask.lab.load import load_experiment
    from supermask.lab.observing import Observer
    from supermask.lab.plan import expand

    loaded = load_experiment(experiment, settings=settings or ())
    specs = expand(loaded)
    view = Watch(specs, out, Observer(specs, out))
    if as_json:
        view.look()
        print_json({"schema": 1, "experiment": loaded.name, "folder": str(out / loaded.name), "runs": view.to_json()})
        return
    if once or not specs:
        print_once(view)
        return
    console = Console()
    with contextlib.suppress(KeyboardInterrupt):
        (follow_screen if console.is_terminal and not console.is_dumb_terminal else follow_lines)(view)
