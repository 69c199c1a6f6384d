"""The user's own code: which file a reference means, and what happens when that file changes."""

import importlib
import json
import sys
import textwrap

import pytest

from supermask.errors import ConfigError
from supermask.lab import reference
from supermask.lab.files import sha256
from supermask.lab.plan import expand
from supermask.lab.reference import resolve, source_file
from supermask.lab.run import run_experiment
from supermask.lab.store import read_failures

from .helpers import experiment

LOSS = """
    from torch.nn.functional import cross_entropy

    import factors

    def loss(output, target):
        return cross_entropy(output, target) * factors.FACTOR

    def lazy():
        import later
        return later.NAME
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Nothing that a test imports outlives it."""
    names = ("mym", "factors", "later", "deep", "bare", "place")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(reference, "_folders", {})
    monkeypatch.setattr(reference, "_entered", [])
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in names:
            del sys.modules[name]


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


@pytest.fixture
def two(tmp_path):
    """Two folders whose files have the same names."""
    return [
        write(tmp_path / name, {"mym.py": LOSS, "factors.py": f"FACTOR = {factor}", "later.py": f"NAME = {name!r}"})
        for name, factor in (("one", 1.0), ("two", 2.0))
    ]


def helpers_of(loss):
    return loss.__globals__["factors"].FACTOR


def test_each_folder_has_its_own_modules_and_siblings(two):
    first, second = (resolve("mym:loss", folder, "train.loss") for folder in two)
    assert (helpers_of(first), helpers_of(second)) == (1.0, 2.0)
    for folder, loss, name in ((two[0], first, "one"), (two[1], second, "two"), (two[0], first, "one")):
        assert resolve("mym:loss", folder, "train.loss") is loss, "imported once"
        assert source_file("mym:loss", folder) == folder / "mym.py"
        assert resolve("mym:lazy", folder, "train.loss")() == name, "imports within functions"
    assert str(two[1]) not in sys.path


def test_the_folder_of_the_experiment_goes_before_the_current_one(two, monkeypatch):
    monkeypatch.chdir(two[1])
    assert helpers_of(resolve("mym:loss", two[0], "train.loss")) == 1.0


def test_the_current_folder_is_looked_in_last(two, tmp_path, monkeypatch):
    monkeypatch.chdir(two[1])
    empty = write(tmp_path / "empty", {"notes.txt": ""})
    assert helpers_of(resolve("mym:loss", empty, "train.loss")) == 2.0
    assert source_file("mym:loss", empty) == two[1] / "mym.py"


def test_modules_that_the_program_has_imported_stay_where_they_are(two, monkeypatch):
    monkeypatch.syspath_prepend(str(two[0]))
    mym = importlib.import_module("mym")
    other = resolve("mym:loss", two[1], "train.loss")
    assert helpers_of(other) == 2.0
    assert sys.modules["mym"] is mym
    assert sys.modules["factors"].FACTOR == 1.0
    assert resolve("mym:loss", two[0], "train.loss") is mym.loss
    assert resolve("mym:loss", two[1], "train.loss") is other
    assert sys.modules["mym"] is mym


def test_packages_with_and_without_an_init_file(tmp_path):
    folders = []
    for name in ("one", "two"):
        files = {
            "deep/__init__.py": "from deep.er import name",
            "deep/er.py": f"def name(): return {name!r}",
            "bare/parts.py": "from . import place\nname = place.name",
            "bare/place.py": f"def name(): return 'bare ' + {name!r}",
        }
        folders.append(write(tmp_path / name, files))
    for folder in (*folders, *folders):
        assert resolve("deep:name", folder, "model.name")() == folder.name
        assert resolve("deep.er:name", folder, "model.name")() == folder.name
        assert resolve("bare.parts:name", folder, "model.name")() == f"bare {folder.name}"


def test_installed_packages_work_as_ever(tmp_path):
    write(tmp_path, {"random.py": "raise ImportError('not me')", "torch/nn.py": "raise ImportError('nor me')"})
    import random

    from torch import nn

    assert resolve("random:random", tmp_path, "model.name") is random.random
    assert resolve("torch.nn:Linear", tmp_path, "model.name") is nn.Linear
    assert str(source_file("torch.nn:Linear", tmp_path)) == nn.__file__


def test_what_cannot_be_imported(tmp_path):
    with pytest.raises(
        ConfigError, match=rf"cannot import 'absent_module'.*looked in {tmp_path}, the installed packages"
    ):
        resolve("absent_module:f", tmp_path, "train.loss")
    write(tmp_path, {"mym.py": "import factors", "factors.py": "1 / 0"})
    with pytest.raises(ConfigError, match=r"cannot import 'mym' \(ZeroDivisionError"):
        resolve("mym:f", tmp_path, "train.loss")
    write(tmp_path, {"factors.py": "x = 1 + 0 + 0"})
    with pytest.raises(ConfigError, match=r"mym\.py has no function or class 'f'"):
        resolve("mym:f", tmp_path, "train.loss")


def planned(folder, **options):
    return experiment({"train.loss": "mym:loss", "train.epochs": 1}, folder=folder, **options)


def test_two_experiments_in_one_process_train_their_own_code(two, tmp_path):
    ids = {}
    for folder in two:
        (spec,) = expand(planned(folder, name=folder.name))
        assert spec.hashes["train.loss"] == sha256(folder / "mym.py")
        ids[folder.name] = spec.id
    write(two[1], {"mym.py": LOSS + "    # changed\n"})
    reference._folders.clear()
    reference._entered.clear()
    sys.modules.pop("mym")
    assert expand(planned(two[1]))[0].id != ids["two"]
    for workers in (0, 1):
        losses = []
        for folder in two:
            outcome = run_experiment(planned(folder, name=folder.name), out=tmp_path / str(workers), workers=workers)
            losses.append(
                json.loads((outcome.folder / outcome.done[0].run / "result.json").read_text())["loss"]["test"]
            )
        assert losses[1] > 1.3 * losses[0], "the second loss is doubled"


@pytest.mark.parametrize("workers", [0, 1])
def test_code_that_changes_between_plan_and_training(two, tmp_path, workers, monkeypatch):
    look_up = importlib.import_module("supermask.lab.run").look_up

    def change(job):
        write(two[0], {"mym.py": LOSS + "    # changed\n"})
        return look_up(job)

    monkeypatch.setattr("supermask.lab.run.look_up", change)
    vary = {"variant": {"own": {}, "ours": {"train.loss": "cross-entropy"}}}
    outcome = run_experiment(planned(two[0], vary=vary), out=tmp_path / "runs", workers=workers)
    (event,) = outcome.failed
    assert event.message.startswith(
        f"train.loss: {two[0] / 'mym.py'} has changed since this run was planned, and changed"
    )
    assert [failure["error"] for failure in read_failures(tmp_path / "runs")] == [event.message]
    assert [event.label for event in outcome.done] == ["ours"]


def test_code_that_is_planned_anew_but_was_imported_before_it_changed(two, tmp_path):
    expand(planned(two[0]))
    write(two[0], {"mym.py": LOSS + "    # changed\n"})
    (event,) = run_experiment(planned(two[0]), out=tmp_path / "here", workers=0).failed
    assert "start a program of your own again" in event.message
    (event,) = run_experiment(planned(two[0]), out=tmp_path / "worker", workers=1).done
    assert event.kind == "done", "a worker imports the file as it is now"


def test_a_plug_in_that_changes_between_plan_and_training(tmp_path, monkeypatch):
    from supermask.core import registry

    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    text = """
        import supermask

        @supermask.register
        class Mine(supermask.Method):
            \"\"\"Nothing.\"\"\"

            name = "mine-that-changes"

            def setup(self, s):
                pass
    """
    write(tmp_path, {"plugin.py": text})
    (spec,) = expand(experiment({"method": {"name": "mine-that-changes"}}, plugins=[tmp_path / "plugin.py"]))
    spec.require_same_code(spec.config())
    monkeypatch.setattr(registry, "_METHODS", {k: v for k, v in registry._METHODS.items() if k != "mine-that-changes"})
    write(tmp_path, {"plugin.py": text + "    # changed\n"})
    with pytest.raises(Exception, match=r"^method\.name: .*plugin\.py has changed since this run was planned"):
        spec.require_same_code(spec.config())


def test_a_folder_that_is_the_current_one(two, monkeypatch):
    monkeypatch.chdir(two[0])
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    mym = importlib.import_module("mym")
    assert resolve("mym:loss", two[0], "train.loss") is mym.loss
    resolve("mym:loss", two[1], "train.loss")
    assert sys.modules["mym"] is mym
    assert source_file("mym:loss", two[1]) == two[1] / "mym.py"
