"""Train, compare, compress and deploy sparse neural networks.

Torch and numpy are all this package needs; everything beyond the names below lives in its subpackages
(``supermask.models``, ``supermask.data``, ``supermask.optim``, ``supermask.lab``, ...), some of which need an extra. A name
is imported when it is first used, so that ``import supermask`` alone takes no time.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from supermask._version import __version__
from supermask.errors import SupermaskError

if _TYPE_CHECKING:
    from supermask.core.arrays import load_arrays, save_arrays
    from supermask.core.checks import check_method
    from supermask.core.masks import Masks
    from supermask.core.method import Method
    from supermask.core.registry import register
    from supermask.core.sparsifier import Sparsifier
    from supermask.core.targets import Target
    from supermask.core.tracing import find_structure
    from supermask.methods import Dense, FixedMask, Magnitude, RandomMask, SignedSupermask
    from supermask.tensors.initializers import Initializer

__all__ = [
    "Dense",
    "FixedMask",
    "Initializer",
    "Magnitude",
    "Masks",
    "Method",
    "RandomMask",
    "SignedSupermask",
    "Sparsifier",
    "SupermaskError",
    "Target",
    "__version__",
    "check_method",
    "find_structure",
    "load_arrays",
    "register",
    "save_arrays",
]

_HOMES = {
    "Dense": "methods",
    "FixedMask": "methods",
    "Initializer": "tensors.initializers",
    "Magnitude": "methods",
    "Masks": "core.masks",
    "Method": "core.method",
    "RandomMask": "methods",
    "SignedSupermask": "methods",
    "Sparsifier": "core.sparsifier",
    "Target": "core.targets",
    "check_method": "core.checks",
    "find_structure": "core.tracing",
    "load_arrays": "core.arrays",
    "register": "core.registry",
    "save_arrays": "core.arrays",
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
