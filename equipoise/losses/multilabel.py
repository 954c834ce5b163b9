"""What the multilabel losses share: targets, unknown entries, means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import torch
from torch import Tensor

from equipoise.losses.base import (
    ClassVector,
    Loss,
    at_least_float32,
    check_logits,
    check_number,
    upcast,
)
from equipoise.losses.engine import is_large
from equipoise.losses.pointwise import Terms, find_positives, pointwise


class LabelOptions(TypedDict, total=False):
    """What every `LabelLoss` takes beside its own arguments."""

    unknown: float | None
    log_weight: ClassVector | None
    reduction: str
    fused: bool


class LabelLoss(Loss):
    """A loss of several labels an example.

    What holds for all of them and for their functions: logits are `(B, C)`, of any floating dtype.
    Targets are `(B, C)` labels in [0, 1] of any dtype, dense or sparse CSR. A label between 0 and 1
    costs that much of what a positive costs and the rest of what a negative costs. Values outside
    are taken for the nearer end, without a look at them.

    Entries that are not known, marked by a value of their own such as −1 or, in the functions, by a
    boolean `(B, C)` mask, are left out of value, gradient and what a mean divides by. Answers are
    of at least float32: a scalar, or `(B, C)` for `reduction="none"`. Only logits receive a
    gradient. A `TypeError` is raised where logits are not floating point or targets are sparse but
    not CSR, a `ValueError` where shapes do not agree, an option is out of range or `fused` cannot
    be had.

    Args:
        unknown: the value, outside [0, 1], that marks entries to leave out; `None` counts all.
        log_weight: λ, `(C,)`, which weights the positives of a label by `exp(λ)`.
        reduction: `"mean"` over the elements counted, `"sum"` or `"none"`.
        fused: one Triton kernel for value and gradient, on CUDA; not yet run on a GPU: see
            `equipoise.losses.fused`.
    """

    multilabel = True

    def __init__(
        self,
        *,
        unknown: float | None = None,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
        fused: bool = False,
    ) -> None:
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.unknown = check_unknown(unknown)
        self.fused = bool(fused)
        if fused:
            from equipoise.losses.fused import check_triton

            check_triton()

    def _options(self, reduction: str) -> dict[str, Any]:
        """What every function of labels is given."""
        return {"unknown": self.unknown, "reduction": reduction, "fused": self.fused}

    def counted(self, targets: Tensor) -> Tensor:
        """Where labels are not `unknown`."""
        return known_labels(targets, self.unknown)


def check_unknown(value: float | None) -> float | None:
    """`value`, if it is none or cannot be taken for a label."""
    if value is None or value != value:
        return value
    if 0.0 <= check_number("unknown", value, float("-inf")) <= 1.0:
        raise ValueError(
            f"Expected unknown to be a number outside [0, 1], such as -1, or NaN, but got {value!r}"
        )
    return value


def known_labels(targets: Tensor, unknown: float | Tensor | None) -> Tensor:
    """Where labels count, a boolean `(B, C)`."""
    if isinstance(unknown, Tensor):
        if unknown.dtype != torch.bool or unknown.shape != targets.shape:
            raise ValueError(
                f"Expected unknown to be a number or a boolean mask of shape "
                f"{tuple(targets.shape)}, but got {unknown.dtype} of shape {tuple(unknown.shape)}"
            )
        return ~unknown
    if targets.layout != torch.strided:
        targets = targets.to_dense()
    if unknown is None:
        return torch.ones_like(targets, dtype=torch.bool)
    return ~targets.isnan() if unknown != unknown else targets != unknown


def check_labels(logits: Tensor, targets: Tensor) -> None:
    """Raise unless targets are of the logits' shape `(B, C)`. Looks at no values."""
    check_logits(logits)
    if logits.ndim != 2:
        raise ValueError(f"Expected logits to be of shape (B, C), but got {tuple(logits.shape)}")
    if targets.shape != logits.shape:
        raise ValueError(
            f"Expected targets to be of shape {tuple(logits.shape)}, as the logits, "
            f"but got {tuple(targets.shape)}"
        )
    if targets.layout not in (torch.strided, torch.sparse_csr):
        raise TypeError(f"Expected targets to be dense or sparse CSR, but got {targets.layout}")


def as_labels(targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Dense labels in [0, 1]."""
    if targets.layout != torch.strided:
        targets = targets.to_dense()
    if targets.dtype != torch.bool:
        targets = (targets.detach() if targets.requires_grad else targets).clamp(0, 1)
    return targets if targets.dtype == dtype else targets.to(dtype)


def label_loss(
    logits: Tensor,
    targets: Tensor,
    elements: Callable[[Tensor, Tensor], Tensor],
    terms: Callable[[], Terms] | None = None,
    *,
    unknown: float | Tensor | None,
    reduction: str,
    fused: bool = False,
    sooner: int = 0,
) -> Tensor:
    """Reduced loss of labels, by its definition or, where it is faster, by the engine.

    `elements`, from logits and dense labels to losses `(B, C)`, is the definition, in torch's
    operations. `terms` makes the same for the engine and the kernel, of a loss that can be written
    so. The more operations there are, the `sooner` the engine is faster: see `is_large`.
    """
    dtype = at_least_float32(logits.dtype)

    def plain(logits: Tensor) -> Tensor:
        z, y = upcast(logits), as_labels(targets, dtype)
        known = None if unknown is None else known_labels(targets, unknown)
        values = elements(z, y if known is None else y.where(known, 0.0))
        values = values if known is None else values.where(known, 0.0)
        if reduction == "none":
            return values
        if reduction == "mean" and known is None and values.numel():
            return values.mean()
        counted = 1 if known is None or reduction == "sum" else known.sum().clamp_min(1)
        return values.sum() / counted

    fused = fused and logits.numel() > 0 and not torch.compiler.is_compiling()
    if fused and unknown is not None:
        raise ValueError("Expected fused to be False with unknown entries, but got True")
    found = None
    if terms and not fused and unknown is None and is_large(logits, sooner):
        found = find_positives(targets)
    if terms is None or (not fused and found is None):
        return plain(logits)
    parts = terms()
    if reduction == "mean":
        parts.scale /= logits.numel()
    if found is not None:
        return pointwise(logits, found, parts, reduction, plain)
    from equipoise.losses.fused import fused_pointwise

    return fused_pointwise(logits, targets, parts, reduction)
