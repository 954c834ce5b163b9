"""What the losses for class ids share: targets, means, and the softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses.base import (
    ClassVector,
    Loss,
    along_classes,
    at_least_float32,
    check_logits,
    upcast,
)
from equipoise.losses.engine import LOG2_E, is_large, may_look, rows_in_a_chunk, worked_out

LEAST_POWER = -100.0  # of 2, below which a share of a softmax is 0: denormal numbers are slow

Adjust = Callable[[Tensor, Tensor], Tensor]
"""(logits of some rows, their targets, 0 for ignored ids) -> adjusted logits, a new tensor."""


class ClassOptions(TypedDict, total=False):
    """What every `ClassLoss` takes beside its own arguments."""

    ignore_index: int
    log_weight: ClassVector | None
    reduction: str


class ClassLoss(Loss):
    """A loss of class ids or class probabilities, over two or more dimensions.

    What holds for all of them and for their functions: logits are `(B, C)` or `(B, C, d1, …)`, of
    any floating dtype. Targets are class ids, `(B,)` or `(B, d1, …)`, or class probabilities of the
    logits' shape (mixup, CutMix, distillation). With probabilities q the loss of an element is
    `Σ_c q_c · (its loss if the class is c)`, so a mix of two targets costs the mix of their losses.
    Class weights, whose mean is not divided out, scale the element of their class.

    Ids equal to `ignore_index` are left out of value, gradient and what a mean divides by; a batch
    without any other has a mean of 0 (torch's is NaN) and no gradient. Answers are of at least
    float32: a scalar, or one loss an element for `reduction="none"`. Only logits receive a
    gradient. A `TypeError` is raised where logits are not floating point or targets neither ids nor
    probabilities, a `ValueError` where shapes do not agree or an option is out of range.

    Args:
        ignore_index: the class id that stands for "not counted".
        log_weight: λ, `(C,)`.
        reduction: `"mean"` over the elements counted, `"sum"` or `"none"`.
    """

    def __init__(
        self,
        *,
        ignore_index: int = -100,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.ignore_index = int(ignore_index)

    def _options(self, reduction: str) -> dict[str, Any]:
        """What every function of class ids is given."""
        return {"ignore_index": self.ignore_index, "reduction": reduction}

    def counted(self, targets: Tensor) -> Tensor:
        """Where ids are not `ignore_index`; everything, for probabilities."""
        if targets.is_floating_point():
            return torch.ones_like(targets.select(1, 0), dtype=torch.bool)
        return targets != self.ignore_index


def check_targets(logits: Tensor, targets: Tensor) -> Tensor:
    """Class ids as int64, or probabilities in the dtype to compute in. Looks at no values."""
    check_logits(logits)
    if logits.ndim == 2 and targets.dtype == torch.int64 and targets.shape == logits.shape[:1]:
        return targets  # nearly always
    if targets.is_floating_point() and targets.shape == logits.shape:
        return targets.detach().to(at_least_float32(logits.dtype))
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise TypeError(
            "Expected targets to be integer class ids, or probabilities of the logits' shape "
            f"{tuple(logits.shape)}, but got {targets.dtype} of shape {tuple(targets.shape)}"
        )
    expected = logits.shape[:1] + logits.shape[2:]
    if targets.shape != expected:
        raise ValueError(
            f"Expected targets to be of shape {tuple(expected)}, but got {tuple(targets.shape)}"
        )
    return targets.long()


def softmax_loss(
    logits: Tensor,
    targets: Tensor,
    adjust: Adjust,
    *,
    factor: Tensor | float = 1.0,
    by_target: bool = False,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    """Reduced cross-entropy of adjusted logits, `−w_y log softmax(adjust(z))_y`.

    `adjust` works row by row; `factor` is its slope, by class `(C,)` or one for all; `by_target`
    says that it looks at the targets (from `check_targets`), so that ignored ones must be class
    ids.
    """
    ids = not targets.is_floating_point()
    if ids and is_large(logits) and num_counted(targets, ignore_index) == len(targets):
        values = worked_out(
            logits,
            lambda keep: _value_and_slopes(logits, targets, adjust, factor, keep),
            lambda z: F.cross_entropy(adjust(upcast(z), targets), targets, reduction="none"),
        )
        values = values if weight is None else values * weight[targets]
        return reduce(values, targets, ignore_index, reduction)
    known = targets
    if by_target and ids:  # a negative id other than `ignore_index` is refused by torch
        known = (
            targets.clamp_min(0) if ignore_index < 0 else targets.where(targets != ignore_index, 0)
        )
    adjusted = adjust(upcast(logits), known)
    return cross_entropy(adjusted, targets, weight, ignore_index, reduction)


def cross_entropy(
    adjusted: Tensor, targets: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
    """torch's cross-entropy, but with means over the number of elements counted."""
    soft = targets.is_floating_point()
    ignored = -100 if soft else ignore_index  # torch refuses others with probabilities
    if reduction != "mean":
        return F.cross_entropy(adjusted, targets, weight, ignore_index=ignored, reduction=reduction)
    if weight is None and (soft or may_look(adjusted)):
        value = F.cross_entropy(adjusted, targets, ignore_index=ignored)
        if soft or not math.isnan(value.item()):  # it is where every target is ignored
            return value
    total = F.cross_entropy(adjusted, targets, weight, ignore_index=ignored, reduction="sum")
    return total / num_counted(targets, ignore_index)


def num_counted(targets: Tensor, ignore_index: int) -> int | Tensor:
    """How many elements are counted, or 1; a number, where no device has to be waited for."""
    if targets.is_floating_point():
        return max(1, targets.numel() // max(1, targets.shape[1]))
    counted = torch.count_nonzero(targets - ignore_index)
    return max(1, int(counted)) if may_look(targets) else counted.clamp_min(1)


def reduce(values: Tensor, targets: Tensor, ignore_index: int, reduction: str) -> Tensor:
    """Mean over what is counted, or sum, or the values themselves, 0 where they are ignored."""
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    counted = num_counted(targets, ignore_index)
    same = isinstance(counted, int) and counted == values.numel()
    return values.mean() if same else values.sum() / counted


def weight_of(targets: Tensor, weight: Tensor | None, ignore_index: int, like: Tensor) -> Tensor:
    """Each element's `Σ_c q_c w_c`: the weight of its class, 0 where it is ignored."""
    if targets.is_floating_point():
        return (targets if weight is None else targets * along_classes(weight, targets)).sum(1)
    counted = targets != ignore_index
    if weight is None:
        return counted.to(like.dtype)
    return weight[targets.where(counted, 0)] * counted


def log_odds_against(z: Tensor) -> Tensor:
    """`log((1 − p_c)/p_c)` of every class, p = softmax(z) over dimension 1.

    1 − p of the largest class is summed over the others, so that nothing cancels.
    """
    top = torch.zeros_like(z, dtype=torch.bool).scatter_(1, z.argmax(1, keepdim=True), True)
    others = z.masked_fill(top, float("-inf")).logsumexp(1, keepdim=True)
    log_p = z.log_softmax(1)
    of_rest = torch.log1p(-log_p.exp().masked_fill(top, 0.0)) - log_p
    return torch.where(top, others - z, of_rest)


def _value_and_slopes(
    logits: Tensor, targets: Tensor, adjust: Adjust, factor: Tensor | float, keep: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The engine's work: losses `(B,)`, their gradients times each row's total, 1/total."""
    dtype = at_least_float32(logits.dtype)
    # In float32 for half precision too: small shares count once a GradScaler multiplies them.
    slopes = logits.new_empty(logits.shape, dtype=dtype) if keep else None
    own = logits.new_empty(logits.shape[0], dtype=dtype)
    total = torch.empty_like(own)
    step = rows_in_a_chunk(logits)
    for first in range(0, logits.shape[0], step):
        rows = slice(first, first + step)
        true = targets[rows].unsqueeze(1)
        power = adjust(logits[rows].to(dtype), targets[rows])
        power.sub_(power.amax(1, keepdim=True)).mul_(LOG2_E)  # exp2 is faster than exp
        own[rows] = power.gather(1, true).squeeze(1)
        torch.threshold_(power, LEAST_POWER, -math.inf)
        share = torch.exp2(power, out=power if slopes is None else slopes[rows])
        total[rows] = share.sum(1)
        if slopes is not None:
            share.scatter_add_(1, true, -total[rows].unsqueeze(1))
            if isinstance(factor, Tensor):
                share *= factor
    scale = total.reciprocal()
    scale = scale if isinstance(factor, Tensor) else scale.mul_(factor)
    return total.log2_().sub_(own).div_(LOG2_E), slopes, scale
