"""The public conformance suite: what every method must keep to, on every small model of :mod:`supermask.core.zoo`.

``supermask check my_method.py`` runs it from the command line, ``check_method(MyMethod())`` from Python. A method that
refuses a model by name passes on it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from supermask.core.budget import fractions, meets
from supermask.core.method import Method
from supermask.core.parametrizations import Scored
from supermask.core.session import STEPS, Session
from supermask.core.zoo import ZooModel, zoo_for
from supermask.errors import BindError, ConformanceError, HyperparameterError, StructureError, UnsupportedModuleError
from supermask.tensors.topk import keep_count

Status = Literal["pass", "skipped", "refused", "fail"]


@dataclass(frozen=True)
class Result:
    """Outcome of one check on one model."""

    check: str
    model: str
    status: Status
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """Outcome of the suite for one method."""

    method: Method
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Result, ...]:
        """The failed checks."""
        return tuple(result for result in self.results if result.status == "fail")

    def raise_for_failures(self) -> None:
        """Raise :class:`~supermask.errors.ConformanceError` that lists every failure, if there is one."""
        if self.failures:
            raise ConformanceError(str(self))

    def __str__(self) -> str:
        lines = [f"{r.check} on {r.model}: {r.detail}" for r in self.failures]
        refused = sorted({f"{r.model} ({r.detail})" for r in self.results if r.status == "refused"})
        counted = f"{self.method!r}: {len(self.results) - len(lines)} of {len(self.results)} checks hold"
        return "\n".join([counted, *[f"refuses {text}" for text in refused], *lines])


class _SkipError(Exception):
    """A check does not apply to a model, whatever the method."""


Check = Callable[[Method, ZooModel], None]
CHECKS: dict[str, Check] = {}


def _check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConformanceError(message)


def _equal(a: dict[str, Any], b: dict[str, Any], what: str) -> None:
    _require(a.keys() == b.keys(), f"{what}: keys differ: {sorted(a.keys() ^ b.keys())}")
    for key, value in a.items():
        same = torch.equal(value, b[key]) if isinstance(value, Tensor) else value == b[key]
        _require(same, f"{what}: {key} differs")


@_check
def is_a_frozen_config(method: Method, zoo: ZooModel) -> None:
    """A frozen dataclass that holds no state, also after training; its config is JSON, and a copy of its fields equal."""
    _require(dataclasses.is_dataclass(method) and hash(method) is not None, "the method is not a frozen dataclass")
    Session(method, zoo).train(2)
    _require(
        set(vars(method)) <= {f.name for f in dataclasses.fields(method)}, "the method holds state beside its fields"
    )
    _require(dataclasses.replace(method) == method, "a copy of the fields is not equal")
    json.dumps(method.config(), allow_nan=False)


@_check
def refuses_bad_hyperparameters(method: Method, zoo: ZooModel) -> None:  # noqa: ARG001
    """NaN, a word and -1 in place of each number, and unknown words in place of choices and keys, raise naming the field."""
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        bad: list[Any] = []
        if isinstance(value, bool):
            bad = ["maybe"]
        elif isinstance(value, int | float):
            bad = [math.nan, "many", -1]
        elif isinstance(value, str) and not field.metadata.get("file"):
            bad = ["no-such-choice"]
        elif isinstance(value, Mapping) and field.metadata.get("config", True):
            bad = [
                {},
                *([] if field.metadata.get("names") else [{"no-such-key": 0.5}]),  # names of parts of a model
                *({**value, key: wrong} for key in value for wrong in (math.nan, "many", -1)),
            ]
        for wrong in bad:
            try:
                dataclasses.replace(method, **{field.name: wrong})
            except HyperparameterError as error:
                _require(
                    field.name in str(error), f"the error for {field.name}={wrong!r} does not name the field: {error}"
                )
            else:
                raise ConformanceError(f"{field.name}={wrong!r} was accepted")


@_check
def summary_names_every_parameter(method: Method, zoo: ZooModel) -> None:
    """``summary()`` has a line for each parameter of the model, by its name before attach."""
    names = [name for name, _ in zoo.build().named_parameters(remove_duplicate=False)]
    text = Session(method, zoo).sparsifier.summary()
    for name in names:
        _require(any(line.split()[:1] == [name] for line in text.splitlines()), f"{name} is not in summary()")


@_check
def same_seed_same_result(method: Method, zoo: ZooModel) -> None:
    """Two runs at one seed are bitwise equal, and nothing draws from a global generator."""
    first = Session(method, zoo, seed=3)
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    second = Session(method, zoo, seed=3)
    first.train()
    second.train()
    _require(torch.equal(torch_state, torch.get_rng_state()), "torch's global generator was used")
    _require(str(numpy_state) == str(np.random.get_state()), "numpy's global generator was used")
    _require(python_state == random.getstate(), "Python's global generator was used")
    _equal(first.model.state_dict(), second.model.state_dict(), "two runs at one seed")


@_check
def keeps_its_density(method: Method, zoo: ZooModel) -> None:
    """A method that promises a density ends its last round with exactly that many weights."""
    session = Session(method, zoo)
    for steps in session.rounds():
        session.train(steps, first=session.sparsifier.step)
    density = method.promised_density()
    if density is not None:
        masks = session.sparsifier.masks()
        wanted = keep_count(density, masks.total())
        _require(masks.remaining() == wanted, f"{masks.remaining()} of {masks.total()} remain, promised were {wanted}")


@_check
def keeps_its_budget(method: Method, zoo: ZooModel) -> None:
    """A method that promises a budget ends its last round within every limit, with no channel that could come back."""
    session = Session(method, zoo)
    for steps in session.rounds():
        session.train(steps, first=session.sparsifier.step)
    budget, s = method.promised_budget(), session.sparsifier
    if budget is None:
        return
    costs, keeps = {unit: s.costs[unit] for unit in budget}, s.channels()
    for unit, used in fractions(costs, keeps).items():
        _require(meets(used, budget[unit]), f"{used:.4f} of the {unit} are used, promised were {budget[unit]}")
    for name, keep in keeps.items():
        for channel in (~keep).nonzero().flatten().tolist():
            more = keep.clone()
            more[channel] = True
            fits = all(meets(used, budget[unit]) for unit, used in fractions(costs, {**keeps, name: more}).items())
            _require(not fits, f"channel {channel} of {name} was removed, but the budget has room for it")


@_check
def hidden_weights_stay_zero(method: Method, zoo: ZooModel) -> None:
    """After every step, a weight is zero in the forward pass wherever the mask hides it."""
    session = Session(method, zoo)
    for step in range(STEPS):
        session.train(1, first=step)
        with session.sparsifier.sparse():
            for target in session.sparsifier.targets:
                hidden = target.weight[~target.mask]
                _require(not bool(hidden.any()), f"{target.name} moves hidden weights at step {step + 1}")


@_check
def frozen_weights_do_not_move(method: Method, zoo: ZooModel) -> None:
    """Frozen weights are bitwise unchanged by training, or only where hidden; parameters that are not targeted train."""
    session = Session(method, zoo)
    scored = [t for t in session.sparsifier.targets if isinstance(t.parametrization, Scored)]
    biases = {n: p.clone() for n, p in session.model.named_parameters() if n.endswith("bias") and p.requires_grad}
    for step in range(STEPS):
        before = [t.dense.clone() for t in scored]
        session.train(1, first=step)
        for target, weight in zip(scored, before, strict=True):
            moved = target.dense != weight
            if isinstance(installed := target.parametrization, Scored) and installed.redraws:
                moved &= target.mask
            _require(not bool(moved.any()), f"the frozen weight {target.name} changed at step {step + 1}")
    now = dict(session.model.named_parameters())
    for name, bias in biases.items():
        _require(not torch.equal(now[name], bias), f"{name} is not targeted but did not train")


@_check
def finalizes_to_a_plain_module(method: Method, zoo: ZooModel) -> None:
    """``finalize`` leaves a plain module: same classes, keys, order and ties, equal output, exact zeros."""
    original = zoo.build()
    session = Session(method, zoo)
    session.train()
    with session.sparsifier.sparse():
        before = session.output()
    masks = session.finalize()
    model = session.model
    _require(torch.equal(session.output(), before), "the output changed")
    types = [type(module) for module in model.modules()]
    _require(types == [type(module) for module in original.modules()], f"not a plain module: {types}")
    _require(list(model.state_dict()) == list(original.state_dict()), "state-dict keys or their order changed")
    names = [n for n, _ in original.named_parameters()]
    _require([n for n, _ in model.named_parameters()] == names, "the order of parameters, or a tie, changed")
    grads = [p.requires_grad for p in original.parameters()]
    _require([p.requires_grad for p in model.parameters()] == grads, "requires_grad changed")
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        _require(not bool(weight[~mask].any()), f"{name} has non-zero hidden weights")
    model.train()
    F.cross_entropy(model(zoo.batch(0)[0]), zoo.batch(0)[1]).backward()  # still trains
    copy.deepcopy(model)


@_check
def resumes_bitwise(method: Method, zoo: ZooModel) -> None:
    """Saved in the middle, restored into fresh objects and continued, training is bitwise equal to never stopping."""
    whole = Session(method, zoo)
    whole.train()
    first = Session(method, zoo)
    first.train(STEPS // 2)
    saved = first.snapshot()
    second = Session(method, zoo)
    second.restore(saved)
    second.train(STEPS - STEPS // 2, first=STEPS // 2)
    _equal(whole.model.state_dict(), second.model.state_dict(), "after the resume")
    _equal(dict(whole.sparsifier.masks()), dict(second.sparsifier.masks()), "masks after the resume")
    _require(second.sparsifier.step == STEPS, f"step is {second.sparsifier.step} after the resume, not {STEPS}")


@_check
def resumes_in_later_rounds(method: Method, zoo: ZooModel) -> None:
    """Saved at the beginning or in the middle of a later round, restored and continued, the end is bitwise the same."""
    whole, saved = Session(method, zoo), []
    for steps in whole.rounds():
        first = whole.sparsifier.step
        for part in (range(first, first + steps // 2), range(first + steps // 2, STEPS)):
            if whole.sparsifier.round > 0:
                saved.append(whole.snapshot())
            whole.train(len(part), first=part.start)
        with whole.sparsifier.sparse():
            for target in whole.sparsifier.targets:
                hidden = target.weight[~target.mask]
                _require(
                    not bool(hidden.any()), f"{target.name} moves hidden weights in round {whole.sparsifier.round}"
                )
    for snapshot in saved:
        other = Session(method, zoo)
        other.restore(snapshot)
        for steps in other.rounds():
            other.train(steps, first=other.sparsifier.step)
        when = f"after a resume in round {snapshot['sparsifier']['round']}, step {snapshot['sparsifier']['step']}"
        _equal(whole.model.state_dict(), other.model.state_dict(), when)
        _equal(dict(whole.sparsifier.masks()), dict(other.sparsifier.masks()), f"masks {when}")


@_check
def copies(method: Method, zoo: ZooModel) -> None:
    """``copy.deepcopy`` of the model works after a forward pass; the copy computes the same and is independent."""
    session = Session(method, zoo)
    session.train(2)
    before = session.output()
    other = copy.deepcopy(session.model)
    session.train(2, first=2)
    other.eval()
    with torch.no_grad():
        _require(torch.equal(other(zoo.batch(1000)[0]), before), "the copy computes something else")
        session.finalize()
        _require(torch.equal(other(zoo.batch(1000)[0]), before), "the copy changed when the original was finalized")


@_check
def accumulates_gradients(method: Method, zoo: ZooModel) -> None:
    """Two half batches with accumulated gradients move the weights as the whole batch does (float64, norms frozen)."""
    results = []
    for parts in (1, 2):
        session = Session(method, zoo, dtype=torch.float64)
        session.model.eval()
        for index in range(3):
            x, y = session._cast(zoo.batch(index))
            session.optimizer.zero_grad()
            for xs, ys in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (F.cross_entropy(session.model(xs), ys) / parts).backward()
            session.optimizer.step()
        _require(session.sparsifier.step == 3, f"{session.sparsifier.step} steps were counted instead of 3")
        results.append({name: p.detach() for name, p in session.model.named_parameters()})
    for name, value in results[0].items():
        _require(torch.allclose(value, results[1][name], rtol=1e-9, atol=1e-11), f"{name} differs under accumulation")


@_check
def accepts_a_closure(method: Method, zoo: ZooModel) -> None:
    """``optimizer.step(closure)`` is bitwise the same as a backward pass followed by ``step()``."""
    plain, closed = Session(method, zoo), Session(method, zoo)
    plain.train(3)

    def closure(index: int) -> float:
        closed.optimizer.zero_grad()
        loss = closed.loss(index)
        loss.backward()
        return loss.item()

    for index in range(3):
        closed.optimizer.step(lambda index=index: closure(index))
    _equal(plain.model.state_dict(), closed.model.state_dict(), "step(closure)")
    _require(closed.sparsifier.step == 3, f"{closed.sparsifier.step} steps were counted instead of 3")


@_check
def skips_overflowed_steps(method: Method, zoo: ZooModel) -> None:
    """A step that GradScaler skips on a fused optimizer changes nothing and is not counted."""
    session = Session(method, zoo)
    fused = torch.optim.SGD(session.sparsifier.param_groups(), lr=0.1, momentum=0.9, fused=True)
    session.sparsifier.bind(fused, total_steps=STEPS)
    for skip in (False, True, False):
        session.loss(0).backward()
        before = copy.deepcopy(session.model.state_dict())
        fused.grad_scale = torch.tensor(1.0)  # type: ignore[attr-defined]
        fused.found_inf = torch.tensor(float(skip))  # type: ignore[attr-defined]
        fused.step()
        if skip:
            _equal(before, session.model.state_dict(), "a skipped step")
    _require(session.sparsifier.step == 2, f"{session.sparsifier.step} steps were counted instead of 2")


@_check
def compiles(method: Method, zoo: ZooModel) -> None:
    """``torch.compile(fullgraph=True)`` accepts the model, and its output and gradients are the same."""
    if not zoo.compiles:
        raise _SkipError("torch cannot compile parametrized recurrent layers as one graph")
    session = Session(method, zoo)
    x, y = zoo.batch(0)
    expected = session.loss(0)
    expected.backward()
    gradients = {n: p.grad.clone() for n, p in session.model.named_parameters() if p.grad is not None}
    session.model.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own notices about its compiler
        torch._dynamo.reset()
        loss = F.cross_entropy(torch.compile(session.model, backend="aot_eager", fullgraph=True)(x), y)
        loss.backward()
    _require(torch.allclose(loss, expected, rtol=1e-5), f"the compiled loss is {loss.item()}, not {expected.item()}")
    for name, gradient in gradients.items():
        other = session.model.get_parameter(name).grad
        same = other is not None and torch.allclose(other, gradient, rtol=1e-3, atol=1e-5)
        _require(same, f"the compiled gradient of {name} differs")


@_check
def learns(method: Method, zoo: ZooModel) -> None:
    """Training on an easy task lowers the loss."""
    session = Session(method, zoo)
    optimizer = torch.optim.Adam(session.sparsifier.param_groups(), lr=0.03)
    session.sparsifier.bind(optimizer, total_steps=100)
    session.optimizer = optimizer  # type: ignore[assignment]
    losses = session.train(100)
    first, last = sum(losses[:3]) / 3, sum(losses[-10:]) / 10
    _require(last < 0.9 * first, f"the loss went from {first:.3f} to {last:.3f} in 100 steps")


@_check
def keeps_the_parameter_order(method: Method, zoo: ZooModel) -> None:
    """``param_groups`` lists trainable tensors in the order the model had, so optimizer states keep their index."""
    shapes = {n: p.shape for n, p in zoo.build().named_parameters()}
    session = Session(method, zoo)
    groups = session.sparsifier.param_groups()
    gates = {id(gate.m) for gate in session.sparsifier.gates.values() if gate.m.requires_grad}
    own = [id(p) for group in groups[1:] for p in group["params"]]
    _require(len(groups) == 1 + bool(gates), "param_groups() without decays gives one group, and one of gates")
    _require(len(own) == len(gates) and set(own) == gates, "the second group does not hold the gates")
    trained = [n for n, p in session.sparsifier._parameters().items() if id(p) not in gates]
    _require([n for n in shapes if n in trained] == trained, "the order differs from the model's")
    _require([p.shape for p in groups[0]["params"]] == [shapes[n] for n in trained], "shapes differ from the model's")


@_check
def refuses_a_stale_optimizer(method: Method, zoo: ZooModel) -> None:
    """Binding an optimizer that lacks a trainable tensor, for example one built before attach, raises and says why."""
    model = zoo.build()
    stale = torch.optim.SGD(model.parameters(), lr=0.1)
    session = Session(method, zoo)
    try:
        session.sparsifier.bind(stale, total_steps=STEPS)
    except BindError as error:
        _require("after attach()" in str(error), f"the message does not say what to do: {error}")
    else:
        raise ConformanceError("an optimizer of another model was accepted")


def run_check(name: str, method: Method, zoo: ZooModel) -> Result:
    """Run one check of :data:`CHECKS` on one model; a raised error is a failure, a refusal by name is none."""
    try:
        CHECKS[name](method, zoo)
    except _SkipError as error:
        return Result(name, zoo.name, "skipped", str(error))
    except (UnsupportedModuleError, StructureError) as error:
        return Result(name, zoo.name, "refused", str(error))
    except ConformanceError as error:
        return Result(name, zoo.name, "fail", str(error))
    except Exception as error:  # noqa: BLE001 - whatever a method raises is its failure, and is reported
        return Result(name, zoo.name, "fail", f"{type(error).__name__}: {error}")
    return Result(name, zoo.name, "pass")


def check_method(method: Method | type[Method]) -> Report:
    """Run the whole suite.

    Args:
        method: A configured method; or a class, whose :meth:`Method.examples` are run.

    Returns:
        A report; ``report.raise_for_failures()`` raises if a check failed, ``str(report)`` lists what failed.
    """
    results: list[Result] = []
    shown: Method | None = None
    for zoo in zoo_for(channels=method.needs_structure):
        for example in method.examples(zoo.build()) if isinstance(method, type) else (method,):
            shown = shown or example
            results += [run_check(name, example, zoo) for name in CHECKS]
    assert shown is not None
    return Report(shown, tuple(results))
