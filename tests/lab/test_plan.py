"""From an experiment to its runs."""

import numpy as np
import pytest
import torch

from supermask.errors import ConfigError
from supermask.lab.plan import expand

from .helpers import experiment

SIGNED = {"method": {"name": "signed-supermask", "threshold": 0.02}}


def labels(vary, patch=None):
    return [(spec.label, spec.seed) for spec in expand(experiment(patch, vary=vary))]


def refuse(vary, message, patch=None):
    with pytest.raises(ConfigError, match=message):
        expand(experiment(patch, vary=vary))


def test_one_run_without_vary():
    assert labels({}) == [("dense", 0)]


def test_seeds_as_a_list_or_a_number():
    assert labels({"seed": [3, 1]}) == [("dense", 3), ("dense", 1)]
    assert labels({"seed": 2}) == [("dense", 0), ("dense", 1)]


@pytest.mark.parametrize("seeds", [0, -1, True, [], [-1], [0.5], "3", [2**63], None, [True]])
def test_wrong_seeds(seeds):
    refuse({"seed": seeds}, r"vary\.seed: expected a list of seeds in \[0, 2\*\*63\)")


def test_a_seed_given_twice():
    refuse({"seed": [1, 2, 1]}, r"vary\.seed: a seed is given twice in \[1, 2, 1\]")


def test_seeds_then_variants_then_axes_in_order():
    vary = {
        "seed": [0, 1],
        "variant": {"plain": {}, "signed": SIGNED},
        "train.optimizer.lr": [0.1, 0.2],
        "train.batch_size": [64],
    }
    found = labels(vary)
    assert len(found) == 8
    in_order = [
        "plain lr=0.1 batch_size=64",
        "plain lr=0.2 batch_size=64",
        "signed lr=0.1 batch_size=64",
        "signed lr=0.2 batch_size=64",
    ]
    assert found == [(label, 0) for label in in_order] + [(label, 1) for label in in_order]


def test_runs_are_ordered_seed_by_seed_as_the_seeds_are_listed():
    variants = {"variant": {"plain": {}, "signed": SIGNED}}
    assert labels({"seed": [7, 2]} | variants) == [("plain", 7), ("signed", 7), ("plain", 2), ("signed", 2)]


def test_axes_are_a_product_and_reach_the_config():
    specs = expand(experiment(vary={"train.optimizer.lr": [0.1, 0.2], "train.epochs": [1, 2]}))
    found = [(spec.sections["train"]["optimizer"]["lr"], spec.sections["train"]["epochs"]) for spec in specs]
    assert found == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]


def test_a_new_name_replaces_the_section():
    vary = {
        "variant": {
            "random": {"method.name": "random", "method.density": 0.3},
            "adam": {"train.optimizer": {"name": "adam", "lr": 0.001}},
        }
    }
    random, adam = expand(experiment({"method": {"name": "magnitude"}}, vary=vary))
    assert random.sections["method"]["density"] == 0.3
    assert "momentum" not in adam.sections["train"]["optimizer"]
    assert adam.sections["method"]["name"] == "magnitude"


def test_the_same_name_keeps_the_other_values():
    patch = {"method": {"name": "signed-supermask", "signed": False}}
    (spec,) = expand(experiment(patch, vary={"variant": {"a": SIGNED}}))
    assert spec.sections["method"]["signed"] is False
    assert spec.sections["method"]["threshold"] == 0.02


def test_methods_as_an_axis_are_their_own_label():
    assert [label for label, _ in labels({"method.name": ["dense", "random"]})] == ["dense", "random"]


def test_equal_last_names_are_told_apart():
    initializer = {"distribution": "normal", "rule": "he"}
    vary = {"method.weights.gain": [1.0, 2.0], "method.scores.gain": [3.0]}
    found = labels(vary, {"method": {"name": "signed-supermask", "weights": initializer, "scores": initializer}})
    assert found[0][0] == "signed-supermask method.weights.gain=1.0 method.scores.gain=3.0"


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"methd.threshold": [1]}, r"vary\.methd\.threshold: there is no section 'methd' to vary; did you mean 'method'"),
        ({"train.epoch": [1, 2]}, r"train\.epoch: unknown key; did you mean 'epochs'\? \(in the run 'dense epoch=1'\)"),
        ({"train.epochs": 3}, r"vary\.train\.epochs: expected a list of values, got 3"),
        ({"train.epochs": []}, r"vary\.train\.epochs: expected a list of values, got \[\]"),
        ({"variant": {}}, r"vary\.variant: no variant is given"),
        ({"variant": ["a"]}, r"vary\.variant: expected a section of keys and values, got \['a'\]"),
        ({"variant": {"a": 3}}, r"vary\.variant\.a: expected a section of keys and values, got 3"),
        ({"variant": {"a": {"seed": 3}}}, r"vary\.variant\.a: there is no section 'seed' to vary"),
        ({"variant": {"a": {"train.epochs": 1, "train": {"epochs": 2}}}}, r"vary\.variant\.a\.train\.epochs: set twice"),
        ({"variant": {"a": {"train.epochs": 5}}, "train.epochs": [1, 2]},
         r"'train\.epochs' is set by the variant 'a' and by a list of values; keep one"),
        ({"variant": {"a": {"method": {"name": "dense"}}}, "method": [{"name": "dense"}]},
         r"'method' is set by the variant 'a' and by a list"),
        ({"train.optimizer": [{"name": "sgd", "lr": 1}], "train.optimizer.lr": [1]},
         r"'train\.optimizer' and 'train\.optimizer\.lr' set the same value"),
        ({"variant": {"a": {}, "b": {"train.epochs": 2}}}, r"the runs 'a' and 'b' \(seed 0\) are the same"),
        ({"train.optimizer.lr": [1, 1.0]}, r"the runs 'dense lr=1' and 'dense lr=1\.0' \(seed 0\) are the same"),
        ({"train..epochs": [1]}, r"vary\.train\.\.epochs.*a dotted key has a name on both sides"),
    ],
)  # fmt: skip
def test_contradictions(vary, message):
    refuse(vary, message)


def test_planning_draws_no_random_number():
    state = torch.get_rng_state()
    expand(experiment({"model": {"name": "conv2", "batchnorm": True}}))
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------------- ids


def test_ids_are_pinned():
    """These ids name folders of finished runs: they may only change together with SPEC_SCHEMA or a method's version."""
    specs = expand(experiment(vary={"variant": {"dense": {}, "signed": SIGNED}}))
    assert [spec.id for spec in specs] == ["726cffe44305", "20821f9a71e1"]


def one(patch=None, **options):
    (spec,) = expand(experiment(patch, **options))
    return spec


def test_defaults_written_out_do_not_change_the_id():
    written = {"train.shuffle": True, "data.normalize": "image", "init.rule": "elu", "train.schedule.name": "constant"}
    assert one(written).id == one().id
    assert one(written).to_dict() == one().to_dict()


def test_label_and_experiment_do_not_count():
    other = expand(experiment(vary={"variant": {"another": {}}}, name="other"))[0]
    assert other.id == one().id


@pytest.mark.parametrize(
    "patch",
    [
        {"train.epochs": 3},
        {"train.optimizer.nesterov": True},
        {"train.schedule": {"name": "exponential"}},
        {"model.hidden": [17]},
        {"data.normalize": "none"},
        {"init.keep": True},
        {"method": {"name": "random"}},
    ],
)
def test_everything_that_counts_changes_the_id(patch):
    assert one(patch).id != one().id


def test_the_seed_counts():
    first, second = expand(experiment(vary={"seed": 2}))
    assert first.id != second.id


def test_the_version_of_a_method_counts(monkeypatch):
    from supermask.methods import Dense

    before = one().id
    monkeypatch.setattr(Dense, "version", 2)
    assert one().id != before


def test_a_changed_default_keeps_the_id_but_not_the_spec(monkeypatch):
    from supermask.lab.train_section import TrainSection

    before = one()
    monkeypatch.setattr(TrainSection.__init__, "__kwdefaults__", TrainSection.__init__.__kwdefaults__ | {"loss": "mse"})
    fields = TrainSection.__dataclass_fields__
    monkeypatch.setattr(fields["loss"], "default", "mse")
    after = one()
    assert after.id == before.id
    assert after.to_dict() != before.to_dict()


def test_files_count_by_content_not_by_name(tmp_path):
    for name, value in (("a", 0), ("b", 0), ("c", 1)):
        np.savez(tmp_path / f"{name}.npz", x=np.full(3, value))
    a, b, c = (one({"init.weights": f"{name}.npz"}, folder=tmp_path) for name in "abc")
    assert a.id == b.id != c.id
    assert a.to_dict()["init"]["weights"].startswith("sha256:")
    assert a.to_dict() == b.to_dict()
    assert str(tmp_path) not in str(a.to_dict())
    assert a.id != one().id


def test_a_folder_of_data_counts_by_content(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "cat").mkdir(parents=True)
        (tmp_path / name / "cat" / "x.png").write_bytes(b"same")
    first, second = (one({"data": {"name": "folder", "path": name}}, folder=tmp_path) for name in ("one", "two"))
    assert first.id == second.id
    (tmp_path / "two" / "cat" / "x.png").write_bytes(b"else")
    assert one({"data": {"name": "folder", "path": "two"}}, folder=tmp_path).id != first.id


PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

from supermask import Method, register


@register
@dataclass(frozen=True, kw_only=True)
class PlanTest(Method):
    """A method of a user."""

    name: ClassVar[str] = "{name}"
    strength: float = 0.5

    def setup(self, s):
        """Nothing."""
'''


def test_a_plugin_counts_where_its_method_is_used(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.format(name="plan-test"))
    spec = one({"method": {"name": "plan-test", "strength": 1}}, folder=tmp_path, plugins=["mine.py"])
    assert spec.sections["method"] == {"name": "plan-test", "strength": 1.0}
    assert set(spec.hashes) == {"method.name"}
    assert one(folder=tmp_path, plugins=["mine.py"]).id == one().id
    assert spec.config().method.strength == 1.0


def test_own_code_counts_by_content():
    spec = one({"model": {"name": "userparts:build"}, "train.loss": "userparts:hinge"})
    assert set(spec.hashes) == {"model.name", "train.loss"}
    assert set(spec.to_dict()["code"]) == {"model.name", "train.loss"}


def test_the_default_of_an_own_model_is_in_its_spec():
    own = {"model": {"name": "userparts:build"}}
    assert one(own).sections["init"]["keep"] is True
    assert one(own).id == one(own | {"init.keep": True}).id
    assert one(own).id != one(own | {"init.rule": "elu"}).id
    drawn = one(own | {"init.rule": "elu"})
    assert drawn.config().init.keep is drawn.sections["init"]["keep"] is False
