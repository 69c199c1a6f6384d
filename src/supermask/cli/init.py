"""``supermask init``: the initial weights and scores of a run, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supermask.cli import complete
from supermask.cli.options import AsJson
from supermask.errors import ConfigError

Model = Annotated[
    str,
    typer.Argument(
        help="A model by name, or package.module:function.", metavar="MODEL", autocompletion=complete.models
    ),
]
MethodName = Annotated[str, typer.Option("--method", help="A method by name.", autocompletion=complete.methods)]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The seed of the run that would draw the same.")]
Weights = Annotated[Path, typer.Option("--out", help="Initial weights: a .safetensors or .npz file.")]
Scores = Annotated[Path | None, typer.Option("--scores", help="Initial scores, for methods that learn scores.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="As in a file: method.threshold=0.02, model.width=2, init.rule=he."
    ),
]


def init(
    model: Model,
    method: MethodName,
    seed: Seed,
    out: Weights,
    scores: Scores = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Write the weights and scores that a run with this seed starts from.

    In an experiment, init: {weights: FILE, scores: FILE} starts every run from them.
    """
    from supermask.cli.output import print_json
    from supermask.cli.prepare import initial_state
    from supermask.core.arrays import save_arrays

    sparsifier = initial_state(model, method, seed, settings or [])
    has_scores = all(hasattr(target.parametrization, "relative_score") for target in sparsifier.targets)
    if scores is not None and not has_scores:
        raise ConfigError(f"--scores: {method} learns no scores; leave the option out")
    about = {"model": model, "method": method, "seed": str(seed)}
    save_arrays(out, {target.name: target.dense for target in sparsifier.targets}, about)
    if scores is not None:
        save_arrays(scores, {target.name: target.score for target in sparsifier.targets}, about)
    targets = [{"name": target.name, "shape": list(target.shape)} for target in sparsifier.targets]
    if as_json:
        files = {"weights": str(out), "scores": None if scores is None else str(scores)}
        print_json({"schema": 1, "model": model, "method": method, "seed": seed, **files, "targets": targets})
        return
    for kind, path in (("weights", out), ("scores", scores)):
        if path is not None:
            typer.echo(f"{kind} of {len(targets)} tensors: {path}")
    if has_scores and scores is None:
        typer.echo("The scores were not written; --scores FILE writes them, otherwise the seed draws them.")
