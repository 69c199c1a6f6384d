from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supermask.cli.watching import Watch, follow_lines
from supermask.lab.load import load_experiment
from supermask.lab.observing import Observer
from supermask.lab.plan import expand

from .conftest import Invoke


def view(file: Path, out: Path) -> Watch:
    specs = expand(load_experiment(file))
    return Watch(specs, out, Observer(specs, out))


def test_once_shows_finished_runs(supermask: Invoke, finished: Path) -> None:
    result = supermask("watch", finished / "tiny.yaml", "--out", finished / "runs", "--once")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["run", "seed", "state", "epoch"]
    assert lines[2].split()[:4] == ["supermask", "0", "done", "2/2"]
    assert lines[-1] == f"4 runs: 4 done; {finished / 'runs' / 'tiny'}"


def test_nothing_has_begun(supermask: Invoke, tiny: Path) -> None:
    result = supermask("watch", tiny, "--once")
    assert result.exit_code == 0
    assert "4 runs: 4 waiting; nothing is training now; runs/tiny" in result.stdout
    assert not Path("runs").exists()


def test_a_finished_experiment_ends_the_watch(supermask: Invoke, finished: Path) -> None:
    result = supermask("watch", finished / "tiny.yaml", "--out", finished / "runs")
    assert result.exit_code == 0
    assert result.stdout.count("4 runs: 4 done") == 2


def test_failures_are_shown_with_their_reason(supermask: Invoke, tiny: Path) -> None:
    spec = expand(load_experiment(tiny))[0]
    folder = Path("runs/tiny") / spec.id
    folder.mkdir(parents=True)
    record = {"schema": 1, "run": spec.id, "label": spec.label, "seed": 0, "error": "it broke", "traceback": ""}
    (folder / "failed.json").write_text(json.dumps(record))
    result = supermask("watch", tiny, "--once")
    assert "supermask, seed 0: failed: it broke" in result.stdout
    content = json.loads(supermask("watch", tiny, "--json").stdout)
    assert [run["state"] for run in content["runs"]] == ["failed", "waiting", "waiting", "waiting"]
    assert content["runs"][0]["message"] == "it broke"


def test_a_table_of_literature_has_nothing_to_watch(supermask: Invoke) -> None:
    result = supermask("watch", "signed-supermask/table-14")
    assert result.exit_code == 0
    assert "0 runs: " in result.stdout


def test_lines_tell_what_changes(
    tiny: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs end while they are watched: their folders are moved in, one after the other."""
    out = tmp_path / "runs"
    watch = view(tiny, out)
    left = sorted((finished / "runs" / "tiny").iterdir())

    class Arriving:
        def __init__(self) -> None:
            self.looks = 0
            self.inner = watch._observer

        def look(self) -> object:
            if self.looks and left:
                (out / "tiny").mkdir(parents=True, exist_ok=True)
                source = left.pop()
                target = out / "tiny" / source.name
                target.mkdir()
                for file in source.iterdir():
                    (target / file.name).write_bytes(file.read_bytes())
            self.looks += 1
            return self.inner.look()

    watch._observer = Arriving()  # type: ignore[assignment]
    follow_lines(watch, poll=0.0)
    output = capsys.readouterr().out
    assert "4 waiting; nothing is training now" in output
    assert output.count(": done, epoch 2/2, loss ") == 4
    assert output.splitlines()[-1].startswith("4 runs: 4 done")


def test_a_small_screen_shows_what_is_at_work(tiny: Path, tmp_path: Path) -> None:
    watch = view(tiny, tmp_path)
    run = list(watch.board.lines)[2]
    (tmp_path / "tiny" / run).mkdir(parents=True)
    (tmp_path / "tiny" / run / "env.json").write_text("{}")
    assert watch.look() == [run]
    assert [row[:3] for row in watch.grid(1).rows] == [("supermask", "1", "training")]
    assert len(watch.grid(4).rows) == len(watch.grid().rows) == 4
    assert watch.grid(1).rows[0][-1] == "0:00"


def test_a_narrow_screen_shows_what_is_needed_most(finished: Path) -> None:
    watch = view(finished / "tiny.yaml", finished / "runs")
    watch.look()
    assert len(watch.grid(width=100).headers) == 10
    assert watch.grid(width=60).headers == ("run", "seed", "state", "epoch", "acc. %", "s/epoch", "ETA", "silent")
    assert watch.grid(width=20).headers == ("run", "state", "epoch", "ETA")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_in_a_terminal_until_ctrl_c(term: str, tiny: Path, environment: dict[str, str], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "supermask", "watch", str(tiny), "--out", str(tmp_path / "runs")]
    process = subprocess.Popen(command, env=environment | {"TERM": term}, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + 120
    while b"nothing is training now" not in seen and time.monotonic() < deadline:
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    os.close(ours)
    assert b"4 waiting" in seen
    assert (b"\x1b[" in seen) is (term != "dumb")
