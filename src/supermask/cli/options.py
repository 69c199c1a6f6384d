"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supermask.cli import complete

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead; docs/json.md has the schema.")]
Experiment = Annotated[
    str,
    typer.Argument(
        help="A YAML file, or the name of an experiment that ships with the package.",
        metavar="EXPERIMENT",
        autocompletion=complete.experiments,
    ),
]
MaybeExperiment = Annotated[
    str | None,
    typer.Argument(
        help="A YAML file, or the name of an experiment that ships. Without it: what ships.",
        metavar="NAME",
        autocompletion=complete.experiments,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the file: train.epochs=3. May be repeated."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of all results.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Searched first for data sets, before $SUPERMASK_DATA and the cache.")
]
