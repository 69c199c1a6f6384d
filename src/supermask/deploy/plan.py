"""What an engine runs how, and why, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supermask.deploy.network import Layer


@dataclass(frozen=True)
class LayerPlan:
    """One layer of the plan.

    Attributes:
        layer: What it is.
        ways: Batch size -> (``sparse`` or ``dense``, why); empty if the layer is gone.
    """

    layer: Layer
    ways: Mapping[int, tuple[str, str]]

    def way(self, size: int) -> str:
        """``sparse``, ``dense`` or ``removed``."""
        return "removed" if self.layer.after is None else self.ways[size][0]

    def why(self, size: int) -> str:
        """The reason, with the measured times."""
        layer = self.layer
        if layer.after is None:
            return "nothing that it computes reaches the output"
        cut = "" if layer.after == layer.before else f"; {_size(layer.after)} is left of its {_size(layer.before)}"
        return self.ways[size][1] + cut


@dataclass(frozen=True)
class Plan:
    """What an engine does; ``print`` it.

    Attributes:
        layers: Convolutions and linear layers of the model.
        seconds: Batch size -> seconds of a call (as planned, all dense).
        others: Batch size -> parts without a layer that torch runs: (name, operation).
        threads: For more than one example.
        kernels: Variant of the compiled kernels, or ``numpy``.
    """

    layers: tuple[LayerPlan, ...]
    seconds: Mapping[int, tuple[float, float]]
    others: Mapping[int, Sequence[tuple[str, str]]]
    threads: int
    kernels: str

    def __str__(self) -> str:
        sizes = list(self.seconds)
        rows = [["layer", "weight", "remaining", "MACs/additions", *(f"batch {size}" for size in sizes)]]
        for row in self.layers:
            layer = row.layer
            total = layer.weights, _count(layer.before)
            ratio = f"{layer.macs / layer.additions:.1f}" if layer.additions else "-"
            share = f"{100 * total[0] / total[1]:.3g} %"
            rows.append([layer.name, _size(layer.before), share, ratio, *(row.way(size) for size in sizes)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        for size, (seconds, dense) in self.seconds.items():
            threads = 1 if size == 1 else self.threads
            lines += ["", f"batch {size}, {threads} thread{'s' * (threads > 1)}, kernels {self.kernels}:"]
            lines.append(f"  {1e3 * seconds:.3g} ms a call, all dense {1e3 * dense:.3g} ms")
            lines += [f"  {row.layer.name}: {row.way(size)}, {row.why(size)}" for row in self.layers]
            counts = Counter(operation for _, operation in self.others[size])
            if counts:
                lines.append("  by torch: " + ", ".join(f"{n} x {operation}" for operation, n in counts.items()))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "threads": self.threads,
            "kernels": self.kernels,
            "batches": {str(n): {"seconds": s, "dense_seconds": d} for n, (s, d) in self.seconds.items()},
            "layers": [
                {
                    "name": row.layer.name,
                    "shape": list(row.layer.before),
                    "weights": row.layer.weights,
                    "macs": row.layer.macs,
                    "additions": row.layer.additions,
                    "ways": {str(size): {"way": row.way(size), "why": row.why(size)} for size in self.seconds},
                }
                for row in self.layers
            ],
        }


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _count(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
