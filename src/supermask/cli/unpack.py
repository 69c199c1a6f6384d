"""``supermask unpack``: a packed file becomes a plain state dict again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supermask.cli.options import AsJson

File = Annotated[Path, typer.Argument(metavar="FILE", help="A packed file.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="The state dict to write, .safetensors or .npz. Without it: only show."),
]
Limit = Annotated[
    int, typer.Option("--limit", metavar="MIB", min=1, help="Refuse files that unpack to more than so many MiB.")
]


def unpack(file: File, out: Out = None, limit: Limit = 1024, as_json: AsJson = False) -> None:
    """Show what is in a packed file, and write its plain state dict for a class of your own.

    Files of others are safe to open: nothing in them is run, and checksums and sizes are checked first.
    """
    from supermask.cli.output import print_grids, print_json
    from supermask.deploy import read
    from supermask.report.grid import Grid

    packed = read(file, limit=limit << 20)
    if out is not None:
        from supermask.core.arrays import save_arrays

        save_arrays(out, packed.state_dict())
    if as_json:
        tensors = [
            {"name": e.name, "shape": list(e.shape), "dtype": e.dtype, "coding": e.coding, "bytes": e.size}
            for e in packed.entries.values()
        ]
        written = None if out is None else str(out)
        print_json(
            {
                "schema": 1,
                "size": packed.size,
                "written": written,
                "tensors": tensors,
                "sections": dict(packed.sections),
            }
        )
        return
    rows = tuple(
        (entry.name, "x".join(map(str, entry.shape)), entry.dtype, entry.coding, f"{entry.size:,}")
        for entry in packed.entries.values()
    )
    notes = [f"{name}: {_short(section)}" for name, section in packed.sections.items()]
    written_to = [] if out is None else [f"{out}: state dict of {len(rows)} tensors"]
    print_grids(
        [Grid("", ("tensor", "shape", "type", "coding", "bytes"), rows, frozenset({0, 1, 2, 3}))], [*notes, *written_to]
    )


def _short(section: object) -> str:
    import json

    text = json.dumps(section, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:190]}... ({len(text):,} characters; --json shows all)"
