"""From an experiment to its runs: what varies, what each run is called, and the id that its content decides."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supermask.core.registry import load_plugin
from supermask.errors import ConfigError, RunError
from supermask.lab.config import RunConfig, parse_run, section_keys
from supermask.lab.files import canonical_json, sha256
from supermask.lab.literature import published, require_label
from supermask.lab.load import SECTIONS, Experiment
from supermask.lab.patch import holds, leaves, merge, nest, overlap, pick
from supermask.lab.reference import imported_digest, source_file
from supermask.lab.validate import require_mapping, show, suggest

_NAMED_BELOW: Final = ("train.optimizer", "train.schedule")  # sections with a name of their own, within a section
_CODE: Final = (
    "model.name",
    "train.loss",
    "train.metric",
    "method.name",
)  # dotted keys that can name a user's own code
SPEC_SCHEMA: Final = 1  # raised when the meaning of a spec changes


@dataclass(frozen=True)
class RunSpec:
    """One training, completely described by plain values, so that it can travel to another process.

    Args:
        id: 12 hex digits: the hash of the values that differ from their defaults, the seed, the contents of the files
            it names, the method's version and :data:`SPEC_SCHEMA`.
        experiment: Name of its experiment.
        label: Variant and varied values, without the seed.
        seed: What every random stream of the run follows from.
        sections: The sections with every default filled in and files as absolute paths.
        method_version: Version of the method's code.
        hashes: Dotted key -> SHA-256 of the file it names, of the plug-in that holds the method (``method.name``), and
            of the module of a reference (that file alone, not what it imports).
        folder: Where references are looked up.
        plugins: Plug-in files to load first.
    """

    id: str
    experiment: str
    label: str
    seed: int
    sections: dict[str, Any]
    method_version: int
    hashes: dict[str, str]
    folder: Path
    plugins: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """The resolved spec, JSON-able: what two runs must share to be the same run. Files stand as their hashes."""
        return _content(self.seed, self.method_version, self.sections, self.hashes)

    def config(self) -> RunConfig:
        """The sections as dataclasses; loads the plug-ins, so that it works in a fresh process.

        Raises:
            ConfigError: A file or reference is gone since the run was planned.
        """
        for plugin in self.plugins:
            load_plugin(plugin)
        return parse_run(self.sections, self.folder)

    def require_same_code(self, config: RunConfig) -> None:
        """Make sure that what trains is the code that the id was made of.

        Args:
            config: What :meth:`config` gave: references and plug-ins are imported.

        Raises:
            RunError: A file with code of the user's own has changed since the run was planned.
        """
        files = _code_files(config, self.folder, self.plugins)
        for key, file in files.items():
            planned = self.hashes.get(key)
            reference = config.references().get(key)
            imported = None if reference is None else imported_digest(reference, self.folder)
            now = sha256(file) if file.exists() else "nothing"
            if {now, imported or now} != {planned}:
                raise RunError(
                    f"{key}: {file} has changed since this run was planned, and changed code makes another run: give the "
                    "same command again (start a program of your own again) to plan and train that one"
                )


def expand(experiment: Experiment) -> list[RunSpec]:
    """All runs of an experiment, seed by seed, so that what is compared runs side by side.

    Within a seed: variants in the order of the file, then dotted axes. A table of literature has no runs.

    Raises:
        ConfigError: A section is wrong, ``vary`` contradicts itself, or quoted numbers belong to no run or are unknown.
    """
    if experiment.table.kind == "literature":
        published(experiment, [])
        return []
    vary = dict(experiment.vary)
    seeds = _parse_seeds(vary.pop("seed", [0]))
    variants = _parse_variants(vary.pop("variant", None))
    axes = _parse_axes(vary)
    _refuse_contradictions(variants, axes)
    runs: list[tuple[str, dict[str, Any]]] = []
    for variant, patch in variants.items():
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            sections = merge(merge(experiment.base, patch), nest(chosen, "vary"))
            if experiment.seeds == "vectorized":
                sections = _share_order(sections)
            runs.append((_label(variant, chosen, sections), sections))
    _place_lost_keys(experiment, runs)
    by_label: list[list[RunSpec]] = []
    for label, sections in runs:
        try:
            config = parse_run(sections, experiment.folder)
        except ConfigError as error:
            if not experiment.vary.keys() - {"seed"}:
                raise
            raise ConfigError(f"{error} (in the run {label!r})") from error
        by_label.append(_make_specs(experiment, config, label, seeds))
    specs = [spec for of_one_seed in zip(*by_label, strict=True) for spec in of_one_seed]
    _refuse_duplicates(specs)
    labels = [label for label, _ in runs]
    published(experiment, labels)
    for label in experiment.table.quoted:
        require_label(experiment, label, labels, f"table.quoted.{label}")
    return specs


def _share_order(sections: dict[str, Any]) -> dict[str, Any]:
    """The sections of runs whose seeds may be trained as one batch: all see the data in one order, however they train."""
    train = sections.get("train")
    if not isinstance(train, Mapping):
        return sections  # parse_run says what is wrong
    if train.get("data_order", "shared") != "shared":
        raise ConfigError(
            f"train.data_order: {show(train['data_order'])} contradicts seeds: vectorized, which gives all seeds the same "
            "batches; remove it, or set it to shared"
        )
    return merge(sections, {"train": {"data_order": "shared"}})


def _place_lost_keys(experiment: Experiment, runs: list[tuple[str, dict[str, Any]]]) -> None:
    """Find what the base holds and no run does, as all of them name another method (optimizer, ...) there.

    Settings of the command line go to every run whose section knows the key; other keys are mistakes.
    """
    merged = [sections for _, sections in runs]
    lost = [key for key in leaves(experiment.base) if not any(holds(sections, key) for sections in merged)]
    for key in lost:
        path = next((path for path in _NAMED_BELOW if key.startswith(f"{path}.")), key.partition(".")[0])
        field = key.removeprefix(f"{path}.").partition(".")[0]
        known = [section_keys(sections, path) for sections in merged]
        fits = [index for index, keys in enumerate(known) if keys is None or field in keys]
        way = suggest(field, {name for keys in known for name in keys or ()})
        if key not in experiment.settings:
            hint = "give it there, or remove it" if fits else way
            raise ConfigError(f"{key}: reaches no run, as every run takes its {path} from `vary`; {hint}")
        if not fits:
            raise ConfigError(f"--set {key}: the {path} of no run has the key {field!r}; {way}")
        for index in fits:
            label, sections = runs[index]
            runs[index] = label, merge(sections, pick(experiment.base, key))


def _make_specs(experiment: Experiment, config: RunConfig, label: str, seeds: list[int]) -> list[RunSpec]:
    sections, changed = config.to_sections(), config.to_sections(defaults=False)
    version = type(config.method).version
    hashes = _hashes(experiment, config)
    return [
        RunSpec(
            id=_digest(_content(seed, version, changed, hashes)),
            experiment=experiment.name,
            label=label,
            seed=seed,
            sections=sections,
            method_version=version,
            hashes=hashes,
            folder=experiment.folder,
            plugins=experiment.plugins,
        )
        for seed in seeds
    ]


def _content(seed: int, version: int, sections: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
    """Seed, versions and sections in which hashes stand for the names of files, plus the hashes of code."""
    content = {key: dict(section) for key, section in sections.items()}
    code = {}
    for path, digest in hashes.items():
        section, _, key = path.partition(".")
        if path in _CODE:
            code[path] = digest
        else:
            content[section][key] = f"sha256:{digest}"
    return {"schema": SPEC_SCHEMA, "seed": seed, "method_version": version, **content, "code": code}


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]


def _hashes(experiment: Experiment, config: RunConfig) -> dict[str, str]:
    files = config.files() | _code_files(config, experiment.folder, experiment.plugins)
    return {path: sha256(file) for path, file in sorted(files.items())}


def _code_files(config: RunConfig, folder: Path, plugins: Sequence[Path]) -> dict[str, Path]:
    """Dotted key -> file, of the user's own code in use: references and the plug-in that holds the method."""
    files = {}
    for path, reference in config.references().items():
        if (file := source_file(reference, folder)) is not None:
            files[path] = file
    for plugin in plugins:
        if type(config.method) in load_plugin(plugin):
            files["method.name"] = plugin
    return files


def _parse_seeds(value: object) -> list[int]:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return list(range(value))
    if isinstance(value, list) and value and all(_is_seed(seed) for seed in value):
        if len(set(value)) < len(value):
            raise ConfigError(f"vary.seed: a seed is given twice in {value}")
        return value
    raise ConfigError(
        f"vary.seed: expected a list of seeds in [0, 2**63), or how many of them (3 means 0, 1, 2), got {show(value)}"
    )


def _is_seed(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _parse_variants(value: object) -> dict[str | None, dict[str, Any]]:
    if value is None:
        return {None: {}}
    variants = require_mapping(value, "vary.variant")
    if not variants:
        raise ConfigError("vary.variant: no variant is given; remove the key, or name at least one")
    parsed: dict[str | None, dict[str, Any]] = {}
    for name, patch in variants.items():
        path = f"vary.variant.{name}"
        parsed[name] = nest(require_mapping({} if patch is None else patch, path), path)
        _require_sections(parsed[name], path)
    return parsed


def _parse_axes(vary: Mapping[str, Any]) -> dict[str, list[Any]]:
    axes = {}
    for key, values in vary.items():
        path = f"vary.{key}"
        _require_sections(nest({key: None}, path), path)
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: expected a list of values, got {show(values)}")
        axes[key] = values
    return axes


def _require_sections(patch: Mapping[str, Any], path: str) -> None:
    for section in patch:
        if section not in SECTIONS:
            raise ConfigError(f"{path}: there is no section {section!r} to vary; {suggest(section, SECTIONS)}")


def _refuse_contradictions(variants: Mapping[str | None, dict[str, Any]], axes: Mapping[str, list[Any]]) -> None:
    keys = list(axes)
    for index, key in enumerate(keys):
        if clash := overlap([key], keys[index + 1 :]):
            raise ConfigError(f"vary: {key!r} and {clash[1]!r} set the same value; keep one of them")
    for name, patch in variants.items():
        if clash := overlap(leaves(patch), keys):
            raise ConfigError(f"vary: {clash[1]!r} is set by the variant {name!r} and by a list of values; keep one")


def _refuse_duplicates(specs: list[RunSpec]) -> None:
    seen: dict[str, RunSpec] = {}
    for spec in specs:
        other = seen.setdefault(spec.id, spec)
        if other is not spec:
            raise ConfigError(
                f"vary: the runs {other.label!r} and {spec.label!r} (seed {spec.seed}) are the same; remove one of them"
            )


def _label(variant: str | None, chosen: Mapping[str, Any], sections: Mapping[str, Any]) -> str:
    """``variant key=value ...``; without variants the method's name leads."""
    method = sections.get("method", {})
    parts = [variant if variant is not None else str(method.get("name", "run"))]
    last = [key.rpartition(".")[2] for key in chosen]
    for key, value in chosen.items():
        if variant is None and key == "method.name":
            continue
        short = key.rpartition(".")[2]
        shown = value if isinstance(value, str) else canonical_json(value)
        parts.append(f"{short if last.count(short) == 1 else key}={shown}")
    return " ".join(parts)
