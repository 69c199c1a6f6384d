"""Train, compare, compress and deploy sparse neural networks.

Import torch and numpy is all this package needs; everything beyond the names below lives in its subpackages
(``supermask.models``, ``supermask.data``, ``supermask.optim``, ``supermask.lab``, ...), some of which need an extra.
"""

from supermask._version import __version__
from supermask.core.arrays import load_arrays, save_arrays
from supermask.core.checks import check_method
from supermask.core.masks import Masks
from supermask.core.method import Method
from supermask.core.registry import register
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Target
from supermask.errors import SupermaskError
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
    "load_arrays",
    "register",
    "save_arrays",
]
