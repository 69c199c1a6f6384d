"""Optimizers as frozen dataclasses: what an experiment file may say about each, and how it is built."""

from __future__ import annotations

import abc
import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, get_args

import torch
from torch.optim import Optimizer

from supermask.errors import ConfigError, HyperparameterError
from supermask.optim import _checks
from supermask.optim._fused import can_fuse
from supermask.optim.sgdw import SGDW

DecayOn = Literal["all", "no-norms", "no-biases", "weights"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(abc.ABC):
    """Hyper-parameters of one optimizer. Values are checked when it is made.

    ``decay_on`` says what weight decay acts on, as in ``Sparsifier.param_groups``, which makes the groups that :meth:`build`
    then takes: ``all``; ``no-norms``: not the parameters of norms; ``no-biases``: nothing whose name says bias; ``weights``:
    tensors of two dimensions or more outside of norms.
    """

    name: ClassVar[str]

    lr: float
    weight_decay: float = 0.0
    decay_on: DecayOn = "all"

    def __post_init__(self) -> None:
        _checks.real("lr", self.lr, above=0.0, hint="a finite number > 0 (0.1 or 0.01 are usual)")
        _checks.weight_decay(self.weight_decay)
        if self.decay_on not in get_args(DecayOn):
            raise HyperparameterError(f"decay_on must be one of {', '.join(get_args(DecayOn))}; got {self.decay_on!r}")

    def _given(self, params: Iterable[Any]) -> list[Any]:
        """What the optimizer is built on, refused where it cannot hold what ``decay_on`` says."""
        given = list(params)
        if self.decay_on != "all" and not all(isinstance(group, dict) for group in given):
            raise HyperparameterError(
                f"decay_on is {self.decay_on!r}, which bare parameters do not tell: build on "
                f"sparsifier.param_groups(decay_on={self.decay_on!r})"
            )
        return given

    def _options(self) -> dict[str, Any]:
        """The fields that torch's optimizer takes."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "decay_on"}

    @abc.abstractmethod
    def build(self, params: Iterable[Any]) -> Optimizer:
        """Make the optimizer; the fused kernel is used where the device has one.

        Args:
            params: Parameters or parameter groups, as any torch optimizer takes them; groups where ``decay_on`` leaves
                something out.

        Raises:
            HyperparameterError: ``decay_on`` leaves something out, but ``params`` are no groups.
        """


@dataclass(frozen=True, kw_only=True)
class SGDConfig(OptimizerConfig):
    """``torch.optim.SGD``: weight decay is added to the gradient."""

    name: ClassVar[str] = "sgd"

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.momentum(self.momentum)
        if _checks.flag("nesterov", self.nesterov) and self.momentum == 0:
            raise HyperparameterError("nesterov is True but momentum is 0; set momentum (0.9), or nesterov to False")

    def build(self, params: Iterable[Any]) -> torch.optim.SGD:
        """Make the optimizer."""
        params = self._given(params)
        return torch.optim.SGD(
            params,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=_fused(params),
        )


@dataclass(frozen=True, kw_only=True)
class SGDWConfig(OptimizerConfig):
    """:class:`~supermask.optim.SGDW`: weight decay is taken off directly, not multiplied by the learning rate."""

    name: ClassVar[str] = "sgdw"

    momentum: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.decoupled_decay(self.weight_decay)
        _checks.momentum(self.momentum)
        _checks.flag("nesterov", self.nesterov)

    def build(self, params: Iterable[Any]) -> SGDW:
        """Make the optimizer."""
        params = self._given(params)
        return SGDW(params, self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class AdamConfig(OptimizerConfig):
    """``torch.optim.Adam``: weight decay is added to the gradient."""

    name: ClassVar[str] = "adam"

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.betas, list | tuple) or len(self.betas) != 2:
            raise HyperparameterError(f"betas must be two numbers in [0, 1), got {self.betas!r}; (0.9, 0.999) is usual")
        for beta in self.betas:
            _checks.real("betas", beta, least=0.0, below=1.0, hint="two numbers in [0, 1) (0.9 and 0.999 are usual)")
        object.__setattr__(self, "betas", tuple(self.betas))
        _checks.real("eps", self.eps, above=0.0, hint="a number > 0 (1e-8 is usual)")

    def build(self, params: Iterable[Any]) -> Optimizer:
        """Make the optimizer."""
        params = self._given(params)
        return torch.optim.Adam(params, **self._options(), fused=_fused(params))


@dataclass(frozen=True, kw_only=True)
class AdamWConfig(AdamConfig):
    """``torch.optim.AdamW``: each step takes off lr * weight_decay."""

    name: ClassVar[str] = "adamw"

    weight_decay: float = 0.01

    def build(self, params: Iterable[Any]) -> torch.optim.AdamW:
        """Make the optimizer."""
        params = self._given(params)
        return torch.optim.AdamW(params, **self._options(), fused=_fused(params))


@dataclass(frozen=True, kw_only=True)
class AMSGradConfig(AdamConfig):
    """``torch.optim.Adam`` with ``amsgrad``: divides by the largest second moment so far."""

    name: ClassVar[str] = "amsgrad"

    def build(self, params: Iterable[Any]) -> torch.optim.Adam:
        """Make the optimizer."""
        params = self._given(params)
        return torch.optim.Adam(params, **self._options(), amsgrad=True, fused=_fused(params))


@dataclass(frozen=True, kw_only=True)
class RAdamConfig(AdamConfig):
    """``torch.optim.RAdam``: Adam that begins without its second moment, until enough of it is known. Never fused."""

    name: ClassVar[str] = "radam"

    def build(self, params: Iterable[Any]) -> torch.optim.RAdam:
        """Make the optimizer."""
        return torch.optim.RAdam(self._given(params), **self._options())


@dataclass(frozen=True, kw_only=True)
class AdagradConfig(OptimizerConfig):
    """``torch.optim.Adagrad``: divides by the root of the sum of all squared gradients."""

    name: ClassVar[str] = "adagrad"

    lr: float = 0.01
    eps: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.real("eps", self.eps, above=0.0, hint="a number > 0 (1e-10 is usual)")

    def build(self, params: Iterable[Any]) -> torch.optim.Adagrad:
        """Make the optimizer."""
        params = self._given(params)
        return torch.optim.Adagrad(params, **self._options(), fused=_fused(params))


OPTIMIZERS: Final[dict[str, type[OptimizerConfig]]] = {
    config.name: config
    for config in (SGDConfig, SGDWConfig, AdamConfig, AdamWConfig, AMSGradConfig, RAdamConfig, AdagradConfig)
}


def build_optimizer(name: str, params: Iterable[Any], **options: Any) -> Optimizer:
    """Make an optimizer by name.

    Args:
        name: ``sgd``, ``sgdw``, ``adam``, ``adamw``, ``amsgrad``, ``radam`` or ``adagrad``.
        params: Parameters or parameter groups.
        **options: Fields of the dataclass of that name, see :data:`OPTIMIZERS`.

    Raises:
        ConfigError: Unknown name, unknown option, or an option that must be given is not.
        HyperparameterError: A value is out of range.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"there is no optimizer {name!r}; {_suggest(name, list(OPTIMIZERS))}")
    config = OPTIMIZERS[name]
    fields = [field.name for field in dataclasses.fields(config)]
    for option in options:
        if option not in fields:
            raise ConfigError(f"{name} has no option {option!r}; {_suggest(option, fields)}")
    for field in dataclasses.fields(config):
        if field.default is dataclasses.MISSING and field.name not in options:
            raise ConfigError(f"{name} needs the option {field.name}; it has no default")
    return config(**options).build(params)


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(str(word), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _fused(params: list[Any]) -> bool | None:
    return True if can_fuse(params) else None
