"""The user's own code by reference: ``package.module:name``.

A module is looked for in the experiment file's folder, then among the installed packages, then in the current folder.
What lies in an experiment's folder is its own: two experiments can each have a ``parts.py`` in one process.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from supermask.errors import ConfigError
from supermask.lab.files import sha256
from supermask.lab.validate import suggest

_SHARED: Final = sys.stdlib_module_names | {"supermask", "torch", "numpy"}  # never taken from an experiment's folder


def is_reference(name: str) -> bool:
    """Whether a name means the user's own code."""
    return ":" in name


def resolve(reference: str, folder: Path, path: str) -> Callable[..., Any]:
    """Import what a reference names.

    ``folder`` and the current folder then stand at the end of ``sys.path``, for imports within functions; the folder of
    the experiment before gives way. A module that this process had imported under the same name stays where it was.

    Args:
        reference: ``package.module:name``.
        folder: The experiment file's folder.
        path: Dotted key that holds the reference, for messages.

    Raises:
        ConfigError: The module cannot be imported, or holds no such callable.
    """
    module_name, _, name = reference.partition(":")
    try:
        module = _import(module_name, folder.resolve())
    except Exception as error:
        looked = f"looked in {folder}, the installed packages and {Path.cwd()}"
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}: cannot import {module_name!r} ({problem}); {looked}") from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        where = getattr(module, "__file__", module_name)
        raise ConfigError(f"{path}: {where} has no function or class {name!r}; {suggest(name, known)}")
    return found  # type: ignore[no-any-return]


def source_file(reference: str, folder: Path) -> Path | None:
    """The file of an imported reference's module; None for modules without one (built in, compiled).

    Args:
        reference: What :func:`resolve` has imported.
        folder: The experiment file's folder.
    """
    name = reference.partition(":")[0]
    own = _folders.get(folder.resolve(), _Folder()).modules
    file = getattr(own[name] if name in own else sys.modules[name], "__file__", None)
    return None if file is None else Path(file)


def imported_digest(reference: str, folder: Path) -> str | None:
    """SHA-256 of the file as it was when it was imported from the experiment's folder; None for other modules."""
    return _folders.get(folder.resolve(), _Folder()).digests.get(reference.partition(":")[0])


@dataclass
class _Folder:
    """What was imported from one experiment's folder.

    Attributes:
        modules: By name.
        digests: SHA-256 of their files at that time, by name.
        listed: Whether it stood in ``sys.path`` before it was entered: then it is the program's own.
    """

    modules: dict[str, ModuleType] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    listed: bool = False

    def collect(self, folder: Path) -> None:
        """Take note of the modules that come from the folder."""
        held = _held(folder)
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in held and name not in self.modules and _is_from(name, folder):
                self.modules[name] = module
                file = getattr(module, "__file__", None)
                if file is not None and Path(file).is_file():
                    self.digests[name] = sha256(Path(file))


_folders: Final[dict[Path, _Folder]] = {}
_entered: list[Path] = []  # the folder in sys.path now, if any


def _import(name: str, folder: Path) -> ModuleType:
    _enter(folder)
    own = _folders[folder].modules
    if name in own:
        return own[name]
    with _folder_first(folder):
        return importlib.import_module(name)


def _enter(folder: Path) -> None:
    """Let imports within functions find the modules of this folder, and no longer those of the one before."""
    if _entered != [folder]:
        for before in _entered:
            _leave(before)
        _entered[:] = [folder]
        state = _folders.setdefault(folder, _Folder())
        state.listed = any(Path(entry or ".").resolve() == folder for entry in sys.path)
        for name, module in state.modules.items():
            sys.modules.setdefault(name, module)
    for extra in (str(folder), str(Path.cwd())):
        if extra not in sys.path:
            sys.path.append(extra)


def _leave(folder: Path) -> None:
    state = _folders[folder]
    if state.listed:
        return
    state.collect(folder)
    for name, module in state.modules.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    with contextlib.suppress(ValueError):  # taken away by other code
        sys.path.remove(str(folder))


@contextlib.contextmanager
def _folder_first(folder: Path) -> Iterator[None]:
    """Inside, modules of the folder go before all others of the same name, also those that are imported already."""
    state, held = _folders[folder], _held(folder)
    others = {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] in held and not _is_from(name, folder)
    }
    for name in others:
        del sys.modules[name]
    sys.modules.update(state.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()  # files may be new
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        state.collect(folder)
        replaced = {name.partition(".")[0] for name in others}
        for name in [name for name in state.modules if name.partition(".")[0] in replaced]:
            sys.modules.pop(name, None)
        sys.modules.update(others)


def _held(folder: Path) -> set[str]:
    """Top-level names of the modules and packages in a folder."""
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    for name in {path.parent.name for path in folder.glob("*/*.py")} - names:
        if (
            getattr(sys.modules.get(name), "__file__", None) is None
        ):  # a package with __init__.py goes before one without
            names.add(name)
    return names - _SHARED


def _is_from(name: str, folder: Path) -> bool:
    """Whether the top-level module of an imported one lies in the folder."""
    top = sys.modules.get(name.partition(".")[0])
    file = getattr(top, "__file__", None)
    place = next(iter(getattr(top, "__path__", ())), file)  # a package's own folder
    return place is not None and Path(place).parent.resolve() == folder
