"""Quoted numbers: the entries of ``supermask/report/literature``, and those that stand beside an experiment's runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from supermask.errors import ConfigError
from supermask.lab.annotations import Cells, Quoted, Trust
from supermask.lab.load import Experiment, parse_yaml
from supermask.lab.validate import build, check, require_known, require_mapping, suggest

#: One file a paper, each with its sources and its entries.
FOLDER: Final = Path(__file__).parents[1] / "report" / "literature"


@dataclass(frozen=True)
class Published:
    """Quoted rows as plain values, see :class:`~supermask.lab.annotations.Cells` for their keys and units.

    Args:
        rows: Label of runs -> the cells to stand beside them.
        others: Rows without runs, each with its own ``label``.
    """

    rows: dict[str, dict[str, Any]]
    others: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where numbers were read.

    Args:
        text: Names it to a reader.
        trust: How the numbers were obtained.
    """

    text: str
    trust: Trust


def published(experiment: Experiment, labels: Sequence[str]) -> Published:
    """What an experiment quotes, with every id resolved.

    Args:
        experiment: The experiment.
        labels: Of its runs. Where settings of the command line renamed runs, rows of the old names are left out.

    Raises:
        ConfigError: A row names no runs, an id names no entry, or a row of ``others`` has no label.
    """
    section = experiment.published
    rows = {}
    for label, quoted in section.rows.items():
        require_label(experiment, label, labels, f"published.rows.{label}")
        if label in labels:
            rows[label] = _resolve(quoted, f"published.rows.{label}") | {"label": label}
    others = [_resolve(quoted, f"published.others.{number}") for number, quoted in enumerate(section.others)]
    for number, cells in enumerate(others):
        if "label" not in cells:
            raise ConfigError(f"published.others.{number}.label: missing; a row without runs needs a name")
    return Published(rows, others)


def require_label(experiment: Experiment, label: str, labels: Sequence[str], path: str) -> None:
    """Refuse a label that no run has, unless settings of the command line may have renamed the runs.

    Raises:
        ConfigError: Names the nearest label.
    """
    if label not in labels and not experiment.changed:
        raise ConfigError(f"{path}: no run has this label; {suggest(label, labels)}")


@cache
def literature() -> dict[str, Cells]:
    """Id -> quoted numbers, of every entry of every file in :data:`FOLDER`.

    Raises:
        ConfigError: A file is damaged, or two entries have one id.
    """
    entries: dict[str, Cells] = {}
    places: dict[str, str] = {}
    for file in sorted(FOLDER.glob("*.yaml")):
        try:
            found = _read(file)
        except ConfigError as error:
            raise ConfigError(f"{file.name}: {error}") from error
        for name in found:
            if name in entries:
                raise ConfigError(
                    f"{file.name}: entries.{name}: {places[name]} has this id too; give one of them another"
                )
            places[name] = file.name
        entries |= found
    return entries


def _read(file: Path) -> dict[str, Cells]:
    content = require_mapping(parse_yaml(file.read_text(encoding="utf-8"), str(file)), str(file))
    require_known(content, ("sources", "entries"), "")
    sources = {
        name: build(_Source, source, f"sources.{name}")
        for name, source in require_mapping(content.get("sources"), "sources").items()
    }
    entries = {}
    for name, entry in require_mapping(content.get("entries"), "entries").items():
        values = require_mapping(entry, f"entries.{name}")
        named = check(str, values.get("source"), f"entries.{name}.source")
        if named not in sources:
            raise ConfigError(f"entries.{name}.source: no source is called {named!r}; {suggest(named, sources)}")
        source = sources[named]
        entries[name] = build(Cells, values | {"source": source.text, "trust": source.trust}, f"entries.{name}")
    return entries


def _resolve(quoted: Quoted, path: str) -> dict[str, Any]:
    if isinstance(quoted, Cells):
        return quoted.to_dict()
    if quoted not in literature():
        raise ConfigError(f"{path}: the literature has no entry {quoted!r}; {suggest(quoted, literature())}")
    return literature()[quoted].to_dict()
