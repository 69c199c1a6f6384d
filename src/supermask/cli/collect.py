"""What a report is made of: the results of an experiment's planned runs and what it quotes, or all below some folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supermask.errors import ConfigError, RunError

if TYPE_CHECKING:
    from supermask.lab.load import Experiment
    from supermask.lab.plan import RunSpec
    from supermask.report.content import Content, Settings
    from supermask.report.quoted import Quote


@dataclass
class Collected:
    """What was found; a run that is found twice under one label counts once.

    Attributes:
        results: (run folder, label) -> content of `result.json`, in the order in which they are to be reported.
        failures: The same of `failed.json`.
        missing: Run folders, planned or started, that have neither.
        quotes: Published numbers that stand beside results, or for themselves.
        settings: Tables of settings.
        literature: Published numbers that have a table of their own.
    """

    results: dict[tuple[Path, str], dict[str, Any]] = field(default_factory=dict)
    failures: dict[tuple[Path, str], dict[str, Any]] = field(default_factory=dict)
    missing: set[Path] = field(default_factory=set)
    quotes: list[Quote] = field(default_factory=list)
    settings: list[Settings] = field(default_factory=list)
    literature: list[Quote] = field(default_factory=list)

    def content(self, epochs: Sequence[int] = ()) -> Content:
        """The report's content, with the rows at these epochs.

        Raises:
            ConfigError: No run, or not every run that should, has these epochs.
        """
        from supermask.lab.store import read_metrics
        from supermask.report.content import Content
        from supermask.report.summary import summarize

        metrics = {result["run"]: read_metrics(folder) for (folder, _), result in self.results.items() if epochs}
        return Content(
            rows=summarize(self.results.values(), epochs=epochs, metrics=metrics),
            quotes=[quote for at, quote in enumerate(self.quotes) if quote not in self.quotes[:at]],
            settings=self.settings,
            literature=self.literature,
            failures=list(self.failures.values()),
            missing=len(self.missing),
        )


def collect(places: Sequence[str], settings: Sequence[str], out: Path) -> Collected:
    """Results of folders and of experiments (their planned runs below `out`), one after the other.

    Raises:
        ConfigError: A place is neither, or settings are given for a folder.
    """
    found = Collected()
    for place in places:
        if Path(place).is_dir():
            if settings:
                raise ConfigError(
                    f"--set changes an experiment, but {place!r} is a folder with runs; name the experiment"
                )
            collect_folder(Path(place), found)
            continue
        # an experiment's sections need torch, folders do not
        from supermask.lab.load import load_experiment, shipped_experiments
        from supermask.lab.plan import expand
        from supermask.lab.validate import suggest

        if not Path(place).exists() and place.removesuffix(".yaml") not in shipped_experiments():
            hint = suggest(place, shipped_experiments())
            raise ConfigError(f"{place!r} is neither a folder with runs nor an experiment (file or name); {hint}")
        experiment = load_experiment(place, settings=settings)
        collect_planned(experiment, expand(experiment), out, found)
    return found


def collect_planned(experiment: Experiment, specs: Sequence[RunSpec], out: Path, found: Collected) -> None:
    """Add what an experiment quotes, and the results of its runs label by label; other folders are not looked at.

    Raises:
        ConfigError: It quotes something for a label that no run has, or an unknown entry of the literature.
    """
    from supermask.lab.literature import published
    from supermask.lab.store import read_failures, read_result, run_folder
    from supermask.lab.tables import settings_rows
    from supermask.report.content import Settings
    from supermask.report.quoted import Quote

    labels = list(dict.fromkeys(spec.label for spec in specs))
    for spec in sorted(specs, key=lambda spec: labels.index(spec.label)):
        folder = run_folder(out, spec.experiment, spec.id)
        key = folder.path.resolve(), spec.label
        try:
            if folder.result.exists():
                found.results[key] = read_result(folder) | {"experiment": spec.experiment, "label": spec.label}
            elif folder.failed.exists():
                (found.failures[key],) = read_failures(folder.path)
            else:
                found.missing.add(key[0])
        except RunError as error:  # damaged or of another version: told as a failure, and the others are compared
            found.failures[key] = {"run": spec.id, "label": spec.label, "seed": spec.seed, "error": str(error)}
    quoted = published(experiment, labels)
    beside = [Quote.of(cells, experiment=experiment.name, beside=label) for label, cells in quoted.rows.items()]
    quotes = [*beside, *map(Quote.of, quoted.others)]
    if experiment.table.kind == "literature":
        found.literature += quotes
        return
    found.quotes += quotes
    if experiment.table.kind == "settings":
        headers, rows = settings_rows(experiment, specs)
        found.settings.append(Settings(experiment.about or f"{experiment.name}: settings", headers, rows))


def collect_folder(folder: Path, found: Collected) -> None:
    """Add every run at or below a folder, ordered by experiment, label and seed as a person would order them."""
    from supermask.lab.store import read_failures, read_results

    results = {path.parent: result for path in folder.rglob("result.json") for result in read_results(path.parent)}
    failures = {path.parent: failure for path in folder.rglob("failed.json") for failure in read_failures(path.parent)}
    for path, result in sorted(results.items(), key=lambda item: _natural(item[1], "experiment", "label", "seed")):
        found.results.setdefault((path.resolve(), result["label"]), result)
    for path, failure in sorted(failures.items(), key=lambda item: _natural(item[1], "label", "seed")):
        found.failures.setdefault((path.resolve(), failure["label"]), failure)
    started = {path.parent for path in folder.rglob("spec.json")}
    found.missing |= {path.resolve() for path in started - results.keys() - failures.keys()}


def parse_epochs(text: str) -> list[int]:
    """Epochs from `20,40,80`; none from nothing.

    Raises:
        ConfigError: Something else stands there.
    """
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(re.fullmatch(r"[0-9]+", part) and int(part) for part in parts):
        raise ConfigError(f"--epoch: expected epochs from 1 on, such as 20,40,80, got {text!r}")
    return sorted({int(part) for part in parts})


def _natural(entry: dict[str, Any], *keys: str) -> list[tuple[int, float, str]]:
    """A sort key by which "conv10" comes after "conv2" and 0.5 after 0.05."""
    parts: Sequence[str] = re.split(r"(\d+(?:\.\d+)?)", " ".join(str(entry[key]) for key in keys))
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts)]
