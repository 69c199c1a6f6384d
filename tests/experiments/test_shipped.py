"""Every experiment that ships: listed, planned, complete, and sharing its runs where it says so."""

import json
from functools import cache

import pytest
from typer.testing import CliRunner

from supermask import models
from supermask.cli import app
from supermask.lab.literature import literature
from supermask.lab.load import find_experiment, index, load_experiment, shipped_folder
from supermask.lab.plan import expand
from supermask.lab.tables import settings_rows, weights

# id -> settings, runs; the paper's tables have its 50 seeds
COUNTS = {
    "quickstart": (2, 10),
    "signed-supermask/table-1": (10, 500),
    "signed-supermask/table-2": (9, 450),
    "signed-supermask/table-3": (8, 400),
    "signed-supermask/table-4": (10, 500),
    "signed-supermask/table-5": (7, 350),
    "signed-supermask/table-6": (6, 300),
    "signed-supermask/table-7": (13, 650),
    "signed-supermask/table-8": (14, 700),
    "signed-supermask/table-9": (11, 550),
    "signed-supermask/table-10": (11, 550),
    "signed-supermask/table-11": (14, 700),
    "signed-supermask/table-12": (61, 3050),
    "signed-supermask/table-13": (14, 700),
    "signed-supermask/table-14": (0, 0),
    "signed-supermask/table-15": (24, 1200),
    "signed-supermask/readme-architectures": (5, 250),
    "signed-supermask/readme-results": (20, 1000),
    "signed-supermask/fcn": (3, 15),
    "signed-supermask/fcn-thresholds": (3, 9),
    "signed-supermask/fcn-residual": (15, 75),
    "signed-supermask/conv2": (4, 12),
    "signed-supermask/conv-thresholds": (12, 600),
}
IDS = [shipped.id for shipped in index()]
PAPER = [shipped.id for shipped in index() if shipped.paper == "signed-supermask"]


@cache
def first_seed(name):
    """Label -> run of seed 0."""
    return {spec.label: spec for spec in expand(load_experiment(name, settings=["vary.seed=1"]))}


def test_the_index_lists_every_file_once():
    data = {shipped_folder() / "index.yaml", shipped_folder() / "literature.yaml"}
    files = [shipped.file for shipped in index()]
    assert sorted(files) == sorted(set(shipped_folder().rglob("*.yaml")) - data)


@pytest.mark.parametrize("shipped", index(), ids=IDS)
def test_every_id_leads_to_its_file(shipped):
    assert find_experiment(shipped.id) == shipped.file
    assert shipped.title
    assert load_experiment(shipped.id).table.kind == shipped.kind


@pytest.mark.parametrize("name", IDS)
def test_every_experiment_is_planned(name):
    experiment = load_experiment(name)
    specs = expand(experiment)
    assert len({spec.id for spec in specs}) == len(specs)
    if name in COUNTS:
        assert (len({spec.label for spec in specs}), len(specs)) == COUNTS[name]
    if experiment.table.kind == "settings":
        headers, rows = settings_rows(experiment, specs)
        assert len(rows) == len({spec.label for spec in specs})
        assert {len(row) for row in rows} == {len(headers)}


def test_every_table_of_the_paper_is_there():
    tables = {f"signed-supermask/table-{number}" for number in range(1, 16)}
    readme = {"signed-supermask/readme-architectures", "signed-supermask/readme-results"}
    assert tables | readme <= set(PAPER) <= set(COUNTS)


@pytest.mark.parametrize("name", PAPER)
def test_all_of_a_paper_share_one_results_folder(name):
    experiment = load_experiment(name)
    assert experiment.name == "signed-supermask"
    assert experiment.about


@pytest.mark.parametrize("name", [name for name in PAPER if name != "signed-supermask/table-14"])
def test_threshold_and_constant_are_written_in_the_file(name):
    for spec in first_seed(name).values():
        if spec.sections["method"]["name"] == "signed-supermask":
            method = spec.sections["method"]
            residual = spec.sections["model"]["name"].startswith("resnet")
            assert method["threshold_rule"] == "relative" or not residual, spec.label
            assert method["threshold"] == 0.01 or method["threshold_rule"] == "relative", spec.label
            assert method["weights"]["gain"] is not None or method["weights"]["rule"] != "elus", spec.label
    text = find_experiment(name).read_text()
    if "name: signed-supermask\n  " in text:
        assert "threshold_rule: " in text
        assert "gain: " in text


def test_every_entry_of_the_literature_is_quoted_somewhere():
    quoted = set()
    for name in IDS:
        published = load_experiment(name).published
        quoted |= {entry for entry in (*published.rows.values(), *published.others) if isinstance(entry, str)}
    assert set(literature()) - quoted == set()


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_table_of_literature_says_that_it_has_no_runs(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [verb, "signed-supermask/table-14"])
    assert result.exit_code == 0
    assert "no runs: this experiment only quotes literature" in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_report_of_a_table_of_literature(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report", "signed-supermask/table-14", "--json"])
    quoted = {(quote["label"], quote["bits"], quote["epochs"]) for quote in json.loads(result.output)["quoted"]}
    assert {("Conv8", 1, 100), ("SNIP, VGG-like", 32, None), ("RigL, WRN-22-2", 32, 250)} <= quoted


# ---------------------------------------------------------------------- runs that several tables want are trained once


@pytest.mark.parametrize(
    ("table", "others", "alone"),
    [
        ("table-3", ["table-2"], []),
        ("table-13", ["table-4", "table-5"], []),
        ("readme-results", ["table-1", "table-2", "table-4", "table-5"], []),
        ("readme-architectures", ["table-2", "table-8"], []),
        ("fcn", ["table-1"], []),
        ("table-7", ["table-2", "table-4", "table-5", "table-8"], ["ResNet110 as masked"]),
    ],
)
def test_runs_are_shared(table, others, alone):
    there = {spec.id for name in others for spec in first_seed(f"signed-supermask/{name}").values()}
    ours = first_seed(f"signed-supermask/{table}")
    assert [label for label, spec in ours.items() if spec.id not in there] == alone


@pytest.mark.parametrize(
    ("label", "elsewhere"),
    [
        ("FCN", ("table-12", "FCN, ±ELUS sqrt(6) / Xavier")),
        ("Conv2", ("table-2", "Conv2 signed supermask")),
        ("Conv8", ("table-12", "Conv8, ±ELUS sqrt(3) / Xavier")),
        ("Conv6", ("conv-thresholds", "Conv6, absolute 0.01, sqrt(3)")),
    ],
)
def test_settings_of_table_10_are_those_of_the_results(label, elsewhere):
    table, other = elsewhere
    assert first_seed("signed-supermask/table-10")[label].id == first_seed(f"signed-supermask/{table}")[other].id


def test_ids_of_trained_runs_are_pinned():
    """Results hang on these ids; that of the clipped loss also on every byte of kerasloss.py."""
    runs = first_seed("signed-supermask/table-1") | first_seed("signed-supermask/fcn-residual")
    runs |= first_seed("signed-supermask/table-15")
    assert {label: runs[label].id for label in PINNED} == PINNED


PINNED = {
    "dense, ELU": "badffdc58453",
    "signed, ELUS sqrt(6)": "8c186cfa55f2",
    "signed, ELUS sqrt(3)": "ad594e08699e",
    "signed, Keras' clipped cross-entropy": "6487ec20e2b8",
    "FCN 1, relative": "129bd3ea2c6c",
}


# ---------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("fcn", {}, 266_200),
        ("conv2", {}, 4_300_992),
        ("conv4", {}, 2_425_024),
        ("conv6", {}, 2_261_184),
        ("conv8", {}, 5_275_840),
        ("conv8", {"head_activation": "relu"}, 5_275_840),
        ("resnet20-signed", {}, 248_624),
        ("resnet20-signed", {"width": 1.5}, 558_600),
        ("resnet20-signed", {"width": 2.0}, 992_352),
        ("resnet20-signed", {"width": 2.5}, 1_549_880),
        ("resnet20-signed", {"width": 3.0}, 2_231_184),
        ("resnet56-signed", {"classes": 100}, 834_992),
        ("resnet110-signed", {"classes": 100}, 1_705_904),
        ("resnet110-signed-masked", {"classes": 100}, 1_668_272),
    ],
)
def test_every_network_of_the_paper_has_its_count(name, options, count):
    assert weights(models.build(name, **options)) == count
    used = [
        spec.sections["model"]
        for table in ("readme-results", "table-4", "table-7")
        for spec in first_seed(f"signed-supermask/{table}").values()
    ]
    wanted = {"name": name, **models.MODELS[name].options, **options}
    assert any({key: _listed(value) for key, value in wanted.items()} == model for model in used)


def _listed(value):
    return list(value) if isinstance(value, tuple) else value


def test_the_generated_table_of_architectures():
    experiment = load_experiment("signed-supermask/table-7")
    headers, rows = settings_rows(experiment, expand(experiment))
    assert headers == ["label", "convolutions", "linear", "weights", "weights (README)", "batch norm"]
    table = {row[0]: dict(zip(headers, row, strict=True)) for row in rows}
    for label in ("FCN", "Conv2", "Conv4", "Conv6", "Conv8"):
        assert f"{table[label]['weights']:,}".replace(",", ".") == table[label]["weights (README)"]
    assert table["Conv4"]["convolutions"] == "64, 64, pool, 128, 128, pool"
    batchnorm = {label: row["batch norm"] for label, row in table.items() if "ResNet" in label}
    assert list(batchnorm.values())[:7] == [1_600, 2_400, 3_200, 4_000, 4_800, 4_288, 8_320]
