"""The compiled kernels: whether they are there, and which variant of them this process uses.

``SUPERMASK_KERNELS`` forces a variant: ``off`` (plain numpy and torch), ``generic``, ``avx2``, ``avx512`` or ``neon``. Not set,
the best one that the processor runs is taken. It is read once a process.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from supermask.errors import KernelError
from supermask.kernels.build import LIBRARY, declarations

SETTING: Final = "SUPERMASK_KERNELS"
VARIANTS: Final = ("generic", "avx2", "avx512", "neon")  # in the order of the bits of smk_variants
NUMPY: Final = "numpy"

NO_MEMORY: Final = 1
BAD_INPUT: Final = 2
NAN: Final = 3


@dataclass(frozen=True)
class Loaded:
    """What was found at the first use.

    Attributes:
        library: The shared library; None where plain numpy and torch do the work.
        variant: ``numpy``, or the variant of the functions of ``*_simd.c``.
        reason: Why there is no library; empty if there is one.
    """

    library: ctypes.CDLL | None
    variant: str
    reason: str = ""


@functools.cache
def loaded() -> Loaded:
    """Load the library, once.

    Raises:
        KernelError: ``SUPERMASK_KERNELS`` names no variant, or one that cannot run here.
    """
    forced = os.environ.get(SETTING, "")
    if forced == "off":
        return Loaded(None, NUMPY, f"{SETTING} is off")
    if forced and forced not in VARIANTS:
        raise KernelError(f"{SETTING} must be one of off, {', '.join(VARIANTS)}, or not set; got {forced!r}")
    library, reason = _open()
    if library is None:
        if forced:
            raise KernelError(f"{SETTING}={forced} needs the compiled kernels: {reason}")
        return Loaded(None, NUMPY, reason)
    mask = library.smk_variants()
    found = [name for bit, name in enumerate(VARIANTS) if mask >> bit & 1]
    if forced and forced not in found:
        raise KernelError(f"{SETTING}={forced} cannot run on this processor, which has: {', '.join(found)}")
    return Loaded(library, forced or found[-1])


def library() -> ctypes.CDLL | None:
    """The shared library; None where plain numpy and torch do the work."""
    return loaded().library


def variant() -> str:
    """``generic``, ``avx2``, ``avx512`` or ``neon``; ``numpy`` without a library."""
    return loaded().variant


def kernel(name: str, arguments: Sequence[Any], *, simd: bool = False) -> Any | None:
    """A function of the library that returns a status, ready to be called; None without a library.

    Args:
        name: As in ``kernels.h``, without the suffix of a variant.
        arguments: ctypes types of its arguments.
        simd: Whether it is one of ``*_simd.c``.
    """
    found = loaded()
    if found.library is None:
        return None
    function = getattr(found.library, f"{name}_{found.variant}" if simd else name)
    function.argtypes = list(arguments)
    function.restype = ctypes.c_int
    return function


def _open() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why it cannot be used."""
    way = "install a C compiler and run `python -m supermask.kernels.build`"
    if not LIBRARY.exists():
        return None, f"they were not compiled when the package was installed; to have them, {way}"
    try:
        opened = ctypes.CDLL(str(LIBRARY))
        opened.smk_declarations.restype = ctypes.c_uint64
        if opened.smk_declarations() != declarations():
            return None, f"{LIBRARY.name} was built from other sources; {way}"
    except (OSError, AttributeError) as error:
        return None, f"{LIBRARY.name} cannot be loaded ({error}); {way}"
    return opened, ""
