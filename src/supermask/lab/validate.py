"""Plain mappings to frozen dataclasses and back: strict types, and errors that name the key.

A section of an experiment file is a dataclass, and this is the one place where the two meet. Values are judged as
strict JSON: ``"0.1"`` is not a number, ``true`` is not an integer, ``1`` is a fine float.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from supermask.errors import ConfigError, HyperparameterError

T = TypeVar("T")

NAMED: Final = ("model", "data", "method", "optimizer", "schedule", "then")  # sections that say by `name` what they are


def suggest(word: str, known: Iterable[str]) -> str:
    """The way out of a misspelt name: ``did you mean 'lr'?``, or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "nothing may be set here"


def require_mapping(value: object, path: str) -> dict[str, Any]:
    """Return ``value`` if it is a mapping with string keys.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(value, Mapping):
        named = isinstance(value, str) and path.rpartition(".")[2] in NAMED
        way = f"; write {{name: {value}}}" if named else ""
        raise ConfigError(f"{path}: expected a section of keys and values, got {show(value)}{way}")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: keys must be text, got {show(key)}")
    return dict(value)


def require_known(section: Mapping[str, object], known: Iterable[str], path: str) -> None:
    """Refuse keys that are not in ``known``.

    Raises:
        ConfigError: Names the full path of the first unknown key and the closest known one.
    """
    known = list(known)
    for key in section:
        if key not in known:
            raise ConfigError(f"{join(path, key)}: unknown key; {suggest(key, known)}")


def build(cls: type[T], section: object, path: str, *, ready: Mapping[str, object] | None = None) -> T:
    """Make a dataclass from a mapping.

    Args:
        cls: A dataclass; fields may be dataclasses themselves.
        section: Mapping of field names to JSON values.
        path: Dotted path of the section, for messages.
        ready: Fields whose values are made already.

    Raises:
        ConfigError: Unknown or missing key, value of the wrong type, or refused by the dataclass itself.
    """
    values = require_mapping(section, path)
    fields = {field.name: field for field in file_fields(cls)}
    require_known(values, fields, path)
    hints = _type_hints(cls, path)
    given = values.keys() | (ready or {}).keys()
    for name, field in fields.items():
        if name not in given and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{join(path, name)}: missing; it has no default (expected {describe(hints[name])})")
    checked = {name: check(hints[name], value, join(path, name)) for name, value in values.items()}
    try:
        return cls(**checked, **(ready or {}))
    except HyperparameterError as error:
        raise ConfigError(f"{path}: {error}") from error


def choose(
    section: object, table: Mapping[str, type[Any]], path: str, *, ready: Mapping[str, object] | None = None
) -> Any:
    """Make the dataclass that a section names.

    Args:
        section: Mapping with a ``name`` and the fields of what it names.
        table: Name -> dataclass.
        path: Dotted path of the section, for messages.
        ready: Fields whose values are made already.

    Raises:
        ConfigError: No name, an unknown one, or fields that do not fit.
    """
    values = require_mapping(section, path)
    name = take_name(values, path)
    if name not in table:
        raise ConfigError(f"{path}.name: expected {either(table)}, got {name!r}; {suggest(name, table)}")
    return build(table[name], values, path, ready=ready)


def take_name(values: dict[str, Any], path: str) -> str:
    """Take the ``name`` out of a section.

    Raises:
        ConfigError: It is missing, or no text.
    """
    if "name" not in values:
        raise ConfigError(f"{join(path, 'name')}: missing; it says which {path.rpartition('.')[2]} is meant")
    name = values.pop("name")
    if not isinstance(name, str):
        raise ConfigError(f"{join(path, 'name')}: expected text, got {show(name)}")
    return name


def either(table: Mapping[str, object]) -> str:
    """The names of a table in words."""
    return " or ".join(table)


def check(hint: Any, value: object, path: str) -> Any:
    """Return ``value`` as the type ``hint`` says.

    Raises:
        ConfigError: The value has another type; the message holds path, value and expected type.
    """
    nested = [option for option in _options(hint) if dataclasses.is_dataclass(option)]
    if isinstance(value, Mapping) and len(nested) == 1:
        return build(typing.cast("type[Any]", nested[0]), value, path)
    try:
        text = json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {show(value)} is not a value of an experiment file ({error})") from error
    is_dataclass = dataclasses.is_dataclass(hint)  # pydantic refuses a configuration for these
    adapter = TypeAdapter(hint, config=None if is_dataclass else ConfigDict(arbitrary_types_allowed=True))
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        raise ConfigError(f"{path}: expected {describe(hint)}, got {show(value)}{_way_out(hint, value)}") from error


def _way_out(hint: Any, value: object) -> str:
    """What a value of the wrong type was probably meant to be."""
    options = _options(hint)
    choices = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
    if isinstance(value, str):
        near = difflib.get_close_matches(
            value, [choice for choice in choices if isinstance(choice, str)], n=1, cutoff=0.5
        )
        if near:
            return f"; did you mean {near[0]!r}?"
        if float in options and (percent := re.fullmatch(r"([0-9.]+) ?%", value)):
            return f"; did you mean {float(percent[1]) / 100:g}?"
    sections = [option for option in options if dataclasses.is_dataclass(option)]
    if sections and isinstance(value, int | float) and not isinstance(value, bool):
        return f"; write {{{file_fields(sections[0])[0].name}: {value}}}"
    return ""


def plain(value: Any) -> Any:
    """JSON form of a value: dataclasses become dicts of all the fields that a file can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in file_fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def non_default(value: Any) -> Any:
    """Like :func:`plain`, but dataclass fields that equal their default are left out, at every depth."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return plain(value)
    return {
        field.name: non_default(getattr(value, field.name))
        for field in file_fields(value)
        if getattr(value, field.name) != _default(field)
    }


def join(path: str, key: str) -> str:
    """Dotted path of ``key`` within ``path``."""
    return f"{path}.{key}" if path else key


def show(value: object) -> str:
    """A value with its type, for messages: ``'0.1' (text)``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    kind = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "a section"}.get(type(value))
    return f"{value!r} ({kind or type(value).__name__})"


def describe(hint: Any) -> str:
    """What a type hint allows, in words."""
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}
    if hint in words:
        return words[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(str(choice) if not isinstance(choice, str) else repr(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in arguments)
    if origin in (tuple, list, typing.get_origin(typing.Sequence[int])):
        items = [a for a in arguments if a is not Ellipsis]
        if origin is tuple and Ellipsis not in arguments:
            return f"a list of {len(items)}: {', '.join(describe(item) for item in items)}"
        return f"a list, each item {describe(items[0])}"
    if dataclasses.is_dataclass(hint):
        return f"a section with {', '.join(field.name for field in dataclasses.fields(hint))}"
    return getattr(hint, "__name__", str(hint))


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _type_hints(cls: type, path: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        way = "import the names its fields use at module level, not under TYPE_CHECKING"
        raise ConfigError(f"{path}: the types of {cls.__name__} cannot be read ({error}); {way}") from error


def file_fields(value: Any) -> list[dataclasses.Field[Any]]:
    """Fields that an experiment file can hold (``metadata={"config": False}`` marks those it cannot)."""
    return [f for f in dataclasses.fields(value) if f.init and f.metadata.get("config", True)]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
