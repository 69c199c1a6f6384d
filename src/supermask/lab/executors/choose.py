"""An executor by its name and its options, as the command line gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from supermask.errors import ConfigError, RunError
from supermask.lab.distributed import launched
from supermask.lab.executors.processes import Local
from supermask.lab.executors.protocol import Executor
from supermask.lab.executors.ray_cluster import Ray
from supermask.lab.executors.shared import Shared
from supermask.lab.executors.slurm import Slurm
from supermask.lab.executors.torchrun import Torchrun
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
        RunError: A value is out of range, or does not go with torchrun.
    """
    if launched():
        if name != "local" or workers is not None:
            given = f"--executor {name}" if name != "local" else f"--workers {workers}"
            raise RunError(
                f"{given} under torchrun: its processes train one run after the other, together; leave the option out, or "
                "start supermask without torchrun"
            )
        together: Executor = build(Torchrun, _values(name, options, Torchrun), "--with")
        return together
    if name not in EXECUTORS:
        raise ConfigError(f"--executor {name}: expected {either(EXECUTORS)}; {suggest(name, EXECUTORS)}")
    values = _values(name, options, EXECUTORS[name])
    executor: Executor = build(EXECUTORS[name], values, "--with", ready={"workers": workers})
    return executor


def _values(name: str, options: Sequence[str], of: type[Any]) -> dict[str, Any]:
    """``KEY=VALUE``, as the fields of a class."""
    values: dict[str, Any] = {}
    for option in options:
        key, equals, text = (part.strip() for part in option.partition("="))
        if not equals or not key:
            raise ConfigError(f"--with {option}: expected KEY=VALUE; the {name} executor has {_known(of)}")
        if key == "workers":
            raise ConfigError(f"--with {option}: the number of runs at once has an option of its own: --workers")
        if key in values:
            raise ConfigError(f"--with {option}: {key} is given twice; keep one of them")
        values[key] = parse_yaml(text, f"--with {option}")
    return values


def _known(of: type[Any]) -> str:
    return ", ".join(f.name for f in dataclasses.fields(of) if f.name != "workers")
