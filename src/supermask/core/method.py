"""The protocol. Read this file first.

A method is a frozen dataclass: its fields are the hyper-parameters, it holds no state, and it is the ``method`` section
of an experiment file. ``attach`` puts parametrizations on chosen tensors of any module and returns the
:class:`~supermask.core.sparsifier.Sparsifier`, which holds everything that changes. The user's loop stays theirs::

    sparsifier = SignedSupermask().attach(model, seed=0)
    optimizer = torch.optim.SGD(sparsifier.param_groups(), lr=0.05, momentum=0.9)
    sparsifier.bind(optimizer, total_steps=epochs * len(batches))
    ...                                   # the usual training loop, unchanged
    masks = sparsifier.finalize()         # model is a plain module again, with exact zeros
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, final

from torch import Tensor, nn

from supermask.core.arrays import ArrayLike
from supermask.core.budget import Cost, check_feasible, costs_of
from supermask.core.channels import groups_for, structure_for, usual_groups
from supermask.core.groups import ChannelGroup, Structure
from supermask.core.select import promised
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import Pattern, Target, find_targets
from supermask.errors import AttachError, HyperparameterError, UnsupportedModuleError
from supermask.tensors.initializers import Initializer

Status = Literal["experimental", "verified", "explained"]
LossFn = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class Method(abc.ABC):
    """One way to find sparse weights. Subclass it in one file, decorate the class with ``@register``.

    Subclasses set the class variables, validate their fields in ``__post_init__`` (raising
    :class:`~supermask.errors.HyperparameterError`), and implement :meth:`setup` and those hooks they need. Nothing else is
    overridden. Hooks receive the sparsifier and keep their state in it (``s.state``), never in the method.

    Class variables:
        name: Name in experiment files, kebab-case.
        version: Raised when a change alters results, so that old runs are not taken for new ones.
        status: ``verified`` (the paper's number was reached), ``explained`` (missed, with the reason shown), or
            ``experimental``; see ``docs/reproductions.md``.
        redraws: Whether the method has an initialiser of its own and uses it unless told ``weights="keep"``.
        needs_data: Whether :meth:`attach` needs ``data`` and ``loss_fn``.
        needs_structure: Whether the method removes channels, so that :meth:`attach` needs ``structure`` or ``example``; its
            targets are then what makes and scales the channels of :meth:`channel_groups`.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    status: ClassVar[Status] = "experimental"
    redraws: ClassVar[bool] = False
    needs_data: ClassVar[bool] = False
    needs_structure: ClassVar[bool] = False

    @abc.abstractmethod
    def setup(self, s: Sparsifier) -> None:
        """Install parametrizations on ``s.targets``; called once, by :meth:`attach`."""

    def supports(self, model: nn.Module) -> str | None:  # noqa: ARG002
        """None when the method works on this model; otherwise which part it refuses, and why."""
        return None

    def also_targets(self, targets: Sequence[Target]) -> list[str]:  # noqa: ARG002
        """Names of further parameters to act on, for example the biases of the targets' layers; ``ignore`` still holds."""
        return []

    def channel_groups(self, structure: Structure) -> tuple[ChannelGroup, ...]:
        """The groups that the method could act on; by its fields ``residual``, ``inner`` or ``shared``, and ``whole``.

        Only such as can be removed, and whose removed channels reach their readers as zeros.

        Raises:
            AttachError: ``whole`` has a glob that no group of the structure matches.
        """
        return usual_groups(self, structure)

    def penalty(self, s: Sparsifier) -> Tensor | None:  # noqa: ARG002
        """A differentiable scalar whose gradient is added once per optimizer step, or None."""
        return None

    def before_step(self, s: Sparsifier) -> None:  # noqa: B027
        """Gradients are final, weights have not moved yet; runs under ``no_grad``."""

    def after_step(self, s: Sparsifier) -> None:  # noqa: B027
        """Weights have moved, ``s.step`` counts this step already; runs under ``no_grad``."""

    def settle(self, s: Sparsifier) -> None:  # noqa: B027
        """Decide what a round leaves to its end; runs once a round, under ``no_grad``, before the network's last test.

        That is after the last step, or earlier where training ends early. A network that is not trained again must be
        the final one afterwards: :meth:`next_round` comes too late for the test.
        """

    def next_round(self, s: Sparsifier) -> bool:  # noqa: ARG002
        """Between trainings: prune, rewind, and return True to train again."""
        return False

    def first_step(self, s: Sparsifier) -> int:  # noqa: ARG002
        """Steps at the beginning of a further round that are not trained again: a method that rewinds to step k says k."""
        return 0

    def test_draws(self, s: Sparsifier) -> int:  # noqa: ARG002
        """Random masks over which a test is averaged; 1 for methods that draw none."""
        return 1

    def draw(self, s: Sparsifier, index: int) -> None:  # noqa: B027
        """Put on the random masks of one test draw, ``index`` in [0, test_draws); what was on comes back by itself."""

    def promised_density(self) -> float | None:
        """The density that the end of training meets to the single weight: the field ``density``, if there is one."""
        density: float | None = getattr(self, "density", None)
        return density

    def promised_budget(self) -> Mapping[str, float] | None:
        """The budget that the end of training meets, within one channel: the field ``budget``, if there is one."""
        budget: Mapping[str, float] | None = getattr(self, "budget", None)
        return budget

    def results(self, s: Sparsifier) -> dict[str, Tensor]:  # noqa: ARG002
        """Tensors worth keeping beside weights and masks, by name; asked for at the end, before ``finalize``."""
        return {}

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Configurations that the conformance suite runs on a model; the defaults unless overridden with more."""
        return (cls(),)

    @final
    def attach(
        self,
        model: nn.Module,
        *,
        targets: Iterable[Pattern] | Pattern | None = None,
        ignore: Iterable[Pattern] | Pattern = (),
        weights: Literal["redraw", "keep"] | Mapping[str, ArrayLike] | None = None,
        scores: Mapping[str, ArrayLike] | None = None,
        seed: int = 0,
        data: Any = None,
        loss_fn: LossFn | None = None,
        structure: Structure | None = None,
        example: Tensor | None = None,
        costs: Mapping[str, Cost] | None = None,
    ) -> Sparsifier:
        """Put this method on a model, in place. Build the optimizer afterwards.

        Args:
            model: Any module. What is not targeted trains as usual.
            targets: Globs on parameter names, modules or module types; None takes the weights of all Linear,
                convolution, recurrent and attention layers that require a gradient (never embeddings, norms, biases).
            ignore: Globs or modules to leave out, for example ``ignore="fc3"``.
            weights: Initial weights. ``"keep"``: the model's own; ``"redraw"``: from the method's initialiser; a mapping
                from target names to arrays: those. None: what the method does by default.
            scores: Initial scores by target name, relative to the weights; None draws them. Only for methods with scores.
            seed: Integer in [0, 2**63) from which weights, scores and random masks follow.
            data: Batches for methods that score on data.
            loss_fn: ``loss_fn(model, batch) -> scalar`` for methods that score on data.
            structure: The model's channel groups, for methods that remove channels; None: they are found with ``example``.
            example: A batch of inputs to trace the model with; one is enough.
            costs: Further units of a budget, or others in place of the closed forms: unit -> what a choice of channels costs.

        Returns:
            The sparsifier: bind an optimizer to it, train, finalize.

        Raises:
            AttachError: Nothing to act on, an unsupported module, or options that this method does not have.
            MaskError: Names or shapes of ``weights`` or ``scores`` do not fit.
            HyperparameterError: The seed is not an integer in range, or the promised density keeps none of the weights.
            StructureError: The channel groups cannot be found, or are those of another model.
            BudgetError: No choice of channels meets the budget, or the cost of a unit is not known.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise HyperparameterError(f"seed must be an integer in [0, 2**63), got {seed!r}")
        if not isinstance(model, nn.Module):
            raise AttachError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if self.needs_data and (data is None or loss_fn is None):
            raise AttachError(f"{self.name} scores weights on data: attach(model, data=batches, loss_fn=f)")
        if weights is None:
            weights = "redraw" if self.redraws else "keep"
        if weights not in ("redraw", "keep") if isinstance(weights, str) else not isinstance(weights, Mapping):
            raise AttachError(f"weights must be 'redraw', 'keep' or a mapping of arrays, got {weights!r}")
        if weights == "redraw" and not self.redraws:
            raise AttachError(f"{self.name} has no initialiser of its own: use weights='keep' or pass arrays")
        if scores is not None and not isinstance(scores, Mapping):
            raise AttachError(f"scores must be a mapping of arrays, got {type(scores).__name__}")
        if (refusal := self.supports(model)) is not None:
            raise UnsupportedModuleError(f"{self.name} does not support this model: {refusal}")
        structure = structure_for(self, model, structure, example)
        every = {} if structure is None else {**costs_of(structure), **(costs or {})}
        groups: tuple[ChannelGroup, ...] = ()
        if structure is not None and self.needs_structure:
            groups, found = groups_for(self, model, structure, targets, ignore)
            check_feasible(structure, groups, every, getattr(self, "budget", None) or {})
        else:
            found = find_targets(model, targets, ignore)
        if more := self.also_targets(found):
            found = find_targets(model, [*(target.name for target in found), *more], ignore)
        if (density := self.promised_density()) is not None:
            promised(found, density)  # before anything is done: is it a weight at all?
        sparsifier = Sparsifier(self, model, found, seed)
        sparsifier.structure, sparsifier.groups, sparsifier.costs = structure, groups, every
        sparsifier.start(weights, scores, data, loss_fn)
        return sparsifier

    def config(self) -> dict[str, Any]:
        """Name, version and all fields that a file can hold, as plain values."""
        values = {
            field.name: dataclasses.asdict(value) if isinstance(value, Initializer) else value
            for field in dataclasses.fields(self)
            if field.metadata.get("config", True)
            for value in (getattr(self, field.name),)
        }
        return {"name": self.name, "version": self.version, **values}


def check_range(
    method: str, field: str, value: float, low: float, high: float, *, open_low: bool = False, meaning: str = ""
) -> None:
    """Check that a hyper-parameter is a number in a range; the message names the field.

    Raises:
        HyperparameterError: It is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (low < value if open_low else low <= value) and value <= high:
        return
    bounds = f"{'(' if open_low else '['}{low:g}, {high:g}]"
    hint = ""
    if number and field.endswith("density") and 1 < value <= 100:
        hint = f"; did you mean {value / 100:g}?"
    note = f" ({meaning})" if meaning else ""
    raise HyperparameterError(f"{method}: {field} must be a number in {bounds}, got {value!r}{hint}{note}")


def check_density(method: str, value: float, field: str = "density") -> None:
    """Check that a density lies in (0, 1].

    Raises:
        HyperparameterError: It does not; the message says that density is what remains.
    """
    check_range(method, field, value, 0.0, 1.0, open_low=True, meaning="density is the fraction that remains")


def check_count(method: str, field: str, value: object, unit: str, *, least: int = 1) -> None:
    """Check that a hyper-parameter is a whole number that is not below ``least``.

    Raises:
        HyperparameterError: It is not; the message says what is counted.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise HyperparameterError(f"{method}: {field} must be a whole number of {unit} >= {least}, got {value!r}")


def check_idle(method: str, field: str, value: object, default: object, way: str) -> None:
    """Check that a hyper-parameter that other fields leave without effect was not given.

    Raises:
        HyperparameterError: It is not its default; the message says what would make use of it.
    """
    if value != default:
        raise HyperparameterError(f"{method}: {field} is {value!r}, but nothing uses it; {way}, or remove it")


def check_flag(method: str, field: str, value: object) -> None:
    """Check that a hyper-parameter is true or false.

    Raises:
        HyperparameterError: It is not.
    """
    if not isinstance(value, bool):
        raise HyperparameterError(f"{method}: {field} must be true or false, got {value!r}")


def check_initializer(method: str, field: str, value: object) -> None:
    """Check that a hyper-parameter is an :class:`~supermask.tensors.initializers.Initializer`.

    Raises:
        HyperparameterError: It is not.
    """
    if not isinstance(value, Initializer):
        raise HyperparameterError(f"{method}: {field} must be an Initializer, got {value!r}")


def check_globs(method: str, field: str, value: object) -> None:
    """Check that a hyper-parameter is a tuple of globs.

    Raises:
        HyperparameterError: It is not.
    """
    if not isinstance(value, tuple) or not all(isinstance(glob, str) and glob for glob in value):
        raise HyperparameterError(f"{method}: {field} must be a tuple of names or globs, got {value!r}")


def check_choice(method: str, field: str, value: object, choices: tuple[str, ...]) -> None:
    """Check that a hyper-parameter is one of some words.

    Raises:
        HyperparameterError: It is not.
    """
    if value not in choices:
        raise HyperparameterError(f"{method}: {field} must be one of {', '.join(choices)}; got {value!r}")
