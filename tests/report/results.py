"""Result dictionaries with round numbers, as `result.json` holds them."""

from __future__ import annotations

from typing import Any

from supermask.report.quoted import Quote


def result(**changes: Any) -> dict[str, Any]:
    """One finished run: 1,000 weights, 900 of them targeted, all kept. `changes` replace entries, "a.b" nested ones."""
    content: dict[str, Any] = {
        "schema": 1,
        "run": "0123456789ab",
        "experiment": "quickstart",
        "label": "dense",
        "seed": 0,
        "method": "dense",
        "model": "fcn",
        "data": "digits",
        "epochs": 10,
        "steps": 120,
        "n_train": 1437,
        "n_test": 360,
        "accuracy": {"last": 0.96, "best": 0.97, "best_epoch": 8, "validation_selected": None},
        "loss": {"train": 0.1, "test": 0.2},
        "counts": {"weights_total": 1000, "weights_targeted": 900, "weights_remaining": 900, "layers": []},
        "macs": {"dense": None, "remaining": None},
        "bytes": {"dense_float32": 4000, "two_bit": 4000, "sparse_index": 4000, "entropy": 4000, "packed": None},
        "seconds": {"total": 11.0, "train": 10.0, "evaluate": 0.5, "per_epoch": 1.0},
        "memory": {"peak_rss": 100 * 2**20},
        "threads": 1,
        "device": "cpu",
    }
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    return content


def sparse(seed: int, accuracy: float, remaining: int, train: float, **changes: Any) -> dict[str, Any]:
    """A signed-supermask run of two layers with 300 and 600 weights."""
    layers = [
        {"name": "0.weight", "shape": [10, 30], "size": 300, "remaining": 30, "keep": 10 + seed, "invert": 20 - seed},
        {
            "name": "2.weight",
            "shape": [20, 30],
            "size": 600,
            "remaining": remaining - 30,
            "keep": 0,
            "invert": remaining - 30,
        },
    ]
    return result(
        **{
            "run": f"{seed:012x}",
            "label": "signed-supermask",
            "method": "signed-supermask",
            "seed": seed,
            "accuracy.last": accuracy,
            "counts.weights_remaining": remaining,
            "counts.layers": layers,
            "bytes": {"dense_float32": 4000, "two_bit": 625, "sparse_index": 800, "entropy": 500, "packed": None},
            "seconds": {"total": train + 1, "train": train, "evaluate": 0.5, "per_epoch": train / 10},
            **changes,
        }
    )


def pair() -> list[dict[str, Any]]:
    """Three seeds of a supermask and its dense baseline; the supermask comes first."""
    masked = [sparse(0, 0.90, 90, 11.0), sparse(1, 0.94, 99, 12.0), sparse(2, 0.95, 81, 13.0)]
    dense = [
        result(seed=seed, run=f"d{seed:011x}", **{"accuracy.last": accuracy})
        for seed, accuracy in enumerate((0.95, 0.96, 0.97))
    ]
    return masked + dense


def told(setting: str = "a", planned: int = 10, **conditions: Any) -> dict[str, Any]:
    """Changes of a result that tells its setting and conditions."""
    machine = {"host": "here", "cpu": "a processor", "cores": 2, "device": "cpu"}
    same = {
        "model": {"name": "fcn"},
        "data": {"name": "digits"},
        "batch_size": 128,
        "passes": 1,
        "precision": "float32",
    }
    return {
        "setting": setting,
        "epochs_planned": planned,
        "conditions": same | {"machines": [machine]} | conditions,
    }


def validated(seed: int, **changes: Any) -> dict[str, Any]:
    """A run with 100 held-out examples: 90 % on them at the end, 91 % on the test set in the epoch they select."""
    measured = {"last": 0.96, "best": 0.97, "best_epoch": 8, "validation_selected": 0.91}
    measured |= {"validation": 0.90, "validation_epoch": 5}
    metric = {"name": "accuracy", "better": "higher", **measured}
    return result(
        seed=seed, run=f"{seed:012x}", **{"accuracy": measured, "metric": metric, "n_validation": 100}, **changes
    )


def regression(seed: int, last: float, **changes: Any) -> dict[str, Any]:
    """A run that is judged by the mean absolute error."""
    metric = {"name": "mae", "better": "lower", "last": last, "best": last / 2, "best_epoch": 3}
    metric |= {"validation_selected": None, "validation": None, "validation_epoch": None}
    nothing = dict.fromkeys(("last", "best", "best_epoch", "validation_selected", "validation", "validation_epoch"))
    own = {"label": "regression", "model": "userparts:build", "data": "npz", "accuracy": nothing, "metric": metric}
    return result(seed=seed, run=f"{seed:012x}", **{**own, **changes})


def quote(beside: str = "", **cells: Any) -> Quote:
    """What a paper prints for the row of that label, or for something we do not run."""
    given = {"label": "Others 2019", "source": "a paper, table 1", "accuracy": [93.5, 93.0, 94.0], "remaining": [9.9]}
    runs = ("0123456789ab", *(run["run"] for run in pair()))
    return Quote.of(given | cells, experiment="quickstart" if beside else "", beside=beside, runs=runs)
