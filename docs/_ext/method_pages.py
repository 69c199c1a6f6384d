"""One page a method, made of its dataclass, its docstring and the experiments that ship."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import yaml
from docstrings import arguments, body, clean, escape, escape_lines, link

from supermask import methods as package
from supermask.core.method import Method
from supermask.lab.load import Shipped, index, parse_yaml
from supermask.lab.validate import describe, plain
from supermask.tensors.initializers import Initializer

# where an example is looked for first; then in all that ship
_EXAMPLES = ("compare/digits", "structured/budgets-small")


def experiments() -> dict[str, tuple[Shipped, dict[str, Any]]]:
    """Every experiment that ships, by name, with what its file holds."""
    return {shipped.id: (shipped, parse_yaml(shipped.file.read_text(), shipped.id)) for shipped in index()}


def uses(method: str, every: dict[str, tuple[Shipped, dict[str, Any]]]) -> list[Shipped]:
    """The experiments with a run of the method."""
    return [shipped for shipped, raw in every.values() if method in set(_names(raw))]


def example(cls: type[Method], every: dict[str, tuple[Shipped, dict[str, Any]]]) -> tuple[dict[str, Any], str | None]:
    """An experiment of the method and its dense baseline, as a file holds it, and the name of the one it is made of.

    A method that no experiment uses stands on the network and data of the first; fields that name files are filled in.
    """
    for name in (*_EXAMPLES, *every):
        raw = every[name][1]
        for patch in raw.get("vary", {}).get("variant", {}).values():
            if patch.get("method", {}).get("name") == cls.name:
                return _experiment(cls.name, raw, patch), name
    files = {field.name: "masks.safetensors" for field in dataclasses.fields(cls) if field.metadata.get("file")}
    return _experiment(cls.name, every[_EXAMPLES[0]][1], {"method": {"name": cls.name, **files}}), None


def overview(known: dict[str, type[Method]]) -> str:
    """The page that lists all methods."""
    lines = [
        "Methods",
        "=======",
        "",
        "Made from the code of each method: its dataclass, whose fields are its hyper-parameters, and its docstring. In the",
        "terminal, ``supermask methods`` and ``supermask methods NAME`` show the same.",
        "",
        "Status: ``verified``, the paper's number was reached; ``explained``, it was missed, with the reason shown by runs;",
        "``experimental``, neither yet. :doc:`/reproductions` has the numbers.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: 24 16 60",
        "",
        "   * - method",
        "     - status",
        "     - what it does",
    ]
    for name, cls in known.items():
        summary = link(escape(clean(cls).partition("\n")[0]))
        lines += [f"   * - :doc:`{name} <{name}>`", f"     - {cls.status}", f"     - {summary}"]
    lines += ["", ".. toctree::", "   :hidden:", "", *(f"   {name}" for name in known)]
    return "\n".join(lines) + "\n"


def page(cls: type[Method], every: dict[str, tuple[Shipped, dict[str, Any]]]) -> str:
    """The page of a method, as reStructuredText."""
    doc = clean(cls)
    home = "supermask.methods" if cls.__name__ in package.__all__ else cls.__module__
    parts = [
        ".. highlight:: none",
        f"{cls.name}\n{'=' * len(cls.name)}",
        link(escape(doc.partition("\n")[0])),
        f"Status: ``{cls.status}``. Version {cls.version}. {' '.join(_flags(cls))}".strip(),
        "\n".join(link(line) for line in escape_lines(body(doc).splitlines())),
        _heading("Fields"),
        _signature(cls, home),
        *([_fields(cls, doc)] if dataclasses.fields(cls) else ["   It has none."]),
        _heading("An experiment"),
        _example(cls, every),
        _heading("Experiments that use it"),
        _used(cls, every),
    ]
    return "\n\n".join(parts) + "\n"


def _heading(text: str) -> str:
    return f"{text}\n{'-' * len(text)}"


def _flags(cls: type[Method]) -> list[str]:
    told = {
        "redraws": "It draws initial weights of its own, unless ``attach`` is told ``weights='keep'``.",
        "needs_data": "It scores weights on data: ``attach`` needs ``data`` and ``loss_fn``; experiments give it both.",
        "needs_structure": "It removes channels: ``attach`` needs ``structure`` or ``example``; experiments give it both.",
    }
    return [text for flag, text in told.items() if getattr(cls, flag)]


def _signature(cls: type[Method], home: str) -> str:
    shown = ", ".join(
        field.name if _required(field) else f"{field.name}={_python(_default(field))}"
        for field in dataclasses.fields(cls)
    )
    lines = [f".. py:class:: {cls.__name__}({f'*, {shown}' if shown else ''})", f"   :module: {home}"]
    if home != cls.__module__:
        lines.append(f"   :canonical: {cls.__module__}.{cls.__name__}")
    return "\n".join(lines)


def _fields(cls: type[Method], doc: str) -> str:
    hints, explained = typing.get_type_hints(cls), arguments(doc)
    entries = []
    for field in dataclasses.fields(cls):
        default = "required" if _required(field) else f"default ``{_yaml(plain(_default(field)))}``"
        only = "" if field.metadata.get("config", True) else "; from Python alone, not in an experiment file"
        entries.append(
            f"   ``{field.name}``\n"
            f"      {_type(hints[field.name])}; {default}{only}\n\n"
            f"      {link(escape(explained[field.name]))}"
        )
    return "\n\n".join(entries)


def _type(hint: Any) -> str:
    """What a field may hold, in words."""
    options = typing.get_args(hint) if hint.__class__.__name__ in ("UnionType", "_UnionGenericAlias") else (hint,)
    return " or ".join(_one_type(option) for option in options)


def _one_type(hint: Any) -> str:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"``{choice}``" for choice in inside[:-1]) + f" or ``{inside[-1]}``"
    if hint is Initializer:
        return ":class:`~supermask.Initializer`"
    if origin is not None and issubclass(origin, typing.Mapping):
        held = "arrays" if inside[1] is Any else _one_type(inside[1]).removeprefix("a ") + "s"
        return f"a mapping from names to {held}"
    if origin is tuple:
        return f"a list, each item {_one_type(inside[0])}"
    return describe(hint)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _python(value: Any) -> str:
    if isinstance(value, Initializer):
        return "Initializer(...)"
    return repr(value)


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return str(text).removesuffix("\n").removesuffix("\n...")


def _example(cls: type[Method], every: dict[str, tuple[Shipped, dict[str, Any]]]) -> str:
    experiment, source = example(cls, every)
    text = yaml.safe_dump(experiment, default_flow_style=None, sort_keys=False, width=100)
    block = "\n".join(f"   {line}" for line in text.splitlines())
    about = f"Settings of ``{source}``." if source else "Network, data and training of ``compare/digits``."
    get = (
        "" if experiment["data"]["name"] == "digits" else f" after ``supermask data get {experiment['data']['name']}``"
    )
    return (
        f"{about} Saved as ``{cls.name}.yaml``, it trains with ``supermask run {cls.name}.yaml``{get}; "
        f":doc:`/experiments` explains every key.\n\n.. code-block:: yaml\n\n{block}"
    )


def _used(cls: type[Method], every: dict[str, tuple[Shipped, dict[str, Any]]]) -> str:
    found = uses(cls.name, every)
    if not found:
        return "None of those that ship."
    return "\n".join(f"- ``{shipped.id}``: {escape(shipped.title)}" for shipped in found)


def _experiment(name: str, raw: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """A variant of an experiment beside the dense one of the same network; their network is what both share."""
    base: dict[str, Any] = {key: raw[key] for key in ("model", "init", "data", "train") if key in raw}
    variants: dict[str, dict[str, Any]] = {name: patch}
    if name != "dense":
        same = [v for v in raw["vary"]["variant"].values() if v.get("model") == patch.get("model")]
        dense = [v for v in same if v.get("method", {}).get("name") == "dense"]
        variants = {"dense": dense[0] if dense else {"method": {"name": "dense"}}, name: patch}
    if "model" in patch:
        base = {"model": patch["model"], **base}
        variants = {key: {k: v for k, v in item.items() if k != "model"} for key, item in variants.items()}
    told: dict[str, Any] = {"name": f"{name}-example"}
    return {**told, **base, "vary": {"seed": 3, "variant": variants}}


def _names(value: Any) -> typing.Iterator[str]:
    """The names of all methods below a value of a file."""
    if isinstance(value, list):
        for item in value:
            yield from _names(item)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key == "method" and isinstance(item, dict) and "name" in item:
            yield item["name"]
        elif key == "method.name":
            yield from item if isinstance(item, list) else [item]
        yield from _names(item)
