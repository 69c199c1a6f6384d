"""Run folders as training leaves them, made in no time: two layers, five seeds, a story."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

EPOCHS = 8
EXAMPLES = 60
SHAPES = {"conv1.weight": (8, 3, 5, 5), "fc1.weight": (10, 64)}
ENV = {
    "schema": 1,
    "starts": [
        {
            "supermask": "0.1.0",
            "torch": "2.13.0",
            "host": "secret-host",
            "cpu": "a processor",
            "cores": 2,
            "git": {"commit": "c0ffee", "dirty": False},
            "data": {"name": "digits", "checksum": "48fedf"},
        }
    ],
}


def make_run(
    folder: Path,
    label: str,
    method: str,
    seed: int,
    accuracy: float,
    density: float = 1.0,
    *,
    signed: bool = False,
    story: bool = False,
    packed: bool = True,
    empty: bool = False,
) -> None:
    """Write one finished run."""
    draw = np.random.default_rng([seed, *label.encode()])
    masks, weights, layers = {}, {}, []
    for name, shape in SHAPES.items():
        kept = draw.random(shape) < (0.0 if empty and name == "fc1.weight" else density)
        signs = np.where(draw.random(shape) < 0.5, 1, -1)
        masks[name] = (kept * signs).astype(np.int8) if signed else kept
        weights[name] = (kept * draw.normal(size=shape)).astype(np.float32)
        count = int(kept.sum())
        keep = int((masks[name] == 1).sum()) if signed else None
        invert = int((masks[name] == -1).sum()) if signed else None
        layers.append(
            {"name": name, "shape": list(shape), "size": kept.size, "remaining": count, "keep": keep, "invert": invert}
        )
    total = sum(layer["size"] for layer in layers)
    remaining = sum(layer["remaining"] for layer in layers)
    run = f"{label}-{seed}".replace(" ", "").replace("%", "").replace(",", "")
    machine = {"host": "secret-host", "cpu": "a processor", "cores": 2, "device": "cpu"}
    measured = {"last": accuracy, "best": accuracy, "best_epoch": EPOCHS, "validation_selected": None}
    result = {
        "schema": 1,
        "run": run,
        "experiment": "made",
        "label": label,
        "seed": seed,
        "method": method,
        "model": "tiny",
        "data": "digits",
        "setting": label,
        "epochs": EPOCHS,
        "epochs_planned": EPOCHS,
        "steps": 80,
        "n_train": 1437,
        "n_test": EXAMPLES,
        "accuracy": measured,
        "loss": {"train": 0.1, "test": 0.2},
        "counts": {
            "weights_total": total,
            "weights_targeted": total,
            "weights_remaining": remaining,
            "layers": layers,
        },
        "macs": {"dense": 9000, "remaining": round(9000 * density), "convention": "multiply-accumulates"},
        "bytes": {
            "dense_float32": 4 * total,
            "sparse_index": 8 * remaining,
            "packed": remaining if packed and method != "dense" else None,
        },
        "seconds": {"total": 1.0, "train": 0.8 + 0.01 * seed, "evaluate": 0.1, "per_epoch": 0.1},
        "memory": {"peak_rss": 2**20},
        "threads": 1,
        "device": "cpu",
        "notes": ["<b>a note & more</b>"] if signed else [],
        "conditions": {
            "model": {"name": "tiny"},
            "data": {"name": "digits"},
            "batch_size": 32,
            "passes": 1,
            "precision": "float32",
            "machines": [machine],
        },
    }
    path = folder / run
    path.mkdir(parents=True)
    spec: dict[str, Any] = {
        "schema": 1,
        "seed": seed,
        "method_version": 1,
        "model": {"name": "tiny"},
        "init": {},
        "data": {"name": "digits", "normalize": "image"},
        "method": {"name": method, **({} if method == "dense" else {"density": density})},
        "train": {
            "epochs": EPOCHS,
            "batch_size": 32,
            "shuffle": True,
            "data_order": "per-seed",
            "optimizer": {"name": "sgd", "lr": 0.1},
        },
        "code": {},
    }
    for name, value in (("result", result), ("spec", spec), ("env", ENV)):
        (path / f"{name}.json").write_text(json.dumps(value))
    lines = [
        {
            "epoch": epoch,
            "round": 0,
            "step": 10 * epoch,
            "train_loss": 1 / epoch,
            "test_loss": None if epoch % 2 else 1.2 / epoch,
            "test_accuracy": None if epoch % 2 else accuracy - 0.1 / epoch,
            "remaining": round(total * (density + (1 - density) / epoch**2)),
        }
        for epoch in range(1, EPOCHS + 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    save_file(masks, path / "masks.safetensors")
    save_file(weights, path / "weights.safetensors")
    if story:
        save_file(_story(draw), path / "story.safetensors", {"schema": "1"})


def _story(draw: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    targets = np.arange(EXAMPLES, dtype=np.uint8) % 10
    wrong = draw.random(EXAMPLES) < 0.1
    found: dict[str, np.ndarray[Any, Any]] = {
        "targets": targets,
        "predictions": np.where(wrong, (targets + 1) % 10, targets).astype(np.uint8),
        "confidence": np.ones(EXAMPLES, np.float16),
        "score_epochs": np.array([1, 4, 8], np.int32),
    }
    for name in SHAPES:
        found[f"churn/{name}"] = (0.1 / np.arange(1, EPOCHS + 1)).astype(np.float32)
        found[f"counted/{name}"] = np.full(EPOCHS, 9, np.int32)
        found[f"scores/{name}"] = draw.integers(1, 30, (3, 64)).astype(np.int32)
        found[f"edges/{name}"] = np.linspace(-2, 2, 65).astype(np.float32)
    found["churn/conv1.weight"][0] = np.nan
    return found


def make_experiment(folder: Path, seeds: int = 5) -> Path:
    """Dense, a signed supermask with a story, and edge-popup at three densities, of which one loses a layer."""
    for seed in range(seeds):
        make_run(folder, "dense", "dense", seed, 0.97 + 0.001 * seed, story=True)
        make_run(
            folder,
            "signed supermask",
            "signed-supermask",
            seed,
            0.9705 + 0.001 * (seed % 3),
            0.1,
            signed=True,
            story=True,
        )
        make_run(folder, "edge-popup, 20 %", "edge-popup", seed, 0.95 + 0.001 * seed, 0.2)
        make_run(folder, "edge-popup, 5 %", "edge-popup", seed, 0.90 + 0.001 * seed, 0.05)
        make_run(folder, "edge-popup, 1 %", "edge-popup", seed, 0.20, 0.01, empty=True)
    return folder
