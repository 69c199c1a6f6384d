"""Trackers: each with its real client in a temporary folder, and what becomes of one that fails."""

import os
import struct
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from tests.lab.helpers import experiment, run_here

from supermask.errors import ConfigError, MissingExtraError
from supermask.lab.events import Event
from supermask.lab.plan import expand
from supermask.lab.trackers import tracking
from supermask.lab.trackers.protocol import Tracker
from supermask.lab.trackers.tracking import TRACKERS, Tracking, open_tracker

SPECS = expand(experiment({}, vary={"seed": 2}))


def event(spec, kind, **values):
    return Event(kind=kind, run=spec.id, label=spec.label, seed=spec.seed, **values)


def epoch(spec, number, accuracy):
    line = {"epoch": number, "round": 0, "step": 6 * number, "train_loss": 1 / number, "test_accuracy": accuracy}
    line |= {"validation_loss": None, "remaining": 1184}
    return event(spec, "epoch", epoch=number, density=1.0, line=line)


def tell(name, *events, specs=SPECS):
    """What the tracker complains of while it is told the events."""
    troubles = []
    with Tracking([(name, open_tracker(name))], specs, troubles.append) as track:
        for one in events:
            track(one)
    return troubles


def two_runs_at_once():
    """One of them fails; the other is stopped after its first epoch."""
    one, other = SPECS
    return [
        event(one, "started", epoch=1),
        event(other, "started", epoch=1),
        epoch(one, 1, 0.5),
        epoch(other, 1, 0.25),
        epoch(one, 2, 0.75),
        event(one, "done", epoch=2),
    ]


def resumed():
    """The other, in a later process, to its end."""
    other = SPECS[1]
    return [event(other, "resumed", epoch=1), epoch(other, 1, 0.25), epoch(other, 2, 0.5), event(other, "done")]


def begun_again():
    """The worker of the first run is lost in its second epoch, and another one resumes it."""
    one = SPECS[0]
    return [event(one, "started", epoch=1), epoch(one, 1, 0.5), event(one, "resumed", epoch=1), *two_runs_at_once()[2:]]


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    name = f"tensorboard:{tmp_path}"
    assert tell(name, *two_runs_at_once()) == []
    assert tell(name, *resumed()) == []
    folders = sorted((tmp_path / "test").iterdir())
    assert [folder.name for folder in folders] == [f"dense-s{spec.seed}-{spec.id}" for spec in SPECS]
    for folder, values in zip(folders, ([0.5, 0.75], [0.25, 0.5])):
        found = EventAccumulator(str(folder)).Reload()
        assert set(found.Tags()["scalars"]) == {"train_loss", "test_accuracy", "remaining", "density"}
        points = found.Scalars("test_accuracy")
        assert [(point.step, point.value) for point in points] == list(enumerate(values, start=1))
        settings = found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
        assert "| train.optimizer.lr | 0.05 |" in settings


def test_a_run_that_is_begun_again_is_one_run_with_one_open_file(tmp_path, monkeypatch):
    from torch.utils import tensorboard

    opened = []

    class Counted(tensorboard.SummaryWriter):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            opened.append(self)

    monkeypatch.setattr(tensorboard, "SummaryWriter", Counted)
    assert tell(f"tensorboard:{tmp_path}", *begun_again()) == []
    assert len(opened) == 2
    assert all(writer.file_writer is None for writer in opened), "closed"


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_a_run_that_is_begun_again_stays_open(name):
    """Nothing is asked of the client: none is made here."""
    tracker, run = object.__new__(TRACKERS[name]), SimpleNamespace(id="x")
    tracker._open = {"x": "as it was"}
    tracker.start(run)
    assert tracker._open == {"x": "as it was"}


@pytest.mark.filterwarnings("ignore:The ``noload``")  # SQLAlchemy's, of how MLflow uses it
def test_mlflow(tmp_path):
    from mlflow.tracking import MlflowClient

    name = f"mlflow:sqlite:///{tmp_path}/mlflow.db"
    assert tell(name, *two_runs_at_once()) == []
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    place = client.get_experiment_by_name("test").experiment_id
    assert sorted(run.info.status for run in client.search_runs([place])) == ["FINISHED", "KILLED"]
    assert tell(name, *resumed()) == []
    runs = {run.data.tags["supermask.run"]: run for run in client.search_runs([place])}
    assert set(runs) == {spec.id for spec in SPECS}
    done = runs[SPECS[0].id]
    assert done.info.run_name == "dense, seed 0"
    assert done.data.params["train.optimizer.lr"] == "0.05"
    history = client.get_metric_history(done.info.run_id, "test_accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.75)]
    assert runs[SPECS[1].id].info.status == "FINISHED"
    assert runs[SPECS[1].id].data.metrics["test_accuracy"] == 0.5
    assert tell(name, event(SPECS[0], "started", epoch=1), event(SPECS[0], "failed", message=9000 * "x")) == []
    failed = client.get_run(done.info.run_id)
    assert (failed.info.status, failed.data.tags["supermask.error"]) == ("FAILED", 5000 * "x")


def _elsewhere(tmp_path, which, **variables):
    """Tell a tracker in a process of its own: it takes its folder from variables when it is imported."""
    code = f"from tests.lab.trackers import test_trackers as t; print(t.tell({which!r}, *t.two_runs_at_once()))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(t.tell({which!r}, *t.resumed()))"],
        env=os.environ | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _records(log):
    """The records of a leveldb log, which is what a .wandb file is after its header of 7 bytes; it has one block."""
    assert len(log) < 2**15
    at = 7
    while at + 7 < len(log):
        _, size, kind = struct.unpack_from("<IHB", log, at)
        assert kind == 1, "a record in one part"
        yield log[at + 7 : at + 7 + size]
        at += 7 + size


@pytest.mark.slow
def test_wandb_offline(tmp_path):
    from wandb.proto import wandb_internal_pb2 as records

    assert _elsewhere(tmp_path, "wandb:numbers", WANDB_MODE="offline", WANDB_DIR=str(tmp_path)) == "[]\n[]\n"
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    parts = [sum(spec.id in folder.name for folder in folders) for spec in SPECS]
    assert (parts, len(folders)) == ([1, 2], 3)  # the second one in two parts, which a sync puts together
    (file,) = (tmp_path / "wandb").glob(f"offline-run-*-{SPECS[0].id}/*.wandb")
    seen = [records.Record.FromString(data) for data in _records(file.read_bytes())]
    (run,) = (one.run for one in seen if one.WhichOneof("record_type") == "run")
    assert (run.run_id, run.project, run.run_group, run.display_name) == (
        SPECS[0].id, "numbers", "test", "dense, seed 0"
    )  # fmt: skip
    rows = [
        {item.key or ".".join(item.nested_key): item.value_json for item in one.history.item}
        for one in seen
        if one.WhichOneof("record_type") == "history"
    ]
    assert [(row["epoch"], row["test_accuracy"]) for row in rows] == [("1", "0.5"), ("2", "0.75")]


@pytest.mark.slow
def test_trackio(tmp_path):
    assert _elsewhere(tmp_path, "trackio:numbers", TRACKIO_DIR=str(tmp_path / "trackio")) == "[]\n[]\n"
    code = "from trackio.sqlite_storage import SQLiteStorage as s\nfor run in sorted(s.get_runs('numbers')):\n    "
    code += "print(run, sorted((row['step'], row['test_accuracy']) for row in s.get_logs('numbers', run)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        f"dense, seed 0 ({SPECS[0].id}) [(1, 0.5), (2, 0.75)]",
        f"dense, seed 1 ({SPECS[1].id}) [(1, 0.25), (1, 0.25), (2, 0.5)]",
    ]


def test_a_real_run_and_one_that_was_finished_before(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    specs, folder = expand(experiment({})), tmp_path / "board"
    for _ in range(2):  # the second time, nothing is left to train or to tell
        with Tracking([("tensorboard", TRACKERS["tensorboard"](str(folder)))], specs, pytest.fail) as track:
            run_here({}, tmp_path / "runs", on_event=track)
    (file,) = folder.rglob("*tfevents*")
    found = EventAccumulator(str(file)).Reload()
    assert [point.step for point in found.Scalars("test_loss")] == [1, 2]
    assert "lr" in found.Tags()["scalars"]


class Broken(Tracker):
    """A tracker whose server is down."""

    def __init__(self):
        self.calls = 0

    def start(self, run):
        self.calls += 1
        raise ConnectionError("nobody answers at localhost:1")


def test_a_broken_tracker_is_told_once_and_no_run_fails(tmp_path):
    broken, troubles = Broken(), []
    good = f"tensorboard:{tmp_path / 'board'}"
    specs = expand(experiment({}, vary={"seed": 2}))
    with Tracking([("mine", broken), (good, open_tracker(good))], specs, troubles.append) as track:
        outcome = run_here({}, tmp_path / "runs", vary={"seed": 2}, on_event=track)
    assert len(outcome.done) == 2
    assert broken.calls == 1
    assert troubles == [
        "--track mine: ConnectionError: nobody answers at localhost:1. It is told nothing more; the runs go on, and "
        "metrics.jsonl in their folders is whole"
    ]
    assert len(list((tmp_path / "board").rglob("*tfevents*"))) == 2


class Noted(Tracker):
    """Notes what it is told of runs."""

    def __init__(self):
        self.told = []

    def start(self, run):
        self.told.append(("start", run.seed))

    def epoch(self, run, epoch, values):
        self.told.append((epoch, run.seed))

    def end(self, run, error):
        self.told.append((error, run.seed))

    def close(self):
        pass


def test_runs_that_another_driver_tells(tmp_path):
    """Its own trackers have them; one that it took over and finished has not failed."""
    one, other = SPECS
    noted = Noted()
    with Tracking([("mine", noted)], SPECS, pytest.fail) as track:
        track(event(other, "started", elsewhere=True))
        track(event(other, "epoch", epoch=1, elsewhere=True))
        track(event(other, "skipped", message="finished already", seconds=1.0))
        track(event(one, "started", epoch=1))
        track(event(one, "epoch", epoch=7, elsewhere=True))
        track(event(one, "skipped", message="finished already", seconds=1.0))
    assert noted.told == [("start", 0), (None, 0)]


def test_what_a_broken_tracker_is_told_does_not_pile_up():
    with Tracking([("mine", Broken())], SPECS, lambda text: None) as track:
        track(event(SPECS[0], "started", epoch=1))
        (line,) = track._lines
        line._thread.join(60)
        for number in range(1, 100):
            track(epoch(SPECS[0], number, 0.5))
        assert line._calls.qsize() == 0


def test_a_tracker_that_never_answers_keeps_nobody_waiting():
    class Stuck(Tracker):
        def start(self, run):
            threading.Event().wait(30)

    troubles, began = [], time.monotonic()
    with Tracking([("stuck", Stuck())], SPECS, troubles.append, close_seconds=0.2) as track:
        for one in two_runs_at_once():
            track(one)
    assert time.monotonic() - began < 10
    assert troubles == ["--track stuck: did not take everything within 0 s; metrics.jsonl in the run folders is whole"]


def test_an_unknown_tracker():
    with pytest.raises(ConfigError, match=r"--track tensorbord: no tracker is called 'tensorbord'; did you mean"):
        open_tracker("tensorbord")


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("tensorboard", "torch.utils.tensorboard", "tensorboard"),
        ("mlflow", "mlflow.entities", "mlflow-skinny"),
        ("wandb", "wandb", "wandb"),
        ("trackio", "trackio", "trackio"),
    ],
)
def test_a_missing_package_says_how_to_get_it(name, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as raised:
        open_tracker(name)
    assert str(raised.value) == (
        f"--track {name} needs the package {package!r}: python -m pip install 'supermask[{name}]'"
    )


def test_trackers_are_imported_when_they_are_asked_for():
    code = f"import sys, {tracking.__name__}; print([m for m in ('tensorboard', 'mlflow', 'wandb', 'trackio') "
    code += "if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
