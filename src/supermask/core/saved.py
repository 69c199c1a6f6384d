"""Whether a saved state of a sparsifier belongs to the one that is to go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from supermask.errors import StateError

STATE_FORMAT: Final = 1
_NEWER: Final = {"notes", "tracked", "settled"}  # keys that states of this format may lack
_OWN: Final = ("method", "targets", "seed")  # what must be equal


def check_saved(saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Refuse what another sparsifier saved.

    Args:
        saved: What :meth:`Sparsifier.state_dict` gave then.
        present: What it gives now.

    Raises:
        StateError: Another format, a key is lacking, or the method, its hyper-parameters, targets or seed are others.
    """
    if saved.get("format") != STATE_FORMAT:
        raise StateError(f"state has format {saved.get('format')!r}; this version reads {STATE_FORMAT}")
    if lacking := sorted(present.keys() - saved.keys() - _NEWER):
        raise StateError(f"the saved state is damaged: it lacks {', '.join(lacking)}")
    for key in _OWN:
        if saved[key] != present[key]:
            raise StateError(f"the saved state was made with {_difference(key, saved[key], present[key])}")


def _difference(key: str, saved: Any, present: Any) -> str:
    """The first difference between two values, or between two mappings, in words."""
    if isinstance(saved, Mapping) and isinstance(present, Mapping):
        name = next(n for n in [*present, *saved] if saved.get(n) != present.get(n))
        return _difference(f"{key} {name}", saved.get(name), present.get(name))
    return f"{key} {saved!r}, but here it is {present!r}"
