"""Plain models and masks become something smaller: models, packed files, an engine, other formats. Refuses, never guesses.

A name is imported when it is first used: a machine that runs a packed network needs numpy alone.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from supermask.deploy.engine import Engine, compile
    from supermask.deploy.exporting import export, exported
    from supermask.deploy.graph import Graph, Node
    from supermask.deploy.identity import ShrinkCertificate
    from supermask.deploy.packing import annotate, pack
    from supermask.deploy.patching import Patch
    from supermask.deploy.runtime import load
    from supermask.deploy.shrinking import Shrunk, shrink
    from supermask.deploy.shrunk_files import load_shrunk
    from supermask.deploy.tracing import trace
    from supermask.deploy.unpacking import read, unpack
    from supermask.deploy.verifying import Certificate, verify

__all__ = [
    "Certificate",
    "Engine",
    "Graph",
    "Node",
    "Patch",
    "ShrinkCertificate",
    "Shrunk",
    "annotate",
    "compile",
    "export",
    "exported",
    "load",
    "load_shrunk",
    "pack",
    "read",
    "shrink",
    "trace",
    "unpack",
    "verify",
]

_HOMES = {
    "export": "exporting",
    "exported": "exporting",
    "annotate": "packing",
    "pack": "packing",
    "read": "unpacking",
    "unpack": "unpacking",
    "Graph": "graph",
    "Node": "graph",
    "trace": "tracing",
    "Certificate": "verifying",
    "Engine": "engine",
    "compile": "engine",
    "load": "runtime",
    "verify": "verifying",
    "Patch": "patching",
    "ShrinkCertificate": "identity",
    "Shrunk": "shrinking",
    "load_shrunk": "shrunk_files",
    "shrink": "shrinking",
}


def __getattr__(name: str) -> object:
    """A public name, imported now (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """What is loaded, and what can be."""
    return sorted({*globals(), *__all__})
