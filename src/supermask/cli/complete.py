"""What the shell completes beside verbs and options: names of experiments, methods, models and data sets, and files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def experiments(incomplete: str) -> list[str]:
    """Experiments that ship, YAML files and folders."""
    from supermask.lab.load import shipped_experiments

    return _start(shipped_experiments(), incomplete) + _files(incomplete, ".yaml")


def tables(incomplete: str) -> list[str]:
    """Tables of papers."""
    from supermask.lab.reproductions import tables as known

    return _start((entry.id for entry in known()), incomplete)


def executors(incomplete: str) -> list[str]:
    """Ways to get runs done."""
    from supermask.lab.executors.choose import EXECUTORS

    return _start(EXECUTORS, incomplete)


def methods(incomplete: str) -> list[str]:
    """Registered methods."""
    from supermask.core.registry import methods as registered

    return _start(registered(), incomplete)


def methods_and_files(incomplete: str) -> list[str]:
    """Registered methods, and Python files that may register more."""
    return methods(incomplete) + _files(incomplete, ".py")


def models(incomplete: str) -> list[str]:
    """Models that ship."""
    from supermask.models import MODELS

    return _start(MODELS, incomplete)


def datasets(incomplete: str) -> list[str]:
    """Known data sets."""
    from supermask.data import DATASETS

    return _start(DATASETS, incomplete)


def places(incomplete: str) -> list[str]:
    """Models that ship, packed files and folders."""
    return models(incomplete) + _files(incomplete, ".safetensors")


def formats(incomplete: str) -> list[str]:
    """Forms of a report."""
    from supermask.report.content import FORMATS

    return _start(FORMATS, incomplete)


def _start(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _files(incomplete: str, suffix: str) -> list[str]:
    folder = Path(incomplete if incomplete.endswith("/") else Path(incomplete).parent)
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [f"{path}/" if path.is_dir() else str(path) for path in paths if path.is_dir() or path.suffix == suffix]
    return [name for name in names if name.startswith(incomplete) and not Path(name).name.startswith(".")]
