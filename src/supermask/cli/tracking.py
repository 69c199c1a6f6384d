"""What ``--track`` does: the events of runs go to trackers as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from supermask.lab.events import Event
    from supermask.lab.plan import RunSpec

Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME[:TARGET]",
        help="Also tell a tracker: tensorboard, mlflow, wandb, trackio. May be repeated; docs/trackers.md has the targets.",
    ),
]


@contextmanager
def tracked(
    track: Sequence[str], specs: Sequence[RunSpec], show: Callable[[Event], None]
) -> Iterator[Callable[[Event], None]]:
    """Hand events to whoever shows them and to the trackers; what goes wrong beside a run goes to stderr, once.

    Args:
        track: `NAME[:TARGET]` of each tracker.
        specs: The runs.
        show: Gets every event first.

    Raises:
        ConfigError: A tracker is not known.
        MissingExtraError: Its package is missing.
    """
    from supermask.lab.trackers.tracking import Tracking, open_tracker

    trackers = [(name, open_tracker(name)) for name in track]
    told: set[str] = set()

    def warn(trouble: str, *run: str) -> None:
        if told.isdisjoint((trouble, *run)):
            typer.echo(f"warning: {trouble}", err=True)
        told.update((trouble, *run))

    with Tracking(trackers, specs, warn) as tell:

        def both(event: Event) -> None:
            show(event)
            tell(event)
            if event.kind == "progress" and event.message:
                warn(event.message, event.run)  # what stores answer may differ from one checkpoint to the next

        yield both
