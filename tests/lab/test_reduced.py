"""Tables at a size for minutes: the rule, and that every table follows it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from supermask.errors import ConfigError, RunError
from supermask.lab import reduced, reproductions
from supermask.lab.load import load_experiment, make_experiment
from supermask.lab.plan import expand
from supermask.lab.reduced import CLIP, FEWEST, reduce
from supermask.lab.reproductions import (
    Progress,
    fast_folder,
    find_table,
    make_fast,
    planned,
    progress,
    tables,
)
from supermask.lab.store import run_folder

TRAIN = {"epochs": 40, "batch_size": 128, "optimizer": {"name": "sgd", "lr": 0.1}}


@pytest.fixture(autouse=True)
def no_data(tmp_path, monkeypatch):
    """No data set is on this machine but the digits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SUPERMASK_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def experiment(train=None, **more):
    base = {"model": {"name": "fcn"}, "data": {"name": "mnist"}, "method": {"name": "dense"}}
    raw = base | {"name": "test", "about": "a table", "train": TRAIN | (train or {}), "vary": {"seed": 7}} | more
    return make_experiment(raw)


def reduced_run(tmp_path, train=None, **more):
    """The only run of a reduced experiment."""
    options = {key: more.pop(key) for key in ("table_macs", "most", "root") if key in more}
    found = reduce(experiment(train, **more), tmp_path / "tables" / "t.yaml", **options)
    small = make_experiment(found.raw, folder=tmp_path / "tables")
    (spec,) = expand(small)
    return found, small, spec


def test_seeds_epochs_images_and_batches(tmp_path):
    found, small, spec = reduced_run(tmp_path, {"test_every": 10})
    train = spec.sections["train"]
    assert (small.name, small.about, spec.seed) == ("test-fast", "FAST: a table", 0)
    assert (train["epochs"], train["batch_size"], train["test_every"]) == (4, 128, 1)
    assert train["clip"] == {"norm": CLIP, "over": "all"}
    assert (found.images, found.stand_ins, found.epochs) == ({"mnist": 1000}, ("mnist",), 4)
    assert found.sentence() == (
        "FAST, not a reproduction: 1000 enlarged handwritten digits for mnist; at most 4 epochs a round, one seed"
    )
    file = np.load(spec.sections["data"]["file"])
    assert {name: (file[name].dtype, file[name].shape) for name in file.files} == {
        "train_images": (np.uint8, (1000, 1, 28, 28)),
        "train_labels": (np.int64, (1000,)),
        "test_images": (np.uint8, (250, 1, 28, 28)),
        "test_labels": (np.int64, (250,)),
    }


def test_images_are_as_many_as_the_table_has_room_for(tmp_path):
    macs = 784 * 300 + 300 * 100 + 100 * 10
    found, _, spec = reduced_run(tmp_path, table_macs=100 * macs * 4 * 3.25)
    assert found.images == {"mnist": 100}
    assert spec.sections["train"]["batch_size"] == 25
    found, _, _ = reduced_run(tmp_path, table_macs=1.0)
    assert found.images == {"mnist": FEWEST}


def test_shorter_tables_keep_their_epochs(tmp_path):
    assert reduced_run(tmp_path, {"epochs": 3})[2].sections["train"]["epochs"] == 3


def test_what_counts_steps_shrinks_with_them(tmp_path):
    """40 epochs of 469 steps become 4 of 8."""
    schedule = {"name": "step", "milestones": [4690, 9380, 9381], "rate": 0.1}
    found = reduced_run(tmp_path, {"schedule": schedule})[2].sections["train"]["schedule"]
    assert found["milestones"] == [8, 16, 17]
    schedule = {"name": "warm-up", "steps": 469, "then": {"name": "exponential", "every": 938}}
    found = reduced_run(tmp_path, {"schedule": schedule})[2].sections["train"]["schedule"]
    assert (found["steps"], found["then"]["every"]) == (1, 2)


def test_later_rounds_keep_their_proportion(tmp_path):
    rounds = {"1": {"epochs": 10}, "2": {"epochs": 1, "schedule": {"name": "exponential", "every": 469}}}
    method = {"name": "lottery-ticket", "density": 0.3, "rounds": 3}
    found = reduced_run(tmp_path, {"rounds": rounds}, method=method)[2].config().train
    assert [found.of_round(number).epochs for number in range(3)] == [4, 1, 1]


def test_methods_score_on_no_more_images_than_there_are(tmp_path):
    method = {"name": "snip", "density": 0.1}
    assert reduced_run(tmp_path, method=method, most=60)[2].sections["method"]["batch_size"] == 60
    method = {"name": "maskconvnet", "budget": {"macs": 0.5}, "interval": 1000}
    found = reduced_run(tmp_path, method=method, model={"name": "resnet20", "channels": 1})[2].sections["method"]
    assert found["interval"] == 2  # 18,760 steps become 32


def test_epochs_that_are_shown_stay_apart(tmp_path):
    _, small, spec = reduced_run(tmp_path, table={"epochs": [5, 10, 40], "show": ["best"]})
    assert spec.sections["train"]["epochs"] == 8
    assert (small.table.epochs, small.table.show) == ((1, 2, 8), ("best",))


def test_published_rows_and_rankings_stay(tmp_path):
    cells = {"source": "mine", "accuracy": [97.0]}
    published = {"rows": {"dense": cells}, "others": ["zhou/fcn"]}
    _, small, _ = reduced_run(tmp_path, published=published, table={"rank": True})
    assert small.published == experiment(published=published).published
    assert small.table.rank == ()


def test_own_images_are_taken_where_they_are(tmp_path, mnist_root):
    found, _, spec = reduced_run(tmp_path, root=mnist_root, most=100)
    assert (found.images, found.stand_ins) == ({"mnist": 100}, ())
    assert "100 images of mnist" in found.sentence()
    file = np.load(spec.sections["data"]["file"])
    assert file["train_images"].max() == 255
    assert np.bincount(file["train_labels"]).min() >= 9


# ---------------------------------------------------------------------- the papers' tables


def test_there_are_39_tables():
    found = [entry.id for entry in tables()]
    counts = {
        paper: sum(name.startswith(f"{paper}/") for name in found) for paper in ("dessilbi", "structured", "snip")
    }
    assert len(found) == len(set(found)) == 39
    assert counts == {"dessilbi": 10, "structured": 6, "snip": 6}
    assert sum(name.startswith("signed-supermask/readme-") for name in found) == 2


def test_an_unknown_table_is_told():
    with pytest.raises(ConfigError, match=r"no table is called 'snip/table-7'; did you mean 'snip/table-\d'\?"):
        find_table("snip/table-7")


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry.id for entry in tables() if entry.kind == "results"])
def test_every_table_is_reduced_to_a_plan_within_its_budget(name, tmp_path, monkeypatch):
    monkeypatch.setattr(reduced, "MOST", 50)
    file, sentence = make_fast(name, tmp_path / "runs")
    whole, small = load_experiment(name), load_experiment(file)
    assert small.name == f"{whole.name}-fast"
    assert small.table.kind == whole.table.kind
    assert small.published == whole.published
    specs = planned(small)
    assert {spec.label for spec in specs} == {spec.label for spec in expand(_one_seed(whole))}
    assert sentence in file.read_text()
    for spec in specs:
        assert spec.sections["train"]["epochs"] <= 8
        assert spec.sections["data"]["name"] == "npz"


def _one_seed(whole):
    return dataclasses.replace(whole, vary=whole.vary | {"seed": [0]})


def test_tables_of_settings_need_no_runs(tmp_path):
    for name in ("signed-supermask/table-8", "signed-supermask/table-14"):
        assert planned(load_experiment(name)) == []
    assert progress([], tmp_path).state == "no runs needed"


@pytest.mark.parametrize(("done", "state"), [(0, "not run"), (1, "partly"), (3, "done")])
def test_states(done, state):
    assert Progress(3, done, 0).state == state


def test_a_run_that_failed_before_it_was_done_has_not_failed(tmp_path):
    specs = expand(experiment(vary={"seed": 2}))
    for spec in specs:
        folder = run_folder(tmp_path, spec.experiment, spec.id)
        folder.path.mkdir(parents=True)
        folder.failed.touch()
    folder.result.touch()
    assert progress(specs, tmp_path) == Progress(2, 1, 1)


@pytest.mark.parametrize(("out", "fast"), [("runs", "runs-fast"), ("/a/b", "/a/b-fast")])
def test_reduced_results_lie_beside_the_others(out, fast):
    assert fast_folder(Path(out)) == Path(fast)


def test_reduced_results_of_the_current_folder(tmp_path):
    assert fast_folder(Path()) == Path(f"{tmp_path}-fast")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "runs-fast").touch()
    with pytest.raises(
        RunError, match=r"runs-fast/tables cannot be written \(Not a directory\): choose another by --out"
    ):
        make_fast("snip/table-1", tmp_path / "runs")


def test_an_unchanged_file_is_left_alone(tmp_path):
    file, _ = make_fast("snip/table-1", tmp_path / "runs")
    before = file.stat().st_mtime_ns
    assert reproductions.make_fast("snip/table-1", tmp_path / "runs")[0].stat().st_mtime_ns == before
