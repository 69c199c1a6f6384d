"""SGD with momentum and fully decoupled weight decay, at the speed of torch's fused SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from supermask.errors import HyperparameterError, StateError
from supermask.kernels.sgd import momentum_step
from supermask.optim import _checks
from supermask.optim._fused import can_fuse

SMALLEST_RATE: Final = 1e-20  # below it a buffer in units of -lr would overflow; 0 included


class SGDW(torch.optim.SGD):
    """SGD whose weight decay neither passes through the momentum nor is multiplied by the learning rate.

    One step on a parameter p with gradient g (taken before the decay), learning rate lr and decay wd of this step::

        p <- p - wd * p
        v <- momentum * v - lr * g          (v starts at 0)
        p <- p + momentum * v - lr * g      (Nesterov; else p <- p + v)

    The learning rate is inside v: after a cut of lr the old velocity still moves p at its old size. Schedule wd together
    with lr (:class:`~supermask.optim.Scheduler` does so).

    The velocity is kept as ``momentum_buffer`` = -v / ``buffer_lr``, with ``buffer_lr`` in the parameter group, so that
    torch's fused kernel does the work on the CPU and on accelerators; buffers are rescaled only when lr changes. A step
    that ``torch.amp.GradScaler`` skips changes nothing, decay included.

    Source:
        I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv 1711.05101; the update as in
        ``SGDW`` of tensorflow-addons 0.15 on Keras 2.7's SGD, which the signed supermask was trained with.

    Differs:
        ``torch.optim.AdamW`` and the paper multiply wd by a schedule; here wd is what is taken off, and a scheduler
        changes it. Against ``torch.optim.SGD``: decay decoupled, lr inside the velocity.

    Args:
        params: Parameters or parameter groups; a group may set ``lr``, ``momentum``, ``nesterov``, ``weight_decay``.
        lr: Learning rate, >= 0.
        momentum: In [0, 1).
        nesterov: Look one step ahead. With ``momentum=0`` both forms are the same and it is off, also for groups that set
            a momentum of their own.
        weight_decay: Fraction of p taken off each step, in [0, 1).

    Raises:
        HyperparameterError: A value is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        _check({"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})
        params = list(params)
        super().__init__(
            params,
            lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov and momentum > 0,
            fused=True if can_fuse(params) else None,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; checked as in the constructor."""
        _check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        self.param_groups[-1].setdefault("buffer_lr", 1.0)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that :meth:`state_dict` gave; the continuation is bitwise the same.

        Raises:
            StateError: The state was saved by another optimizer.
        """
        if any("buffer_lr" not in group for group in state_dict["param_groups"]):
            raise StateError(
                "this optimizer state has no buffer_lr, so SGDW did not save it; "
                "load it into the optimizer class that saved it, or start SGDW afresh"
            )
        super().load_state_dict(state_dict)

    # torch wraps the step of each optimizer class with its hooks once; SGD.step may be wrapped already, and calling it
    # from here would run the hooks twice. Hence the functional form below.
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            What ``closure`` returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is None or not bool(found_inf):
            for group in self.param_groups:
                self._step_group(group, getattr(self, "grad_scale", None), found_inf)
        return loss

    def _step_group(self, group: dict[str, Any], grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        grads = [_aligned_grad(p) for p in params]
        lr, momentum = float(group["lr"]), float(group["momentum"])
        decay, nesterov = float(group["weight_decay"]), bool(group["nesterov"])
        velocities: list[Tensor] = []
        if momentum:
            if lr >= SMALLEST_RATE:
                self._express_buffers_in(lr, group)
            velocities = [self._buffer(p) for p in params]
        ordinary = velocities and lr >= SMALLEST_RATE and group["fused"] and grad_scale is None and found_inf is None
        options = (lr, momentum, nesterov, decay)
        if ordinary and momentum_step(params, grads, velocities, *options):
            return
        if decay:
            torch._foreach_mul_(params, 1.0 - decay)
        if velocities and lr < SMALLEST_RATE:
            _tiny_step(params, grads, velocities, group, grad_scale)
            return
        sgd(
            params,
            grads,
            list(velocities) or [None] * len(params),
            has_sparse_grad=any(g.is_sparse for g in grads),
            foreach=group["foreach"],
            fused=group["fused"],
            grad_scale=grad_scale,
            found_inf=found_inf,
            weight_decay=0.0,
            momentum=momentum,
            lr=lr,
            dampening=0.0,
            nesterov=nesterov,
            maximize=False,
        )

    def _buffer(self, param: Tensor) -> Tensor:
        """The buffer of ``param``, made of zeros on first use, laid out in memory as ``param`` is now."""
        state = self.state[param]
        buffer: Tensor | None = state.get("momentum_buffer")
        if buffer is None:
            buffer = state["momentum_buffer"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        elif not _same_layout(buffer, param):
            buffer = state["momentum_buffer"] = torch.empty_like(param).copy_(buffer)
        return buffer

    def _express_buffers_in(self, lr: float, group: dict[str, Any]) -> None:
        """Rescale the buffers of the group, also of parameters without a gradient now, to velocities over ``lr``."""
        if group["buffer_lr"] != lr:
            states = [self.state[p] for p in group["params"] if p in self.state]
            buffers = [state["momentum_buffer"] for state in states if "momentum_buffer" in state]
            if buffers:
                torch._foreach_mul_(buffers, group["buffer_lr"] / lr)
            group["buffer_lr"] = lr


def _tiny_step(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], group: dict[str, Any], grad_scale: Tensor | None
) -> None:
    """The same step while lr is 0 or next to it: buffers keep the rate that they are expressed in."""
    lr, unit, momentum = float(group["lr"]), float(group["buffer_lr"]), float(group["momentum"])
    for p, g, buffer in zip(params, grads, buffers, strict=True):
        if grad_scale is not None:
            g.div_(grad_scale.to(g.device))
        buffer.mul_(momentum).add_(g, alpha=lr / unit)
        if group["nesterov"]:
            p.add_(buffer, alpha=-unit * momentum).add_(g, alpha=-lr)
        else:
            p.add_(buffer, alpha=-unit)


def _aligned_grad(param: Tensor) -> Tensor:
    """The gradient, laid out as the parameter: fused kernels walk both in the order of memory and do not check it."""
    grad = param.grad
    assert grad is not None
    if not grad.is_sparse and not _same_layout(grad, param):
        param.grad = grad = torch.empty_like(param).copy_(grad)
    return grad


def _same_layout(left: Tensor, right: Tensor) -> bool:
    return left.stride() == right.stride() or (left.is_contiguous() and right.is_contiguous())


def _check(group: dict[str, Any]) -> None:
    _checks.learning_rate(group["lr"])
    _checks.momentum(group["momentum"])
    _checks.flag("nesterov", group["nesterov"])
    _checks.decoupled_decay(group["weight_decay"])
    for option in ("dampening", "maximize", "differentiable"):
        if group.get(option):
            raise HyperparameterError(f"{option} is not an option of SGDW, got {group[option]!r}; leave it out")
