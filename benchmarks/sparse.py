"""A sparse program against the fastest dense network, at the published densities with random masks.

    python benchmarks/sparse.py [fcn conv2 conv4 conv6 conv8] [--batch 1 32 128] [--threads 1 2] [--rounds N]

Dense is torch eager, channels_last and torch.compile with frozen weights, and onnxruntime where it is installed; "fastest" is
the one with the lowest median. One thread: CPU time; two: wall clock, with onnxruntime's threads not spinning, so that they do
not take the processor from who comes next. Every process checks its results against the others' first. Goals were set for
the ratio dense multiplications / remaining additions in parentheses, and scale with it.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from interleaved import PLAIN, machine, measure, ratio
from torch import nn

from supermask import models
from supermask.kernels.library import variant
from supermask.kernels.sparse import Activation, Flatten, MaxPool, Program, SparseConv, SparseLinear, Step

# per layer: convolutions, then linear layers
DENSITIES: Final = {
    "fcn": ([], [0.03, 0.08, 0.4]),
    "conv2": ([0.3, 0.1], [0.0045, 0.03, 0.2]),
    "conv4": ([0.3, 0.1, 0.1, 0.09], [0.021, 0.03, 0.2]),
    "conv6": ([0.3, 0.1, 0.08, 0.06, 0.04, 0.03], [0.0032, 0.03, 0.2]),
    "conv8": ([0.3, 0.1, 0.04, 0.03, 0.02, 0.015, 0.01, 0.008], [0.0086, 0.02, 0.2]),
}
# network -> op ratio the goals belong to; goal for batch 128 and for batch 1 with one thread
GOALS: Final = {
    "fcn": (27.0, 8.0, 2.0),
    "conv2": (10.1, 5.0, 5.5),
    "conv4": (10.2, 4.5, 5.5),
    "conv6": (15.4, 6.0, 5.5),
    "conv8": (27.5, 9.0, 10.0),
}
TWO_THREADS: Final = 2.8
DENSE: Final = ("eager", "channels_last", "compiled", "onnxruntime")


def network(name: str) -> tuple[nn.Sequential, Program]:
    """A dense network with random signed masks, and the same as a program."""
    convolutions, linears = DENSITIES[name]
    model = models.build(name)
    assert isinstance(model, nn.Sequential)
    generator = torch.Generator().manual_seed(0)
    densities: Iterator[float] = iter([*convolutions, *linears])
    steps: list[Step] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            density, weight = next(densities), module.weight.data
            codes = torch.bernoulli(torch.full(weight.shape, 0.5), generator=generator) * 2 - 1
            codes *= torch.bernoulli(torch.full(weight.shape, density), generator=generator)
            magnitude = (2 / max(1.0, density * weight[0].numel())) ** 0.5
            weight.copy_(codes * magnitude)
            scale = np.full(len(weight), magnitude, np.float32)
            array = codes.to(torch.int8).numpy()
            if isinstance(module, nn.Conv2d):
                steps.append(SparseConv(weight=array, scale=scale, padding=1))
            else:
                steps.append(SparseLinear(weight=array, scale=scale))
        elif isinstance(module, nn.ELU):
            steps.append(Activation(kind="elu", alpha=module.alpha))
        elif isinstance(module, nn.MaxPool2d):
            steps.append(MaxPool(kernel=2))
        elif isinstance(module, nn.Flatten):
            steps.append(Flatten())
        elif module is not model:
            raise TypeError(f"{type(module).__name__} is not one of this benchmark's layers")
    return model.eval(), Program(steps, (1, 28, 28) if name == "fcn" else (3, 32, 32))


def candidate(task: str) -> Callable[[], object]:
    """One forward pass of ``"NETWORK BATCH THREADS KIND"``, whose result was compared with the program's."""
    name, batch, threads, kind = task.split()
    torch.set_num_threads(int(threads))
    torch.set_grad_enabled(False)
    model, program = network(name)
    x = torch.randn(int(batch), *program.input_shape, generator=torch.Generator().manual_seed(1))
    array = x.numpy()
    function: Callable[[], object]
    if kind == "sparse":
        assert program.compiled, program.reason
        expected = model(x)

        def function() -> object:
            return program.run(array, threads=int(threads))
    else:
        expected = torch.from_numpy(program.run(array))
        function = _dense(kind, model, x, int(threads))
    difference = (torch.as_tensor(function()) - expected).abs().max().item()
    assert difference <= 1e-4, f"{task}: results differ by {difference}"
    return function


def _dense(kind: str, model: nn.Module, x: torch.Tensor, threads: int) -> Callable[[], object]:
    if kind == "onnxruntime":
        import onnxruntime  # type: ignore[import-untyped, unused-ignore]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            file = Path(folder) / "model.onnx"
            torch.onnx.export(model, (x,), file, verbose=False)
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x.numpy()}
        return lambda: session.run(None, feed)[0]
    if kind == "channels_last" and x.ndim == 4:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    if kind == "compiled":
        from torch._inductor import config

        config.freezing = True
        compiled = torch.compile(model)
        return lambda: compiled(x)
    return lambda: model(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(DENSITIES), metavar="NETWORK")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    print(
        f"benchmarks/sparse.py: {machine()}, kernel {variant()}, medians of n = {arguments.rounds} interleaved rounds"
    )
    kinds = [kind for kind in DENSE if kind != "onnxruntime" or importlib.util.find_spec("onnxruntime")]
    print(
        f"{'network':<8}{'batch':>5} {'threads':>7}  {'  '.join(f'{kind} ms' for kind in kinds)}  sparse ms  ratio [5, 95 %]"
    )
    for name in arguments.networks:
        _, program = network(name)
        operations = program.macs / program.additions
        for threads in arguments.threads:
            for batch in arguments.batch:
                prefix = f"{name} {batch} {threads} "
                own = [kind for kind in kinds if kind != "channels_last" or name != "fcn"]
                environments = {prefix + kind: PLAIN | {"OMP_NUM_THREADS": str(threads)} for kind in [*own, "sparse"]}
                calls = max(1, (4096 if name == "fcn" else 64) // batch)
                clock = "process_time" if threads == 1 else "perf_counter"
                times = measure(
                    candidate, environments, rounds=arguments.rounds, calls=calls, warmup=2 + calls // 4, clock=clock
                )
                medians = {task.split()[-1]: 1e3 * statistics.median(values) for task, values in times.items()}
                fastest = min(own, key=medians.__getitem__)
                median, low, high = ratio(times[prefix + fastest], times[prefix + "sparse"])
                numbers = "  ".join(f"{medians[kind]:>{len(kind) + 3}.3f}" if kind in own else "-" for kind in kinds)
                verdict = _verdict(name, batch, threads, median, operations)
                print(
                    f"{name:<8}{batch:>5} {threads:>7}  {numbers}  {medians['sparse']:>9.3f}  "
                    f"{median:.2f} [{low:.2f}, {high:.2f}] of {fastest}, op ratio {operations:.1f}{verdict}",
                    flush=True,
                )


def _verdict(name: str, batch: int, threads: int, median: float, operations: float) -> str:
    belongs_to, large, single = GOALS[name]
    goals = {(128, 1): large, (1, 1): single, (128, 2): TWO_THREADS}
    if (batch, threads) not in goals:
        return ""
    goal = goals[batch, threads] * operations / belongs_to
    return f", goal {goal:.2f} ({belongs_to}): {'met' if median >= goal else 'MISSED'}"


if __name__ == "__main__":
    main()
