"""Which results a report is made of: those of an experiment's planned runs, or all below some folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supermask.errors import ConfigError

if TYPE_CHECKING:
    from supermask.lab.plan import RunSpec


@dataclass
class Collected:
    """What was found.

    Attributes:
        results: Contents of `result.json` files, in the order they are to be reported.
        failures: Contents of `failed.json` files.
        missing: How many planned or started runs have neither.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    missing: int = 0

    def add(self, other: Collected) -> None:
        """Take over what another search found."""
        self.results += other.results
        self.failures += other.failures
        self.missing += other.missing


def collect(places: Sequence[str], settings: Sequence[str], out: Path) -> Collected:
    """Results of folders and of experiments (their planned runs below `out`), one after the other.

    Raises:
        ConfigError: A place is neither, or settings are given for a folder.
    """
    from supermask.lab.load import load_experiment, shipped_experiments
    from supermask.lab.plan import expand
    from supermask.lab.validate import suggest

    found = Collected()
    for place in places:
        if Path(place).is_dir():
            if settings:
                raise ConfigError(
                    f"--set changes an experiment, but {place!r} is a folder with runs; name the experiment"
                )
            found.add(collect_folder(Path(place)))
            continue
        if not Path(place).exists() and place.removesuffix(".yaml") not in shipped_experiments():
            hint = suggest(place, shipped_experiments())
            raise ConfigError(f"{place!r} is neither a folder with runs nor an experiment (file or name); {hint}")
        found.add(collect_planned(expand(load_experiment(place, settings=settings)), out))
    return found


def collect_planned(specs: Iterable[RunSpec], out: Path) -> Collected:
    """The results of planned runs, in the order of the plan; folders of other runs are not looked at."""
    from supermask.lab.store import read_failures, read_results, run_folder

    found = Collected()
    for spec in specs:
        folder = run_folder(out, spec.experiment, spec.id)
        if folder.result.exists():
            found.results += [result | {"label": spec.label} for result in read_results(folder.path)]
        elif folder.failed.exists():
            found.failures += read_failures(folder.path)
        else:
            found.missing += 1
    return found


def collect_folder(folder: Path) -> Collected:
    """Every run at or below a folder, ordered by experiment, label and seed as a person would order them."""
    from supermask.lab.store import read_failures, read_results

    results = sorted(read_results(folder), key=lambda result: _natural(result, "experiment", "label", "seed"))
    failures = sorted(read_failures(folder), key=lambda failure: _natural(failure, "label", "seed"))
    ended = {entry["run"] for entry in (*results, *failures)}
    started = {path.parent.name for path in folder.rglob("spec.json")}
    return Collected(results, failures, len(started - ended))


def _natural(entry: dict[str, Any], *keys: str) -> list[tuple[int, float, str]]:
    """A sort key by which "conv10" comes after "conv2" and 0.5 after 0.05."""
    parts: Sequence[str] = re.split(r"(\d+(?:\.\d+)?)", " ".join(str(entry[key]) for key in keys))
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts)]
