"""Every experiment that ships: listed, planned, complete, and sharing its runs where it says so."""

import json
from functools import cache

import pytest
from typer.testing import CliRunner

from supermask import models
from supermask.cli import app
from supermask.core.registry import methods as registered
from supermask.lab.literature import literature
from supermask.lab.load import find_experiment, index, load_experiment, shipped_folder
from supermask.lab.plan import expand
from supermask.lab.tables import settings_rows, weights

# id -> settings, runs; the signed supermask's tables have its 50 seeds
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
    "compare/digits": (23, 115),
    "compare/fcn": (82, 410),
    "compare/lenet5-caffe": (82, 410),
    "snip/table-1": (9, 180),
    "snip/table-2": (24, 72),
    "snip/table-3": (16, 320),
    "snip/table-4": (10, 30),
    "snip/table-5": (4, 12),
    "snip/table-6": (6, 18),
    "snip/figure-3": (5, 100),
    "snip/lenets-short": (11, 55),
    "snip/inits-short": (8, 40),
    "snip/batch-short": (5, 25),
    "dessilbi/table-1": (35, 105),
    "dessilbi/table-2": (8, 24),
    "dessilbi/table-3": (8, 24),
    "dessilbi/table-4": (16, 48),
    "dessilbi/table-5": (16, 48),
    "dessilbi/table-6": (3, 9),
    "dessilbi/table-7": (4, 20),
    "dessilbi/table-8": (2, 6),
    "dessilbi/table-9": (2, 6),
    "dessilbi/table-10": (4, 12),
    "dessilbi/lenet": (2, 10),
    "dessilbi/lenet-3-sweeps": (11, 55),
    "supermask/fcn": (9, 45),
    "supermask/fcn-short": (9, 45),
    "supermask/conv": (31, 93),
    "supermask/literature": (0, 0),
    "lottery/lenet-300-100": (7, 35),
    "lottery/lenet-300-100-short": (6, 30),
    "lottery/literature": (0, 0),
    "dst/lenet-300-100": (9, 45),
    "dst/lenet-300-100-short": (9, 45),
    "dst/wrn-22-2": (7, 21),
    "dst/literature": (0, 0),
    "structured/table-1": (15, 45),
    "structured/table-2": (3, 3),
    "structured/table-3": (23, 23),
    "structured/table-4": (12, 36),
    "structured/table-5": (10, 10),
    "structured/table-6": (8, 8),
    "structured/compare": (44, 132),
    "structured/budgets-small": (44, 132),
    "structured/sensitivity-small": (10, 30),
    "structured/figures-small": (9, 27),
    "structured/literature": (0, 0),
}
FOLDERS = ("compare", "snip", "dessilbi", "supermask", "lottery", "dst", "signed-supermask", "recipes", "structured")
IDS = [shipped.id for shipped in index()]
PAPER = [shipped.id for shipped in index() if shipped.paper == "signed-supermask"]


@cache
def first_seed(name):
    """Label -> run of seed 0."""
    return {spec.label: spec for spec in expand(load_experiment(name, settings=["vary.seed=1"]))}


def test_the_index_lists_every_file_once():
    files = [shipped.file for shipped in index()]
    assert sorted(files) == sorted(set(shipped_folder().rglob("*.yaml")) - {shipped_folder() / "index.yaml"})


@pytest.mark.parametrize("folder", FOLDERS)
def test_all_of_a_folder_share_one_results_folder(folder):
    """So that a run that several tables want is trained once."""
    found = [load_experiment(name) for name in IDS if name.startswith(f"{folder}/")]
    assert {experiment.name for experiment in found} == {folder}
    assert all(experiment.about for experiment in found)


@pytest.mark.parametrize(
    ("paper", "tables"),
    [
        ("signed-supermask", range(1, 16)),
        ("dessilbi", range(1, 11)),
        ("snip", range(1, 7)),
        ("structured", range(1, 7)),
    ],
)
def test_every_table_of_a_paper_is_there(paper, tables):
    assert {f"{paper}/table-{number}" for number in tables} <= set(IDS)


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


def test_the_tables_of_the_readme_are_there():
    readme = {"signed-supermask/readme-architectures", "signed-supermask/readme-results"}
    assert readme <= set(PAPER) <= set(COUNTS)


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


def test_runs_are_shared_within_the_other_papers():
    for table, other in (("dessilbi/table-3", "dessilbi/table-2"), ("dessilbi/table-5", "dessilbi/table-4")):
        assert {spec.id for spec in first_seed(table).values()} == {spec.id for spec in first_seed(other).values()}
    ids = {spec.id for name in ("snip/table-2", "snip/table-4") for spec in first_seed(name).values()}
    for table in ("snip/table-5", "snip/table-6"):
        assert {spec.id for spec in first_seed(table).values()} <= ids


# ---------------------------------------------------------------------- all methods under equal conditions

ABLATIONS_AND_MASKS = {"fixed-mask"}  # a mask from elsewhere is no method to compare
STEERED = {"dense", "signed-supermask", "zhou-supermask"}
COMPARED = [name for name in IDS if name.startswith("compare/")]


@pytest.mark.parametrize("name", COMPARED)
def test_every_method_is_compared_under_equal_conditions(name):
    runs = first_seed(name)
    methods = {spec.sections["method"]["name"] for spec in runs.values()}
    own = {key: cls for key, cls in registered().items() if cls.__module__.startswith("supermask.methods.")}
    shipped = {key for key, cls in own.items() if not cls.needs_structure}  # those that remove channels: structured/
    assert methods == shipped - ABLATIONS_AND_MASKS
    equal = {
        json.dumps([spec.sections["model"], spec.sections["init"], spec.sections["data"]]) for spec in runs.values()
    }
    assert len(equal) == 1
    for key in ("batch_size", "shuffle", "data_order", "passes", "schedule", "precision", "clip", "loss"):
        assert len({json.dumps(spec.sections["train"][key]) for spec in runs.values()}) == 1, key
    epochs = {label: spec.sections["train"]["epochs"] * rounds(spec) for label, spec in runs.items()}
    assert len(set(epochs.values())) == 1, epochs


def shipped(*, channels):
    """Names of the package's methods that remove channels, or of those that do not."""
    ours = {key: cls for key, cls in registered().items() if cls.__module__.startswith("supermask.methods.")}
    return {key for key, cls in ours.items() if cls.needs_structure is channels}


BUDGETS = (0.7, 0.5, 0.3)


@pytest.mark.parametrize("name", ["structured/compare", "structured/budgets-small"])
def test_every_method_that_removes_channels_is_compared_under_equal_conditions(name):
    networks = {}
    for spec in first_seed(name).values():
        networks.setdefault(json.dumps([spec.sections["model"], spec.sections["data"]]), []).append(spec)
    assert len(networks) == 2
    for specs in networks.values():
        found, trained = {}, set()
        for spec in specs:
            method, train = spec.config().method, spec.config().train
            if method.needs_structure:
                assert list(method.budget) == ["macs"]
                found.setdefault(method.name, []).append(method.budget["macs"])
            trained.add(sum(train.of_round(number).epochs for number in range(trainings(method))))
            assert train.batch_size == 64
            assert train.distill is None or method.name == "bar"
        assert {key: tuple(sorted(set(values), reverse=True)) for key, values in found.items()} == dict.fromkeys(
            shipped(channels=True), BUDGETS
        )
        assert len(found["maskconvnet"]) == 2 * len(BUDGETS)  # alone, and met
        assert len(trained) == 1


def trainings(method):
    """Rounds of a method that removes channels."""
    return 1 + getattr(method, "pretrain", False) + getattr(method, "fine_tune", False)


def test_small_sensitivity_has_the_settings_of_table_5():
    pairs = [
        [(spec.sections["method"]["lam_mean"], spec.sections["method"]["lam_var"]) for spec in first_seed(name).values()]
        for name in ("structured/table-5", "structured/sensitivity-small")
    ]
    assert pairs[0] == pairs[1]
    assert len(set(pairs[0])) == 10


def test_runs_to_flops_of_table_4_are_those_of_table_1():
    there = first_seed("structured/table-1")
    for label, spec in first_seed("structured/table-4").items():
        if label.endswith(" F"):
            assert spec.id == there[label.removesuffix(" F") + " MaskConvNet"].id


def rounds(spec):
    """Trainings that a run's epochs are multiplied by."""
    method = spec.sections["method"]
    again = method.get("finetune", False) or method.get("after", "none") != "none"
    return method.get("rounds", 2 if again else 1)


@pytest.mark.parametrize(("name", "densities"), [("digits", {0.05}), ("fcn", {0.1, 0.05, 0.02, 0.01})])
def test_every_method_is_compared_at_every_density(name, densities):
    found = {}
    for spec in first_seed(f"compare/{name}").values():
        method = spec.sections["method"]
        found.setdefault(method["name"], set()).add(method.get("density"))
    assert {method for method, given in found.items() if given == {None}} == STEERED
    assert all(given == densities for method, given in found.items() if method not in STEERED)
    if name == "fcn":
        others = [
            {label for label in first_seed(f"compare/{network}") if not label.startswith("signed")}
            for network in ("fcn", "lenet5-caffe")
        ]
        assert others[0] == others[1]


# ---------------------------------------------------------------------- architectures


def test_the_generated_tables_of_snips_architectures():
    """Weights and biases as spelt out for the paper's 5.1m, 8.5m, 10.5m, 15.2m and 14.9m; strides doubled for 64x64."""
    tables = {}
    for name in ("snip/table-5", "snip/table-6"):
        experiment = load_experiment(name)
        headers, rows = settings_rows(experiment, expand(experiment))
        assert headers == [
            "label", "convolutions", "strides", "linear", "weights and biases", "weights and biases (table 2)"
        ]  # fmt: skip
        tables |= {row[0]: row[1:] for row in rows}
    counts = {label: row[3] for label, row in tables.items()}
    assert counts == {
        "AlexNet-s dense": 5_070_218, "AlexNet-b dense": 8_490_378, "VGG-C dense": 10_526_538,
        "VGG-D dense": 15_245_130, "VGG-like dense": 14_982_474, "AlexNet-s, Tiny-ImageNet": 5_264_968,
        "AlexNet-b, Tiny-ImageNet": 8_879_688, "VGG-C, Tiny-ImageNet": 10_624_008,
        "VGG-D, Tiny-ImageNet": 15_342_600, "VGG-like, Tiny-ImageNet": 15_079_944,
    }  # fmt: skip
    assert tables["AlexNet-s dense"][:3] == ["96 (11x11), 256 (5x5), 384, 384, 256", "2 x 5", "1024, 1024, 10"]
    assert tables["AlexNet-s, Tiny-ImageNet"][1] == "4, 2 x 4"
    assert tables["VGG-like, Tiny-ImageNet"][1:3] == ["2, 1 x 12", "512, 200"]


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


@pytest.mark.parametrize("name", [f"structured/table-{number}" for number in (1, 3, 4, 6)])
def test_the_stem_stays_whole_where_blocks_begin_with_batch_norm(name):
    for label, spec in first_seed(name).items():
        method = spec.config().method
        if method.name in ("maskconvnet", "network-slimming"):
            stem = spec.sections["model"]["name"] in ("resnet164", "wrn-28-10")
            assert method.whole == (("conv1",) if stem else ()), label
