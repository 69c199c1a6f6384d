"""``supermask bench``: a sparse network beside the fastest dense ways to run it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supermask.cli.options import AsJson, Input, Model, Place

Against = Annotated[
    str | None,
    typer.Option("--against", metavar="PLACE", help="Another network for the dense side; default: the same one."),
]
Batch = Annotated[str, typer.Option("--batch", metavar="1,32,128", help="Batch sizes.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of every contender.")]
ClockName = Annotated[str, typer.Option("--clock", help="wall; or cpu: steadier on a busy machine, one thread only.")]
Rounds = Annotated[int, typer.Option("--rounds", min=5, help="Rounds of each batch size.")]
CompileSeconds = Annotated[
    float,
    typer.Option("--compile-seconds", min=0, help="What torch.compile may take at a batch size; 0: leave it out."),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", metavar="FOLDER", help="Also write bench.json and bench.svg there.")
]


def bench(
    place: Place,
    against: Against = None,
    model: Model = None,
    input_shape: Input = None,
    batch: Batch = "1,32,128",
    threads: Threads = 1,
    clock: ClockName = "wall",
    rounds: Rounds = 30,
    compile_seconds: CompileSeconds = 120.0,
    out: OutFolder = None,
    as_json: AsJson = False,
) -> None:
    """Time a network in the sparse engine, in torch (eager, channels_last, compiled) and in onnxruntime, in turns.

    Ends with one sentence: what is gained, or NO GAIN and why.
    """
    from supermask.cli.artefact import parse_batches, parse_shape
    from supermask.cli.output import print_grids, print_json
    from supermask.lab.bench import Options
    from supermask.lab.bench import bench as compare
    from supermask.lab.files import write_json
    from supermask.report.bench import bench_grids, bench_notes, bench_svg

    options = Options(
        batches=parse_batches(batch),
        threads=threads,
        clock=clock,  # type: ignore[arg-type]  # judged by Options
        rounds=rounds,
        compile_seconds=compile_seconds,
    )
    shape = parse_shape(input_shape)
    result = compare(
        {"place": place, "model": model, "input_shape": shape},
        against=None if against is None else {"place": against, "input_shape": shape},
        options=options,
        tell=lambda text: typer.echo(f"{text} ...", err=True),
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "bench.json", result)
        (out / "bench.svg").write_text(bench_svg(result))
    if as_json:
        print_json(result)
    else:
        print_grids(bench_grids(result), bench_notes(result))
