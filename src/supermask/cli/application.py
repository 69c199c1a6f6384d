"""The verbs in one application, and what happens to errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from supermask._version import __version__
from supermask.cli.bench import bench
from supermask.cli.check import check
from supermask.cli.compare import compare
from supermask.cli.data import app as data
from supermask.cli.doctor import doctor
from supermask.cli.export import export
from supermask.cli.init import init
from supermask.cli.inspect import inspect
from supermask.cli.methods import methods
from supermask.cli.models import models
from supermask.cli.output import print_error
from supermask.cli.pack import pack
from supermask.cli.plan import plan
from supermask.cli.report import report
from supermask.cli.reproduce import reproduce
from supermask.cli.run import run
from supermask.cli.search import search
from supermask.cli.shrink import shrink
from supermask.cli.unpack import unpack
from supermask.cli.verify import verify
from supermask.cli.watch import watch
from supermask.errors import SupermaskError

WRONG = 2
INTERRUPTED = 130


class Verbs(TyperGroup):
    """A group that turns the user's errors into one message on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; with ``--debug`` or SUPERMASK_DEBUG=1 an error keeps its traceback."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has gone, for example `| head`; typer ends quietly
            raise
        except (SupermaskError, OSError) as error:
            if ctx.params["debug"] or os.environ.get("SUPERMASK_DEBUG", "0") not in ("", "0"):
                raise
            print_error(str(error))
            raise typer.Exit(WRONG) from error
        except KeyboardInterrupt as error:
            print_error("stopped")
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"supermask {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[  # noqa: ARG001
        bool, typer.Option("--debug", help="Show the traceback of an error; SUPERMASK_DEBUG=1 does the same.")
    ] = False,
) -> None:
    """Train, compare, compress and deploy sparse neural networks.

    Hyper-parameters stand in experiment files; --set key=value changes them for one command.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:  # started by torchrun; torch reads these when it is imported
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DistributedDataParallel warns of what we ask it for


_VERBS: tuple[Callable[..., None], ...] = (
    run,
    plan,
    report,
    search,
    reproduce,
    watch,
    compare,
    methods,
    models,
    inspect,
    check,
    init,
    doctor,
    export,
    bench,
    pack,
    shrink,
    unpack,
    verify,
)
for _verb in _VERBS:
    app.command()(_verb)
app.add_typer(data, name="data")
