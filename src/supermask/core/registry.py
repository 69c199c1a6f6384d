"""Methods by name: the built-in ones, those of installed packages, and plug-in files."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from typing import Final, TypeVar

from supermask.core.method import Method
from supermask.errors import ConfigError

_METHODS: dict[str, type[Method]] = {}
_BUILT_IN = "supermask.methods"  # the package whose modules register the built-in ones when it is imported
_ENTRY_POINTS = "supermask.methods"

OWN: Final = "one of your own is found through `plugins:` of the experiment, or an entry point of its package"


M = TypeVar("M", bound=type[Method])


def register(cls: M) -> M:
    """Class decorator that makes a method known by its ``name``.

    Raises:
        ConfigError: Another class has the name, the class is abstract, or it lacks a name or a docstring.
    """
    name = cls.__dict__.get("name")
    if not isinstance(name, str) or not name or name != name.lower() or " " in name:
        raise ConfigError(f"{cls.__name__}.name must be a kebab-case string such as 'my-method', got {name!r}")
    if inspect.isabstract(cls) or not cls.__doc__:
        raise ConfigError(f"{cls.__name__} must implement setup() and have a docstring")
    importlib.import_module(_BUILT_IN)  # so that it is the newcomer who is refused a name
    known = _METHODS.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ConfigError(f"the method name {name!r} is taken by {known.__module__}.{known.__qualname__}")
    _METHODS[name] = cls
    return cls


def methods() -> dict[str, type[Method]]:
    """Every known method by name, sorted; loads the built-in ones and the entry points of installed packages first."""
    importlib.import_module(_BUILT_IN)
    for entry in importlib.metadata.entry_points(group=_ENTRY_POINTS):
        if entry.name not in _METHODS:
            entry.load()
    return dict(sorted(_METHODS.items()))


def method_class(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        ConfigError: There is none; the message offers the nearest name.
    """
    known = methods()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"no method is called {name!r}; {hint}known: {', '.join(known)}; {OWN}")
    return known[name]


def load_plugin(path: str | Path) -> list[type[Method]]:
    """Run a Python file that registers methods of the user's own.

    The same file, unchanged, is run once; its methods are returned again.

    Raises:
        ConfigError: The file is missing, fails to import, or registers nothing.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise ConfigError(f"no such plug-in file: {path}")
    if path.suffix != ".py":
        raise ConfigError(f"a plug-in is a Python file whose name ends in .py, not {path.name}")
    content = path.read_bytes()
    module_name = f"supermask_plugin_{hashlib.sha256(bytes(path) + content).hexdigest()[:16]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look their module up here
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
            where = f"{path}, line {lines[-1]}" if lines else str(path)
            raise ConfigError(f"the plug-in {where} failed to import: {type(error).__name__}: {error}") from error
    found = [cls for cls in _METHODS.values() if cls.__module__ == module_name]
    if not found:
        raise ConfigError(
            f"the plug-in {path} registers no method: decorate a Method subclass with @supermask.register"
        )
    return found
