"""``supermask run``: train what an experiment asks for and is not there yet."""

from __future__ import annotations

from pathlib import Path

import typer

from supermask.cli.options import (
    AsJson,
    Checkpoint,
    DataDir,
    Device,
    Download,
    Executor,
    Experiment,
    Out,
    Settings,
    Store,
    Threads,
    With,
    Workers,
)
from supermask.cli.tracking import Track


def run(
    experiment: Experiment,
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
    """Train the runs of an experiment that have no result yet, then compare all of them.

    The same command resumes what was interrupted and never repeats a finished run.
    """
    from supermask.cli.outcome import print_outcome
    from supermask.cli.training import train
    from supermask.lab.load import load_experiment
    from supermask.lab.plan import expand

    loaded = load_experiment(experiment, settings=settings or ())
    specs = expand(loaded)
    outcome = train(
        loaded,
        specs,
        out,
        device=device,
        data_dir=data_dir,
        download=download,
        as_json=as_json,
        track=track or (),
        workers=workers,
        executor=executor,
        options=options or (),
        threads=threads,
        checkpoint_seconds=checkpoint_seconds,
        store=store,
    )
    print_outcome(outcome, loaded, specs, out, as_json=as_json)
    if outcome.failed:
        raise typer.Exit(1)
