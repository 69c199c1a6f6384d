"""What a sparsifier says: the table of ``summary``, and what its user should hear of before and after training."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from supermask.core.budget import fractions, meets
from supermask.core.gates import Gated
from supermask.core.masks import Masks
from supermask.core.parametrizations import Masked, Scored
from supermask.tensors.topk import keep_count

if TYPE_CHECKING:
    from supermask.core.sparsifier import Sparsifier
    from supermask.core.targets import Target


def describe(s: Sparsifier) -> str:
    """Every parameter of the model in one table: shape, count, role, and why."""
    rows = [("parameter", "shape", "weights", "remaining", "role")]
    targeted: dict[str, Target] = {site.name: target for target in s.targets for site in target.sites}
    seen: set[str] = set()
    names = [*targeted]
    ours = {id(target.parameter) for target in s.targets}
    names += [name for name, parameter in s.model.named_parameters() if id(parameter) not in ours]
    gates = {id(gate.m): name for name, gate in s.gates.items()}
    by_method = {id(parameter) for parameters in s.frozen_norms.values() for parameter in parameters}
    total = trained = 0
    for name in names:
        target = targeted.get(name)
        if target is None:
            parameter = s.model.get_parameter(name)
            total += parameter.numel()
            trained += parameter.numel() if parameter.requires_grad else 0
            role = "not targeted, trained as usual" if parameter.requires_grad else "not targeted, frozen"
            if id(parameter) in gates:
                name, role = f"gates of {gates[id(parameter)]}", "learnt" if parameter.requires_grad else "settled"
            if id(parameter) in by_method:
                role = f"not targeted, frozen by {s.method.name} (batch norm)"
            rows.append((name, _shape(parameter.shape), f"{parameter.numel():,}", "", role))
        elif target.name in seen:
            rows.append((name, _shape(target.shape), "", "", f"tied to {target.name}"))
        else:
            seen.add(target.name)
            total += target.size
            trained += target.size if target.parameter.requires_grad else 0
            share = f"{100 * int(target.mask.sum()) / target.size:.2f} %"
            rows.append((name, _shape(target.shape), f"{target.size:,}", share, _role(target)))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}  {e}".rstrip()
        for a, b, c, d, e in rows
    ]
    size = sum(target.size for target in s.targets)
    lines.append(
        f"{s.method.name}, seed {s.seed}: {size:,} of {total:,} parameters targeted, {s.remaining():,} remain "
        f"({100 * s.density():.2f} %); {trained:,} trained values"
    )
    return "\n".join(lines + [f"note: {text}" for text in s.notes])


def note_empty_layers(s: Sparsifier, when: str) -> None:
    """Note every layer that no weight remains of: it passes nothing on.

    Vectors may end like this, and masks that are only tracked may begin like this.

    Args:
        s: The sparsifier.
        when: End of the note.
    """
    for target in s.targets:
        installed = target.parametrization
        tracked = isinstance(installed, Masked) and not installed.applied
        if len(target.shape) > 1 and not tracked and not bool(target.mask.any()):
            s.note(f"no weight of {target.name} remains {when}")


def warn_of_a_broken_promise(s: Sparsifier, masks: Masks) -> None:
    """Warn of a promised density or budget that was not met; the warning points at the caller of ``finalize``."""
    if broken := _broken_promise(s, masks):
        bound = "no optimizer was bound" if s.total_steps is None else f"step {s.step} of {s.total_steps} is done"
        warnings.warn(
            f"{s.method.name} promises {broken}: {bound}, and its schedule acts during training; bind() the optimizer and "
            "train to the end, every round of rounds()",
            stacklevel=3,
        )


def _broken_promise(s: Sparsifier, masks: Masks) -> str:
    """What was promised and what is, in words; empty when the promise is kept."""
    density, budget = s.method.promised_density(), s.method.promised_budget()
    if density is not None and masks.remaining() != keep_count(density, masks.total()):
        return f"density {density}, but {100 * masks.density():.2f} % of the weights remain"
    if budget is not None:
        used = fractions({unit: s.costs[unit] for unit in budget}, s.channels())
        if over := [unit for unit, limit in budget.items() if not meets(used[unit], limit)]:
            promised = ", ".join(f"{unit}: {budget[unit]:g}" for unit in over)
            return f"budget {promised}, but {', '.join(f'{used[unit]:.4f} of the {unit}' for unit in over)} are used"
    return ""


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _role(target: Target) -> str:
    installed = target.parametrization
    origin = "redrawn" if target.redrawn else "kept"
    if isinstance(installed, Scored) and installed.released:
        return f"targeted: weight {origin} and trained, mask fixed"
    if isinstance(installed, Scored):
        return f"targeted: weight {origin} and frozen, score trained"
    state = "trained" if target.parameter.requires_grad else "frozen"
    if isinstance(installed, Masked):
        return f"targeted: weight {origin} and {state}, mask {'applied' if installed.applied else 'tracked'}"
    if isinstance(installed, Gated):
        return f"targeted: weight {origin} and {state}, {'gated' if installed.scales else 'loses what gates remove'}"
    return f"targeted: weight {origin} and {state}, no mask"
