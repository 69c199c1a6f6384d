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
        help="Folders or stores (s3://...) with runs, or experiments (file or name).",
        metavar="WHERE...",
        autocompletion=complete.experiments,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the file: train.epochs=3. May be repeated."),
]
Store = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="Copy runs to s3://..., gs://..., file:///..., and resume from there."),
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
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Runs at once; by default one a core, on a GPU one; 0: no workers."),
]
Executor = Annotated[
    str,
    typer.Option(
        "--executor",
        help="Where the runs get done: local (this machine), shared (this machine and others on one folder), ray, slurm.",
        autocompletion=complete.executors,
    ),
]
With = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="KEY=VALUE", help="An option of the executor; docs/scale.md. May be repeated."),
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of each worker.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ..., or auto: cuda where there is one.")]
Download = Annotated[bool, typer.Option("--download", help="Download data sets that are missing.")]
Checkpoint = Annotated[float, typer.Option("--checkpoint-seconds", min=0, help="Time between checkpoints of a run.")]
Table = Annotated[
    str | None,
    typer.Argument(
        help="A table: signed-supermask/table-3. Without it: all of them.",
        metavar="PAPER/TABLE",
        autocompletion=complete.tables,
    ),
]
ListTables = Annotated[bool, typer.Option("--list", help="List every table and how far it is.")]
Fast = Annotated[
    bool, typer.Option("--fast", help="Few images, epochs and one seed, in a results folder of their own.")
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="text, markdown (or md), latex, csv or json.", autocompletion=complete.formats),
]
Spread = Annotated[str, typer.Option("--spread", help="quantiles: mean [5 %, 95 %]; std: mean ± standard deviation.")]
PerLayer = Annotated[
    bool, typer.Option("--per-layer", help="Also what remains of each layer, kept and inverted, and MACs.")
]
Best = Annotated[bool, typer.Option("--best", help="Also the accuracy of the best epoch (chosen on the test set).")]
Epochs = Annotated[
    str, typer.Option("--epoch", metavar="20,40,80", help="Also accuracy and remaining at these epochs.")
]
Rank = Annotated[bool, typer.Option("--rank", help="Also a ranking, and which rows cannot be told apart.")]
PathOf = Annotated[bool, typer.Option("--path", help="Also when weights entered, of methods that record it.")]
OutOrPage = Annotated[
    list[Path] | None,
    typer.Option(
        "--out", help="Folder of all results (runs); or FILE.html: write a page of charts and tables. May be repeated."
    ),
]
Figures = Annotated[
    Path | None,
    typer.Option("--figures", metavar="FOLDER", help="Also draw figures, as PDF, SVG and PNG files."),
]
Space = Annotated[
    Path | None,
    typer.Option("--space", metavar="FILE", help="YAML: the search section, where the experiment has none."),
]
Trials = Annotated[int | None, typer.Option("--trials", min=1, help="Settings to try in all, earlier ones included.")]
AtOnce = Annotated[int, typer.Option("--at-once", min=1, help="Settings proposed before their results are known.")]


class ShowByDefault(TyperGroup):
    """`data` and `data NAME` mean `data show` and `data show NAME`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default verb in where none is given."""
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["show", *args]
        return super().parse_args(ctx, args)
