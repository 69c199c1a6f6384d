"""``supermask inspect``: which channels of a network belong together, what they cost, and which can go."""

from __future__ import annotations

from typing import Annotated

import typer

from supermask.cli.options import AsJson, Input, Place

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the model: hidden=[512]. May be repeated."),
]


def inspect(place: Place, settings: Settings = None, input_shape: Input = None, as_json: AsJson = False) -> None:
    """Show the channel groups of a network: their parameters and multiply-accumulates, and why some must stay."""
    import torch

    from supermask.cli.artefact import parse_shape
    from supermask.cli.datasets import parse_options
    from supermask.cli.inspection import describe
    from supermask.cli.output import print_grids, print_json
    from supermask.core.tracing import find_structure
    from supermask.errors import ConfigError
    from supermask.lab.artefact import load_artefact
    from supermask.measure.macs import CONVENTION
    from supermask.report.grid import UNKNOWN, Grid

    artefact = load_artefact(place, input_shape=parse_shape(input_shape), options=parse_options(settings or []))
    if artefact.input_shape is None:
        raise ConfigError("the shape of one input is not known; say it: --input 3,32,32")
    found = describe(find_structure(artefact.model, torch.zeros(1, *artefact.input_shape)))
    if as_json:
        head = {"schema": 1, "model": artefact.name, "input_shape": list(artefact.input_shape)}
        print_json({**head, "convention": CONVENTION, **found})
        return

    def count(value: int | None) -> str:
        return UNKNOWN if value is None else f"{value:,}"

    rows = tuple(
        (
            group["name"],
            count(group["channels"]),
            count(group["parameters"]),
            count(group["macs"]),
            "residual" if group["residual"] else "",
            "yes" if group["removable"] else f"no: {group['kept']}",
        )
        for group in found["groups"]
    )
    headers = ("group", "channels", "parameters", "MACs", "", "removable")
    notes = [
        "parameters, MACs: what goes with one channel.",
        f"all: {count(found['parameters'])} parameters, {count(found['macs'])} MACs; with one channel in each removable "
        f"group: {count(found['smallest']['parameters'])} and {count(found['smallest']['macs'])}.",
        f"MACs: {CONVENTION}.",
    ]
    if found["uncounted"]:
        notes.append(f"MACs are not known: it is not known how often {', '.join(found['uncounted'])} are used.")
    loud = [group["name"] for group in found["groups"] if not group["quiet"]]
    if loud:
        notes.append(
            f"zeros do not reach their readers as zeros, so that removal changes the outputs: {', '.join(loud)}."
        )
    print_grids([Grid("", headers, rows, frozenset({0, 4, 5}))], notes)
