"""A mask found elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from supermask.core.arrays import check_shapes
from supermask.core.masks import Masks
from supermask.core.method import Method
from supermask.core.registry import register
from supermask.core.sparsifier import Sparsifier
from supermask.core.targets import find_targets
from supermask.errors import HyperparameterError, MaskError


@register
@dataclass(frozen=True, kw_only=True)
class FixedMask(Method):
    """A mask found elsewhere: from a file, from ``torch.nn.utils.prune``, or from another run.

    Update: ``weight = dense * mask`` with the given mask; the weights that remain are trained. Where the mask is signed,
    entries of -1 invert the initial weight first.

    **Source:** none; masks from ``torch.nn.utils.prune`` come through ``Masks.from_prune(model)``.

    **Differs:** none.

    **Cost:** a step takes the product of weight and mask more: about a tenth of a dense step of the FCN at batch 128.
    Memory: 1 byte a weight.

    Args:
        file: A ``.safetensors`` or ``.npz`` file of bool or {-1, 0, 1} arrays named like the targets.
        masks: The same as an object (a :class:`~supermask.core.masks.Masks`, or name -> bool tensor), for use from Python.

    Raises:
        HyperparameterError: Not exactly one of ``file`` and ``masks`` is given.
    """

    name: ClassVar[str] = "fixed-mask"

    file: str | None = field(default=None, metadata={"file": True})
    masks: Mapping[str, Any] | None = field(default=None, compare=False, repr=False, metadata={"config": False})

    def __post_init__(self) -> None:
        if (self.file is None) == (self.masks is None):
            raise HyperparameterError(f"{self.name}: give exactly one of file (a path) and masks (an object)")
        if self.file is not None and not isinstance(self.file, str):
            raise HyperparameterError(f"{self.name}: file must be a path as text, got {self.file!r}")
        if self.masks is not None and not isinstance(self.masks, Mapping):
            raise HyperparameterError(
                f"{self.name}: masks must map names to bool tensors, got {type(self.masks).__name__}"
            )

    @classmethod
    def examples(cls, model: nn.Module) -> tuple[Self, ...]:
        """Every second weight of the model's default targets."""
        masks = {}
        for target in find_targets(model):
            mask = target.mask
            mask.view(-1)[::2] = False
            masks[target.name] = mask
        return (cls(masks=Masks(masks)),)

    def setup(self, s: Sparsifier) -> None:
        """Check names and shapes, invert where the mask says so, install."""
        masks = Masks.load(self.file) if self.file is not None else self.masks
        assert masks is not None
        masks = masks if isinstance(masks, Masks) else Masks(masks)
        check_shapes(masks, {target.name: target.shape for target in s.targets}, "masks")
        if masks.remaining() == 0:
            raise MaskError("the mask hides every weight: nothing would remain to train")
        for target in s.targets:
            if target.name in masks.signed:
                inverted: Tensor = masks.signed[target.name].sign_mask < 0
                target.parameter[inverted.to(target.parameter.device)] *= -1
            s.install_mask(target, masks[target.name].to(target.parameter.device))
