from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from supermask import Method, register
from supermask.core import registry
from supermask.core.checks import check_method
from supermask.core.registry import load_plugin, method_class, methods
from supermask.errors import ConfigError

from .helpers import Sound

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar
import supermask

@supermask.register
@dataclass(frozen=True, kw_only=True)
class Mine(supermask.Method):
    """Keeps everything."""

    name: ClassVar[str] = "{name}"

    def setup(self, s):
        for target in s.targets:
            s.install_mask(target)
'''


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_METHODS", methods())
    return


def test_the_built_in_methods() -> None:
    assert {"dense", "fixed-mask", "magnitude", "random", "signed-supermask"} <= set(methods())
    assert list(methods()) == sorted(methods())
    assert all(cls.name == name for name, cls in methods().items())


def test_an_unknown_method_offers_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'signed-supermaks'; did you mean 'signed-supermask'\? (?i:known): bar"):
        method_class("signed-supermaks")
    with pytest.raises(ConfigError, match="no method is called 'zzz'.* (?i:known): bar"):
        method_class("zzz")


@pytest.mark.parametrize("name", ["Mine", "my method", "", None, 3])
def test_names_are_kebab_case(name: object) -> None:
    cls = type("Mine", (Sound,), {"name": name, "__doc__": "x"})
    with pytest.raises(ConfigError, match="Mine.name must be a kebab-case string such as 'my-method', got"):
        register(cls)


def test_an_inherited_name_is_not_enough() -> None:
    cls = type("Mine", (Sound,), {"__doc__": "x"})
    with pytest.raises(ConfigError, match="Mine.name must be a kebab-case string"):
        register(cls)


def test_abstract_or_undocumented_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Mine must implement setup\(\) and have a docstring"):
        register(type("Mine", (Method,), {"name": "mine", "__doc__": "x"}))
    with pytest.raises(ConfigError, match="and have a docstring"):
        register(type("Mine", (Sound,), {"name": "mine"}))


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="the method name 'dense' is taken by supermask.methods.dense.Dense"):

        @register
        @dataclass(frozen=True, kw_only=True)
        class Other(Sound):
            """Another."""

            name = "dense"


def test_a_plugin_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN.format(name="mine"))
    (cls,) = load_plugin(path)
    assert method_class("mine") is cls
    assert load_plugin(str(path)) == [cls]
    assert check_method(cls).passed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import does_not_exist", ", line 1 failed to import: ModuleNotFoundError: No module named 'does_not_exist'"),
        ("x = 0\n1 / x", ", line 2 failed to import: ZeroDivisionError"),
        ("def", " failed to import: SyntaxError"),
        ("x = 1", " registers no method: decorate a Method subclass with @supermask.register"),
    ],
)
def test_bad_plugins(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(textwrap.dedent(text))
    with pytest.raises(ConfigError, match=f"the plug-in .*bad.py{message}"):
        load_plugin(path)
    with pytest.raises(ConfigError, match="no such plug-in file: .*gone.py"):
        load_plugin(tmp_path / "gone.py")
    (tmp_path / "bad.yaml").write_text("name: bad")
    with pytest.raises(ConfigError, match="a plug-in is a Python file whose name ends in .py, not bad.yaml"):
        load_plugin(tmp_path / "bad.yaml")
