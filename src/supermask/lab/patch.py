"""Changing nested mappings by dotted keys: what ``vary`` and ``--set`` do to the sections of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supermask.errors import ConfigError
from supermask.lab.validate import join, require_mapping, show


def nest(patch: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Turn dotted keys into nested mappings: ``{"a.b": 1, "a": {"c": 2}}`` becomes ``{"a": {"b": 1, "c": 2}}``.

    Raises:
        ConfigError: A key is set twice, or set and used as a section.
    """
    nested: dict[str, Any] = {}
    for key, value in require_mapping(patch, where).items():
        parts = key.split(".")
        if not all(parts):
            raise ConfigError(f"{join(where, key)}: a dotted key has a name on both sides of each dot")
        item = nest(value, join(where, key)) if isinstance(value, Mapping) else value
        for part in reversed(parts):
            item = {part: item}
        _add(nested, item, where)
    return nested


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``base`` with the values of a nested ``patch``.

    Sections are merged key by key, except that a patch which changes the ``name`` of a section replaces the section:
    the options of one method, optimizer or model mean nothing to another.
    """
    merged = dict(base)
    for key, value in patch.items():
        old = merged.get(key)
        if not isinstance(value, Mapping) or not isinstance(old, Mapping):
            merged[key] = merge({}, value) if isinstance(value, Mapping) else value
        elif "name" in value and value["name"] != old.get("name"):
            merged[key] = merge({}, value)
        else:
            merged[key] = merge(old, value)
    return merged


def leaves(value: Any, path: str = "") -> list[str]:
    """Dotted keys of all values in nested mappings."""
    if not isinstance(value, Mapping) or not value:
        return [path] if path else []
    return [leaf for key, item in value.items() for leaf in leaves(item, join(path, key))]


def overlap(first: list[str], second: list[str]) -> tuple[str, str] | None:
    """A key of each list that set the same value, directly or through a section of it; None when there is none."""
    for a in first:
        for b in second:
            if a == b or a.startswith(f"{b}.") or b.startswith(f"{a}."):
                return a, b
    return None


def holds(nested: Mapping[str, Any], key: str) -> bool:
    """Whether nested mappings hold a dotted key."""
    value: Any = nested
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def pick(nested: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The part of nested mappings that holds one dotted key, which must be there."""
    part, _, rest = key.partition(".")
    return {part: pick(nested[part], rest) if rest else nested[part]}


def _add(target: dict[str, Any], item: Mapping[str, Any], where: str) -> None:
    for key, value in item.items():
        if key not in target:
            target[key] = dict(value) if isinstance(value, Mapping) else value
        elif isinstance(value, Mapping) and isinstance(target[key], dict):
            _add(target[key], value, join(where, key))
        else:
            raise ConfigError(f"{join(where, key)}: set twice, to {show(target[key])} and {show(value)}")
