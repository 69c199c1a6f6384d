"""Your own module, your own loop: two lines before it, one after.

    python examples/minimal.py

Trains a signed supermask on 1,437 real images of handwritten digits (scikit-learn's, no download) and prints what remains.
Needs the extra ``data``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from supermask import SignedSupermask, data


def main(epochs: int = 30) -> tuple[float, float]:
    """Train, finalize, evaluate; returns the accuracy on the test images and the density."""
    digits = data.load("digits")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 300), nn.ELU(), nn.Linear(300, 100), nn.ELU(), nn.Linear(100, 10))

    sparsifier = SignedSupermask().attach(model, seed=0)
    optimizer = torch.optim.SGD(sparsifier.param_groups(weight_decay=1e-2), lr=0.05, momentum=0.9, nesterov=True)
    sparsifier.bind(optimizer, total_steps=epochs * 45)

    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.train.x), generator=generator).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(digits.train.x[batch]), digits.train.y[batch]).backward()
            optimizer.step()

    masks = sparsifier.finalize()  # model is a plain nn.Sequential again, with exact zeros

    with torch.inference_mode():
        accuracy = (model(digits.test.x).argmax(1) == digits.test.y).double().mean().item()
    print(f"accuracy {100 * accuracy:.1f} % with {masks.remaining():,} of {masks.total():,} weights")
    for name, entry in masks.signed.items():
        kept, inverted = int((entry.sign_mask > 0).sum()), int((entry.sign_mask < 0).sum())
        print(f"  {name}: {kept:,} kept, {inverted:,} inverted, magnitude {entry.scale:.4f}")
    return accuracy, masks.density()


if __name__ == "__main__":
    main()
