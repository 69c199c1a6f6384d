"""``supermask methods``: what is there to compare, where it comes from, and its defaults."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from supermask.cli import complete
from supermask.cli.options import AsJson

if TYPE_CHECKING:
    from supermask.core.method import Method

Name = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Show this method whole.", autocompletion=complete.methods)
]


def methods(name: Name = None, as_json: AsJson = False) -> None:
    """List the methods, or show one: its equations, source and cost, and the default of every field."""
    from supermask.cli.output import print_grids, print_json, print_text, terminal_width
    from supermask.cli.prose import fill_docstring
    from supermask.core.registry import method_class
    from supermask.core.registry import methods as registered
    from supermask.report.grid import Grid

    classes = list(registered().values()) if name is None else [method_class(name)]
    described = [_describe(cls) for cls in classes]
    if as_json:
        print_json({"schema": 1, "methods": described})
        return
    if name is None:
        rows = tuple((d["name"], d["status"], d["summary"], d["source"]) for d in described)
        headers = ("method", "status", "what it does", "source")
        print_grids([Grid("", headers, rows, frozenset(range(4)))], ["`supermask methods NAME` shows a method whole."])
        return
    print_text(f"{described[0]['name']} (version {described[0]['version']}, {described[0]['status']})\n")
    print_text(fill_docstring(_doc(classes[0]), min(terminal_width(), 100)) + "\n")
    fields = tuple((f["field"], "(required)" if f["required"] else _show(f["default"])) for f in described[0]["fields"])
    if fields:
        print_grids([Grid("", ("field", "default"), fields, frozenset({0, 1}))])


def _describe(cls: type[Method]) -> dict[str, Any]:
    from supermask.lab.validate import plain

    doc = _doc(cls)
    fields = []
    for field in dataclasses.fields(cls):
        if field.metadata.get("config", True):
            missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            fields.append({"field": field.name, "required": missing, "default": None if missing else plain(default)})
    flags = {"redraws": cls.redraws, "needs_data": cls.needs_data}
    told = {key: _paragraph(doc, f"**{key.capitalize()}:**") for key in ("source", "differs", "cost")}
    about = {"summary": doc.partition("\n")[0], **told}
    return {"name": cls.name, "version": cls.version, "status": cls.status, **about, **flags, "fields": fields}


def _doc(cls: type[Method]) -> str:
    return inspect.cleandoc(cls.__doc__ or "").replace("``", "`")


def _paragraph(doc: str, start: str) -> str:
    """The paragraph of a docstring that begins with a word, on one line; empty if there is none."""
    return next((" ".join(p.removeprefix(start).split()) for p in doc.split("\n\n") if p.startswith(start)), "")


def _show(default: Any) -> str:
    if isinstance(default, dict):
        return ", ".join(f"{key}: {_show(value)}" for key, value in default.items())
    words = {None: "null", True: "true", False: "false"}
    return words[default] if default is None or isinstance(default, bool) else str(default)
