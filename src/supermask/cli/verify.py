"""``supermask verify``: is every form of a network the same network?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supermask.cli.options import AsJson, DataDir, Input, Model, Place, Weights

Against = Annotated[
    str | None,
    typer.Option("--against", metavar="RUN", help="Compare a packed file with the run that it was made from."),
]
Exported = Annotated[
    list[Path] | None,
    typer.Option("--exported", metavar="FILE", help="Also compare an .onnx or .pt2 file. May be repeated."),
]
Examples = Annotated[int, typer.Option("--examples", min=1, help="Test examples at most; by default all.")]
Write = Annotated[bool, typer.Option("--write/--no-write", help="Write the certificate into the packed file.")]


def verify(
    place: Place,
    against: Against = None,
    exported: Exported = None,
    model: Model = None,
    weights: Weights = None,
    input_shape: Input = None,
    examples: Examples = 10_000,
    write: Write = True,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Run a network masked, finalized, packed, compiled and exported on the same data and compare the outputs.

    Exit code 1 if a form differs. The certificate is written into the packed file.
    """
    from supermask.cli.artefact import example_inputs, parse_shape
    from supermask.cli.output import print_json, print_text
    from supermask.deploy import verify as compare
    from supermask.lab.artefact import load_artefact, with_masks

    shape = parse_shape(input_shape)
    found = load_artefact(place, model=model, weights=weights, input_shape=shape)
    origin = found if against is None else load_artefact(against, model=model, input_shape=shape)
    x, source = example_inputs(origin, examples, data_dir)
    masked = None if origin.masks is None else with_masks(origin.model, origin.masks)
    certificate = compare(
        origin.model, x, masked=masked, packed=found.packed, exported=exported or (), data=source, write=write
    )
    if as_json:
        print_json({"schema": 1, "certificate": certificate.to_dict()})
    else:
        print_text(str(certificate))
    if not certificate.holds:
        raise typer.Exit(1)
