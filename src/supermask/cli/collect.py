"""What a report is made of: the results of an experiment's planned runs and what it quotes, or all below some folders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supermask.errors import ConfigError, RunError

if TYPE_CHECKING:
    from supermask.lab.load import Experiment
    from supermask.lab.plan import RunSpec
    from supermask.report.channels import Values
    from supermask.report.content import Content, Settings
    from supermask.report.path import Path as RowPath
    from supermask.report.quoted import Quote
    from supermask.report.summary import Row

#: As many differing values tell rows of one label apart; more of them would only be a long label.
_FEW = 2


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
        ranked: Experiments whose file asks for a ranking -> classes of remaining weights.
        remarks: Sentences on the whole.
        abouts: What experiments say of themselves.
    """

    results: dict[tuple[Path, str], dict[str, Any]] = field(default_factory=dict)
    failures: dict[tuple[Path, str], dict[str, Any]] = field(default_factory=dict)
    missing: set[Path] = field(default_factory=set)
    quotes: list[Quote] = field(default_factory=list)
    settings: list[Settings] = field(default_factory=list)
    literature: list[Quote] = field(default_factory=list)
    ranked: dict[str, tuple[float, ...]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    abouts: list[str] = field(default_factory=list)

    def figures(self, rows: Sequence[Row]) -> dict[str, bytes]:
        """File name -> SVG, of the channels' gates or scales from epoch to epoch.

        Args:
            rows: Those of the report's content.

        Raises:
            ConfigError: No run recorded any.
            RunError: A file is damaged.
        """
        from supermask.report.figures import histogram, removal

        folders = {result["run"]: folder for (folder, _), result in self.results.items()}
        values = channel_values(rows, list(self.results.values()), folders)
        return {
            "channel-histogram.svg": histogram(values).encode(),
            "channel-removal.svg": removal(values).encode(),
        }

    def all_figures(self) -> dict[str, bytes]:
        """File name -> PDF, SVG and PNG of the trade-off and of training, and those of channels where runs recorded these.

        Raises:
            ConfigError: There is nothing to draw.
            MissingExtraError: A package of the extra `report` is not installed.
            RunError: A file of a run is damaged.
        """
        from supermask.lab.store import RunFolder
        from supermask.report.page_figures import figures, formats
        from supermask.report.page_runs import Source

        folders = {result["run"]: folder for (folder, _), result in self.results.items()}
        content = self.ranked_content()
        sources = {run: Source(folder) for run, folder in folders.items()}
        found = figures(content, list(self.results.values()), sources)
        if any(RunFolder(folder).channels.exists() for folder in folders.values()):
            for name, svg in self.figures(content.rows).items():
                found |= formats(Path(name).stem, svg.decode())
        if not found:
            raise ConfigError("--figures: there is nothing to draw, as no run here is finished")
        return found

    def content(self, epochs: Sequence[int] = (), *, rank: bool = False, path: bool = False) -> Content:
        """The report's content.

        Args:
            epochs: Tell the rows at these epochs.
            rank: Rank the rows of every experiment, not only of those whose file asks for it.
            path: Tell the paths that methods recorded.

        Raises:
            ConfigError: No run, or not every run that should, has these epochs.
            RunError: A recorded path is damaged.
        """
        from supermask.lab.store import read_metrics
        from supermask.report import ranking
        from supermask.report.content import Content
        from supermask.report.summary import summarize

        folders = {result["run"]: folder for (folder, _), result in self.results.items()}
        metrics = {run: read_metrics(folder) for run, folder in folders.items() if epochs}
        rows = summarize(self.results.values(), epochs=epochs, metrics=metrics)
        rows = tell_apart(rows, folders)
        classes = {row.experiment: () for row in rows if rank} | self.ranked
        orders = {run: batch_order(folder) for run, folder in folders.items() if classes}
        return Content(
            rows=rows,
            rankings=ranking.rank(rows, self.results.values(), classes=classes, orders=orders),
            paths=paths(rows, list(self.results.values()), folders) if path else [],
            quotes=_once(self.quotes),
            settings=self.settings,
            literature=self.literature,
            failures=list(self.failures.values()),
            missing=len(self.missing),
            remarks=list(dict.fromkeys(self.remarks)),
        )

    def ranked_content(self) -> Content:
        """The report's content with one ranking of all rows that can be compared, whatever classes the experiments name."""
        from supermask.report import ranking

        content = self.content()
        folders = {result["run"]: folder for (folder, _), result in self.results.items()}
        classes: dict[str, tuple[float, ...]] = {row.experiment: () for row in content.rows}
        orders = {run: batch_order(folder) for run, folder in folders.items()}
        rankings = ranking.rank(content.rows, self.results.values(), classes=classes, orders=orders)
        return replace(content, rankings=rankings)


def batch_order(folder: Path) -> str:
    """What decides the order of a run's batches beside its seed, as text; empty where its spec cannot be read."""
    from supermask.lab.store import RunFolder, read_json

    try:
        train = read_json(RunFolder(folder).spec)["train"]
    except (RunError, OSError):
        return ""
    # specs of earlier versions lack the number of passes
    return json.dumps([train["batch_size"], train["shuffle"], train["data_order"], train.get("passes", 1)])


def paths(rows: Sequence[Row], results: Sequence[Mapping[str, Any]], folders: Mapping[str, Path]) -> list[RowPath]:
    """The paths that the runs of the rows recorded.

    Args:
        rows: The rows of a report.
        results: The results that they hold.
        folders: Run id -> its folder.

    Raises:
        RunError: A file is damaged.
    """
    from supermask.lab.store import RunFolder, read_extras
    from supermask.report.path import layer_shares, path_of

    steps = {result["run"]: _steps_of_a_round(result) for result in results}
    found = (
        path_of(row, [layer_shares(read_extras(RunFolder(folders[run])), steps[run]) for run in row.runs])
        for row in rows
    )
    return [path for path in found if path is not None]


def channel_values(
    rows: Sequence[Row], results: Sequence[Mapping[str, Any]], folders: Mapping[str, Path]
) -> list[Values]:
    """What scaled the channels in the runs of the rows, after every epoch; rows without a record are left out.

    Args:
        rows: The rows of a report.
        results: The results that they hold.
        folders: Run id -> its folder.

    Raises:
        RunError: A file is damaged.
    """
    from supermask.lab.store import RunFolder, read_channels
    from supermask.report.channels import values_of
    from supermask.report.names import row_names

    groups = {r["run"]: [g["name"] for g in (r.get("channels") or {"groups": ()})["groups"]] for r in results}
    found = (
        values_of(name, [read_channels(RunFolder(folders[run])) for run in row.runs], groups[row.runs[0]])
        for row, name in zip(rows, row_names(rows))
    )
    return [values for values in found if values is not None]


def _steps_of_a_round(result: Mapping[str, Any]) -> int:
    """Steps of the first round of a run, in which a path is recorded; later ones may begin in their middle."""
    rounds = result.get("rounds", 1)
    steps: int = result["steps"]
    if rounds == 1:
        return steps
    by_round = result.get("epochs_by_round", [result["epochs_planned"] // rounds])
    return steps // int(result["epochs"]) * int(by_round[0])


def collect(places: Sequence[str], settings: Sequence[str], out: Path) -> Collected:
    """Results of folders, stores and experiments (their planned runs below `out`), one after the other.

    Raises:
        StoreError: A store cannot be read.
        ConfigError: A place is neither, or settings are given for a folder.
    """
    found = Collected()
    for place in places:
        if Path(place).is_dir() or "://" in place:
            if settings:
                raise ConfigError(
                    f"--set changes an experiment, but {place!r} is a folder with runs; name the experiment"
                )
            collect_folder(_mirrored(place) if "://" in place else Path(place), found)
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


def _mirrored(url: str) -> Path:
    """A copy of what reports read of the runs in a store; weights and masks are not among it."""
    from supermask.data.locate import cache_folder
    from supermask.lab.remote import mirror

    return mirror(url, cache_folder() / "stores")


def collect_planned(experiment: Experiment, specs: Sequence[RunSpec], out: Path, found: Collected) -> None:
    """Add what an experiment quotes, and the results of its runs label by label; other folders are not looked at.

    Raises:
        ConfigError: It quotes something for a label that no run has, or an unknown entry of the literature.
    """
    from supermask.lab.literature import published
    from supermask.lab.result import describe_setting
    from supermask.lab.store import read_failure, read_result, run_folder
    from supermask.lab.tables import settings_rows
    from supermask.report.content import Settings
    from supermask.report.quoted import Quote

    labels = list(dict.fromkeys(spec.label for spec in specs))
    told: dict[str, dict[str, Any]] = {}
    for spec in sorted(specs, key=lambda spec: labels.index(spec.label)):
        folder = run_folder(out, spec.experiment, spec.id)
        key = folder.path.resolve(), spec.label
        try:
            if folder.result.exists():
                result = read_result(folder) | {"experiment": spec.experiment, "label": spec.label}
                if "setting" not in result:  # of an earlier version, but here its spec is known
                    told.setdefault(spec.label, describe_setting(spec, spec.config()))
                    result |= told[spec.label]
                    result["epochs_planned"] = max(result["epochs_planned"], result["epochs"])  # of several rounds
                found.results[key] = result
            elif folder.failed.exists():
                found.failures[key] = read_failure(folder)
            else:
                found.missing.add(key[0])
        except RunError as error:  # damaged or of another version: told as a failure, and the others are compared
            found.failures[key] = {"run": spec.id, "label": spec.label, "seed": spec.seed, "error": str(error)}
    quoted = published(experiment, labels)
    runs = {label: [spec.id for spec in specs if spec.label == label] for label in quoted.rows}
    beside = [
        Quote.of(cells, experiment=experiment.name, beside=label, runs=runs[label])
        for label, cells in quoted.rows.items()
    ]
    quotes = [*beside, *map(Quote.of, quoted.others)]
    if experiment.about:
        found.abouts.append(experiment.about)
    if experiment.changed:
        found.remarks.append(
            f"{experiment.name}: --set changed the experiment; its runs may differ from those of the file, "
            "and from what is quoted"
        )
    if experiment.table.kind == "literature":
        found.literature += quotes
        return
    found.quotes += quotes
    if experiment.table.rank is not None:
        known = found.ranked.get(experiment.name, ())  # files may share a name
        found.ranked[experiment.name] = tuple(sorted({*known, *experiment.table.rank}, reverse=True))
    if experiment.table.kind == "settings":
        headers, rows = settings_rows(experiment, specs)
        found.settings.append(Settings(experiment.about or f"{experiment.name}: settings", headers, rows))


def collect_folder(folder: Path, found: Collected) -> None:
    """Add every run at or below a folder, ordered by experiment, label and seed as a person would order them.

    A result or a record that is damaged, or of another version, is told as a failure. Copies of a run count once.
    """
    from supermask.lab.store import RunFolder, read_failure, read_result

    results: dict[Path, dict[str, Any]] = {}
    failures: dict[Path, dict[str, Any]] = {}
    places = _places(folder)
    for path in places["failed.json"]:
        try:
            failures[path] = read_failure(RunFolder(path))
        except RunError as error:
            failures[path] = _unreadable(path, error)
    for path in places["result.json"]:
        try:
            results[path] = read_result(RunFolder(path))
        except RunError as error:
            failures[path] = _unreadable(path, error)
        else:
            failures.pop(path, None)  # of an attempt before the one that has the result
    root = folder.resolve()  # asked once: below it no links are followed
    known = {_identity(result): place for (place, _), result in found.results.items()}
    copies = 0
    for path, result in sorted(results.items(), key=lambda item: _natural(item[1], "experiment", "label", "seed")):
        place = root / path.relative_to(folder)
        if known.setdefault(_identity(result), place) == place:
            found.results[place, result["label"]] = result
        else:
            copies += 1
    if copies:
        found.remarks.append(f"{folder}: {copies} of its runs lie elsewhere in these folders too; each counts once")
    for path, failure in sorted(failures.items(), key=lambda item: _natural(item[1], "label", "seed")):
        found.failures.setdefault((root / path.relative_to(folder), failure["label"]), failure)
    unfinished = set(places["spec.json"]) - results.keys() - failures.keys()
    found.missing |= {root / path.relative_to(folder) for path in unfinished}


def _identity(result: Mapping[str, Any]) -> tuple[str, str, str]:
    """What tells a run from every other one, wherever it lies; experiments may share one, and each has it."""
    return result["experiment"], result["run"], result["label"]


def _places(folder: Path) -> dict[str, list[Path]]:
    """The folders at or below one that hold a file of each name, found in one pass over thousands."""
    found: dict[str, list[Path]] = {"failed.json": [], "result.json": [], "spec.json": []}
    for place, _, files in os.walk(folder):
        for name in found.keys() & files:
            found[name].append(Path(place))
    return found


def tell_apart(rows: Sequence[Row], folders: Mapping[str, Path]) -> list[Row]:
    """Rows of one experiment and label with the values in which their specs differ, as far as these can be read.

    Args:
        rows: The rows of a report.
        folders: Run id -> its folder.
    """
    same: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        same.setdefault((row.experiment, row.label), []).append(row)
    return [_tell_apart(row, same[row.experiment, row.label], folders) for row in rows]


def _tell_apart(row: Row, same: Sequence[Row], folders: Mapping[str, Path]) -> Row:
    from supermask.lab.store import RunFolder, read_json

    if len(same) == 1:
        return row
    try:
        own, *others = (
            _leaves(read_json(RunFolder(folders[other.runs[0]]).spec))
            for other in (row, *(other for other in same if other is not row))
        )
    except (RunError, OSError):
        return row
    differing = [
        f"{key}={value}"
        for key, value in own.items()
        if key != "seed" and any(other.get(key, value) != value for other in others)
    ]
    return replace(row, apart=", ".join(differing)) if len(differing) <= _FEW else row


def _leaves(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted key -> value of nested mappings."""
    found: dict[str, Any] = {}
    for key, entry in value.items():
        found |= _leaves(entry, f"{path}{key}.") if isinstance(entry, Mapping) else {f"{path}{key}": entry}
    return found


def _unreadable(folder: Path, error: RunError) -> dict[str, Any]:
    return {"run": folder.name, "label": "", "seed": None, "error": str(error)}


def _once(quotes: Sequence[Quote]) -> list[Quote]:
    """Equal quotes as one, which stands beside the runs of all of them."""
    runs: dict[int, frozenset[str]] = {}
    kept: list[Quote] = []
    for quote in quotes:
        bare = replace(quote, runs=frozenset())
        if bare not in kept:
            kept.append(bare)
        at = kept.index(bare)
        runs[at] = runs.get(at, frozenset()) | quote.runs
    return [replace(quote, runs=runs[at]) for at, quote in enumerate(kept)]


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
