"""Factories for contenders under test; imported in their processes."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np


def double(**options: Any) -> Any:
    return lambda x: 2 * x


def environment() -> Any:
    """Gives what the process was started with, and whether torch is loaded there."""
    found = [
        float(os.environ["OMP_NUM_THREADS"]),
        float(os.environ["OMP_WAIT_POLICY"] == "passive"),
        float("torch" in sys.modules),
    ]
    return lambda x: np.array(found, np.float32)


def hungry(megabytes: int) -> Any:
    return lambda x: np.ones(megabytes << 18, np.float32)[:1]


def slow_to_start(seconds: float) -> Any:
    time.sleep(seconds)
    return lambda x: x


def sleeps(seconds: float) -> Any:
    def run(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        time.sleep(seconds)
        return x

    return run


def broken() -> Any:
    raise ValueError("no such thing\nmore")


def breaks_later() -> Any:
    def run(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        raise KeyError("later")

    return run


def dies() -> Any:
    return lambda x: os._exit(3)
