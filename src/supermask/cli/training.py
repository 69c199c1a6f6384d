"""Training the runs of an experiment under the eyes of a person: what ``run`` and ``reproduce`` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from supermask.errors import RunError

if TYPE_CHECKING:
    from supermask.lab.executors.protocol import Executor
    from supermask.lab.load import Experiment
    from supermask.lab.plan import RunSpec
    from supermask.lab.run import Outcome


def train(
    experiment: Experiment,
    specs: list[RunSpec],
    out: Path,
    *,
    device: str,
    data_dir: Path | None,
    download: bool,
    as_json: bool,
    workers: int | None,
    executor: str = "local",
    options: Sequence[str] = (),
    track: Sequence[str] = (),
    **how: Any,
) -> Outcome:
    """Train what is missing, and show the progress.

    Args:
        experiment: What to run.
        specs: Its runs.
        out: Folder of all results.
        device: Where to train; "auto" is cuda where there is one, for executors that train here.
        data_dir: Searched first for data sets.
        download: Whether missing data sets may be downloaded.
        as_json: Keep stdout free.
        workers: Runs at once.
        executor: Name of the way to get the runs done.
        options: Its options, `KEY=VALUE`.
        track: Trackers to tell, `NAME[:TARGET]`.
        **how: Given to :func:`supermask.lab.run.run_experiment` as it is.

    Raises:
        ConfigError: The executor or one of its options is unknown.
        MissingDataError: A data set is not on this machine.
        RunError: The device is not there, or nothing can be started.
        MissingExtraError: The package of the executor or of a tracker is missing.
        Exit: Ctrl-C; or the end, in processes of torchrun beside the first.
    """
    from supermask.cli.live import progress
    from supermask.cli.output import is_terminal, print_error
    from supermask.cli.prepare import require_data
    from supermask.cli.tracking import tracked
    from supermask.lab.distributed import is_first
    from supermask.lab.run import run_experiment

    made, device = choose(executor, options, workers=workers, device=device)
    if made.here and not download:
        require_data(specs, out, data_dir)
    where: dict[str, Any] = {"out": out, "executor": made, "device": device, "data_dir": data_dir, "download": download}
    try:
        if not is_first():  # of the processes of torchrun: it tells
            run_experiment(experiment, **where, **how)
            raise typer.Exit
        with (
            progress(specs, terminal=is_terminal() and not as_json, err=as_json) as show,
            tracked(track, specs, show) as tell,
        ):
            return run_experiment(
                experiment,
                **where,
                on_event=tell,
                on_stop=lambda: typer.echo("stopping: each run takes a checkpoint; Ctrl-C again kills them", err=True),
                on_choice=lambda choice: typer.echo(choice.sentence(), err=True),
                **how,
            )
    except KeyboardInterrupt:
        print_error(made.stopped)
        raise typer.Exit(130) from None


def choose(name: str, options: Sequence[str], *, workers: int | None, device: str) -> tuple[Executor, str]:
    """The way to get the runs done, and the device that they train on there.

    Args:
        name: Of the executor.
        options: Its options, `KEY=VALUE`.
        workers: Runs at once.
        device: Where to train; "auto" is cuda where there is one, for executors that train here.

    Raises:
        ConfigError: The executor or one of its options is unknown.
        RunError: A number is out of range, or the device is not there.
    """
    from supermask.cli.prepare import resolve_device
    from supermask.lab.executors.choose import make_executor

    made = make_executor(name, options, workers=workers)
    if made.here:
        return made, resolve_device(device)
    if device == "auto":
        raise RunError(f"--device auto looks at this machine, and {name} trains on others; say --device cpu or cuda")
    return made, device
