"""``supermask search``: try settings of an experiment, and tell which are best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supermask.cli.options import (
    AsJson,
    AtOnce,
    Checkpoint,
    DataDir,
    Device,
    Download,
    Executor,
    Experiment,
    Out,
    Settings,
    Space,
    Store,
    Threads,
    Trials,
    With,
    Workers,
)
from supermask.cli.tracking import Track


def search(
    experiment: Experiment,
    settings: Settings = None,
    space: Space = None,
    trials: Trials = None,
    at_once: AtOnce = 4,
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
    """Search settings of an experiment for held-out accuracy, bytes and latency.

    Trials are ordinary runs. The same command goes on where it was stopped, and never repeats a finished run.
    """
    from supermask.cli.searching import print_trials, read_space
    from supermask.cli.training import train
    from supermask.lab.load import load_experiment
    from supermask.lab.search import search as search_for

    loaded = load_experiment(experiment, settings=settings or ())
    how: dict[str, Any] = {"device": device, "data_dir": data_dir, "download": download, "as_json": as_json}
    how |= {"workers": workers, "executor": executor, "options": options or (), "track": track or (), "store": store}
    how |= {"threads": threads, "checkpoint_seconds": checkpoint_seconds}
    found = search_for(
        loaded,
        out=out,
        train=lambda wanted, runs: train(wanted, runs, out, **how),
        space=None if space is None else read_space(space),
        trials=trials,
        at_once=at_once,
    )
    print_trials(found, loaded.name, out / loaded.name, as_json=as_json)
