"""Ctrl-C typed at a terminal in which `supermask run` is at work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Invoke

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)
import fcntl
import pty
import termios


class Terminal:
    """A command in a pseudo-terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            command,
            env=environment | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # its controlling terminal
        )
        self.slave = slave
        os.set_blocking(self.master, False)
        self.output = ""

    def read(self) -> str:
        """What has been shown until now."""
        try:
            while chunk := os.read(self.master, 1 << 16):
                self.output += chunk.decode(errors="replace")
        except OSError:  # nothing there, or the other end is closed
            pass
        return self.output

    def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Read on until something is true."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.read()
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Wait for the end; the exit code."""
        self.until(lambda: self.process.poll() is not None)
        self.read()
        restored = termios.tcgetattr(self.slave) == self.before
        os.close(self.slave)
        os.close(self.master)
        assert restored
        return self.process.returncode


def require_ended(group: int, seconds: float = 5) -> None:
    """No process of a group is left; the last ones notice that the others have ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail("a process is left")


@pytest.mark.slow
def test_ctrl_c_at_a_terminal(supermask: Invoke, tiny: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "supermask", "run", str(tiny), "--set", "train.epochs=150", "--workers"]
    terminal = Terminal([*command, "2"], environment)
    metrics = Path("runs/tiny")
    terminal.until(lambda: any(path.stat().st_size > 2000 for path in metrics.glob("*/metrics.jsonl")))
    terminal.type("\x03")
    assert terminal.end() == 130
    shown = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.output).split())
    assert "stopping: each run takes a checkpoint; Ctrl-C again kills them" in shown
    assert "error: stopped; nothing is lost: the same command resumes the unfinished runs" in shown
    assert "Traceback" not in shown
    assert terminal.output.rfind("\x1b[?25h") >= terminal.output.rfind("\x1b[?25l"), "the cursor is back"
    require_ended(terminal.process.pid)
    stopped = len(list(metrics.glob("*/checkpoint/last.pt")))
    assert 1 <= stopped <= 2
    assert not list(metrics.glob("*/failed.json"))

    done = subprocess.run([*command, "0"], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(metrics.glob("*/result.json"))) == 4
    assert done.stdout.count(": resumed, epoch ") == stopped


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait(
    supermask: Invoke, tiny: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """A step that takes long keeps a worker from its checkpoint; whoever cannot wait types Ctrl-C again."""
    (tmp_path / "stuck.py").write_text(STUCK)
    command = [sys.executable, "-m", "supermask", "run", str(tiny), "--workers", "1", "--set", "train.loss=stuck:loss"]
    terminal = Terminal(command, environment)
    terminal.until(Path("stuck").exists)
    terminal.type("\x03")
    terminal.until(lambda: "stopping" in terminal.output)
    started = time.monotonic()
    terminal.type("\x03")
    assert terminal.end() == 130
    assert time.monotonic() - started < 10
    require_ended(terminal.process.pid)
    assert "Traceback" not in terminal.output


STUCK = """
import time
from pathlib import Path

from torch.nn import functional


def loss(output, labels):
    if not output.requires_grad:
        return functional.cross_entropy(output, labels)
    Path("stuck").touch()
    time.sleep(60)
"""


def test_signals_reach_who_asked_for_them() -> None:
    """The handler of whoever calls the lab is theirs again after it, and one of their own is never replaced."""
    from supermask.lab.executors.processes import _first_interrupt_waits

    told: list[str] = []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with _first_interrupt_waits(lambda: told.append("stop")) as stopping:
        assert not stopping()
        signal.raise_signal(signal.SIGINT)
        assert stopping()
        assert told == ["stop"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _first_interrupt_waits(None) as stopping:
            signal.raise_signal(signal.SIGINT)
            assert not stopping()
    finally:
        signal.signal(signal.SIGINT, before)
