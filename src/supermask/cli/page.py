"""What ``supermask report --out FILE.html`` writes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supermask.errors import ConfigError

if TYPE_CHECKING:
    from supermask.cli.collect import Collected
    from supermask.report.page import Heading

#: The sections of a spec.
_SECTIONS = ("model", "init", "data", "method", "train")


def split_out(given: Sequence[Path]) -> tuple[Path, Path | None]:
    """The folder of all results and the file of the page, from what ``--out`` was given.

    Raises:
        ConfigError: There are several of either.
    """
    pages = [path for path in given if path.suffix.lower() in (".html", ".htm")]
    folders = [path for path in given if path not in pages]
    if len(pages) > 1 or len(folders) > 1:
        several = ", ".join(map(str, pages if len(pages) > 1 else folders))
        raise ConfigError(f"--out: give one folder of results and one .html file at most, got {several}")
    return folders[0] if folders else Path("runs"), pages[0] if pages else None


def write_page(path: Path, collected: Collected, where: Sequence[str], settings: Sequence[str], out: Path) -> None:
    """Write the page of a report.

    Args:
        path: The file.
        collected: What was found.
        where: The places that were asked for.
        settings: What was changed of experiments.
        out: The folder of all results.

    Raises:
        ConfigError: It cannot be written, or would become too large.
        MissingExtraError: A package of the extra `report` is not installed.
        RunError: A file of a run is damaged.
    """
    from supermask.core.arrays import atomic_write
    from supermask.report.page import page
    from supermask.report.page_runs import Source

    results = list(collected.results.values())
    folders = {result["run"]: folder for (folder, _), result in collected.results.items()}
    changed = changed_sections(results, folders)
    sources = {run: Source(folder, changed.get(run)) for run, folder in folders.items()}
    content = collected.ranked_content()
    text = page(content, results, sources, heading(path, collected, where, settings, out))
    try:
        atomic_write(path, text.encode())
    except OSError as error:
        raise ConfigError(f"--out: {path} cannot be written ({error.strerror}); name another file") from error


def heading(path: Path, collected: Collected, where: Sequence[str], settings: Sequence[str], out: Path) -> Heading:
    """Title, sentences and exact commands."""
    from supermask.report.page import Heading

    changes = [part for setting in settings for part in ("--set", setting)]
    folder = [] if out == Path("runs") else ["--out", str(out)]
    results = [place for place in where if Path(place).is_dir() or "://" in place]
    runs = [shlex.join(["supermask", "run", place, *changes, *folder]) for place in where if place not in results]
    report = shlex.join(["supermask", "report", *where, *changes, *folder, "--out", path.name])
    title = ", ".join(_name(place) if place in results else place.removesuffix(".yaml") for place in where)
    return Heading(
        title=title,
        about=" ".join(f"{about.rstrip('.')}." for about in collected.abouts),
        commands=(*runs, report),
        date=date.today().isoformat(),
    )


def _name(place: str) -> str:
    """What a folder or a store is called; of the current folder, its name."""
    return (Path(place) if "://" in place else Path(place).resolve()).name or place


def changed_sections(results: Sequence[Mapping[str, Any]], folders: Mapping[str, Path]) -> dict[str, Mapping[str, Any]]:
    """Run id -> the sections of its spec with only what differs from the defaults.

    Runs whose spec this version cannot read as a config (a method of a plug-in that is not loaded, files that stand as
    hashes) are left out; so are those that name code of their user, as a report runs none.

    Args:
        results: The results of the runs.
        folders: Run id -> its folder.
    """
    from supermask.lab.config import parse_run
    from supermask.lab.reference import is_reference
    from supermask.lab.store import RunFolder, read_json
    from supermask.report.page_runs import flat

    known: dict[str, Mapping[str, Any] | None] = {}
    found = {}
    for result in results:
        folder = folders[result["run"]]
        key = result.get("setting") or str(folder)
        if key not in known:
            known[key] = None
            spec = read_json(RunFolder(folder).spec) if RunFolder(folder).spec.exists() else {}
            sections = {name: spec[name] for name in _SECTIONS if name in spec}
            if any(isinstance(value, str) and is_reference(value) for value in flat(sections).values()):
                continue
            try:
                known[key] = parse_run(sections, folder).to_sections(defaults=False)
            except ConfigError:
                continue
        changed = known[key]
        if changed is not None:
            found[result["run"]] = changed
    return found
