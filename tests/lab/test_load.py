"""Experiment files: strict YAML, settings, names."""

import re

import pytest

from supermask.errors import ConfigError
from supermask.lab.load import (
    _apply_settings,
    find_experiment,
    index,
    load_experiment,
    make_experiment,
    parse_yaml,
    shipped_experiments,
    shipped_folder,
)
from supermask.lab.plan import expand

FILE = """
model: {name: fcn, inputs: 64, hidden: [16], classes: 10}
data: {name: digits}
method: {name: dense}
train:
  epochs: 2
  optimizer: {name: sgd, lr: 5e-2}
vary:
  seed: [0, 1]
  variant:
    dense: {}
    random: {method: {name: random, density: 0.5}, train.epochs: 3}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("5.0e-4", 5e-4),
        ("1e3", 1000.0),
        ("-2E-1", -0.2),
        (".5", 0.5),
        ("3.", 3.0),
        (".inf", float("inf")),
        ("12", 12),
        ("-7", -7),
        ("true", True),
        ("null", None),
        ("~", None),
        ("yes", "yes"),
        ("off", "off"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("e4", "e4"),
        ("[1, 2e0]", [1, 2.0]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    found = parse_yaml(text, "text")
    assert found == value
    assert type(found) is type(value)


def test_empty_value_is_null():
    assert parse_yaml("a:\nb: 1", "text") == {"a": None, "b": 1}


def test_repeated_key_is_refused_with_both_lines():
    with pytest.raises(ConfigError, match=r"key 'epochs' is given twice: line 2 and line 4"):
        parse_yaml("train:\n  epochs: 1\n  lr: 2\n  epochs: 3\n", "x.yaml")


def test_merge_keys_are_no_repetition():
    text = "base: &b {x: 1, y: 2}\nother: {<<: *b, y: 3}"
    assert parse_yaml(text, "x.yaml")["other"] == {"x": 1, "y": 3}


def test_broken_yaml_names_file_and_line():
    with pytest.raises(ConfigError, match=r"x\.yaml.*\n.*line 2"):
        parse_yaml("a: 1\nb: [1, 2\n", "x.yaml")


def test_yaml_cannot_run_code():
    with pytest.raises(ConfigError, match="python/object"):
        parse_yaml("!!python/object/apply:os.system ['true']", "x.yaml")


def test_load(file):
    experiment = load_experiment(file)
    assert experiment.name == "tiny"
    assert experiment.folder == file.parent.resolve()
    assert experiment.base["train"]["optimizer"]["lr"] == 0.05
    assert list(experiment.vary["variant"]) == ["dense", "random"]


def test_settings_override(file):
    settings = ["train.optimizer.lr=1e-3", "vary.seed=[4]", "train.schedule={name: cosine}", "name=mine"]
    experiment = load_experiment(file, settings=settings)
    assert experiment.base["train"]["optimizer"] == {"name": "sgd", "lr": 1e-3}
    assert experiment.base["train"]["schedule"] == {"name": "cosine"}
    assert experiment.vary["seed"] == [4]
    assert list(experiment.vary["variant"]) == ["dense", "random"]
    assert experiment.name == "mine"


def test_setting_a_name_replaces_the_section_in_any_order(file):
    settings = ["train.optimizer.betas=[0.8, 0.9]", "train.optimizer.lr=0.1", "train.optimizer.name=adam"]
    experiment = load_experiment(file, settings=settings)
    assert experiment.base["train"]["optimizer"] == {"name": "adam", "lr": 0.1, "betas": [0.8, 0.9]}


@pytest.mark.parametrize("setting", ["train.epochs", "=3", ""])
def test_setting_without_key_or_value(file, setting):
    with pytest.raises(ConfigError, match="expected key=value"):
        load_experiment(file, settings=[setting])


def test_a_setting_has_the_last_word_over_variants(file):
    experiment = load_experiment(file, settings=["train.epochs=9"])
    assert {spec.config().train.epochs for spec in expand(experiment)} == {9}


def test_a_setting_reaches_only_variants_that_have_the_key():
    raw = parse_yaml(FILE, "FILE")
    raw["vary"]["variant"] = {
        "dense": {"method": {"name": "dense"}},
        "sparse": {"method": {"name": "random", "density": 0.5}},
    }
    raw["method"] = {"name": "dense"}
    changed, free = _apply_settings(raw, ["method.density=0.25"])
    assert free == ()
    assert changed["method"] == {"name": "dense"}
    assert changed["vary"]["variant"] == {
        "dense": {"method": {"name": "dense"}},
        "sparse": {"method": {"name": "random", "density": 0.25}},
    }


OWN_METHODS = """
model: {name: fcn, inputs: 64, hidden: [16], classes: 10}
data: {name: digits}
train: {epochs: 2, optimizer: {name: sgd, lr: 5e-2}}
vary:
  variant:
    dense: {method: {name: dense}}
    random: {method: {name: random}}
    magnitude: {method: {name: magnitude}, train.optimizer: {name: adam, lr: 1e-3}}
"""


def runs_of(file, text, *settings):
    file.write_text(text)
    return {spec.label: spec.config() for spec in expand(load_experiment(file, settings=settings))}


@pytest.mark.parametrize("base", ["", "method: {name: signed-supermask}"])
def test_a_setting_that_the_base_cannot_pass_on_reaches_all_runs_that_know_the_key(file, base):
    runs = runs_of(file, OWN_METHODS + base, "method.density=0.25")
    assert runs["random"].method.density == runs["magnitude"].method.density == 0.25
    assert runs["dense"].method.name == "dense"


def test_a_setting_reaches_an_optimizer_that_every_variant_names(file):
    text = OWN_METHODS.replace("{name: dense}", "{name: dense}, train.optimizer: {name: adamw, lr: 1e-3}")
    text = text.replace("{name: random}", "{name: random}, train.optimizer: {name: adam, lr: 1e-3}")
    runs = runs_of(
        file, text.replace("optimizer: {name: sgd, lr: 5e-2}", "batch_size: 9"), "train.optimizer.betas=[0.5, 0.6]"
    )
    assert {run.train.optimizer.betas for run in runs.values()} == {(0.5, 0.6)}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "method.densty=0.1",
            r"--set method\.densty: the method of no run has the key 'densty'; did you mean 'density'\?",
        ),
        (
            "method.scores.gain=1",
            r"--set method\.scores\.gain: the method of no run has the key 'scores'; did you mean 'scope'",
        ),
        ("train.optimizer.moment=1", r"train\.optimizer\.moment: unknown key; did you mean 'momentum'"),
    ],
)
def test_a_setting_that_no_run_knows_is_refused(file, setting, message):
    with pytest.raises(ConfigError, match=message):
        runs_of(file, OWN_METHODS, setting)


def test_a_setting_may_go_with_a_new_name(file):
    text = OWN_METHODS.replace("    random: {method: {name: random}}\n", "")
    runs = runs_of(file, text, "method.name=magnitude", "method.density=0.3")
    assert {(run.method.name, run.method.density) for run in runs.values()} == {("magnitude", 0.3)}


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (
            "method: {densty: 0.1}",
            r"method\.densty: reaches no run, as every run takes its method from `vary`; did you mean",
        ),
        ("method: {density: 0.1}", r"method\.density: reaches no run, as every .*; give it there, or remove it"),
        (
            "method: {name: signed-supermask, scores: {gain: 2}}",
            r"method\.scores\.gain: reaches no run.*; did you mean 'scope'",
        ),
    ],
)
def test_a_key_of_the_base_that_reaches_no_run_is_refused(file, base, message):
    with pytest.raises(ConfigError, match=message):
        runs_of(file, OWN_METHODS + base)


def test_setting_within_what_a_list_sets_is_refused(file):
    file.write_text(FILE + "  train.optimizer: [{name: sgd, lr: 1}, {name: adam, lr: 1}]\n")
    expected = r"the runs differ in train\.optimizer; use --set vary\.train\.optimizer=\[\.\.\.\]"
    with pytest.raises(ConfigError, match=expected):
        load_experiment(file, settings=["train.optimizer.lr=9"])


def test_setting_twice_is_refused(file):
    with pytest.raises(ConfigError, match=r"--set\.train\.batch_size: set twice, to 1 \(a whole number\)"):
        load_experiment(file, settings=["train.batch_size=1", "train={batch_size: 2}"])


def test_unknown_top_level_key(file):
    file.write_text(FILE + "\nmodle: 3\n")
    with pytest.raises(ConfigError, match="modle: unknown key; did you mean 'model'"):
        load_experiment(file)


def test_section_that_is_no_section():
    with pytest.raises(ConfigError, match=r"train: expected a section of keys and values, got 3 \(a whole number\)"):
        make_experiment({"train": 3})


def test_key_that_is_no_text():
    with pytest.raises(ConfigError, match=r"train: keys must be text, got 1 \(a whole number\)"):
        make_experiment({"train": {1: 2}})


@pytest.mark.parametrize("name", ["../up", "a b", "", 3, "/abs", "a//b"])
def test_names_that_cannot_be_folders(name):
    with pytest.raises(ConfigError, match="name: letters, digits"):
        make_experiment({"name": name})


def test_names_may_hold_slashes():
    assert make_experiment({"name": "signed-supermask/table-2"}).name == "signed-supermask/table-2"


def test_missing_file():
    with pytest.raises(ConfigError, match="no experiment file 'nowhere' and none of this name ships"):
        load_experiment("nowhere")


def test_shipped_experiments_go_by_name(monkeypatch, tmp_path):
    (tmp_path / "group").mkdir()
    path = tmp_path / "group" / "table-1.yaml"
    path.write_text(FILE)
    monkeypatch.setattr("supermask.lab.load.shipped_experiments", lambda: {"group/table-1": path})
    assert find_experiment("group/table-1") == path
    (tmp_path / "mine.yaml").write_text(FILE)
    for wrong, way in {
        "group/table-11": "did you mean 'group/table-1'",
        "table-1": "did you mean 'group/table-1'",
        "group/table-1.yaml": "did you mean 'group/table-1'",  # the name of a file that is not there
        f"{tmp_path}/mime.yaml": f"did you mean '{tmp_path}/mine.yaml'",
        "xyz": "`supermask plan` lists those that ship",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(way)):
            find_experiment(wrong)


def test_shipped_experiments_are_those_of_the_index():
    assert shipped_experiments() == {shipped.id: shipped.file for shipped in index()}
    quickstart = index()[0]
    assert (quickstart.id, quickstart.file.name, quickstart.paper, quickstart.kind) == (
        "quickstart", "quickstart.yaml", None, "results",
    )  # fmt: skip


@pytest.fixture
def own_index(tmp_path, monkeypatch):
    """Call it with the text of an index, to read that instead of the one that ships."""

    def read(text):
        (tmp_path / "index.yaml").write_text(text)
        return index.__wrapped__()

    monkeypatch.setattr("supermask.lab.load.shipped_folder", lambda: tmp_path)
    return read


def test_an_index_of_ones_own(own_index, tmp_path):
    (entry,) = own_index("a/b: {file: b.yaml, title: A title, paper: mine, kind: settings}")
    assert (entry.id, entry.file, entry.title) == ("a/b", tmp_path / "b.yaml", "A title")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {file: a.yaml, titel: x, paper: null, kind: results}", r"a\.titel: unknown key; did you mean 'title'"),
        ("a: {file: a.yaml, title: x, paper: null, kind: result}", r"a\.kind: expected 'results' or .*, got 'result'"),
        ("a: {file: a.yaml, title: x, kind: results}", r"a\.paper: missing; it has no default"),
        ("a: 3", r"a: expected a section of keys and values, got 3"),
    ],
)
def test_a_damaged_index(own_index, text, message):
    with pytest.raises(ConfigError, match=message):
        own_index(text)


def test_a_package_without_its_experiments(monkeypatch, tmp_path):
    monkeypatch.setattr("supermask.lab.load.__file__", str(tmp_path / "a" / "b" / "lab" / "load.py"))
    with pytest.raises(ConfigError, match="comes without its experiments; install the wheel"):
        shipped_folder()


# ---------------------------------------------------------------------- about, published, table


def test_what_stands_beside_the_runs_is_optional():
    experiment = make_experiment({})
    assert experiment.about == ""
    assert (dict(experiment.published.rows), experiment.published.others) == ({}, ())
    assert experiment.table.kind == "results"


def test_what_stands_beside_the_runs():
    raw = parse_yaml(
        """
        about: Two words
        published:
          rows: {dense: some/id}
          others: [other/id, {source: a book, label: theirs, accuracy: [97.4, 97.3, 97.5], weights: [100], bits: 1}]
        table: {kind: settings, columns: {rate: train.optimizer.lr}, quoted: {dense: {rate: ".1"}}, source: a book}
        """,
        "text",
    )
    experiment = make_experiment(raw)
    assert experiment.about == "Two words"
    assert experiment.published.rows == {"dense": "some/id"}
    other, cells = experiment.published.others
    assert other == "other/id"
    assert cells.to_dict() == {
        "source": "a book", "label": "theirs", "accuracy": [97.4, 97.3, 97.5], "weights": [100], "bits": 1.0,
    }  # fmt: skip
    assert experiment.table.quoted == {"dense": {"rate": ".1"}}
    assert experiment.table.source == "a book"


CELLS = {"label": "theirs", "source": "a book"}
SETTINGS = {"kind": "settings", "columns": {"rate": "train.optimizer.lr"}}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"abuot": "x"}, r"abuot: unknown key; did you mean 'about'\?"),
        ({"about": 3}, r"about: expected text, got 3 \(a whole number\)"),
        ({"published": []}, r"published: expected a section of keys and values, got \[\] \(a list\)"),
        ({"published": {"row": {}}}, r"published\.row: unknown key; did you mean 'rows'\?"),
        ({"published": {"rows": []}}, r"published\.rows: expected a section of keys and values"),
        ({"published": {"rows": {"dense": 97.4}}},
         r"published\.rows\.dense: expected the id of an entry of the literature, or its cells, got 97\.4 \(a number\)"),
        ({"published": {"rows": {"dense": {"accuracy": [97.4]}}}}, r"published\.rows\.dense\.source: missing"),
        ({"published": {"rows": {"dense": CELLS | {"acuracy": [1]}}}},
         r"published\.rows\.dense\.acuracy: unknown key; did you mean 'accuracy'\?"),
        ({"published": {"others": "some/id"}}, r"published\.others: expected a list of ids or of cells, got 'some/id'"),
        ({"published": {"others": [CELLS | {"accuracy": "97.4"}]}},
         r"published\.others\.0\.accuracy: expected a list.*or null, got '97\.4' \(text\)"),
        ({"published": {"others": [CELLS | {"remaining": [1, 2]}]}},
         r"published\.others\.0: remaining must hold 1 number \(mean\) or 3 \(mean, low, high\), got \[1, 2\]"),
        ({"published": {"others": [CELLS | {"trust": "rumour"}]}},
         r"published\.others\.0\.trust: expected .*'recalled' or 'computed' or null, got 'rumour'"),
        ({"table": "settings"}, r"table: expected a section of keys and values"),
        ({"table": {"kin": "settings"}}, r"table\.kin: unknown key; did you mean 'kind'\?"),
        ({"table": {"kind": "setting"}}, r"table\.kind: expected 'results' or 'settings' or 'literature', got 'setting'"),
        ({"table": {"kind": "settings"}}, r"table\.columns: missing; a table of kind 'settings' needs them"),
        ({"table": {"rank": "all"}}, r"table\.rank: expected a list"),
        ({"table": {"rank": []}}, r"table\.rank: expected true, or different densities such as \[0\.1, 0\.01\], got \[\]"),
        ({"table": {"rank": [0.1, 0.1]}}, r"table\.rank: expected true, or different densities"),
        ({"table": {"rank": [10, 5]}}, r"table\.rank: a density must be in \(0, 1\], got 10; did you mean 0\.1\?"),
        ({"table": {"rank": [0]}}, r"table\.rank: a density must be in \(0, 1\], got 0 \(density is what remains\)"),
        ({"table": {"kind": "literature", "rank": True}}, r"table\.rank: a table of kind 'literature' has no runs to rank"),
        ({"table": {"columns": {"a": "b"}}}, r"table\.columns: only a table of kind 'settings' takes it, .* is 'results'"),
        ({"table": SETTINGS | {"show": ["best"]}}, r"table\.show: only a table of kind 'results' takes it, .* is 'settings'"),
        ({"table": {"show": ["worst"]}}, r"table\.show: expected a list, each item 'best' or 'per-layer' or 'path' or 'std'"),
        ({"table": {"epochs": [0, 5]}}, r"table\.epochs: epochs count from 1, got"),
        ({"table": SETTINGS | {"columns": {"rate": 3}}}, r"table\.columns\.rate: expected text, got 3"),
        ({"table": SETTINGS | {"quoted": {"dense": {"rate": 0.1}}}}, r"table\.quoted\.dense\.rate: expected text, got 0\.1"),
        ({"table": SETTINGS | {"quoted": {"dense": {"rat": "1"}}}},
         r"table\.quoted\.dense\.rat: no such column; did you mean 'rate'\?"),
        ({"table": SETTINGS | {"source": 3}}, r"table\.source: expected text, got 3"),
        ({"table": {"kind": "literature"}, "model": {"name": "fcn"}},
         r"model: a table of kind 'literature' has no runs; remove this, or change table\.kind"),
        ({"table": {"kind": "literature"}, "vary": {"seed": 3}}, r"vary: a table of kind 'literature' has no runs"),
    ],
)  # fmt: skip
def test_what_is_wrong_beside_the_runs(raw, message):
    with pytest.raises(ConfigError, match=message):
        make_experiment(raw)


@pytest.mark.parametrize(
    ("table", "rank"), [({}, None), ({"rank": False}, None), ({"rank": True}, ()), ({"rank": [0.01, 0.1]}, (0.1, 0.01)),
                        (SETTINGS | {"rank": [1]}, (1,))]
)  # fmt: skip
def test_rankings_that_a_file_asks_for(table, rank):
    assert make_experiment({"table": table}).table.rank == rank


def test_what_else_a_table_shows():
    table = make_experiment({"table": {"show": ["best", "std"], "epochs": [40, 20]}}).table
    assert (table.show, table.epochs) == (("best", "std"), (20, 40))
    assert (make_experiment({}).table.show, make_experiment({}).table.epochs) == ((), ())


# ---------------------------------------------------------------------- plug-ins


def test_plugin_that_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"plugins: no such file: .*mine\.py; paths are relative"):
        make_experiment({"plugins": ["mine.py"]}, folder=tmp_path)


def test_plugins_that_are_no_list():
    with pytest.raises(ConfigError, match=r"plugins: expected a list of files, got 'mine\.py'"):
        make_experiment({"plugins": "mine.py"})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", r"the plug-in .*mine\.py, line 1 failed to import: ModuleNotFoundError: .* 'no_such_module'"),
        ("raise RuntimeError('not today')", r"the plug-in .*mine\.py, line 1 failed to import: RuntimeError: not today"),
        ("def broken(:", r"the plug-in .*mine\.py failed to import: SyntaxError: "),
        ("x = 1", r"the plug-in .*mine\.py registers no method: decorate a Method subclass with @supermask\.register"),
    ],
)  # fmt: skip
def test_plugin_that_fails_to_import(tmp_path, code, message):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ConfigError, match=message):
        make_experiment({"plugins": ["mine.py"]}, folder=tmp_path)
