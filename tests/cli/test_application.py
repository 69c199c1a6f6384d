from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import supermask.cli
from supermask._version import __version__

from .conftest import Invoke

VERBS = (
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
)


def test_version(supermask: Invoke) -> None:
    assert supermask("--version").output == f"supermask {__version__}\n"


def test_help_names_every_verb(supermask: Invoke) -> None:
    output = supermask("--help").output
    for verb in VERBS:
        assert f" {verb} " in output
    assert "--install-completion" in output


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, supermask: Invoke) -> None:
    result = supermask(verb, "-h")
    assert result.exit_code == 0
    assert "--json" in supermask(verb, *["show"] * (verb == "data"), "-h").output


def test_no_flag_is_a_hyper_parameter(supermask: Invoke) -> None:
    output = supermask("run", "--help").output
    for word in ("--epochs", "--lr", "--seed", "--batch", "--density"):
        assert word not in output


def test_a_wrong_verb_is_corrected(supermask: Invoke) -> None:
    result = supermask("docter")
    assert result.exit_code == 2
    assert "Did you mean 'doctor'?" in result.stderr


def test_an_error_is_one_message_without_traceback(supermask: Invoke) -> None:
    result = supermask("plan", "nowhere.yaml")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: no experiment file 'nowhere.yaml'")
    assert "Traceback" not in result.stderr


def test_debug_keeps_the_error(supermask: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no experiment file"):
        supermask("--debug", "plan", "nowhere.yaml")
    monkeypatch.setenv("SUPERMASK_DEBUG", "1")
    with pytest.raises(ValueError, match="no experiment file"):
        supermask("plan", "nowhere.yaml")


def test_errors_of_the_system_are_messages(supermask: Invoke, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = supermask("init", "fcn", "--method", "dense", "--seed", 0, "--out", tmp_path / "file" / "w.npz")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "file" in result.stderr


def test_ctrl_c_outside_of_a_run(supermask: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("supermask.lab.load.load_experiment", interrupt)
    result = supermask("plan", "quickstart")
    assert (result.exit_code, result.stderr) == (130, "error: stopped\n")


def test_as_a_module(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "supermask", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == f"supermask {__version__}\n"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)  # import raises ModuleNotFoundError
    monkeypatch.delitem(sys.modules, "supermask.cli.application", raising=False)
    with pytest.raises(SystemExit) as exit:
        supermask.cli.main()
    assert exit.value.code == 2
    message = "error: the command line needs the package 'typer': python -m pip install 'supermask[lab]'\n"
    assert capsys.readouterr().err == message


def test_a_missing_module_of_another_kind_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ModuleNotFoundError("no such thing", name="elsewhere")

    monkeypatch.setattr("supermask.cli.application.app", broken)
    with pytest.raises(ModuleNotFoundError, match="no such thing"):
        supermask.cli.main()


def test_only_app_is_found_late() -> None:
    with pytest.raises(AttributeError, match="no attribute 'application2'"):
        supermask.cli.application2  # noqa: B018


def test_starting_imports_no_experiments_and_no_drawing(environment: dict[str, str]) -> None:
    """`--help` must not wait for pydantic, scikit-learn or the lab."""
    slow = ["pydantic", "yaml", "sklearn", "rich.table", "supermask.lab", "supermask.models", "supermask.report.table"]
    code = f"import sys, supermask.cli.application; print([name for name in {slow!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n"


def _code_lines(tree: ast.Module) -> int:
    """Lines on which a statement stands, docstrings left out."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and not docstring:
            compound = getattr(node, "body", None)
            end = compound[0].lineno if compound else (node.end_lineno or node.lineno) + 1
            lines.update(range(node.lineno, end))
    return len(lines)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_small(verb: str) -> None:
    path = Path(supermask.cli.__file__).parent / f"{verb}.py"
    assert _code_lines(ast.parse(path.read_text())) <= 60
