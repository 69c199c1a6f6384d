"""The one mutable object: what a method attached to a model, what it knows so far, and the way back to a plain module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask.core.arrays import ArrayLike, as_tensors, check_shapes
from supermask.core.batchnorm import BatchNorm, Frozen, freeze_batchnorm, norms_beside, unfreeze_batchnorm
from supermask.core.binding import Binding
from supermask.core.budget import Cost
from supermask.core.channels import channels_now, set_channels
from supermask.core.decay import DecayOn, decay_groups
from supermask.core.gates import Gate, Gated
from supermask.core.groups import ChannelGroup, Keeps, Structure
from supermask.core.masks import Masks, SignedEntry
from supermask.core.parametrizations import Masked, Scored, Selected, Thresholded
from supermask.core.saved import STATE_FORMAT, check_saved
from supermask.core.summary import describe, note_empty_layers, warn_of_a_broken_promise
from supermask.core.surgery import Surgery, plain_name
from supermask.core.targets import Target
from supermask.core.views import as_finalized, over_draws
from supermask.errors import AttachError, BindError, HyperparameterError, StateError
from supermask.kernels.mask import mask_in_place
from supermask.tensors.scores import wide

if TYPE_CHECKING:
    from supermask.core.method import LossFn, Method


@final
class Sparsifier:
    """Holds all that changes while a method works on a model; made by :meth:`Method.attach`.

    Attributes:
        model: The module, changed in place.
        method: The method with its hyper-parameters.
        targets: The tensors acted on, in the order of the model's parameters; tied weights once.
        structure: The model's channel groups, for methods that remove channels; None for others.
        groups: Those acted on.
        costs: What a choice of channels costs, by unit of a budget.
        gates: The learnt factors by group name, of methods that have any.
        gate_decay: Weight decay of the gates, which have a parameter group of their own.
        state: The method's own tensors; saved and restored with everything else.
        step: Optimizer steps done in this round.
        round: Train-prune cycles done.
        total_steps: Steps of one round, given to :meth:`bind`; None before.
        frozen_norms: Batch norms that the method froze, with their parameters that were trainable.
        catching_up: Whether the step that just ended was none, but is counted by :meth:`catch_up`.
        grad_scale: Factor that gradients carry in ``before_step``: 1 except under ``GradScaler`` with a fused optimizer.
        seed: The seed given to ``attach``.
        notes: What the user should hear of, see :meth:`note`.
        data: Batches for scoring, during ``setup`` only.
        loss_fn: Loss for scoring, during ``setup`` only.
    """

    def __init__(self, method: Method, model: nn.Module, targets: list[Target], seed: int) -> None:
        self.method = method
        self.model = model
        self.targets = targets
        self.seed = seed
        self.structure: Structure | None = None
        self.groups: tuple[ChannelGroup, ...] = ()
        self.costs: dict[str, Cost] = {}
        self.gates: dict[str, Gate] = {}
        self.gate_decay = 0.0
        self.state: dict[str, Tensor] = {}
        self.step = 0
        self.round = 0
        self.total_steps: int | None = None
        self.catching_up = False
        self.grad_scale = 1.0
        self.notes: list[str] = []
        self.data: Any = None
        self.loss_fn: LossFn | None = None
        self._weights: Literal["redraw", "keep"] = "keep"
        self._scores: Mapping[str, Tensor] | None = None
        self._binding: Binding | None = None
        self._round_begins = False  # a round may have a length of its own
        self._settled = False  # in this round
        self._finalized = False
        from supermask.core.method import Method as Base  # imports this module itself

        self._penalises = type(method).penalty is not Base.penalty  # if not overridden, a step spends no time on it
        self._prepares = type(method).before_step is not Base.before_step
        self._dense_gradients: list[tuple[nn.Parameter, Masked]] = []
        self._tracked: list[str] = []
        self.frozen_norms: Frozen = {}
        self._names = [plain_name(name) for name, _ in model.named_parameters()]
        self._surgery = Surgery(targets)

    # ------------------------------------------------------------------ for Method.attach and methods' setup

    def start(
        self,
        weights: Literal["redraw", "keep"] | Mapping[str, ArrayLike],
        scores: Mapping[str, ArrayLike] | None,
        data: Any,
        loss_fn: LossFn | None,
    ) -> None:
        """Take over initial values and run the method's setup; called once, by ``attach``.

        When anything fails, the model is left as it was.
        """
        before = [(target.parameter, target.parameter.detach().clone()) for target in self.targets]
        try:
            self._start(weights, scores, data, loss_fn)
        except BaseException:
            for parameter, values in before:
                parameter.data.copy_(values)
            self._take_off([parameter for parameter, _ in before])
            raise

    def _start(
        self,
        weights: Literal["redraw", "keep"] | Mapping[str, ArrayLike],
        scores: Mapping[str, ArrayLike] | None,
        data: Any,
        loss_fn: LossFn | None,
    ) -> None:
        shapes = {target.name: target.shape for target in self.targets}
        if isinstance(weights, str):
            self._weights = weights
        else:
            weights = as_tensors(weights, "weights")
            check_shapes(weights, shapes, "weights")
            with torch.no_grad():
                for target in self.targets:
                    target.parameter.copy_(weights[target.name])
        if scores is not None:
            self._scores = as_tensors(scores, "scores")
            check_shapes(self._scores, shapes, "scores")
        self.data, self.loss_fn = data, loss_fn
        with torch.no_grad():
            self.method.setup(self)
        self.data = self.loss_fn = None
        if scores is not None and not any(isinstance(t.parametrization, Scored) for t in self.targets):
            raise AttachError(f"{self.method.name} learns no scores: attach it without scores=")
        self._scores = None
        note_empty_layers(self, "before the first step")

    @property
    def redraw(self) -> bool:
        """Whether the method should draw the targets' weights itself."""
        return self._weights == "redraw"

    def initial_score(self, target: Target) -> Tensor | None:
        """The score given to ``attach`` for a target, on its device and in float32 at least; None when none was given."""
        if self._scores is None:
            return None
        return self._scores[target.name].to(target.parameter.device, wide(target.parameter.dtype))

    def install_mask(
        self, target: Target, mask: Tensor | None = None, *, applied: bool = True, dense_grad: bool = False
    ) -> None:
        """Put :class:`Masked` on a target, with a mask or with everything remaining; hidden weights become zero."""
        if mask is None:
            mask = torch.ones(target.shape, dtype=torch.bool, device=target.parameter.device)
        dense = target.parameter
        installed = Masked(mask.clone(), applied=applied, dense_grad=dense_grad)
        self._surgery.put_on(target, installed, dense.data, dense.requires_grad)
        if applied:
            target.parameter.data.masked_fill_(~mask, 0.0)
        else:
            self._tracked.append(target.name)
        if dense_grad:
            self._dense_gradients.append((target.parameter, installed))

    def put_on(self, target: Target, gated: Gated) -> None:
        """Put :class:`Gated` on a target; see :func:`~supermask.core.channels.install_gates`."""
        self._surgery.put_on(target, gated, target.parameter.data, target.parameter.requires_grad)

    def install_score(self, target: Target, scored: Scored, score: Tensor) -> None:
        """Put :class:`Scored` on a target with an initial score, given relative to the frozen weight.

        A score is stored in float32 at least, also where weights are of half precision: its steps would vanish there.
        """
        stored = torch.empty_like(target.parameter, dtype=wide(target.parameter.dtype))  # in the weight's memory format
        self._surgery.put_on(target, scored, stored.copy_(scored.stored_score(score.to(stored))), True)

    def freeze_batchnorm(self, kind: BatchNorm | Literal["frozen"]) -> None:
        """Keep batch norms untrained until ``finalize``; those beside a target, see :func:`~.batchnorm.norms_beside`.

        Args:
            kind: ``frozen``: in inference mode; ``non-affine``: scale and shift stay at their present values, and running
                statistics are collected; ``trained``: all is left as it is.
        """
        if kind != "trained":
            modules = [site.module for target in self.targets for site in target.sites]
            self.frozen_norms = freeze_batchnorm(norms_beside(self.model, modules), statistics=kind == "frozen")

    def train_weight(self, target: Target) -> None:
        """From the next round on, train the effective weight of a :class:`Selected` target; its mask stays, its score ends."""
        installed = target.parametrization
        assert isinstance(installed, Selected)
        target.parameter.data.copy_(installed.release())

    def note(self, text: str) -> None:
        """Tell the user something that the numbers do not show, for example that a guard acted; once each."""
        if text not in self.notes:
            self.notes.append(text)

    def keep_values(self, key: str) -> None:
        """Keep the values of all parameters and buffers in :attr:`state`, to rewind to; masks are not among them."""
        for name, tensor in self._values().items():
            self.state[f"{key}/{name}"] = tensor.detach().clone()

    def restore_values(self, key: str) -> None:
        """Put back, bitwise, what :meth:`keep_values` kept; hidden weights stay zero.

        Raises:
            StateError: Nothing was kept under this key.
        """
        for name, tensor in self._values().items():
            if f"{key}/{name}" not in self.state:
                raise StateError(f"nothing was kept of {name} under {key!r}: keep_values({key!r}) comes first")
            tensor.data.copy_(self.state[f"{key}/{name}"])
        for target in self.targets:
            installed = target.parametrization
            if isinstance(installed, Masked) and installed.applied:
                target.parameter.data.masked_fill_(~installed.mask, 0.0)

    def _values(self) -> dict[str, Tensor]:
        """Parameters and the model's own buffers, by plain name; tied ones once."""
        own = {name: buffer for name, buffer in self.model.named_buffers() if "parametrizations." not in name}
        return {plain_name(name): parameter for name, parameter in self.model.named_parameters()} | own

    def set_mask(self, target: Target, mask: Tensor) -> None:
        """Replace the mask of a target; newly hidden weights lose their value and their momentum at once.

        Zeroing both means that no later step can revive them: zero value, gradient and momentum stay zero under weight
        decay, too. Weights that return start from zero.
        """
        installed = target.parametrization
        assert isinstance(installed, Masked)
        installed.mask.copy_(mask)
        if installed.applied:
            mask_in_place(target.parameter.data, installed.mask)
            if self._binding is not None:
                for slot in self.slots(target).values():
                    mask_in_place(slot, installed.mask)

    def channels(self) -> dict[str, Tensor]:
        """Which channels of the groups acted on remain now: group name -> bool (channels,), on the CPU."""
        self._check_alive()
        return channels_now(self)

    def set_channels(self, keeps: Keeps) -> None:
        """Settle which channels remain, of the groups named; see :func:`~supermask.core.channels.set_channels`.

        Masks of everything that makes and scales them are set as by :meth:`set_mask`; gates are decided.
        """
        set_channels(self, keeps)

    def apply_masks(self) -> None:
        """From now on apply the masks that were only tracked; hidden weights lose their value and their momentum."""
        tracked, self._tracked = self._tracked, []
        self._set_applied()
        for target in self.targets:
            if target.name in tracked:
                self.set_mask(target, target.mask)

    def _set_applied(self) -> None:
        """Let every mask act that is not among the tracked ones."""
        for target in self.targets:
            if isinstance(installed := target.parametrization, Masked):
                installed.applied = target.name not in self._tracked

    # ------------------------------------------------------------------ training

    @property
    def progress(self) -> float:
        """``step / total_steps`` of this round, in [0, 1]; 0 before ``bind``."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0

    def param_groups(
        self,
        *,
        weight_decay: float | None = None,
        other_weight_decay: float | None = None,
        decay_on: DecayOn = "all",
    ) -> list[dict[str, Any]]:
        """Trainable tensors for an optimizer, in the order the model had before ``attach``.

        Args:
            weight_decay: Decay of the targets (their scores or weights); None leaves it to the optimizer's default.
            other_weight_decay: Decay of everything else (biases, norms, embeddings); None: the same as for the targets.
            decay_on: What is decayed at all: ``all``; ``no-norms``: not the parameters of norms; ``no-biases``: nothing whose
                name says bias; ``weights``: tensors of two dimensions or more outside of norms.

        Returns:
            One group; with ``other_weight_decay`` those of targets and others; then the one that ``decay_on`` leaves out;
            last the gates, if any learn, with a decay of their own.

        Raises:
            HyperparameterError: ``decay_on`` is no known choice.
        """
        targeted = {id(target.parameter) for target in self.targets}
        gates = {id(gate.m) for gate in self.gates.values()}
        decays = (weight_decay, other_weight_decay, decay_on)
        return decay_groups(self.model, self._parameters(), targeted, *decays, gates=gates, gate_decay=self.gate_decay)

    def bind(self, optimizer: Optimizer, *, total_steps: int) -> Self:
        """Let the method act around the optimizer's steps, through torch's own hooks. A second call replaces the first.

        Args:
            optimizer: Built after ``attach``, on :meth:`param_groups` or ``model.parameters()``.
            total_steps: Optimizer steps of this round of training.

        Raises:
            BindError: The optimizer lacks a trainable tensor, or evaluates its closure several times.
            StateError: A loaded state was made for another number of steps.
        """
        self._check_alive()
        if not isinstance(optimizer, Optimizer):
            raise BindError(f"bind() takes a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
            raise HyperparameterError(f"total_steps must be a positive integer, got {total_steps!r}")
        if self.total_steps not in (None, total_steps) and self.step > 0 and not self._round_begins:
            raise StateError(
                f"step {self.step} of total_steps={self.total_steps} is done, now total_steps is {total_steps}: a schedule "
                f"cannot change its length midway; bind with total_steps={self.total_steps}, or attach afresh to train longer"
            )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        lacking = [name for name, p in self._parameters().items() if id(p) not in held]
        if lacking:
            raise BindError(
                f"the optimizer lacks {', '.join(lacking)}: one optimizer must hold every trainable tensor, and be built "
                "after attach(), for example on sparsifier.param_groups(); parameters that shall not train need "
                "requires_grad_(False)"
            )
        if self._binding is not None:
            self._binding.remove()
        self._binding = Binding(optimizer, self._before_step, self._after_step)
        self.total_steps = total_steps
        self._round_begins = False
        self.state = self._placed(self.state)
        return self

    def rounds(self) -> Iterator[int]:
        """Rounds of training: ``for _ in sparsifier.rounds(): train()``. One for most methods.

        Between two rounds the method prunes or rewinds; the loop builds a fresh optimizer and binds it again. A method that
        rewinds to a step k > 0 leaves k in :attr:`step`: a round is then ``total_steps - step`` steps long, and the
        learning rate goes on from there.
        """
        while True:
            yield self.round
            self.settle()
            with torch.no_grad():
                again = self.method.next_round(self)
            if not again:
                return
            self.round += 1
            self.step = self.method.first_step(self)
            self._round_begins = True
            self._settled = False

    def catch_up(self) -> None:
        """Count the steps that ``GradScaler`` has left out, so that nothing is missed that the method does at a step.

        For the end of a round, before its last test. Nothing happens if all of ``total_steps`` were done.

        Raises:
            BindError: No optimizer is bound.
        """
        self._bound()
        assert self.total_steps is not None
        self.catching_up = True
        try:
            while self.step < self.total_steps:
                self._after_step()
        finally:
            self.catching_up = False

    def settle(self) -> None:
        """Let the method decide what it leaves to the end of a round: call it before the last test of a round that ends early.

        After the last of ``total_steps``, and between two rounds, it is done without a call. Again in a round it does nothing.
        """
        if not self._settled:
            self._settled = True
            with torch.no_grad():
                self.method.settle(self)

    def skip_step(self) -> None:
        """For ``before_step``: let the optimizer move nothing in this step, not even by momentum or decay; it counts."""
        for parameter in self._parameters().values():
            parameter.grad = None

    def lr(self, target: Target) -> float:
        """The bound optimizer's learning rate for a target."""
        return float(self._group(target)["lr"])

    def slots(self, target: Target) -> dict[str, Tensor]:
        """The bound optimizer's tensors of the target's shape (momentum and the like), by name; empty before a step."""
        optimizer = self._bound().optimizer
        state = optimizer.state.get(target.parameter, {})
        return {k: v for k, v in state.items() if isinstance(v, Tensor) and v.shape == target.shape}

    def _before_step(self, scale: float) -> None:
        if self._penalises:
            self._add_penalty(scale)
        self.grad_scale = scale
        if not (self._prepares or self._dense_gradients):
            return
        with torch.no_grad():
            self.method.before_step(self)
            for parameter, installed in self._dense_gradients:
                if parameter.grad is not None:
                    mask_in_place(parameter.grad, installed.mask)

    def _add_penalty(self, scale: float) -> None:
        with torch.enable_grad():
            penalty = self.method.penalty(self)
            if penalty is None:
                return
            parameters = list(self._parameters().values())
            gradients = torch.autograd.grad(penalty * scale, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def _after_step(self) -> None:
        self.step += 1
        with torch.no_grad():
            if not self._bound().keeps_zeros:
                for parameter, installed in self._dense_gradients:
                    mask_in_place(parameter, installed.mask)
            self.method.after_step(self)
        if self.step == self.total_steps:
            self.settle()

    def _bound(self) -> Binding:
        if self._binding is None:
            raise BindError("no optimizer is bound yet: sparsifier.bind(optimizer, total_steps=n)")
        return self._binding

    def _group(self, target: Target) -> dict[str, Any]:
        groups = self._bound().optimizer.param_groups
        found = next((g for g in groups if any(p is target.parameter for p in g["params"])), None)
        if found is None:
            raise BindError(f"the bound optimizer does not hold {target.name}: it does not require a gradient")
        return found

    def _parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by their plain name, in the order from before ``attach``, later ones last; tied ones once."""
        present = {plain_name(name): parameter for name, parameter in self.model.named_parameters()}
        held = {id(parameter) for parameter in present.values()}
        for target in self.targets:
            if id(target.parameter) not in held:
                raise StateError(f"{target.name} is no longer a part of the model: finalize() before replacing modules")
        names = [name for name in self._names if name in present] + [
            name for name in present if name not in self._names
        ]
        return {name: present[name] for name in names if present[name].requires_grad}

    # ------------------------------------------------------------------ looking

    def masks(self) -> Masks:
        """What remains now, by target name; signed supermasks add sign, scale and seed."""
        self._check_alive()
        masks: dict[str, Tensor] = {}
        signed: dict[str, SignedEntry] = {}
        for target in self.targets:
            masks[target.name] = target.mask.clone()
            installed = target.parametrization
            if isinstance(installed, Thresholded) and installed.signed:
                constant = installed.frozen is None
                signed[target.name] = SignedEntry(
                    installed.sign_mask(target.parameter),
                    scale=installed.scale if constant else None,
                    seed=None if installed.origin is None else installed.origin[0],
                    generator=None if installed.origin is None else f"philox4x32/weights/{installed.origin[1]}",
                )
        return Masks(masks, signed)

    def density(self) -> float:
        """Fraction of the targeted weights that remain."""
        return self.remaining() / sum(target.size for target in self.targets)

    def remaining(self) -> int:
        """Number of targeted weights that remain."""
        self._check_alive()
        return sum(int(target.mask.sum()) for target in self.targets)

    def summary(self) -> str:
        """Table of the model's parameters: what is targeted, redrawn, trained, frozen, and why."""
        self._check_alive()
        return describe(self)

    @contextlib.contextmanager
    def sparse(self) -> Iterator[nn.Module]:
        """Inside, the model computes as after ``finalize``: tracked masks applied, soft ones rounded, gates without noise."""
        with as_finalized(self.targets):
            yield self.model

    def draws(self) -> Iterator[int]:
        """Random masks to average a test over: ``for _ in sparsifier.draws(): test()``. Once for methods that draw none.

        After the last one, or when the loop is left, the masks are as before.
        """
        count = self.method.test_draws(self)
        if count == 1:
            yield 0
        else:
            yield from over_draws(self, count)

    @property
    def tracked(self) -> bool:
        """Whether masks are only tracked: the dense model trains, and differs from the sparse one."""
        installed = [target.parametrization for target in self.targets]
        return any(isinstance(p, Masked) and not p.applied for p in installed)

    # ------------------------------------------------------------------ saving

    def state_dict(self) -> dict[str, Any]:
        """What has to be saved beside the model's and the optimizer's state dicts for a bitwise equal continuation."""
        self._check_alive()
        return {
            "format": STATE_FORMAT,
            "method": self.method.config(),
            "targets": [target.name for target in self.targets],
            "seed": self.seed,
            "step": self.step,
            "round": self.round,
            "total_steps": self.total_steps,
            "settled": self._settled,
            "state": {name: tensor.clone() for name, tensor in self.state.items()},
            "notes": list(self.notes),
            "tracked": list(self._tracked),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; load the model's and the optimizer's state dicts as well.

        Raises:
            StateError: The state belongs to another method, other hyper-parameters, targets or seed.
        """
        self._check_alive()
        check_saved(saved, self.state_dict())
        total_steps = self.total_steps if saved["total_steps"] is None else saved["total_steps"]  # None: never bound
        if self.total_steps not in (None, total_steps):
            raise StateError(f"the saved state has total_steps={total_steps}, bound is {self.total_steps}")
        self.step, self.round, self.total_steps = saved["step"], saved["round"], total_steps
        self.state = self._placed({name: tensor.clone() for name, tensor in saved["state"].items()})
        self.notes = list(saved.get("notes", self.notes))
        self._tracked = list(saved.get("tracked", self._tracked))
        self._settled = bool(saved.get("settled", False))
        self._set_applied()

    def _placed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state's tensors where the model is now: on the device of the target that a key ends with, or of the first."""
        devices = {target.name: target.parameter.device for target in self.targets}
        first = self.targets[0].parameter.device
        return {name: tensor.to(devices.get(name.split("/")[-1], first)) for name, tensor in state.items()}

    # ------------------------------------------------------------------ finishing

    def finalize(self) -> Masks:
        """Bake the effective weights and take everything off: the model is a plain module with exact zeros.

        State-dict keys, parameter order, ties and ``requires_grad`` are as before ``attach``. In place; once. Warns when the
        method promises a density or a budget that is not met: no optimizer was bound, or its schedule is not at its end.

        Returns:
            The masks, as :meth:`masks` gives them.
        """
        masks = self.masks()
        note_empty_layers(self, "at the end")
        warn_of_a_broken_promise(self, masks)
        parameters: list[nn.Parameter] = []
        with torch.no_grad(), self.sparse():
            for target in self.targets:
                if target.parametrization is None:
                    parameters.append(target.parameter)
                else:
                    weight = target.weight.clone().masked_fill_(~masks[target.name], 0.0)
                    parameters.append(nn.Parameter(weight, requires_grad=target.trainable))
        self._take_off(parameters)
        self._finalized = True
        return masks

    def _take_off(self, parameters: list[nn.Parameter]) -> None:
        """Put one parameter per target where the parametrizations were, and everything else as it was."""
        if self._binding is not None:
            self._binding.remove()
        self._surgery.take_off(parameters)
        unfreeze_batchnorm(self.frozen_norms)

    def _check_alive(self) -> None:
        if self._finalized:
            raise StateError("this sparsifier is finalized: its model is a plain module now; attach again to go on")
