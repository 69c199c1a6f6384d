from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from supermask.cli.live import Lines, LiveTable, progress
from supermask.cli.progress import Board, clock
from supermask.lab.events import Event


def board(n: int = 3, *metrics: str) -> Board:
    sections = [{"train": {"metric": name}} for name in metrics] + [{"train": {}}] * n
    specs = [SimpleNamespace(id=f"run{i}", label="dense", seed=i, sections=sections[i]) for i in range(n)]
    return Board.of(specs)  # type: ignore[arg-type]


def event(kind: Any, run: int = 0, **values: Any) -> Event:
    return Event(kind=kind, run=f"run{run}", label="dense", seed=run, **values)


HALF = {"epoch": 3, "epochs": 10, "batch": 5, "batches": 10, "seconds": 5.0, "loss": 0.5}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (65, "1:05"), (3599, "59:59"), (7209, "2:00:09")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_pace_of_a_resumed_run_is_that_since_it_was_resumed() -> None:
    here = board()
    place = {"epochs": 10, "batch": 10, "batches": 10}
    here.update(event("started"))
    here.update(event("epoch", epoch=1, seconds=8.0, **place))
    line = here.update(event("resumed", epoch=3, seconds=16.0, epochs=10, batch=5, batches=10))
    assert (line.seconds_per_epoch, line.seconds_left) == (None, None)
    assert here.update(event("epoch", epoch=3, seconds=16.5, **place)).seconds_per_epoch is None
    assert here.update(event("epoch", epoch=4, seconds=18.0, **place)).seconds_per_epoch == pytest.approx(2 / 1.5)


def test_a_line_follows_its_events() -> None:
    here = board()
    assert here.update(event("started")).cells() == ("training", "–", "–", "–", "–", "–", "–")
    # 2.5 of 10 epochs in 5 s: 2 s an epoch, 15 s to go
    assert here.update(event("progress", **HALF)).cells() == ("training", "2/10", "0.5000", "–", "–", "2.000", "0:15")
    ended = event("done", epoch=10, epochs=10, loss=0.1, accuracy=0.975, density=0.04, seconds=20.0)
    assert here.update(ended).cells() == ("done", "10/10", "0.1000", "97.50", "4.00", "2.000", "–")


def test_the_pace_is_that_of_the_last_epochs() -> None:
    here = board()
    for epoch in range(1, 21):  # the first epoch takes 100 s, the others 1 s
        values = {"epoch": epoch, "epochs": 30, "batch": 10, "batches": 10, "seconds": 99.0 + epoch}
        line = here.update(event("epoch", **values))
        assert line.seconds_per_epoch == pytest.approx(100 if epoch == 1 else 1)
    assert line.seconds_left == pytest.approx(10)
    assert here.update(event("done", epoch=30, epochs=30, seconds=129.0)).seconds_per_epoch == pytest.approx(129 / 30)


def test_runs_that_are_judged_by_another_metric(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"epoch": 2, "epochs": 2, "batch": 1, "batches": 1, "loss": 0.5, "density": 0.5, "seconds": 4.0}
    here = board(1, "package.module:deviation")
    assert here.metric_header == "deviation"
    with Lines(here) as show:
        show(event("started"))
        show(event("done", metric=0.12345, **values))
        show(event("skipped", message="finished already", metric=0.12345, seconds=4.0))
    assert capsys.readouterr().out.splitlines() == [
        "dense, seed 0: done, epoch 2/2, loss 0.5000, deviation 0.1235, remaining 50.00 %, 4.0 s",
        "finished meanwhile by another process: 1 of 1 runs",
    ]
    lines = drawn(LiveTable(board(1, "rmse")), 100, 30)
    assert lines[0].split() == ["run", "seed", "state", "epoch", "loss", "rmse", "rem.", "%", "s/epoch", "ETA"]
    mixed = board(2, "rmse")
    assert mixed.metric_header == "metric"
    assert mixed.update(event("epoch", metric=0.25)).cells()[3] == "0.2500"
    assert mixed.update(event("epoch", 1, metric=0.25, accuracy=0.25)).cells()[3] == "25.00"
    assert board(0).metric_header == "acc. %"


def test_a_very_long_message_is_cut() -> None:
    line = board().update(event("failed", message="a\nb " + "word " * 500))
    assert line.message.startswith("a b word")
    assert line.message.endswith("word…")
    assert len(line.message) <= 240


def test_the_end_of_all_runs_is_estimated() -> None:
    here = board(4)
    assert here.seconds_left() is None
    here.update(event("progress", 0, **HALF))
    here.update(event("progress", 1, **HALF))
    # two runs with 15 s to go, two waiting of 20 s each, two at a time
    assert here.seconds_left() == pytest.approx((15 + 15 + 20 + 20) / 2)
    assert here.summary() == "4 runs: 2 training, 2 waiting, about 0:35 left"


def test_the_end_is_not_before_that_of_the_longest_run() -> None:
    here = board(2)
    here.update(event("progress", 0, **HALF))
    here.update(event("progress", 1, **HALF | {"epoch": 10}))
    assert here.seconds_left() == pytest.approx(15)


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    now = Clock()
    values = {"epochs": 30, "batch": 10, "batches": 10, "loss": 0.5, "accuracy": 0.9, "density": 0.5}
    with Lines(board(), now=now) as show:
        show(event("started"))
        for epoch in range(1, 31):
            now.time += 1.0
            show(event("progress", epoch=epoch, epochs=30, batch=5, batches=10))
            show(event("epoch", epoch=epoch, seconds=float(epoch), **values))
        show(event("done", epoch=30, epochs=30, loss=0.5, accuracy=0.9, density=0.5, seconds=30.0))
    said = "epoch {}/30, loss 0.5000, accuracy 90.00 %, remaining 50.00 %"
    assert capsys.readouterr().out.splitlines() == [
        f"dense, seed 0, {said.format(10)}, 1.000 s/epoch, 0:20 left",
        f"dense, seed 0, {said.format(20)}, 1.000 s/epoch, 0:10 left",
        f"dense, seed 0, {said.format(30)}, 1.000 s/epoch, 0:00 left",
        f"dense, seed 0: done, {said.format(30)}, 30.0 s",
    ]


def test_lines_tell_of_skipped_resumed_and_failed_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines(board(), err=True) as show:
        show(event("skipped", 0, message="finished already", accuracy=0.9, seconds=1.0))
        show(event("skipped", 1, message="another process is training this run"))
        show(event("resumed", 2, epoch=3, epochs=10, batch=0, batches=10, seconds=4.0))
        show(event("failed", 2, message="the loss is nan"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "dense, seed 1: skipped, another process is training this run",
        "finished before: 1 of 3 runs",
        "dense, seed 2: resumed, epoch 2/10",
        "dense, seed 2: failed: the loss is nan",
    ]


def drawn(table: LiveTable, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    table._console = console
    console.print(table._draw())
    file = console.file
    assert isinstance(file, io.StringIO)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_the_live_table_shows_every_run_that_has_room() -> None:
    table = LiveTable(board())
    table(event("progress", 1, **HALF))
    lines = drawn(table, 100, 30)
    assert lines[0].split() == ["run", "seed", "state", "epoch", "loss", "acc.", "%", "rem.", "%", "s/epoch", "ETA"]
    assert [line.split()[1:3] for line in lines[2:5]] == [["0", "waiting"], ["1", "training"], ["2", "waiting"]]
    assert lines[-1] == "3 runs: 1 training, 2 waiting, about 0:55 left"


def test_the_live_table_shows_only_runs_at_work_when_there_are_many() -> None:
    table = LiveTable(board(50))
    for run in (3, 7):
        table(event("progress", run, **HALF))
    lines = drawn(table, 80, 24)
    assert [line.split()[1] for line in lines[2:-1]] == ["3", "7"]
    assert lines[-1].startswith("50 runs: 2 training, 48 waiting, about ")
    assert max(map(len, lines)) <= 80


def test_a_terminal_gets_the_table_and_a_pipe_the_lines() -> None:
    assert isinstance(progress([], terminal=True), LiveTable)
    assert isinstance(progress([], terminal=False), Lines)


def test_the_live_table_ends_with_a_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    table = LiveTable(board(1))
    console = Console(file=io.StringIO(), width=80, force_terminal=False, markup=False)
    table._console = table._live.console = console
    with table:
        table(event("failed", message="[red] is no markup"))
    file = console.file
    assert isinstance(file, io.StringIO)
    assert "dense, seed 0: failed: [red] is no markup\n" in file.getvalue()
    assert file.getvalue().endswith("1 run: 1 failed\n")
