"""Experiment files: strict YAML into an :class:`Experiment`; the index of those that ship.

Its structure is judged here, its values when it is expanded into runs (:func:`supermask.lab.plan.expand`).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml

from supermask.core.registry import load_plugin
from supermask.errors import ConfigError
from supermask.lab.annotations import Kind, PublishedSection, Table, parse_published, parse_table
from supermask.lab.patch import holds, leaves, merge, nest, overlap
from supermask.lab.validate import build, check, require_known, require_mapping, show

Seeds = Literal["separate", "vectorized"]
SECTIONS: Final = ("model", "init", "data", "method", "train")
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*")


@dataclass(frozen=True)
class Experiment:
    """What an experiment file says, with settings applied.

    Args:
        name: Names the results folder; may hold slashes (``signed-supermask/table-2``).
        base: Section name -> raw section; what all runs share.
        vary: Raw ``vary`` section: how the runs differ.
        folder: Where relative paths and references are looked up.
        plugins: Files that register methods, absolute.
        settings: Dotted keys of ``base`` that were set on the command line and go wherever they fit.
        about: One or two lines of text.
        published: Quoted numbers to stand beside those of the runs.
        table: Which kind of table the experiment stands for.
        search: Raw ``search`` section, see :mod:`supermask.lab.search_section`; no part of any run.
        changed: Whether settings of the command line were applied: labels may then differ from those of the file.
        seeds: ``vectorized``: all seeds share one order of the data, and train as one batch where that was measured to be
            faster.
    """

    name: str
    base: dict[str, dict[str, Any]]
    vary: dict[str, Any]
    folder: Path
    plugins: tuple[Path, ...] = ()
    settings: tuple[str, ...] = ()
    about: str = ""
    published: PublishedSection = field(default_factory=PublishedSection)
    table: Table = field(default_factory=Table)
    changed: bool = False
    search: dict[str, Any] = field(default_factory=dict)
    seeds: Seeds = "separate"


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """An experiment that comes with the package.

    Args:
        id: What the command line calls it.
        file: Its YAML file, absolute.
        title: What it shows, in one line.
        paper: Name of the paper that it reproduces; None for our own.
        kind: Of its table.
    """

    id: str
    file: Path
    title: str
    paper: str | None
    kind: Kind


def load_experiment(path_or_name: str | Path, *, settings: Sequence[str] = ()) -> Experiment:
    """Load an experiment file and its plug-ins.

    Args:
        path_or_name: A YAML file, or the name of an experiment that ships with the package.
        settings: ``key=value`` strings that override the file: dotted key, value read as YAML
            (``train.epochs=3``, ``vary.seed=[0, 1]``).

    Raises:
        ConfigError: The file is missing or not valid YAML, a key is repeated or unknown, or a plug-in fails.
    """
    path = find_experiment(path_or_name)
    raw = require_mapping(parse_yaml(path.read_text(encoding="utf-8"), str(path)) or {}, str(path))
    changed, keys = _apply_settings(raw, settings)
    experiment = make_experiment(changed, name=path.stem, folder=path.parent)
    return dataclasses.replace(experiment, settings=keys, changed=bool(settings))


def make_experiment(raw: dict[str, Any], *, name: str = "experiment", folder: Path | None = None) -> Experiment:
    """An experiment from a mapping of the file's form, for use without a file.

    Args:
        raw: What the YAML file would hold.
        name: Used when ``raw`` has no ``name``.
        folder: Where relative paths are looked up; the current one by default.

    Raises:
        ConfigError: An unknown top-level key, a wrong name, a plug-in that fails, or runs for a table that has none.
    """
    folder = (folder or Path()).resolve()
    require_known(raw, ("name", "about", *SECTIONS, "plugins", "seeds", "vary", "published", "table", "search"), "")
    name = raw.get("name", name)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"name: letters, digits and ._+- only (it names the results folder), got {show(name)}")
    plugins = raw.get("plugins", [])
    if not isinstance(plugins, list) or not all(isinstance(plugin, str) for plugin in plugins):
        raise ConfigError(f"plugins: expected a list of files, got {show(plugins)}")
    files = tuple((folder / plugin).resolve() for plugin in plugins)
    for file in files:
        if not file.is_file():
            raise ConfigError(f"plugins: no such file: {file}; paths are relative to the experiment file")
        load_plugin(file)
    seeds = raw.get("seeds", "separate")
    if seeds not in get_args(Seeds):
        raise ConfigError(f"seeds: expected {' or '.join(get_args(Seeds))}, got {show(seeds)}; how many is vary.seed")
    base: dict[str, dict[str, Any]] = {key: require_mapping(raw[key], key) for key in SECTIONS if key in raw}
    table = parse_table(raw.get("table", {}))
    if table.kind == "literature" and (given := [key for key in (*SECTIONS, "vary", "plugins") if key in raw]):
        raise ConfigError(f"{given[0]}: a table of kind 'literature' has no runs; remove this, or change table.kind")
    return Experiment(
        name,
        base,
        require_mapping(raw.get("vary", {}), "vary"),
        folder,
        files,
        about=check(str, raw.get("about", ""), "about"),
        published=parse_published(raw.get("published", {})),
        table=table,
        search=require_mapping(raw.get("search", {}), "search"),
        seeds=seeds,
    )


def find_experiment(path_or_name: str | Path) -> Path:
    """The file of an experiment: a path, or the name of a shipped one.

    Raises:
        ConfigError: There is neither.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    shipped, name = shipped_experiments(), str(path_or_name)
    if name in shipped:
        return shipped[name]
    raise ConfigError(f"no experiment file {name!r} and none of this name ships; {_nearest(path, shipped)}")


def _nearest(path: Path, shipped: Iterable[str]) -> str:
    """The way out of a wrong name: a file in the same folder, or a shipped experiment."""
    files = [str(path.with_name(file.name)) for file in path.parent.glob("*.yaml")]
    ends = [name for name in shipped if name.endswith(f"/{path.with_suffix('')}")]
    if ends:
        return f"did you mean {ends[0]!r}?"
    near = difflib.get_close_matches(str(path), [*files, *shipped], n=1, cutoff=0.8)
    return f"did you mean {near[0]!r}?" if near else "`supermask plan` lists those that ship"


def shipped_experiments() -> dict[str, Path]:
    """Name -> file of every experiment that comes with the package (or with its source checkout)."""
    return {shipped.id: shipped.file for shipped in index()}


@cache
def index() -> tuple[Shipped, ...]:
    """Every experiment that comes with the package, as ``experiments/index.yaml`` lists them.

    Raises:
        ConfigError: The index is damaged.
    """
    path = shipped_folder() / "index.yaml"
    listed = require_mapping(parse_yaml(path.read_text(encoding="utf-8"), str(path)), str(path))
    entries = {name: require_mapping(entry, name) for name, entry in listed.items()}
    files = {name: path.parent / str(entry.pop("file", "")) for name, entry in entries.items()}
    return tuple(
        build(Shipped, entry, name, ready={"id": name, "file": files[name]}) for name, entry in entries.items()
    )


def shipped_folder() -> Path:
    """Where the experiments of the package (or of its source checkout) lie.

    Raises:
        ConfigError: They are not there.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "experiments", package.parents[1] / "experiments"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"{package} comes without its experiments; install the wheel, or the whole source checkout")


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML strictly: YAML 1.2 scalars (``5e-4`` is a number, ``yes`` is text), no repeated keys, ``1:`` as ``"1":``.

    Raises:
        ConfigError: With the line, when the text is not valid.
    """
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {error}") from error


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's core scalars that refuses repeated keys; a whole number as a key is text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's own protocol)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a dict after looking for repeated keys."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                problem = f"key {key.value!r} is given twice: line {seen[key.value]} and line {line}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen[key.value] = line
        made = super().construct_mapping(node, deep)
        return {str(key) if type(key) is int else key: value for key, value in made.items()}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _apply_settings(raw: dict[str, Any], settings: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Put ``key=value`` settings into the file's content: they have the last word, also over variants.

    A variant that sets a key (or a part of it) gets the new value; so does the base, if it holds the key or no variant
    sets it. All settings form one patch, so that their order is free.

    Returns:
        The new content, and the keys that no variant sets: the plan finds out which runs they fit.
    """
    vary = require_mapping(raw.get("vary", {}), "vary")
    variants: dict[str, Any] = require_mapping(vary.get("variant") or {}, "vary.variant")
    axes: dict[str, Any] = {}
    patch: dict[str, Any] = {}
    free: list[str] = []
    patches: dict[str, dict[str, Any]] = {name: {} for name in variants}
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            raise ConfigError(f"--set {setting}: expected key=value, for example train.epochs=3")
        value = parse_yaml(text, f"--set {setting}")
        if key.startswith("vary."):
            axes[key.removeprefix("vary.")] = value
            continue
        keys = leaves(nest({key: value}, "--set"))
        if clash := overlap(keys, [axis for axis in vary if axis not in ("seed", "variant")]):
            raise ConfigError(f"--set {setting}: the runs differ in {clash[1]}; use --set vary.{clash[1]}=[...]")
        setting_it = [name for name in variants if overlap(keys, _leaves_of(variants[name], name))]
        for name in setting_it:
            patches[name][key] = value
        if not setting_it:
            free += keys
        if not setting_it or holds(raw, key):
            patch[key] = value
    merged = merge(raw, nest(patch, "--set"))
    changed = {
        name: merge(nest(variant, f"vary.variant.{name}"), nest(patches[name], "--set")) if patches[name] else variant
        for name, variant in variants.items()
    }
    if variants:
        axes = {"variant": changed} | axes
    return (merged | {"vary": vary | axes} if axes else merged), tuple(free)


def _leaves_of(variant: object, name: str) -> list[str]:
    return leaves(nest(variant, f"vary.variant.{name}")) if isinstance(variant, dict) else []
