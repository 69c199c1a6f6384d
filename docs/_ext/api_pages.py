"""The reference: one page for each public package, of the names in its ``__all__``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from types import ModuleType

from supermask.core.registry import methods

# what a user imports from; the lab, reports and the command line are used through files and verbs
PACKAGES = ("supermask", "methods", "models", "data", "optim", "measure", "deploy")


def overview() -> str:
    """The page that lists all packages."""
    lines = [
        "Python reference",
        "================",
        "",
        "What the packages export; everything else may change between versions. Experiments, reports and the command line are",
        "used through files and verbs: :doc:`/experiments`, :doc:`/json`.",
        "",
        ".. toctree::",
        "   :maxdepth: 1",
        "",
        *(f"   {_title(name)} <{name}>" for name in PACKAGES),
        "   supermask.errors <errors>",
    ]
    return "\n".join(lines) + "\n"


def page(name: str) -> str:
    """The page of a package, as reStructuredText."""
    module = importlib.import_module(_title(name))
    heading = f"{_title(name)}\n{'=' * len(_title(name))}"
    parts = [heading, f".. automodule:: {_title(name)}\n   :no-members:"]
    exported = [key for key in module.__all__ if not key.startswith("__")]
    own = {cls.__name__: key for key, cls in methods().items()}
    if listed := [key for key in exported if key in own and _is_method(module, key)]:
        parts += ["Each method has a page of its own:"]
        parts += ["\n".join(f"- :doc:`{key} </methods/{own[key]}>`" for key in listed)]
    parts += [_entry(_title(name), module, key) for key in exported if key not in listed]
    return "\n\n".join(parts) + "\n"


def errors() -> str:
    """The page of the exceptions."""
    return (
        "supermask.errors\n================\n\n.. automodule:: supermask.errors\n   :members:\n   :show-inheritance:\n"
        "   :member-order: bysource\n"
    )


def _title(name: str) -> str:
    return name if name == "supermask" else f"supermask.{name}"


def _is_method(module: ModuleType, key: str) -> bool:
    return getattr(module, key) in methods().values()


def _entry(package: str, module: ModuleType, key: str) -> str:
    value = getattr(module, key)
    if inspect.isclass(value):
        shown = "" if issubclass(value, Exception) else "\n   :members:"
        kind = "autoexception" if issubclass(value, Exception) else "autoclass"
        return f".. {kind}:: {package}.{key}{shown}"
    if callable(value):
        return f".. autofunction:: {package}.{key}"
    held = f"It holds {', '.join(f'``{name}``' for name in value)}." if isinstance(value, Mapping) else f"``{value}``"
    return f".. py:data:: {key}\n   :module: {package}\n\n   {held}"
