"""The suite itself: each check is shown to fail on a method that breaks its rule, and says so."""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

import supermask.core.sparsifier
from supermask import Initializer, Method, SignedSupermask, Sparsifier, check_method
from supermask.core.channels import meet_budget
from supermask.core.checks import CHECKS, Report, Result, run_check
from supermask.core.parametrizations import Masked, Selected, Thresholded
from supermask.core.select import selected
from supermask.core.zoo import RESIDUAL, ZOO
from supermask.errors import ConformanceError, HyperparameterError, UnsupportedModuleError

from .helpers import Cut, Sound, ranks

MLP = ZOO["mlp"]
config = dataclass(frozen=True, kw_only=True)


@config
class KeepsState(Sound):
    def after_step(self, s: Sparsifier) -> None:
        object.__setattr__(self, "steps", s.step)


@config
class HasNoPlainConfig(Sound):
    density: Any = 0.5
    limit: float = float("inf")


@config
class AcceptsAnything(Sound):
    def __post_init__(self) -> None:
        """No validation."""


@config
class NamesNoField(Sound):
    def __post_init__(self) -> None:
        if not (isinstance(self.density, float) and 0 < self.density <= 1):
            raise HyperparameterError("bad value")


@config
class DropsAParameter(Sound):
    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        s.targets[0].module.register_parameter("bias", None)


@config
class DrawsFromTorch(Sound):
    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        torch.rand(1)


@config
class DrawsFromNumpy(Sound):
    def after_step(self, s: Sparsifier) -> None:
        np.random.random()


@config
class DrawsFromPython(Sound):
    def before_step(self, s: Sparsifier) -> None:
        random.random()


@config
class DrawsFromTheSystem(Sound):
    def after_step(self, s: Sparsifier) -> None:
        s.targets[0].parameter[0, 0] += os.urandom(1)[0] + os.urandom(1)[0] / 256


@config
class KeepsOneTooMany(Sound):
    def after_step(self, s: Sparsifier) -> None:
        if s.step == 8:
            mask = s.targets[0].mask.clone()
            mask.view(-1)[int((~mask).view(-1).int().argmax())] = True
            s.set_mask(s.targets[0], mask)


@config
class ShowsHiddenWeights(Sound):
    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        installed = s.targets[0].parametrization
        assert isinstance(installed, Masked)
        installed.forward = lambda dense: dense + 1.0  # type: ignore[method-assign]


@config
class MovesFrozenWeights(Method):
    name: ClassVar[str] = "test-moves"

    def setup(self, s: Sparsifier) -> None:
        for target in s.targets:
            weight = target.parameter.detach()
            s.install_score(target, Thresholded(weight, -0.01, 0.01), weight)

    def after_step(self, s: Sparsifier) -> None:
        for target in s.targets:
            assert isinstance(target.parametrization, Thresholded)
            assert target.parametrization.frozen is not None
            target.parametrization.frozen.mul_(0.999)


@config
class HoldsABias(Sound):
    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        s.state["bias"] = s.model.get_parameter("2.bias").detach().clone()

    def after_step(self, s: Sparsifier) -> None:
        s.model.get_parameter("2.bias").copy_(s.state["bias"])


@config
class LeavesABiasFrozen(Sound):
    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        s.model.get_parameter("2.bias").requires_grad_(False)


@config
class ReplacesAModule(Sound):
    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        s.model[1] = nn.ReLU()  # type: ignore[operator]


@config
class ScalesWhileAttached(Sound):
    """The finalized module computes something else than the attached one did."""

    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        layer = s.targets[0].module
        layer.register_forward_hook(lambda module, args, out: 2.0 * out if is_parametrized(module) else out)


@config
class CountsOnTheModel(Sound):
    """Its memory is outside ``s.state``: gone after a resume."""

    def after_step(self, s: Sparsifier) -> None:
        count = getattr(s.model, "count", 0) + 1
        s.model.count = count
        if count == 6:
            s.set_mask(s.targets[0], ~s.targets[0].mask)


@config
class HooksTheOriginal(Sound):
    """A hook that reaches for the sparsifier's own tensors: a copy of the model would use those of the original."""

    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        target = s.targets[0]
        s.model.register_forward_hook(lambda module, args, out: out + target.weight.sum())


@config
class AddsToEveryBackward(Sound):
    """A penalty by a gradient hook: added once per backward pass instead of once per step."""

    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        for target in s.targets:
            target.parameter.register_hook(lambda gradient: gradient + 0.1)


_RUNS = itertools.count()


@config
class RemembersOtherRuns(Sound):
    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        s.targets[0].parameter.mul_(1.0 + next(_RUNS))


@config
class HooksTheOptimizer(Sound):
    """Its own hook does not know of steps that GradScaler skips."""

    def before_step(self, s: Sparsifier) -> None:
        if s.step == 0:
            bias = s.model.get_parameter("2.bias")
            optimizer = s._bound().optimizer
            optimizer.register_step_post_hook(lambda *_: bias.data.mul_(0.9))


@config
class LooksAtValues(Sound):
    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        s.model.register_forward_hook(lambda module, args, out: out if out.sum().item() > 0 else out * 1.0)


@config
class ForgetsTheStep(Sound):
    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        for name, parameter in s.model.named_parameters():
            s.state[name] = parameter.detach().clone()

    def after_step(self, s: Sparsifier) -> None:
        for name, parameter in s.model.named_parameters():
            parameter.copy_(s.state[name])


@config
class ReshapesABias(Sound):
    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        module = s.targets[0].module
        module.bias = nn.Parameter(module.bias.detach().view(1, -1))  # type: ignore[union-attr]


@config
class TrainsNothing(Sound):
    def setup(self, s: Sparsifier) -> None:
        super().setup(s)
        s.model.requires_grad_(False)


@config
class RemembersARound(Sound):
    """What the second round does depends on the process that did the first."""

    def next_round(self, s: Sparsifier) -> bool:
        s.model.seen = True  # type: ignore[assignment]
        return s.round == 0

    def after_step(self, s: Sparsifier) -> None:
        if s.round == 1 and hasattr(s.model, "seen"):
            for target in s.targets:
                target.parameter.mul_(0.9)


@config
class ShowsHiddenWeightsLater(Sound):
    def next_round(self, s: Sparsifier) -> bool:
        for target in s.targets:
            installed = target.parametrization
            assert isinstance(installed, Masked)
            installed.dense_grad = True  # hidden weights then count as stored
            target.parameter.add_(1.0)
        return s.round == 0


@config
class KeepsTooMuch(Cut):
    def after_step(self, s: Sparsifier) -> None:
        """Nothing goes."""


@config
class KeepsTooLittle(Cut):
    def after_step(self, s: Sparsifier) -> None:
        if s.step == s.total_steps:
            meet_budget(s, {"macs": 0.55}, ranks(s), project=True)


# check -> methods that break it, each with what the report then says
BROKEN: dict[str, list[tuple[Method, str]]] = {
    "is_a_frozen_config": [
        (KeepsState(), "holds state beside its fields"),
        (HasNoPlainConfig(), "ValueError: Out of range float"),
    ],
    "refuses_bad_hyperparameters": [
        (AcceptsAnything(), "density=nan was accepted"),
        (NamesNoField(), "error for density=nan does not name the field: bad value"),
    ],
    "summary_names_every_parameter": [(DropsAParameter(), "0.bias")],
    "same_seed_same_result": [
        (DrawsFromTorch(), "torch's global generator was used"),
        (DrawsFromNumpy(), "numpy's global generator was used"),
        (DrawsFromPython(), "Python's global generator was used"),
        (DrawsFromTheSystem(), "two runs at one seed: .* differs"),
    ],
    "keeps_its_density": [(KeepsOneTooMany(), "369 of 736 remain, promised were 368")],
    "keeps_its_budget": [
        (KeepsTooMuch(budget={"macs": 0.9}), "1.0000 of the macs are used, promised were 0.9"),
        (KeepsTooLittle(budget={"macs": 0.9}), "was removed, but the budget has room for it"),
    ],
    "hidden_weights_stay_zero": [(ShowsHiddenWeights(), "0.weight moves hidden weights at step 1")],
    "frozen_weights_do_not_move": [
        (MovesFrozenWeights(), "the frozen weight 0.weight changed"),
        (HoldsABias(), "2.bias is not targeted but did not train"),
    ],
    "finalizes_to_a_plain_module": [
        (ScalesWhileAttached(), "the output changed"),
        (LeavesABiasFrozen(), "requires_grad changed"),
        (ReplacesAModule(), "not a plain module: .*ReLU"),
    ],
    "resumes_bitwise": [(CountsOnTheModel(), "after the resume: .* differs")],
    "resumes_in_later_rounds": [
        (RemembersARound(), "after a resume in round 1, step 0: .* differs"),
        (ShowsHiddenWeightsLater(), "0.weight moves hidden weights in round 1"),
    ],
    "copies": [(HooksTheOriginal(), "the copy computes something else")],
    "accumulates_gradients": [(AddsToEveryBackward(), "differs under accumulation")],
    "accepts_a_closure": [(RemembersOtherRuns(), r"step\(closure\): .* differs")],
    "skips_overflowed_steps": [(HooksTheOptimizer(), "a skipped step: 2.bias differs")],
    "compiles": [(LooksAtValues(), "data-dependent expression")],
    "learns": [(ForgetsTheStep(), "the loss went from .* to .* in 100 steps")],
    "keeps_the_parameter_order": [(ReshapesABias(), "shapes differ from the model's")],
    "refuses_a_stale_optimizer": [(TrainsNothing(), "an optimizer of another model was accepted")],
}


def test_no_check_is_left_out() -> None:
    assert list(BROKEN) == list(CHECKS)


@pytest.mark.parametrize(
    ("check", "method", "detail"),
    [
        pytest.param(check, method, detail, id=f"{check}-{type(method).__name__}")
        for check, cases in BROKEN.items()
        for method, detail in cases
    ],
)
def test_a_broken_method_is_caught_by_name(check: str, method: Method, detail: str) -> None:
    zoo = RESIDUAL if method.needs_structure else MLP
    result = run_check(check, method, zoo)
    assert result.status == "fail"
    report = Report(method, (result,))
    assert not report.passed
    assert result.check == check
    with pytest.raises(ConformanceError, match=f"(?s){check} on {zoo.name}: .*{detail}"):
        report.raise_for_failures()


def test_the_method_they_are_made_from_breaks_nothing() -> None:
    report = check_method(Sound)
    assert report.passed, str(report)
    assert len(report.results) == len(CHECKS) * len(ZOO)
    report.raise_for_failures()
    assert str(report) == f"Sound(density=0.5): {len(report.results)} of {len(report.results)} checks hold"


def test_the_whole_suite_names_the_broken_rule_and_only_it() -> None:
    report = check_method(KeepsOneTooMany())
    assert {result.check for result in report.failures} == {"keeps_its_density"}
    assert {result.model for result in report.failures} == set(ZOO)


def test_an_empty_summary_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No method can shorten the summary without also losing the parameter, so the function behind it is replaced."""
    monkeypatch.setattr(supermask.core.sparsifier, "describe", lambda s: "0.weight\n0.bias")
    result = run_check("summary_names_every_parameter", Sound(), MLP)
    assert result.detail == "2.weight is not in summary()"


@config
class OnlyLinear(Sound):
    def supports(self, model: nn.Module) -> str | None:
        bad = next((name for name, m in model.named_modules() if isinstance(m, nn.LSTM | nn.Conv2d)), None)
        return None if bad is None else f"{bad} is not a linear layer"


def test_a_refusal_by_name_is_a_pass() -> None:
    report = check_method(OnlyLinear())
    assert report.passed
    assert {r.model for r in report.results if r.status == "refused" and r.check == "copies"} == {"conv+bn", "lstm"}
    assert "refuses lstm (test-sound does not support this model: lstm is not a linear layer)" in str(report)
    with pytest.raises(UnsupportedModuleError, match="conv1 is not a linear layer"):
        OnlyLinear().attach(ZOO["conv+bn"].build())


@config
class ScoresOnData(Sound):
    needs_data: ClassVar[bool] = True

    def setup(self, s: Sparsifier) -> None:
        assert s.loss_fn is not None
        with torch.enable_grad():
            gradients = [
                torch.autograd.grad(s.loss_fn(s.model, batch), [t.parameter for t in s.targets]) for batch in s.data
            ]
        scores: list[Tensor] = [torch.stack(g).sum(0).abs() for g in zip(*gradients, strict=True)]
        for target, score in zip(s.targets, scores, strict=True):
            s.install_mask(target, score > score.flatten().sort().values[(score.numel() - 1) // 2])


def test_methods_that_score_on_data_get_data() -> None:
    for zoo in ZOO.values():
        result = run_check("resumes_bitwise", ScoresOnData(), zoo)
        assert result.status == "pass", result.detail


def test_signed_supermask_passes_from_python_as_a_user_would_run_it() -> None:
    method = SignedSupermask(weights=Initializer(distribution="normal", rule="xavier"))
    result = Result("learns", "mlp", "pass")
    assert run_check("learns", method, MLP) == result


def test_a_weight_that_remains_may_never_be_drawn_again() -> None:
    """Hidden ones may, where the parametrization says so."""

    def report(hidden: bool) -> list[str]:
        @dataclass(frozen=True, kw_only=True)
        class Redraws(Method):
            name: ClassVar[str] = "redraws"

            def setup(self, s: Sparsifier) -> None:
                for target in s.targets:
                    installed = Selected(target.parameter.detach(), redraws=True)
                    s.install_score(target, installed, torch.zeros(target.shape))
                    installed.select(torch.arange(target.size).reshape(target.shape) % 2)

            def after_step(self, s: Sparsifier) -> None:
                for target in s.targets:
                    selected(target).replace(torch.ones(target.shape), target.mask != hidden)

        result = run_check("frozen_weights_do_not_move", Redraws(), MLP)
        return [result.status, result.detail]

    assert report(hidden=True) == ["pass", ""]
    assert report(hidden=False) == ["fail", "the frozen weight 0.weight changed at step 1"]
