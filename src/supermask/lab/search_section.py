"""The ``search`` section of an experiment file: which settings to search, and what for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from supermask.errors import ConfigError
from supermask.lab.patch import overlap
from supermask.lab.validate import build, require_mapping, show

OBJECTIVES: Final = ("accuracy", "bytes", "latency")
_SECTIONS: Final = ("method", "train")
_DIGITS: Final = 6  # significant ones of a number that is tried: what stands in tables makes the same run again


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers between two ends, both included; whole ones where both ends are whole.

    Args:
        low: The least.
        high: The greatest.
        log: Whether equal ratios are as likely as equal steps otherwise.
        step: Only multiples of it above ``low``; not with ``log``.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        ends = (self.low, self.high, self.step or 1)
        return all(isinstance(end, int) for end in ends)


@dataclass(frozen=True, kw_only=True)
class SearchSection:
    """What to search.

    Args:
        over: Dotted key below ``method`` or ``train`` -> a range, or a list of values.
        objectives: One or more of ``accuracy`` (of what the run is judged by, on held-out training examples, after the last
            epoch), ``bytes`` (of the entropy code) and ``latency`` (seconds of one input in the engine, one thread).
        trials: How many settings to try in all, those of earlier commands included.
        seed: Of the search itself.
    """

    over: dict[str, Any]
    objectives: tuple[str, ...] = ("accuracy",)
    trials: int = 20
    seed: int = 0


def parse_search(raw: object, where: str = "search") -> tuple[SearchSection, dict[str, Range | list[Any]]]:
    """Check a ``search`` section.

    Args:
        raw: What stands there.
        where: Its name in messages.

    Returns:
        The section, and the parsed ``over``.

    Raises:
        ConfigError: Names the key, the value and the way out.
    """
    values = dict(require_mapping(raw, where))
    if isinstance(values.get("objectives"), list):
        values["objectives"] = tuple(values["objectives"])
    section = build(SearchSection, values, where)
    if not section.over:
        raise ConfigError(
            f"{where}.over: name at least one setting, such as train.optimizer.lr: {{low: 0.01, high: 0.1}}"
        )
    for objective in section.objectives or ("",):
        if objective not in OBJECTIVES or section.objectives.count(objective) > 1:
            raise ConfigError(f"{where}.objectives: expected {' or '.join(OBJECTIVES)}, each once, got {objective!r}")
    if section.trials < 1:
        raise ConfigError(f"{where}.trials: must be at least 1, got {section.trials}")
    keys = list(section.over)
    for index, key in enumerate(keys):
        if key.partition(".")[0] not in _SECTIONS or "." not in key:
            raise ConfigError(
                f"{where}.over.{key}: only settings of {' and '.join(_SECTIONS)} are searched: train.optimizer.lr"
            )
        if clash := overlap([key], keys[index + 1 :]):
            raise ConfigError(f"{where}.over: {key!r} and {clash[1]!r} set the same value; keep one of them")
    return section, {key: _parse(value, f"{where}.over.{key}") for key, value in section.over.items()}


def _parse(value: object, path: str) -> Range | list[Any]:
    if isinstance(value, list):
        plain = (bool, int, float, str, type(None))
        if len(value) < 2 or not all(isinstance(item, plain) for item in value):
            raise ConfigError(f"{path}: expected at least two numbers or words to choose from, got {show(value)}")
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: expected {{low: ..., high: ...}} or a list of values, got {show(value)}")
    found = build(Range, value, path)
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high):
        raise ConfigError(f"{path}: low must be less than high, got {found.low} and {found.high}")
    if found.log and (found.low <= 0 or found.step is not None):
        raise ConfigError(f"{path}: log needs low > 0 and no step, got low {found.low} and step {found.step}")
    if found.step is not None and not 0 < found.step <= found.high - found.low:
        raise ConfigError(f"{path}: step must be between 0 and high - low, got {found.step}")
    return found


def as_tried(value: Any) -> Any:
    """A value as it goes into a run: numbers with six significant digits."""
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
