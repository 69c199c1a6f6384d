"""Rounds with settings of their own, and learning from an earlier round's network."""

import contextlib
import functools
import json

import pytest
import torch
from torch.nn import functional

from supermask.core.registry import load_plugin
from supermask.data import load
from supermask.errors import ConfigError
from supermask.lab.load import load_experiment
from supermask.lab.metrics import MetricsFile
from supermask.lab.plan import expand
from supermask.lab.runner import Job, Runner
from supermask.lab.store import read_metrics, read_result, run_folder
from supermask.lab.train import Trainer

from .helpers import BASE, HERE, assert_same_run, experiment, only_run, run_here

BATCHES = 2  # of an epoch, with 720 examples a batch
TUNED = {
    "method": {"name": "lottery-ticket", "density": 0.2, "rounds": 3, "rewind": "none"},
    "model.hidden": [8],
    "train.epochs": 2,
    "train.batch_size": 720,
    "train.schedule": {"name": "cosine"},
}
LATER = {"epochs": 3, "optimizer": {"lr": 0.01}, "schedule": {"name": "constant"}}


@pytest.fixture(autouse=True, scope="module")
def plugin():
    load_plugin(HERE / "plugin_rounds.py")


def spec_of(patch):
    return expand(experiment(patch))[0]


def trainer_of(patch, tmp_path):
    spec = spec_of(patch)
    return Trainer(spec.config(), 0, load("digits"), HERE, torch.device("cpu"), MetricsFile(tmp_path / "metrics.jsonl"))


def stopped_at_every_step(patch, out):
    spec = spec_of(patch)
    job, runner = Job(spec, run_folder(out, "test", spec.id)), Runner(checkpoint_seconds=0)
    while not job.folder.result.exists():
        stop_now = iter([False, True])
        with contextlib.suppress(KeyboardInterrupt):
            runner(job, lambda event: None, functools.partial(next, stop_now))
    return job.folder


# ---------------------------------------------------------------------- settings


def test_a_round_holds_until_the_next_that_is_named():
    train = spec_of(TUNED | {"train.rounds": {"1": LATER, "3": {"epochs": 9}}}).config().train
    assert [train.of_round(number).epochs for number in range(5)] == [2, 3, 3, 9, 9]
    one, three = train.of_round(1), train.of_round(3)
    assert (one.optimizer.lr, one.optimizer.momentum, one.schedule.name) == (0.01, 0.9, "constant")
    assert (three.optimizer, three.schedule) == (train.optimizer, train.schedule)  # from the section, not from round 1
    assert one.batch_size == train.batch_size


def test_another_optimizer_has_none_of_the_options_of_the_first():
    later = {"optimizer": {"name": "adam", "lr": 0.01}, "clip": {"norm": 1.0}}
    one = spec_of(TUNED | {"train.clip": {"norm": 0.5}, "train.rounds": {"1": later}}).config().train.of_round(1)
    assert (one.optimizer.name, one.optimizer.weight_decay, one.clip.norm) == ("adam", 0.0, 1.0)


def test_ids():
    plain = spec_of(TUNED).id
    assert spec_of(TUNED | {"train.rounds": {}}).id == plain
    assert (
        spec_of(TUNED | {"train.rounds": {"1": {"epochs": 2, "clip": None}}}).id != plain
    )  # it ends those of before it
    tuned = spec_of(TUNED | {"train.rounds": {"1": LATER}})
    whole = LATER | {"optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9, "nesterov": False}, "test_every": 1}
    assert spec_of(TUNED | {"train.rounds": {"1": whole}}).id == tuned.id != plain
    assert tuned.sections["train"]["rounds"]["1"]["optimizer"]["momentum"] == 0.9  # the spec tells all of it
    again = json.loads(json.dumps(tuned.sections))
    assert tuned.config().to_sections(defaults=False) == tuned.config().to_sections(defaults=False)
    assert expand(experiment({"train": again["train"], **{k: v for k, v in TUNED.items() if "train" not in k}}))[
        0
    ].id == (tuned.id)


def test_numbers_as_keys_in_files_and_settings(tmp_path):
    file = tmp_path / "tuned.yaml"
    file.write_text(
        "model: {name: fcn, inputs: 64, hidden: [8]}\ndata: {name: digits}\nmethod: {name: lottery-ticket, rounds: 3}\n"
        "train:\n  epochs: 2\n  optimizer: {name: sgd, lr: 0.05}\n  rounds:\n    1: {epochs: 3}\n    2: {epochs: 4}\n"
        "vary: {train.rounds.1.optimizer.lr: [0.1, 0.2]}\n"
    )
    specs = expand(load_experiment(file, settings=["train.rounds.2.epochs=5"]))
    trains = [spec.config().train for spec in specs]
    assert [[train.of_round(number).epochs for number in range(3)] for train in trains] == [[2, 3, 5]] * 2
    assert [train.of_round(1).optimizer.lr for train in trains] == [0.1, 0.2]
    assert [train.of_round(2).optimizer.lr for train in trains] == [0.05, 0.05]


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"0": {}}, r"train\.rounds\.0: expected the number of a round, from 1 on; round 0 is what the train section"),
        ({"first": {}}, r"train\.rounds\.first: expected the number of a round, from 1 on"),
        ({"1": {"epoch": 3}}, r"train\.rounds\.1\.epoch: unknown key; did you mean 'epochs'"),
        (
            {"1": {"batch_size": 3}},
            r"train\.rounds\.1\.batch_size: is one for all rounds; a round can have epochs, opt",
        ),
        ({"1": {"epochs": 0}}, r"train\.rounds\.1: epochs must be at least 1, got 0"),
        ({"1": {"optimizer": {"lr": -1.0}}}, r"train\.rounds\.1\.optimizer: lr must be"),
        ({"2": {"schedule": {"name": "cosin"}}}, r"train\.rounds\.2\.schedule\.name: .*did you mean 'cosine'"),
        ({"1": 3}, r"train\.rounds\.1: expected a section"),
        ([{}], r"train\.rounds: expected a section"),
        (
            {"1": {"distill": {"teacher": 1}}},
            r"train\.rounds\.1\.distill\.teacher: must be an earlier round than 1, got 1",
        ),
        ({"1": {"distill": {"weight": 1.5}}}, r"train\.rounds\.1\.distill: weight must be in \(0, 1\].*got 1\.5"),
        ({"1": {"distill": {"temperature": 0.0}}}, r"distill: temperature must be a finite number > 0"),
        ({"1": {"distill": {"teacher": -1}}}, r"distill: teacher must be a round >= 0, got -1"),
    ],
)
def test_bad_settings_are_named(patch, message):
    with pytest.raises(ConfigError, match=message):
        spec_of(TUNED | {"train.rounds": patch}).config()


def test_a_schedule_that_does_not_fit_its_round_is_refused_before_training():
    later = {"epochs": 1, "schedule": {"name": "warm-up", "steps": 10_000, "then": {"name": "cosine"}}}
    spec = experiment(TUNED | {"train.rounds": {"1": later}})
    with pytest.raises(ConfigError, match=r"train\.rounds\.1\.schedule: "):
        expand(spec)


def test_classes_are_needed_to_learn_from_scores(tmp_path):
    with pytest.raises(ConfigError, match="distill compares scores of classes, and loss is 'mse'"):
        spec_of(TUNED | {"train.distill": {}, "train.loss": "mse"}).config()


# ---------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned")
    assert len(run_here(TUNED | {"train.rounds": {"1": LATER}}, out).done) == 1
    return only_run(out)


def test_rounds_train_as_they_are_told(tuned):
    lines, result = read_metrics(tuned), read_result(tuned)
    assert [line["round"] for line in lines] == [0, 0, 1, 1, 1, 2, 2, 2]
    assert [line["lr"] for line in lines[2:]] == [0.01] * 6
    assert lines[0]["lr"] > 0.01
    assert (result["epochs"], result["epochs_planned"], result["epochs_by_round"]) == (8, 8, [2, 3, 3])
    assert result["notes"] == []


@pytest.mark.slow
def test_every_round_resumes_bitwise(tuned, tmp_path):
    assert_same_run(tuned, stopped_at_every_step(TUNED | {"train.rounds": {"1": LATER}}, tmp_path))


@pytest.mark.slow
def test_a_rewound_round_of_another_length_goes_on_from_its_step(tmp_path):
    patch = TUNED | {"method": {"name": "test-rounds", "rewind_step": 3}, "train.rounds": {"1": {"epochs": 3}}}
    assert len(run_here(patch, tmp_path / "straight").done) == 1
    folder = only_run(tmp_path / "straight")
    assert [line["round"] for line in read_metrics(folder)] == [0, 0, 1, 1, 2, 2]  # after the first epoch and a half
    assert_same_run(folder, stopped_at_every_step(patch, tmp_path / "stopped"))


def test_a_round_that_ends_before_it_begins_is_refused(tmp_path):
    patch = TUNED | {"method": {"name": "test-rounds", "rewind_step": 3}, "train.rounds": {"1": {"epochs": 1}}}
    with pytest.raises(
        ConfigError, match="round 1 has 2 steps, but its method begins it at step 3; give it more epochs"
    ):
        trainer_of(patch, tmp_path).run()


def test_settings_of_rounds_that_never_come_are_told(tmp_path):
    patch = {"train.epochs": 1, "train.rounds": {"2": LATER}, "train.distill": {}}
    assert len(run_here(patch, tmp_path).done) == 1
    assert read_result(only_run(tmp_path))["notes"] == [
        "train.rounds has settings for round 2, but the last one was 0",
        "train.distill did nothing: round 0 was the last, and none came after its teacher",
    ]


# ---------------------------------------------------------------------- distillation

DISTILLED = TUNED | {"train.distill": {"temperature": 3.0, "weight": 0.7}}


def test_what_is_minimised_by_hand(tmp_path):
    trainer = trainer_of(DISTILLED, tmp_path)
    seen, ended = [], {}
    trainer.look_every = 0.0

    def look():
        s = trainer.sparsifier
        if s.round == 0:
            return
        x, y = trainer.data.train.batch(slice(0, 50))
        with torch.no_grad():
            teacher = functional.linear(functional.elu(functional.linear(x.flatten(1), ended["w1"])), ended["w2"])
            student = trainer.model(x)
            wanted = torch.softmax(teacher / 3.0, dim=1)
            soft = -(wanted * torch.log_softmax(student / 3.0, dim=1)).sum(dim=1).mean()
            by_hand = 0.3 * functional.cross_entropy(student, y) + 0.7 * 9.0 * soft
            seen.append((float(trainer._objective(trainer.model)(x, y)), float(by_hand)))

    def epoch(line):
        if trainer.sparsifier.round == 0:
            ended.update(w1=trainer.model.fc1.weight.detach().clone(), w2=trainer.model.fc2.weight.detach().clone())

    trainer.on_look, trainer.on_epoch = look, epoch
    trainer.run()
    assert len(seen) == 2 * 2 * BATCHES
    for objective, by_hand in seen:
        assert objective == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.slow
def test_round_0_is_that_of_a_run_without_a_teacher_and_later_ones_are_not(tmp_path):
    assert len(run_here(TUNED, tmp_path / "plain").done) == 1
    assert len(run_here(DISTILLED, tmp_path / "taught").done) == 1
    plain, taught = (read_metrics(only_run(tmp_path / name)) for name in ("plain", "taught"))
    same = [{k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in two.items() if k != "seconds"}
            for one, two in zip(plain, taught, strict=True)]  # fmt: skip
    assert same == [True, True, False, False, False, False]
    assert_same_run(only_run(tmp_path / "taught"), stopped_at_every_step(DISTILLED, tmp_path / "stopped"))


def test_a_later_round_can_learn_from_another_or_from_none(tmp_path):
    patch = TUNED | {"train.rounds": {"1": {}, "2": {"distill": {"teacher": 1, "weight": 1.0}}}}
    trainer = trainer_of(patch, tmp_path)
    assert trainer.config.train.teachers == {1}
    kept = {}
    trainer.on_epoch = lambda line: kept.update({line["round"]: trainer.model.fc1.weight.detach().clone()})
    trainer.run()
    assert torch.equal(trainer._teachers["1"]["fc1.weight"], kept[1])
    assert list(trainer._teachers) == ["1"]


def test_masks_are_multiplied_in_and_the_teacher_is_plain(tmp_path):
    method = {"name": "lottery-ticket", "density": 0.3, "rounds": 3, "rewind": "none"}
    trainer = trainer_of(DISTILLED | {"method": method, "train.rounds": {"2": {"distill": {"teacher": 1}}}}, tmp_path)
    trainer.run()
    sparse, dense = trainer._teachers["1"]["fc1.weight"], trainer._teachers["0"]["fc1.weight"]
    assert int((sparse == 0).sum()) > 0 == int((dense == 0).sum())
    assert all("parametrizations" not in name for name in trainer._teachers["0"])


def test_the_base_experiment_is_not_changed_by_any_of_this():
    assert spec_of({}).sections["train"].keys() >= {"distill"}
    assert "rounds" not in spec_of({}).sections["train"]
    assert "distill" not in spec_of({}).config().to_sections(defaults=False)["train"]
    assert BASE["train"]["epochs"] == 2
