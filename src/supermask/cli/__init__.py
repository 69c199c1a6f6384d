"""The command line: parses, calls, prints. One module a verb; what is slow to import is imported when a verb runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supermask.cli.application import app as app

#: Top-level modules of the extra that the command line and the lab need.
_LAB_PACKAGES = ("typer", "rich", "pydantic", "yaml", "safetensors")


def main() -> None:
    """Run the command line with the arguments of this process and exit."""
    try:
        from supermask.cli.application import app

        app()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _LAB_PACKAGES:
            raise
        sys.stderr.write(
            f"error: the command line needs the package {error.name!r}: python -m pip install 'supermask[lab]'\n"
        )
        sys.exit(2)


def __getattr__(name: str) -> Any:
    """``supermask.cli.app``, the typer application; imported late, so that `main` can say that typer is missing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from supermask.cli.application import app

    return app
