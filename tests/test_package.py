"""The shape of the package: public names, direction of imports, lean import, small files."""

from __future__ import annotations

import ast
import importlib
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import supermask

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "supermask"
MODULES = sorted(SOURCE.rglob("*.py"))

# layer -> what it may import beside itself; errors and _version are open to all
MAY_IMPORT = {
    "kernels": set(),
    "tensors": {"kernels"},
    "core": {"kernels", "tensors"},
    "optim": {"kernels", "tensors"},
    "methods": {"tensors", "core", "optim"},
    "models": {"tensors", "core"},
    "data": {"tensors", "core"},
    "measure": {"tensors", "core"},
    "deploy": {"kernels", "tensors", "core"},
    "lab": {"kernels", "tensors", "core", "optim", "methods", "models", "data", "measure", "deploy"},
    "report": {"lab.store"},
    "cli": {"kernels", "tensors", "core", "optim", "methods", "models", "data", "measure", "deploy", "lab", "report"},
}
OPEN_TO_ALL = {"errors", "_version"}


def test_public_names() -> None:
    assert sorted(supermask.__all__) == [
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
    assert len(supermask.__all__) <= 20
    for name in supermask.__all__:
        assert getattr(supermask, name) is not None


def _imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports, as dotted names below ``supermask``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "supermask":
                yield name.removeprefix("supermask").removeprefix(".")


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent != SOURCE], ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    layer = path.relative_to(SOURCE).parts[0]
    assert layer in MAY_IMPORT, f"the new layer {layer} needs a place in the order"
    for name in _imports(path):
        target = name.split(".")[0]
        if target in OPEN_TO_ALL or target == layer:
            continue
        allowed = any(name == entry or name.startswith(f"{entry}.") for entry in MAY_IMPORT[layer])
        assert allowed, f"{layer} must not import supermask.{name}"


def test_methods_do_not_import_each_other() -> None:
    for path in (SOURCE / "methods").glob("*.py"):
        if path.name != "__init__.py":
            assert not [name for name in _imports(path) if name.startswith("methods")], path.name


EXTRAS = [
    *("pydantic", "yaml", "typer", "rich", "safetensors", "sklearn", "scipy", "PIL", "webdataset"),
    *("ray", "submitit", "altair", "vl_convert"),
]


def _loaded(code: str, modules: list[str]) -> list[str]:
    """Which of the modules a fresh process has loaded after the code; what it prints to stdout is not looked at."""
    code += f"\nimport sys; sys.stderr.write(repr([m for m in {modules!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = ast.literal_eval(done.stderr.splitlines()[-1])
    assert isinstance(found, list)
    return found


def test_lean_import() -> None:
    """``import supermask`` loads neither torch nor an extra, and a name of it loads what it needs."""
    heavy = ["torch", "numpy", *EXTRAS]
    assert _loaded("import supermask; supermask.SupermaskError; dir(supermask)", heavy) == []
    assert _loaded("from supermask import SignedSupermask", heavy) == ["torch", "numpy"]


def test_public_names_are_found_late() -> None:
    assert set(supermask.__all__) <= set(dir(supermask))
    for name, home in supermask._HOMES.items():
        assert getattr(supermask, name) is getattr(importlib.import_module(f"supermask.{home}"), name)
    with pytest.raises(AttributeError, match="module 'supermask' has no attribute 'SignedSupermsk'"):
        supermask.SignedSupermsk  # noqa: B018


def test_the_late_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        seen |= {alias.name: (node.module or "").removeprefix("supermask.") for alias in node.names}
    assert seen == supermask._HOMES
    assert set(seen) | {"SupermaskError", "__version__"} == set(supermask.__all__)


def _command(*arguments: str) -> str:
    start = f"import sys; sys.argv = {['supermask', *arguments]!r}\nfrom supermask.cli import main\n"
    return start + "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_loads_nothing_heavy(option: str) -> None:
    assert _loaded(_command(option), ["torch", "numpy", "pydantic", "yaml", "sklearn"]) == []


@pytest.mark.parametrize(
    "verb",
    [
        "run",
        "plan",
        "report",
        "search",
        "reproduce",
        "watch",
        "compare",
        "methods",
        "models",
        "data",
        "check",
        "init",
        "doctor",
        "pack",
        "shrink",
        "unpack",
        "export",
        "bench",
        "verify",
    ],
)
def test_help_of_a_verb_loads_little(verb: str) -> None:
    assert (
        _loaded(_command(verb, "--help"), ["torch", "numpy", "yaml", "sklearn"]) == []
    )  # pydantic is typer's own wish


def test_a_report_of_folders_loads_no_torch(tmp_path: Path) -> None:
    assert _loaded(_command("report", str(tmp_path)), ["torch", "sklearn"]) == []


def test_methods_are_known_without_importing_them() -> None:
    code = "from supermask.core.registry import methods; assert 'signed-supermask' in methods()"
    assert _loaded(code, ["supermask.methods"]) == ["supermask.methods"]


def test_the_name_of_a_built_in_method_is_taken() -> None:
    code = """
from dataclasses import dataclass
from typing import ClassVar
from supermask import Method, register
from supermask.errors import ConfigError

@dataclass(frozen=True, kw_only=True)
class Dense(Method):
    "Another one."
    name: ClassVar[str] = "dense"
    def setup(self, s): pass

try:
    register(Dense)
except ConfigError as error:
    assert "the method name 'dense' is taken by supermask.methods.dense.Dense" in str(error)
else:
    raise SystemExit("not refused")
"""
    assert _loaded(code, ["supermask.methods"]) == ["supermask.methods"]


def test_reports_need_no_torch() -> None:
    """A report only reads folders: neither it nor the store below it imports torch."""
    for path in [*(SOURCE / "report").glob("*.py"), SOURCE / "lab" / "store.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "torch"], path.name


def test_kernels_need_no_torch() -> None:
    """Packed files are read and run with numpy only; three kernels are for training."""
    names = {path.stem for path in (SOURCE / "kernels").glob("*.py")} - {"__init__", "ternary", "sgd", "mask"}
    code = "\n".join(f"import supermask.kernels.{name}" for name in sorted(names))
    assert _loaded(code, ["torch"]) == []


def _code_lines(path: Path) -> int:
    """Lines that hold code: docstrings, comments and blank lines do not count."""
    text = path.read_text()
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstrings.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    ignored = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in ignored:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_modules_are_small(path: Path) -> None:
    limit = 150 if path.parent.name == "methods" else 400
    assert _code_lines(path) <= limit


def test_every_module_says_what_it_is_for() -> None:
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_typed_marker_ships() -> None:
    assert (SOURCE / "py.typed").is_file()
