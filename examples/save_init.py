"""Save the initial weights and scores of a signed supermask, and start another training from exactly these.

    python examples/save_init.py

The same files work in an experiment (``init: {weights: PATH, scores: PATH}``), and ``supermask init`` writes them from the
command line. Arrays of a TensorFlow program load with ``load_arrays(path, layout="tf")``, which transposes them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from supermask import SignedSupermask, load_arrays, models, save_arrays


def main(folder: Path) -> bool:
    """Write both files into a folder, start from them; returns whether the two starts are bitwise the same."""
    drawn = SignedSupermask().attach(models.build("fcn"), seed=7)
    save_arrays(folder / "weights.npz", {target.name: target.dense for target in drawn.targets})
    save_arrays(folder / "scores.npz", {target.name: target.score for target in drawn.targets})

    given = SignedSupermask().attach(
        models.build("fcn"),
        weights=load_arrays(folder / "weights.npz"),
        scores=load_arrays(folder / "scores.npz"),
        seed=7,
    )
    same = all(torch.equal(a.weight, b.weight) for a, b in zip(drawn.targets, given.targets, strict=True))
    for target in given.targets:
        print(f"{target.name}: {tuple(target.shape)}, {100 * target.mask.float().mean():.1f} % remain at the start")
    print("bitwise the same start" if same else "the starts differ")
    return same


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
