"""Quoted numbers: ids, labels, and the files that hold them."""

import dataclasses

import pytest

from supermask.errors import ConfigError
from supermask.lab.annotations import parse_published, parse_table
from supermask.lab.literature import literature, published
from supermask.lab.load import load_experiment
from supermask.lab.plan import expand

from .helpers import experiment

ID = "signed-supermask/fcn"


def quoting(section, **options):
    return dataclasses.replace(experiment(**options), published=parse_published(section))


def test_an_id_becomes_cells():
    found = published(quoting({"rows": {"dense": ID}}), ["dense"])
    cells = found.rows["dense"]
    assert (cells["accuracy"], cells["remaining"], cells["n"]) == ([97.48, 97.3, 97.7], [3.77, 3.7, 3.8], 50)
    assert cells["label"] == "dense"
    assert cells["source"] == "authors' README (January 2022)"
    assert cells["trust"] == "authors' README"
    assert "compression" not in cells
    assert found.others == []


def test_others_keep_their_labels():
    own = {"label": "mine", "source": "a note", "accuracy": [98]}
    found = published(quoting({"others": [ID, own]}), ["dense"])
    assert [cells["label"] for cells in found.others] == ["FCN", "mine"]
    assert found.others[1] == own


def test_another_without_a_label():
    with pytest.raises(ConfigError, match=r"published\.others\.0\.label: missing; a row without runs needs a name"):
        published(quoting({"others": [{"source": "a note", "accuracy": [98]}]}), ["dense"])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rows": {"dnse": ID}}, r"published\.rows\.dnse: no run has this label; did you mean 'dense'\?"),
        ({"rows": {"dense": "signed-supermask/fnc"}},
         r"published\.rows\.dense: the literature has no entry .*; did you mean 'signed-supermask/fcn'\?"),
        ({"others": ["zhou/fnc"]}, r"published\.others\.0: the literature has no entry 'zhou/fnc'; did you mean 'zhou/fcn'"),
    ],
)  # fmt: skip
def test_a_plan_refuses_unknown_labels_and_ids(section, message):
    with pytest.raises(ConfigError, match=message):
        expand(quoting(section))


def test_a_plan_refuses_quoted_settings_of_an_unknown_label():
    table = parse_table(
        {"kind": "settings", "columns": {"rate": "train.optimizer.lr"}, "quoted": {"dens": {"rate": "1"}}}
    )
    with pytest.raises(ConfigError, match=r"table\.quoted\.dens: no run has this label; did you mean 'dense'\?"):
        expand(dataclasses.replace(experiment(), table=table))


def test_settings_of_the_command_line_may_rename_runs(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "{model: {name: fcn}, data: {name: digits}, method: {name: dense}, "
        "train: {epochs: 1, optimizer: {name: sgd, lr: 0.1}}, published: {rows: {dense: signed-supermask/fcn}}}"
    )
    loaded = load_experiment(path, settings=["vary.train.epochs=[1, 2]"])
    labels = [spec.label for spec in expand(loaded)]
    assert labels == ["dense epochs=1", "dense epochs=2"]
    assert published(loaded, labels).rows == {}


def test_a_table_of_literature_has_no_runs():
    found = quoting({"others": [ID]})
    found = dataclasses.replace(found, base={}, table=parse_table({"kind": "literature"}))
    assert expand(found) == []
    with pytest.raises(ConfigError, match=r"published\.others\.0: the literature has no entry"):
        expand(dataclasses.replace(found, published=parse_published({"others": ["nothing"]})))


# ---------------------------------------------------------------------- the files


def test_every_entry_says_what_it_is_about():
    for name, cells in literature().items():
        given = cells.to_dict()
        assert {"label", "trust", "method", "network", "data"} <= given.keys(), name
        assert given.keys() & {"accuracy", "note", "weights", "packed"}, name
        assert ("packed" in given) == (given["trust"] == "computed"), name
        assert ("remaining" in given) == ("remaining_of" in given), name


def test_what_is_recalled_is_marked():
    """Trust and text of a source say the same."""
    for name, cells in literature().items():
        assert (cells.trust == "recalled") == cells.source.endswith("from memory"), name
    recalled = {name for name, cells in literature().items() if cells.trust == "recalled"}
    assert {"snip/tiny-imagenet/vgg-d", "dessilbi/lenet/naive", "zhou/fcn/dense", "dessilbi/conv-2/fc1"} <= recalled
    assert not recalled & {"snip/vgg-d", "dessilbi/lenet-3/fc1", "zhou/conv2/dense", "signed-supermask/fcn"}


def test_snips_errors_are_accuracies():
    """Printed: 1.6 and 2.4 % at 95 and 98 % pruned, .8 and 1.1 % at 98 and 99 %; table 3 with its deviations."""
    found = literature()
    printed = {"lenet-300-100/5": 1.6, "lenet-300-100/2": 2.4, "lenet5-caffe/2": 0.8, "lenet5-caffe/1": 1.1}
    assert {key: round(100 - found[f"snip/{key}"].accuracy[0], 2) for key in printed} == printed
    assert (found["snip/gru-s/init/normal"].accuracy, found["snip/gru-s/init/normal"].std) == ([52.39], 20.49)
    assert (found["snip/lenet-300-100/lwc"].pruning_steps, found["snip/lenet-300-100/5"].pruning_steps) == ("many", 1)


def test_dessilbis_layers_add_up():
    """The paper's .049, .087 and .398 are shares that are NOT zero."""
    layers = [literature()[f"dessilbi/lenet-3/fc{number}"] for number in (1, 2, 3)]
    kept = sum(layer.remaining[0] * layer.start_weights for layer in layers)
    assert kept / 266_200 == pytest.approx(literature()["dessilbi/lenet-3"].remaining[0], abs=0.005)


def test_shares_are_per_cent_and_ranges_are_ordered():
    for name, cells in literature().items():
        for key in ("accuracy", "remaining"):
            mean, *band = cells.to_dict().get(key, [50])
            assert 0 < mean <= 100, (name, key)
            # one published mean lies outside its own band
            assert not band or band[0] <= mean <= band[1] or name == "signed-supermask/conv4/dense", (name, key)
        assert cells.std is None or cells.std >= 0.04, name  # points, not fractions


def test_counts_agree_with_shares():
    for name, cells in literature().items():
        if cells.weights and cells.remaining and cells.start_weights:
            share = 100 * cells.weights[0] / cells.start_weights
            # published counts are rounded; one size of a start is wrong by a tenth, as its note says
            assert share == pytest.approx(cells.remaining[0], rel=0.06) or name == "snip/wrn-16-8", name


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    def read(*texts):
        for name, text in zip(("one.yaml", "two.yaml"), texts, strict=False):
            (tmp_path / name).write_text(text)
        return literature.__wrapped__()

    monkeypatch.setattr("supermask.lab.literature.FOLDER", tmp_path)
    return read


BOOK = "sources: {book: {text: A, trust: figure}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{source: {}, entries: {}}", r"one\.yaml: source: unknown key; did you mean 'sources'\?"),
        ("{sources: {a: {text: A}}, entries: {}}", r"one\.yaml: sources\.a\.trust: missing"),
        ("{sources: {a: {text: A, trust: figures}}, entries: {}}", r"sources\.a\.trust: expected .*'figure'.*got 'figures'"),
        ("{" + BOOK + ", entries: {x: {source: boook}}}",
         r"entries\.x\.source: no source is called 'boook'; did you mean 'book'\?"),
        ("{" + BOOK + ", entries: {x: {source: book, accuracy: 97}}}",
         r"entries\.x\.accuracy: expected a list.*, got 97"),
        ("{" + BOOK + ", entries: {x: {source: book, std: 0.1}}}",
         r"entries\.x: std stands beside the mean of an accuracy alone, got None"),
        ("{" + BOOK + ", entries: {x: {source: book, accuracy: [2, 1, 3], std: 0.1}}}",
         r"entries\.x: std stands beside the mean of an accuracy alone, got \[2, 1, 3\]"),
        ("{" + BOOK + ", entries: {x: {source: book, remaining_of: weights}}}",
         r"entries\.x\.remaining_of: expected 'targeted weights' or 'weights and biases'"),
        ("{" + BOOK + ", entries: {x: {source: book}, x: {source: book}}}", r"key 'x' is given twice"),
    ],
)  # fmt: skip
def test_a_damaged_file(own_files, text, message):
    with pytest.raises(ConfigError, match=message):
        own_files(text)


def test_an_id_is_given_once(own_files):
    first, second = (f"{{{BOOK}, entries: {{{names}}}}}" for names in ("x: {source: book}", "y: {source: book}"))
    assert set(own_files(first, second)) == {"x", "y"}
    with pytest.raises(
        ConfigError, match=r"two\.yaml: entries\.x: one\.yaml has this id too; give one of them another"
    ):
        own_files(first, first)


def test_a_range_or_a_bound_is_text(own_files):
    cells = own_files(
        "{" + BOOK + ", entries: {x: {source: book, label: X, extra_time: 6 to 10, compression: at least 93.8}}}"
    )["x"].to_dict()
    assert (cells["extra_time"], cells["compression"]) == ("6 to 10", "at least 93.8")
    with pytest.raises(ConfigError, match=r"entries\.x\.accuracy: expected a list"):
        own_files("{" + BOOK + ", entries: {x: {source: book, accuracy: about 90}}}")


def test_captions_give_ranges():
    assert literature()["signed-supermask/conv/cost"].extra_time == "roughly 6 to 10"
    assert literature()["signed-supermask/conv/cost"].compression == "at least 93.8"
    assert literature()["signed-supermask/resnet/cost"].extra_time == "3 to 14.5"


def test_every_network_of_the_paper_tells_its_epochs():
    """A partial run is then marked beside the published number."""
    entries = {name: cells.epochs for name, cells in literature().items() if name.startswith("signed-supermask/")}
    assert [name for name, epochs in entries.items() if epochs is None and not name.endswith("/packed")] == [
        "signed-supermask/conv/cost", "signed-supermask/resnet/cost"
    ]  # fmt: skip
    dense = {name.split("/")[1]: epochs for name, epochs in entries.items() if name.endswith("/dense")}
    assert dense == {
        **dict.fromkeys(("fcn", "conv2", "conv4", "conv6", "conv8"), 50),
        **dict.fromkeys(("resnet20", "resnet20x2", "resnet20x3"), 80), "resnet56": 90, "resnet110": 100,
    }  # fmt: skip
