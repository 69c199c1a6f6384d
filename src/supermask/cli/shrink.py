"""``supermask shrink``: channels that are zero are taken out of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from supermask.cli.options import AsJson, DataDir, Input, Model, Place, Weights

if TYPE_CHECKING:
    from supermask.deploy.shrinking import Shrunk

Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write; ends in .safetensors.")]
Examples = Annotated[
    int, typer.Option("--examples", min=1, help="Inputs that both models are compared on, and as many random ones.")
]
Tolerance = Annotated[float, typer.Option("--tolerance", min=0.0, help="Largest difference of an output.")]


def shrink(
    place: Place,
    out: Out = Path("model.shrunk.safetensors"),
    examples: Examples = 64,
    tolerance: Tolerance = 1e-5,
    model: Model = None,
    weights: Weights = None,
    input_shape: Input = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Take channels that are zero out of a run's network or a model; the smaller one gives the same outputs, which is checked.

    The file loads without pickle and without this package; docs/shrink.md says how.
    """
    from supermask.cli.artefact import example_inputs, parse_shape
    from supermask.cli.output import print_grids, print_json
    from supermask.deploy import shrink as take_out
    from supermask.deploy.shrunk_files import is_shrunk, save_shrunk
    from supermask.errors import ConfigError
    from supermask.lab.artefact import load_artefact
    from supermask.report.grid import Grid

    if is_shrunk(place):
        raise ConfigError(f"{place} is shrunk already; shrink the run or the model that it was made of")
    artefact = load_artefact(place, model=model, weights=weights, input_shape=parse_shape(input_shape))
    example, source = example_inputs(artefact, examples, data_dir)
    shrunk = take_out(artefact.model, example, tolerance=tolerance, examples=examples)
    described = None
    if artefact.architecture is not None:
        shape = None if artefact.input_shape is None else list(artefact.input_shape)
        described = {**artefact.architecture, "input_shape": shape}
    save_shrunk(shrunk.model, shrunk.patch, shrunk.certificate, out, architecture=described)
    if as_json:
        print_json(
            {"schema": 1, "path": str(out), "size": out.stat().st_size, **_counts(shrunk), "compared_on": source}
        )
        return
    rows = tuple((name, f"{change.before:,}", f"{change.after:,}") for name, change in shrunk.groups.items())
    grid = Grid("", ("channel group", "channels", "remain"), rows, frozenset({0}))
    nothing = ["no channel is zero: nothing was taken out"] if not shrunk.keeps else []
    totals = [f"parameters {shrunk.params}", f"multiply-accumulates {shrunk.macs or 'are not counted here'}"]
    print_grids([grid], [*nothing, *totals, f"{shrunk.certificate} ({source})", f"{out}: {out.stat().st_size:,} bytes"])


def _counts(shrunk: Shrunk) -> dict[str, object]:
    groups = {name: change._asdict() for name, change in shrunk.groups.items()}
    macs = None if shrunk.macs is None else shrunk.macs._asdict()
    return {
        "groups": groups,
        "params": shrunk.params._asdict(),
        "macs": macs,
        "certificate": shrunk.certificate.to_dict(),
    }
