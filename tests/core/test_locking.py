"""The lock between processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from supermask.core.locking import locked

HOLD = """
import sys, time
from pathlib import Path
from supermask.core.locking import locked
with locked(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def test_lock_is_free_again_when_its_holder_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with locked(lock, wait=False) as held:
            assert not held
        holder.kill()
        holder.wait()
        with locked(lock, wait=False) as held:
            assert held


def test_waiting_for_a_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    order: list[str] = []

    def second() -> None:
        with locked(lock) as held:
            assert held
            order.append("second")

    with locked(lock):
        thread = threading.Thread(target=second)
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
