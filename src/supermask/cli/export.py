"""``supermask export``: a plain model in a format of other programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from supermask.cli.options import AsJson, DataDir, Input, Model, Place, Weights

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="Ends in .onnx, .pt2 (torch.export) or .safetensors (dense).")
]
TwoBit = Annotated[
    int | None,
    typer.Option(
        "--two-bit",
        min=1,
        metavar="BATCH",
        help="ONNX: large linear layers in two bits, their inputs rounded to 8, where that is faster at this batch size.",
    ),
]
Examples = Annotated[int, typer.Option("--examples", min=1, help="Inputs that the file and the model are compared on.")]
Batch = Annotated[
    int | None, typer.Option("--fixed-batch", min=1, help="Only this batch size, for models that cannot do otherwise.")
]


def export(
    place: Place,
    file: File,
    model: Model = None,
    weights: Weights = None,
    input_shape: Input = None,
    two_bit: TwoBit = None,
    examples: Examples = 128,
    fixed_batch: Batch = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a run, a packed file or a model as ONNX, a program of torch.export, or a dense checkpoint with its zeros.

    The file is read back and its outputs are compared with the model's, on test data where it is a run whose data is here.
    """
    from supermask.cli.artefact import example_inputs, parse_shape
    from supermask.cli.output import print_json, print_text
    from supermask.deploy import export as write
    from supermask.lab.artefact import load_artefact

    artefact = load_artefact(place, model=model, weights=weights, input_shape=parse_shape(input_shape))
    example, source = None, "no example was needed"
    if file.suffix != ".safetensors":
        example, source = example_inputs(artefact, fixed_batch or examples, data_dir)
    report = write(artefact.model, file, example=example, any_batch=fixed_batch is None, two_bit=two_bit)
    if as_json:
        print_json({"schema": 1, **asdict(report), "path": str(report.path), "compared_on": source})
        return
    batch = "any batch size" if report.batch is None else f"batches of {report.batch}"
    lines = [f"{report.path}: {report.format}, {report.bytes:,} bytes, {batch}"]
    if example is not None:
        lines.append(
            f"largest difference of an output {report.max_difference:.3g}, equal predictions {100 * report.agreement:.2f} % "
            f"({report.examples} examples: {source})"
        )
    lines += [f"{name}: two bits, {layer.speedup:.2f} times as fast" for name, layer in report.layers.items()]
    lines += [f"{name}: stays float32, {reason}" for name, reason in report.kept.items()]
    print_text("\n".join(lines))
