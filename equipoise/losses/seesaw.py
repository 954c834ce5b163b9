"""Seesaw loss: rare classes are punished less as negatives, unless they were mistaken for true."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.losses.base import (
    ClassVector,
    Loss,
    at_least_float32,
    check_number,
    check_per_class,
    check_reduction,
    check_single_label,
    class_counts,
    reduce,
    weighted,
)
from equipoise.losses.cross_entropy import adjusted_cross_entropy


def seesaw(
    logits: Tensor,
    targets: Tensor,
    log_counts: Tensor,
    p: float = 0.8,
    q: float = 2.0,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of ``z_j + log M_yj + log C_yj``, weighted by true class.

    ``M_yj = min(1, (n_j/n_y)^p)`` mitigates the punishment of classes rarer than the true one;
    ``C_yj = max(1, (σ_j/σ_y)^q)`` restores it where class j was predicted above the true one. Wang
    et al., "Seesaw Loss for Long-Tailed Instance Segmentation" (2021), in log space: the
    ratio of softmax outputs is ``exp(z_j − z_y)``, so no softmax and no C×C matrix is needed. No
    gradient flows through C. The counts are those of the data set, not those seen so far.

    Args:
        logits: ``(B, C)``, any floating dtype.
        targets: ``(B,)`` integer class ids.
        log_counts: ``(C,)``, log n up to a constant.
        p: exponent of the mitigation, ≥ 0.
        q: exponent of the compensation, ≥ 0.
        weight: ``(C,)`` weights ≥ 0 by true class.
        reduction: ``"mean"`` over the B examples, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or ``(B,)`` for ``"none"``. dtypes: see ``equipoise.losses.base``. Only logits
        receive a gradient.

    Raises:
        TypeError: If logits are not floating point or targets are not integers.
        ValueError: If shapes do not agree or ``reduction`` is unknown.

    Example:
        >>> import torch
        >>> log_counts = torch.tensor([1000.0, 1.0]).log()
        >>> seesaw(torch.zeros(2, 2), torch.tensor([0, 1]), log_counts, reduction="none")
        tensor([0.0040, 0.6931])
    """
    check_reduction(reduction)
    targets = check_single_label(logits, targets)
    check_per_class("log_counts", log_counts, logits)
    check_per_class("weight", weight, logits)
    dtype = at_least_float32(logits.dtype)
    log_counts = log_counts.detach().to(dtype)
    scaled = p * (log_counts - log_counts.mean())

    def adjust(z: Tensor, y: Tensor) -> Tensor:
        # log M is scaled_j − scaled_y at most 0; less than that by scaled_y, the same in a row.
        log_m = torch.minimum(scaled, scaled[y].unsqueeze(1))
        fixed = z.detach()
        log_c = (fixed - fixed.gather(1, y.unsqueeze(1))).clamp_min_(0)
        return log_m.add_(log_c, alpha=q).add_(z)

    per_example = adjusted_cross_entropy(logits, targets, adjust)
    return reduce(weighted(per_example, targets, weight), reduction, logits.dtype)


class Seesaw(Loss):
    """Cross-entropy of ``z_j + log M_yj + log C_yj``, with class counts; see the function.

    Args:
        counts: ``(C,)`` class counts. A class without examples counts as having one.
        p: exponent of the mitigation, ≥ 0.
        q: exponent of the compensation, ≥ 0.
        log_weight: λ, ``(C,)``: examples are weighted by ``exp(λ)`` of their true class.
        reduction: the mean is over the B examples.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> loss = Seesaw([1000, 1], reduction="none")
        >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor([0.0040, 0.6931])
    """

    log_counts: Tensor

    def __init__(
        self,
        counts: ClassVector,
        p: float = 0.8,
        q: float = 2.0,
        *,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.p = check_number("p", p, 0.0)
        self.q = check_number("q", q, 0.0)
        self.register_buffer("log_counts", class_counts("counts", counts).log())

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        weight = self._scaled(None)
        return seesaw(logits, targets, self.log_counts, self.p, self.q, weight, reduction=reduction)

    def correct(self, logits: Tensor) -> Tensor:
        """``z − λ``. The factors M and C depend on the true class and cannot be undone."""
        return logits if self.log_weight is None else logits - self.log_weight
