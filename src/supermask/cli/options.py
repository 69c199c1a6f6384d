"""What verbs share: options, and a verb of verbs with a default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

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
Where = Annotated[
    list[str],
    typer.Argument(
        help="Folders with runs, or experiments (file or name).",
        metavar="WHERE...",
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
Place = Annotated[
    str,
    typer.Argument(
        help="A finished run's folder, a packed file, a model (conv2), or your own: package.module:function.",
        metavar="PLACE",
        autocompletion=complete.places,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODULE:FUNCTION", help="Makes the model of a run or a packed file that is your own."
    ),
]
Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="For a model: its state dict, .npz or .safetensors.")
]
Input = Annotated[
    str | None, typer.Option("--input", metavar="3,32,32", help="The shape of one input, where it is not known.")
]


class ShowByDefault(TyperGroup):
    """`data` and `data NAME` mean `data show` and `data show NAME`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default verb in where none is given."""
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["show", *args]
        return super().parse_args(ctx, args)
