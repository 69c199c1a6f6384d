"""An executor by its name and its options, as the command line gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from supermask.errors import ConfigError
from supermask.lab.executors.processes import Local
from supermask.lab.executors.protocol import Executor
from supermask.lab.executors.ray_cluster import Ray
from supermask.lab.executors.shared import Shared
from supermask.lab.executors.slurm import Slurm
from supermask.lab.load import parse_yaml
from supermask.lab.validate import build, either, suggest

#: Name -> class; what is not installed is missed when the executor runs.
EXECUTORS: Final[dict[str, type[Any]]] = {"local": Local, "shared": Shared, "ray": Ray, "slurm": Slurm}


def make_executor(name: str, options: Sequence[str] = (), *, workers: int | None = None) -> Executor:
    """Make an executor.

    Args:
        name: A key of :data:`EXECUTORS`.
        options: ``KEY=VALUE``, the fields of its class; values are YAML.
        workers: Runs at once, see each class.

    Raises:
        ConfigError: An unknown name or option, or a value of the wrong type.
        RunError: A value is out of range.
    """
    if name not in EXECUTORS:
        raise ConfigError(f"--executor {name}: expected {either(EXECUTORS)}; {suggest(name, EXECUTORS)}")
    values: dict[str, Any] = {}
    for option in options:
        key, equals, text = (part.strip() for part in option.partition("="))
        if not equals or not key:
            raise ConfigError(f"--with {option}: expected KEY=VALUE; the {name} executor has {_known(name)}")
        if key == "workers":
            raise ConfigError(f"--with {option}: the number of runs at once has an option of its own: --workers")
        values[key] = parse_yaml(text, f"--with {option}")
    executor: Executor = build(EXECUTORS[name], values, "--with", ready={"workers": workers})
    return executor


def _known(name: str) -> str:
    return ", ".join(f.name for f in dataclasses.fields(EXECUTORS[name]) if f.name != "workers")
