"""``supermask run``: train what an experiment asks for and is not there yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supermask.cli.options import AsJson, DataDir, Experiment, Out, Settings

Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Worker processes; by default one a core, on a GPU one; 0: none.")
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of each worker.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ..., or auto: cuda where there is one.")]
Download = Annotated[bool, typer.Option("--download", help="Download data sets that are missing.")]
Checkpoint = Annotated[float, typer.Option("--checkpoint-seconds", min=0, help="Time between checkpoints of a run.")]


def run(
    experiment: Experiment,
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
    """Train the runs of an experiment that have no result yet, then compare all of them.

    The same command resumes what was interrupted and never repeats a finished run.
    """
    from supermask.cli.live import progress
    from supermask.cli.outcome import print_outcome
    from supermask.cli.output import is_terminal, print_error
    from supermask.cli.prepare import require_data, resolve_device
    from supermask.lab.load import load_experiment
    from supermask.lab.plan import expand
    from supermask.lab.run import run_experiment

    loaded = load_experiment(experiment, settings=settings or ())
    specs = expand(loaded)
    device = resolve_device(device)
    if not download:
        require_data(specs, out, data_dir)
    try:
        with progress(specs, terminal=is_terminal() and not as_json, err=as_json) as show:
            outcome = run_experiment(
                loaded,
                out=out,
                workers=workers,
                threads=threads,
                device=device,
                data_dir=data_dir,
                checkpoint_seconds=checkpoint_seconds,
                download=download,
                on_event=show,
                on_stop=lambda: typer.echo("stopping: each run takes a checkpoint; Ctrl-C again kills them", err=True),
            )
    except KeyboardInterrupt:
        print_error("stopped; nothing is lost: the same command resumes the unfinished runs from their checkpoints")
        raise typer.Exit(130) from None
    print_outcome(outcome, loaded, specs, out, as_json=as_json)
    if outcome.failed:
        raise typer.Exit(1)
