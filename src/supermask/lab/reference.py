"""The user's own code by reference: ``package.module:name``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supermask.errors import ConfigError
from supermask.lab.validate import suggest


def is_reference(name: str) -> bool:
    """Whether a name means the user's own code."""
    return ":" in name


def resolve(reference: str, folder: Path, path: str) -> Callable[..., Any]:
    """Import what a reference names. The current folder and ``folder`` are added to the end of ``sys.path``.

    Args:
        reference: ``package.module:name``.
        folder: The experiment file's folder.
        path: Dotted key that holds the reference, for messages.

    Raises:
        ConfigError: The module cannot be imported, or holds no such callable.
    """
    module_name, _, name = reference.partition(":")
    for extra in (str(Path.cwd()), str(folder)):
        if extra not in sys.path:
            sys.path.append(extra)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        looked = f"looked in the installed packages, {Path.cwd()} and {folder}"
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}: cannot import {module_name!r} ({problem}); {looked}") from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        where = getattr(module, "__file__", module_name)
        raise ConfigError(f"{path}: {where} has no function or class {name!r}; {suggest(name, known)}")
    return found  # type: ignore[no-any-return]


def source_file(reference: str) -> Path | None:
    """The file of an imported reference's module; None for modules without one (built in, compiled)."""
    file = getattr(sys.modules[reference.partition(":")[0]], "__file__", None)
    return None if file is None else Path(file)
