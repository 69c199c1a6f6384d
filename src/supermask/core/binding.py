"""The link between a sparsifier and an optimizer: torch's own step hooks, and what can go wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch.optim import Optimizer

from supermask.errors import BindError

# Optimizers that work entry by entry and leave an entry at zero whose value, gradient and state are zero.
_KEEPS_ZEROS: Final = frozenset(
    {"SGD", "SGDW", "ASGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Rprop"}
)
_KNOWN: Final = ("torch.optim.", "supermask.optim.")


class Binding:
    """Calls ``before`` and ``after`` once around every step that really moves the weights.

    * ``step(closure)``: gradients exist only once the closure has run, so ``before`` runs inside a wrapped closure; an
      optimizer that evaluates it several times a step is refused.
    * ``GradScaler`` with a fused optimizer runs the hooks even on steps it skips, with gradients still scaled: both hooks
      read ``optimizer.found_inf``, and ``grad_scale`` is passed on.

    Args:
        optimizer: The optimizer to hook.
        before: Called with the factor that gradients still carry (1.0 normally).
        after: Called when the weights have moved.

    Attributes:
        keeps_zeros: Whether a step of this optimizer is known to leave an entry at zero whose value, gradient and state are
            zero. Not so, for example, with Muon, which mixes the entries of a matrix, or with an optimizer unknown here.
    """

    def __init__(self, optimizer: Optimizer, before: Callable[[float], None], after: Callable[[], None]) -> None:
        if isinstance(optimizer, torch.optim.LBFGS):
            raise BindError(
                "LBFGS evaluates the loss several times a step; use an optimizer with one evaluation a step"
            )
        self.optimizer = optimizer
        self.keeps_zeros = type(optimizer).__name__ in _KEEPS_ZEROS and type(optimizer).__module__.startswith(_KNOWN)
        self._before = before
        self._after = after
        self._handles = [
            optimizer.register_step_pre_hook(self._pre),
            optimizer.register_step_post_hook(self._post),
        ]

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _skipped(self) -> bool:
        found_inf = getattr(self.optimizer, "found_inf", None)
        return found_inf is not None and bool(found_inf)

    def _run_before(self) -> None:
        if not self._skipped():
            scale = getattr(self.optimizer, "grad_scale", None)
            self._before(1.0 if scale is None else float(scale))

    def _pre(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        # args[0] is the optimizer itself
        if len(args) > 1 and args[1] is not None:
            return (args[0], self._wrap(args[1]), *args[2:]), kwargs
        if kwargs.get("closure") is not None:
            return args, {**kwargs, "closure": self._wrap(kwargs["closure"])}
        self._run_before()
        return None

    def _wrap(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        evaluations = 0

        def once() -> Any:
            nonlocal evaluations
            evaluations += 1
            if evaluations > 1:
                raise BindError(
                    f"{type(self.optimizer).__name__} evaluated its closure {evaluations} times in one step; "
                    "use an optimizer with one evaluation a step"
                )
            loss = closure()
            self._run_before()
            return loss

        return once

    def _post(self, _: Optimizer, __: tuple[Any, ...], ___: dict[str, Any]) -> None:
        if not self._skipped():
            self._after()
