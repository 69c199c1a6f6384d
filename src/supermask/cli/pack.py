"""``supermask pack``: a run or a model becomes a small file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from supermask.cli.options import AsJson, DataDir, Input, Model, Place, Weights

if TYPE_CHECKING:
    from supermask.deploy.packing import PackReport
    from supermask.report.grid import Grid

Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write; ends in .safetensors.")]
Values = Annotated[
    str, typer.Option("--values", metavar="KIND", help="Weights of many magnitudes: exact, float16, or int8 (rounded).")
]


def pack(
    place: Place,
    out: Out = Path("model.smk.safetensors"),
    values: Values = "exact",
    model: Model = None,
    weights: Weights = None,
    input_shape: Input = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a run, a model or a state dict to a small file, which `supermask unpack` turns back into a state dict.

    Weights that are zero take no room, signs that follow from the run's seed neither. docs/packed-format.md is the format.
    """
    from supermask.cli.artefact import parse_shape
    from supermask.cli.output import print_grids, print_json
    from supermask.lab.packing import pack_place

    done = pack_place(
        place,
        out,
        model=model,
        weights=weights,
        input_shape=parse_shape(input_shape),
        values=values,  # type: ignore[arg-type]  # pack() says which there are
        data_dir=data_dir,
    )
    report = done.report
    if as_json:
        totals = {
            key: getattr(report, key) for key in ("size", "blob_bytes", "description_bytes", "dense_bytes", "ratio")
        }
        layers = [{**asdict(layer), "shape": list(layer.shape)} for layer in report.layers]
        print_json({"schema": 1, "path": str(report.path), **totals, "layers": layers, "notes": list(done.notes)})
        return
    total = (
        f"{report.path}: {report.size:,} bytes, {report.ratio:,.1f} times smaller than {report.dense_bytes:,} (weights "
        f"{report.blob_bytes:,}, description {report.description_bytes:,})"
    )
    rounded = [f"rounded: values differ by up to {report.largest_error:.3g}"] if report.largest_error else []
    print_grids([_grid(report)], [total, *rounded, *done.notes])


def _grid(report: PackReport) -> Grid:
    from supermask.report.grid import Grid

    headers = ("tensor", "shape", "coding", "remaining", "dense bytes", "packed bytes")
    rows = tuple(
        (
            layer.name,
            "x".join(map(str, layer.shape)),
            layer.coding,
            f"{layer.remaining:,}",
            f"{layer.dense_bytes:,}",
            f"{layer.packed_bytes:,}",
        )
        for layer in report.layers
    )
    return Grid("", headers, rows, frozenset({0, 1, 2}))
