"""Results of single runs to one row per setting: means and spreads over the seeds, paired with the dense baseline."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from supermask.errors import ConfigError
from supermask.report.channels import ChannelsRow, channels_row
from supermask.report.statistics import ENOUGH_FOR_QUANTILES, Spread

Result = Mapping[str, Any]

#: Epochs of single runs by run id, as in `metrics.jsonl`.
Metrics = Mapping[str, Sequence[Mapping[str, Any]]]

#: The method name that marks a baseline.
DENSE = "dense"

_TEXTS = 3  # of a row that are told to people


@dataclass(frozen=True)
class ExtraTime:
    """Training time of an epoch over the dense baseline's, run by run at equal seed, device and thread count.

    Attributes:
        baseline: The label of the baseline row.
        pairs: How many seeds both rows have.
        seconds: Training seconds an epoch minus the baseline's (the two may train for different numbers of epochs).
        fraction: Training seconds an epoch over the baseline's, minus 1.
    """

    baseline: str
    pairs: int
    seconds: Spread
    fraction: Spread


@dataclass(frozen=True)
class MetricRow:
    """What a row is judged by; for the metric "accuracy" the same numbers as the row's accuracies.

    Attributes:
        name: "accuracy", another known metric, or a reference.
        better: "higher" or "lower".
        last: On the test split, last epoch.
        best: On the test split, best epoch: chosen on the test split itself.
        validation_selected: On the test split, in the epoch that was best on the validation split.
        validation: On the validation split, last epoch.
    """

    name: str
    better: str
    last: Spread | None
    best: Spread | None
    validation_selected: Spread | None
    validation: Spread | None


@dataclass(frozen=True)
class FullRow:
    """The dense model behind masks that were only tracked (DessiLBI's), in its last epoch; all None for other methods.

    `best` is its metric in its best epoch, chosen on the test split itself; None where results do not tell.
    """

    loss: Spread | None
    accuracy: Spread | None
    metric: Spread | None
    best: Spread | None


@dataclass(frozen=True)
class NoteRow:
    """What a method said to its user, and in how many runs of the row."""

    text: str
    n: int


@dataclass(frozen=True)
class MacsRow:
    """Multiply-accumulates of the dense model and of what remains, and how they were counted."""

    dense: Spread | None
    remaining: Spread | None
    convention: str | None


@dataclass(frozen=True)
class EpochRow:
    """A row at the end of one epoch: the metric on the test split, test loss, remaining over targeted weights.

    `full` is the metric of the dense model where masks were only tracked, otherwise None.
    """

    epoch: int
    metric: Spread | None
    test_loss: Spread | None
    density: Spread | None
    full: Spread | None


@dataclass(frozen=True)
class LayerRow:
    """One layer of a row; the fractions are of the layer's weights, averaged over the runs.

    `keep` and `invert` add up to `remaining`; both are None where the mask has no signs.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    remaining: float
    keep: float | None
    invert: float | None


@dataclass(frozen=True)
class Row:
    """Every run of one setting, in the units of `result.json`: accuracies and densities are fractions, times seconds.

    `setting` is what the runs have in common, see `result.json`; None for results of versions that did not write it.
    `epochs` is what was planned, of such results what was trained; `epochs_trained` is less where a schedule ended runs.
    `accuracy` and `accuracy_best` are None when the metric is another; `metric` always holds it. `accuracy_top5` counts a
    class among the five with the highest scores, None unless there are more than ten. `density` is remaining over targeted
    weights (None without targets); `remaining_of_all` counts the weights that were not targeted as remaining. `compression`
    maps an accounting to 1 - bytes / float32 bytes of the dense model; a dense network has no mask to count, and None
    there. `machines` are those that trained the runs, as far as is known. `rounds` counts the trainings of a run, None
    where a result of an earlier version does not tell. `channels` is None unless the method removes channels. `apart` says
    what tells the row from others of its label.
    """

    label: str
    experiment: str
    method: str
    model: str
    data: str
    epochs: int
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    devices: tuple[str, ...]
    threads: tuple[int, ...]
    accuracy: Spread | None
    accuracy_best: Spread | None
    accuracy_top5: Spread | None
    test_loss: Spread | None
    train_loss: Spread | None
    weights_total: Spread | None
    weights_targeted: Spread | None
    weights_remaining: Spread | None
    density: Spread | None
    remaining_of_all: Spread | None
    seconds_train: Spread | None
    seconds_per_epoch: Spread | None
    peak_memory: Spread | None
    bytes: dict[str, Spread | None]
    compression: dict[str, Spread | None]
    extra_time: ExtraTime | None
    layers: tuple[LayerRow, ...]
    metric: MetricRow
    n_train: int
    n_validation: int
    precision: str
    peak_device_memory: Spread | None
    macs: MacsRow
    at_epochs: tuple[EpochRow, ...]
    setting: str | None
    epochs_trained: Spread
    machines: tuple[str, ...]
    full: FullRow
    rounds: Spread | None
    notes: tuple[NoteRow, ...]
    channels: ChannelsRow | None
    apart: str = ""

    @property
    def n(self) -> int:
        """How many runs the row holds."""
        return len(self.runs)

    @property
    def trainings(self) -> float:
        """Rounds of training, the mean over the runs; 1 where a result does not tell."""
        return 1.0 if self.rounds is None else self.rounds.mean

    @property
    def estimated(self) -> bool:
        """Whether the row's quantiles come from fewer than 20 runs."""
        return self.n < ENOUGH_FOR_QUANTILES

    def to_dict(self) -> dict[str, Any]:
        """The row as plain JSON values; the schema is in `docs/json.md`."""
        return {**asdict(self), "n": self.n, "estimated": self.estimated}


def summarize(results: Iterable[Result], *, epochs: Sequence[int] = (), metrics: Metrics | None = None) -> list[Row]:
    """Group results into rows.

    Runs belong to one row when experiment, label and setting agree. For results of versions that did not write the
    setting, these are method, model, data set, number of epochs, numbers of training and validation examples, metric
    and precision. Rows keep the order in which their first run appears, except that the rows of one experiment, model
    (of one size) and data set stand together and start with its dense baselines.

    Args:
        results: Validated `result.json` contents, in the order of the plan.
        epochs: Epochs to look up for `Row.at_epochs`; a row of which a run trained for fewer has none.
        metrics: The epochs of every run; needed with `epochs`.

    Returns:
        The rows. Extra training time refers to the first dense row of the same experiment and conditions (model and
        data section, batch size, passes, precision, number of training examples), at equal seed, device, thread count
        and machine; for results that do not tell their conditions, of the same model, size and data set.

    Raises:
        ConfigError: No run trained for as many epochs, or the metrics of one that did lack an epoch.
    """
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(_setting(result), []).append(result)
    _require_reached(epochs, [result for group in groups.values() for result in group])
    blocks: dict[tuple[Any, ...], list[list[Result]]] = {}
    for group in groups.values():
        blocks.setdefault(_block(group[0]), []).append(sorted(group, key=lambda result: int(result["seed"])))
    ordered = [
        group for block in blocks.values() for group in sorted(block, key=lambda group: group[0]["method"] != DENSE)
    ]
    baselines: dict[str, list[Result]] = {}
    for group in ordered:
        if group[0]["method"] == DENSE:
            baselines.setdefault(_conditions(group[0]), group)
    return [
        replace(
            _row(group),
            extra_time=_extra_time(group, baselines.get(_conditions(group[0]))),
            at_epochs=tuple(_at_epoch(group, e, metrics or {}) for e in epochs if e <= _shortest(group)),
        )
        for group in ordered
    ]


def repeated_seeds(rows: Iterable[Row]) -> list[str]:
    """One sentence for each row that holds a seed twice: copies of a run, or settings that old results do not tell."""
    sentences = []
    for row in rows:
        repeated = sorted({seed for seed in row.seeds if row.seeds.count(seed) > 1})
        if repeated:
            twice = len(set(row.runs)) < len(row.runs)
            why = (
                "the folders hold the same run more than once; report one of them"
                if twice
                else "they were trained under different settings, which results of earlier versions do not tell apart; "
                "report the experiment file instead to see only its runs"
            )
            sentences.append(f"{row.label!r} holds several runs of seed {', '.join(map(str, repeated))}: {why}")
    return sentences


def said(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """What the methods said to their users, each text once with the rows and the number of runs that it belongs to.

    Args:
        rows: The rows.
        names: What they are called. Of a row that holds more than three texts only the first three are told.
    """
    where: dict[str, list[str]] = {}
    more = []
    for row, name in zip(rows, names):
        for note in row.notes[:_TEXTS]:
            where.setdefault(note.text.removesuffix("."), []).append(f"{name} ({note.n} of {row.n} runs)")
        if (left := len(row.notes) - _TEXTS) > 0:
            more.append(f"{name}: {left} further note{'s' * (left > 1)}, told by --json.")
    return [f"{'; '.join(found)}: {text}." for text, found in where.items()] + more


def _setting(result: Result) -> tuple[Any, ...]:
    if "setting" in result:
        return result["experiment"], result["label"], result["setting"]
    keys = ("experiment", "label", "method", "model", "data", "epochs", "n_train")
    return (*(result[key] for key in keys), metric_of(result)["name"], _validation(result), _precision(result))


def _block(result: Result) -> tuple[Any, ...]:
    return (*(result[key] for key in ("experiment", "model", "data")), result["counts"]["weights_total"])


def _conditions(result: Result) -> str:
    """What a dense run must share to be a baseline, as text."""
    told = result.get("conditions")
    if told is None:
        return json.dumps(_block(result))
    shared = {key: value for key, value in told.items() if key != "machines"}
    return json.dumps([result["experiment"], result["n_train"], shared], sort_keys=True)


def metric_of(result: Result) -> Mapping[str, Any]:
    """What a run is judged by; runs of versions that knew only the accuracy have no such entry."""
    found: Mapping[str, Any] = result.get("metric") or {"name": "accuracy", "better": "higher", **result["accuracy"]}
    return found


def _validation(result: Result) -> int:
    return int(result.get("n_validation", 0))


def _precision(result: Result) -> str:
    return str(result.get("precision", "float32"))


def _row(group: Sequence[Result]) -> Row:
    first = group[0]

    def spread(value: Callable[[Result], float | None]) -> Spread | None:
        return Spread.of(value(result) for result in group)

    def measured(key: str) -> Spread | None:
        return spread(lambda result: metric_of(result).get(key))

    accountings = dict.fromkeys(name for result in group for name in result["bytes"])
    trained = spread(lambda result: result["epochs"])
    assert trained is not None, "every result tells its epochs"
    return Row(
        label=first["label"],
        experiment=first["experiment"],
        method=first["method"],
        model=first["model"],
        data=first["data"],
        epochs=first.get("epochs_planned", first["epochs"]),
        seeds=tuple(result["seed"] for result in group),
        runs=tuple(result["run"] for result in group),
        devices=tuple(sorted({result["device"] for result in group})),
        threads=tuple(sorted({result["threads"] for result in group})),
        accuracy=spread(lambda result: result["accuracy"]["last"]),
        accuracy_best=spread(lambda result: result["accuracy"]["best"]),
        accuracy_top5=spread(lambda result: result.get("accuracy_top5")),
        test_loss=spread(lambda result: result["loss"]["test"]),
        train_loss=spread(lambda result: result["loss"]["train"]),
        weights_total=spread(lambda result: result["counts"]["weights_total"]),
        weights_targeted=spread(lambda result: result["counts"]["weights_targeted"]),
        weights_remaining=spread(lambda result: result["counts"]["weights_remaining"]),
        density=spread(_density),
        remaining_of_all=spread(_remaining_of_all),
        seconds_train=spread(lambda result: result["seconds"]["train"]),
        seconds_per_epoch=spread(lambda result: result["seconds"]["per_epoch"]),
        peak_memory=spread(lambda result: result["memory"]["peak_rss"]),
        bytes={name: Spread.of(result["bytes"].get(name) for result in group) for name in accountings},
        compression={
            name: None if first["method"] == DENSE else Spread.of(_compression(result, name) for result in group)
            for name in accountings
            if name != "dense_float32"
        },
        extra_time=None,
        layers=_layers(group),
        metric=MetricRow(
            name=metric_of(first)["name"],
            better=metric_of(first)["better"],
            last=measured("last"),
            best=measured("best"),
            validation_selected=measured("validation_selected"),
            validation=measured("validation"),
        ),
        n_train=first["n_train"],
        n_validation=_validation(first),
        precision=_precision(first),
        peak_device_memory=spread(lambda result: result["memory"].get("peak_device")),
        macs=MacsRow(
            dense=spread(lambda result: result["macs"].get("dense")),
            remaining=spread(lambda result: result["macs"].get("remaining")),
            convention=first["macs"].get("convention"),
        ),
        at_epochs=(),
        setting=first.get("setting"),
        epochs_trained=trained,
        machines=tuple(sorted({_machine_name(machine) for result in group for machine in _machines(result)})),
        full=FullRow(**{key: spread(partial(_full, key)) for key in ("loss", "accuracy", "metric", "best")}),
        rounds=spread(lambda result: result.get("rounds")),
        notes=_notes(group),
        channels=channels_row(group),
    )


def _full(key: str, result: Result) -> float | None:
    """A measure of the dense model behind tracked masks; None without one, and for versions that knew none."""
    value: float | None = (result.get("full") or {}).get(key)
    return value


def _notes(group: Sequence[Result]) -> tuple[NoteRow, ...]:
    """Each text once, in the order in which they first appear."""
    said = Counter(text for result in group for text in dict.fromkeys(result.get("notes", ())))
    return tuple(NoteRow(text, n) for text, n in said.items())


def _shortest(group: Sequence[Result]) -> int:
    return min(int(result["epochs"]) for result in group)


def _require_reached(epochs: Sequence[int], results: Sequence[Result]) -> None:
    longest = max((result["epochs"] for result in results), default=None)
    for epoch in epochs:
        if longest is not None and epoch > longest:
            raise ConfigError(f"no run has an epoch {epoch}: the longest trained for {longest}; epochs count from 1")


def _at_epoch(group: Sequence[Result], epoch: int, metrics: Metrics) -> EpochRow:
    lines = []
    for result in group:
        found = [line for line in metrics.get(result["run"], ()) if line["epoch"] == epoch]
        if not found:
            raise ConfigError(
                f"run {result['run']} ({result['label']!r}, seed {result['seed']}) has no epoch {epoch} in its "
                "metrics.jsonl; delete its folder to train it again, or leave the epoch out"
            )
        lines.append(found[-1])
    measured = "accuracy" if metric_of(group[0])["name"] == "accuracy" else "metric"
    targeted = [result["counts"]["weights_targeted"] for result in group]
    return EpochRow(
        epoch=epoch,
        metric=Spread.of(line[f"test_{measured}"] for line in lines),
        test_loss=Spread.of(line["test_loss"] for line in lines),
        density=Spread.of(line["remaining"] / of if of else None for line, of in zip(lines, targeted)),
        full=Spread.of(line.get(f"full_{measured}") for line in lines),
    )


def _density(result: Result) -> float | None:
    counts = result["counts"]
    return counts["weights_remaining"] / counts["weights_targeted"] if counts["weights_targeted"] else None


def _remaining_of_all(result: Result) -> float | None:
    counts = result["counts"]
    untargeted = counts["weights_total"] - counts["weights_targeted"]
    return (untargeted + counts["weights_remaining"]) / counts["weights_total"] if counts["weights_total"] else None


def _compression(result: Result, accounting: str) -> float | None:
    packed, dense = result["bytes"].get(accounting), result["bytes"]["dense_float32"]
    return 1 - packed / dense if packed is not None and dense else None


def _extra_time(group: Sequence[Result], baseline: Sequence[Result] | None) -> ExtraTime | None:
    if baseline is None or baseline is group or group[0]["method"] == DENSE:
        return None
    by_seed = {_pairing(result): _epoch_seconds(result) for result in baseline}
    pairs = [
        (_epoch_seconds(result), by_seed[_pairing(result)])
        for result in group
        if by_seed.get(_pairing(result))  # a baseline of zero seconds has no ratio
    ]
    seconds = Spread.of(ours - dense for ours, dense in pairs)
    fraction = Spread.of(ours / dense - 1 for ours, dense in pairs)
    if seconds is None or fraction is None:
        return None
    return ExtraTime(baseline=baseline[0]["label"], pairs=len(pairs), seconds=seconds, fraction=fraction)


def _epoch_seconds(result: Result) -> float:
    return float(result["seconds"]["train"] / max(1, result["epochs"]))


def _pairing(result: Result) -> tuple[Any, ...]:
    return (
        result["seed"],
        same_device(result["device"]),
        result["threads"],
        json.dumps(_machines(result), sort_keys=True),
    )


def same_device(name: str) -> str:
    """A device by one name: "cuda" is "cuda:0"."""
    return "cuda:0" if name == "cuda" else name


def _machines(result: Result) -> list[Mapping[str, Any]]:
    return list(result.get("conditions", {}).get("machines", ()))


def _machine_name(machine: Mapping[str, Any]) -> str:
    parts = [machine.get("host"), machine.get("cpu"), f"{machine['cores']} cores" if machine.get("cores") else None]
    gpu = machine.get("device")
    return ", ".join(str(part) for part in (*parts, gpu if gpu != "cpu" else None) if part)


def _layers(group: Sequence[Result]) -> tuple[LayerRow, ...]:
    layers: dict[str, list[Mapping[str, Any]]] = {}
    for result in group:
        for layer in result["counts"]["layers"]:
            layers.setdefault(layer["name"], []).append(layer)

    def fraction(entries: list[Mapping[str, Any]], key: str) -> float | None:
        spread = Spread.of(None if entry[key] is None else entry[key] / entry["size"] for entry in entries)
        return None if spread is None else spread.mean

    return tuple(
        LayerRow(
            name=name,
            shape=tuple(entries[0]["shape"]),
            size=entries[0]["size"],
            remaining=sum(entry["remaining"] for entry in entries) / (len(entries) * entries[0]["size"]),
            keep=fraction(entries, "keep"),
            invert=fraction(entries, "invert"),
        )
        for name, entries in layers.items()
    )
