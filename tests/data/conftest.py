from __future__ import annotations

from pathlib import Path

import pytest

from supermask.data import locate


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data set of this machine is found unless a test names its folder."""
    monkeypatch.delenv("SUPERMASK_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(locate, "_SYSTEM", tmp_path / "system")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
