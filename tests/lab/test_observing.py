"""Following runs by their folders: what was written, in which state they are, and nothing left behind."""

import json
import os

import pytest

from supermask.lab.observing import SILENT_SECONDS, Observer
from supermask.lab.plan import expand
from supermask.lab.store import run_folder

from .helpers import experiment, run_here


class Case:
    """A planned run, a wall clock that files are dated with, and a clock of the observer's own."""

    def __init__(self, out, patch=None):
        (self.spec,) = expand(experiment(patch))
        self.folder = run_folder(out, "test", self.spec.id)
        self.now = 1_000_000.0
        self.observer = Observer([self.spec], out, wall=lambda: self.now, clock=lambda: self.now)

    def look(self):
        (seen,) = self.observer.look().values()
        return seen

    def begin(self):
        self.folder.path.mkdir(parents=True)
        self.touch(self.folder.env, b"{}")

    def touch(self, path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (self.now, self.now))

    def epochs(self, *numbers, end=b"\n", **more):
        line = {"round": 0, "train_loss": 0.5, "test_accuracy": 0.9, "test_metric": 0.9} | more
        lines = [json.dumps(line | {"epoch": number, "seconds": 2.0 * number}).encode() for number in numbers]
        self.touch(self.folder.metrics, b"\n".join(lines) + end)


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


def kinds(seen):
    return [event.kind for event in seen.events]


def test_a_run_that_nobody_has_begun_waits_and_gets_no_folder(case, tmp_path):
    seen = case.look()
    assert (seen.state, seen.events, seen.silent) == ("waiting", [], None)
    assert list(tmp_path.iterdir()) == []


def test_epochs_are_told_once_and_half_a_line_not_at_all(case):
    case.begin()
    seen = case.look()
    assert (seen.state, kinds(seen), seen.events[0].epochs) == ("training", ["started"], 2)
    case.epochs(1, end=b'\n{"epoch": 2, "sec')
    seen = case.look()
    assert kinds(seen) == ["epoch"]
    event = seen.events[0]
    assert (event.epoch, event.epochs, event.loss, event.accuracy, event.seconds) == (1, 2, 0.5, 0.9, 2.0)
    assert kinds(case.look()) == []
    case.epochs(1, 2)
    assert [event.epoch for event in case.look().events] == [2]


def test_silence_means_stopped_and_a_change_means_training(case):
    case.begin()
    case.epochs(1)
    assert case.look().state == "training"
    case.now += SILENT_SECONDS - 1
    assert (case.look().state, case.look().silent) == ("training", SILENT_SECONDS - 1)
    case.now += 1
    assert case.look().state == "stopped"
    case.touch(case.folder.checkpoint, b"1")
    seen = case.look()
    assert (seen.state, seen.silent) == ("training", 0.0)


def test_a_lease_that_is_renewed_is_a_sign(case):
    case.begin()
    case.look()
    case.now += SILENT_SECONDS + 1
    case.touch(case.folder.lease / "000001", b"{}")
    assert case.look().state == "training"


def test_what_was_silent_before_the_first_look_is_stopped(case):
    case.begin()
    case.now += SILENT_SECONDS + 1
    assert case.look().state == "stopped"


def test_a_clock_that_is_behind_the_files_does_not_matter(case):
    case.begin()
    case.now -= 5_000
    seen = case.look()
    assert (seen.state, seen.silent) == ("training", 0.0)


def test_long_epochs_may_be_silent_for_longer(case):
    case.begin()
    case.epochs(400)  # 800 s an epoch, as far as is known
    case.look()
    case.now += 2_000
    assert case.look().state == "training"


def test_a_resumed_run_takes_epochs_back(case):
    case.begin()
    case.epochs(1, 2)
    case.look()
    case.epochs(1)
    seen = case.look()
    assert seen.anew
    assert [event.epoch for event in seen.events] == [1]


def test_a_failure_is_told_once_and_a_new_attempt_follows(case):
    case.begin()
    record = {"schema": 1, "run": case.spec.id, "label": "dense", "seed": 0, "error": "no disk", "traceback": ""}
    case.touch(case.folder.failed, json.dumps(record).encode())
    seen = case.look()
    assert (seen.state, seen.events[0].message) == ("failed", "no disk")
    assert (case.look().state, case.look().events) == ("failed", [])
    case.folder.failed.unlink()
    assert (case.look().state) == "training"
    case.touch(case.folder.failed, json.dumps(record).encode())
    assert kinds(case.look()) == ["failed"]


@pytest.mark.parametrize("name", ["metrics", "failed", "result"])
def test_damaged_files_are_told_as_failures(name, case):
    case.begin()
    case.touch(getattr(case.folder, name), b"nonsense\n")
    seen = case.look()
    assert (seen.state, kinds(seen)) == ("failed", ["failed"])
    assert case.folder.path.name in seen.events[0].message
    case.folder.path.joinpath(getattr(case.folder, name).name).unlink()
    assert case.look().state == "training"


def test_later_rounds_add_their_epochs(tmp_path):
    patch = {"method": {"name": "lottery-ticket", "density": 0.3, "rounds": 2}, "train.rounds": {"1": {"epochs": 5}}}
    case = Case(tmp_path, patch)
    case.begin()
    case.epochs(3, round=1)
    assert case.look().events[0].epochs == 2 + 5


def test_a_real_run_ends_with_its_result(tmp_path):
    case = Case(tmp_path)
    run_here({}, tmp_path)
    seen = case.look()
    assert (seen.state, kinds(seen)) == ("done", ["epoch", "epoch", "done"])
    assert seen.events[-1].density == 1.0
    assert seen.events[-1].accuracy == seen.events[-2].accuracy
    assert (case.look().state, case.look().events) == ("done", [])
