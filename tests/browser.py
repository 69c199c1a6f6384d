"""The headless Chromium that tests drive."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

_OWN = Path(__file__).parents[1] / ".cache" / "browser" / "chromium"
_NAMES = (str(_OWN), "chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """The one of $SUPERMASK_CHROMIUM, of `make browser`, or of the system; without one the test is skipped, and fails in CI."""
    found = os.environ.get("SUPERMASK_CHROMIUM") or next(
        (path for name in _NAMES if (path := shutil.which(name))), None
    )
    if found is None:
        reason = "no Chromium: `make browser` fetches one, or set SUPERMASK_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def environment(program: str) -> dict[str, str]:
    """What it is started with: the one of `make browser` brings libraries of its own."""
    return {**os.environ, "LD_LIBRARY_PATH": str(Path(program).parent / "al2023" / "lib")}
