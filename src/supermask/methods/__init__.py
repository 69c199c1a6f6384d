"""The methods: one paper, one file. Importing this package registers them."""

from supermask.methods.dense import Dense
from supermask.methods.fixed_mask import FixedMask
from supermask.methods.magnitude import Magnitude
from supermask.methods.random_mask import RandomMask
from supermask.methods.signed_supermask import SignedSupermask

__all__ = ["Dense", "FixedMask", "Magnitude", "RandomMask", "SignedSupermask"]
