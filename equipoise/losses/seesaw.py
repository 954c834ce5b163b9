"""Seesaw loss: rare classes are punished less as negatives, unless they were mistaken for true."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from equipoise.losses import base
from equipoise.losses.base import ClassVector
from equipoise.losses.class_ids import ClassLoss, ClassOptions, check_targets, reduce, softmax_loss


def seesaw(
    logits: Tensor,
    targets: Tensor,
    counts: ClassVector,
    p: float = 0.8,
    q: float = 2.0,
    weight: Tensor | None = None,
    *,
    eps: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of `z_j + log M_yj + log C_yj`, weighted by true class.

    `M_yj = min(1, (n_j/n_y)^p)` mitigates the punishment of classes rarer than the true one;
    `C_yj = max(1, (σ_j/σ_y)^q)` restores it where class j was predicted above the true one. Wang
    et al., "Seesaw Loss for Long-Tailed Instance Segmentation" (2021), in log space: the
    ratio of softmax outputs is `exp(z_j − z_y)`, so no softmax and no C×C matrix is needed. No
    gradient flows through C. The counts are those of the data set, not those seen so far.

    The arguments are explained at `Seesaw` and `ClassLoss`; `weight`, `(C,)`, is by true class.
    Class probabilities take C times the memory.

    Example:
        >>> import torch
        >>> seesaw(torch.zeros(2, 2), torch.tensor([0, 1]), [1000, 1], reduction="none")
        tensor([0.0040, 0.6931])
    """
    base.check_reduction(reduction)
    base.check_number("p", p, 0.0)
    base.check_number("q", q, 0.0)
    base.check_number("eps", eps, 0.0, 1.0)
    targets = check_targets(logits, targets)
    n = base.per_class("counts", counts, logits)
    weight = base.per_class("weight", weight, logits)
    if targets.is_floating_point():  # each element once as every class
        classes, shares = logits.shape[1], targets.movedim(1, -1)
        z = logits.movedim(1, -1).reshape(-1, classes).repeat_interleave(classes, 0)
        ids = torch.arange(classes, device=logits.device).repeat(len(z) // classes)
        values = seesaw(z, ids, counts, p, q, weight, eps=eps, reduction="none")
        values = (values.view(shares.shape) * shares).sum(-1)
        return reduce(values, targets, ignore_index, reduction)
    scaled = p * n.where(n > 0, 1.0).log()

    def adjust(z: Tensor, y: Tensor) -> Tensor:
        y = y.unsqueeze(1)
        # log M is scaled_j − scaled_y at most 0; less than that by scaled_y, the same in a row.
        log_m = torch.minimum(base.along_classes(scaled, z), scaled.take(y))
        fixed = z.detach()
        own = fixed.gather(1, y)
        if eps > 0.0:
            own = torch.maximum(own, fixed.logsumexp(1, keepdim=True) + math.log(eps))
        log_c = (fixed - own).clamp_min_(0)
        return log_m.add_(log_c, alpha=q).add_(z)

    return softmax_loss(
        logits,
        targets,
        adjust,
        by_target=True,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )


class Seesaw(ClassLoss):
    """Cross-entropy of `z_j + log M_yj + log C_yj`, with class counts; see the function.

    Args:
        counts: n, `(C,)` class counts. A class without examples counts as having one.
        p: exponent of the mitigation, ≥ 0.
        q: exponent of the compensation, ≥ 0.
        eps: in C the true class's σ_y counts as at least this; the authors' code has 0.01.
        log_weight: λ, `(C,)`: examples are weighted by `exp(λ)` of their true class.
        options: see `ClassLoss`.

    Example:
        >>> import torch
        >>> loss = Seesaw([1000, 1], reduction="none")
        >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor([0.0040, 0.6931])
    """

    counts: Tensor

    def __init__(
        self,
        counts: ClassVector,
        p: float = 0.8,
        q: float = 2.0,
        *,
        eps: float = 0.0,
        **options: Unpack[ClassOptions],
    ) -> None:
        super().__init__(**options)
        self.p = base.check_number("p", p, 0.0)
        self.q = base.check_number("q", q, 0.0)
        self.eps = base.check_number("eps", eps, 0.0, 1.0)
        self.register_buffer("counts", base.class_counts("counts", counts))

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        weight, options = self._scaled(None), self._options(reduction)
        return seesaw(logits, targets, self.counts, self.p, self.q, weight, eps=self.eps, **options)

    def correct(self, logits: Tensor) -> Tensor:
        """`z − λ`. The factors M and C depend on the true class and cannot be undone."""
        return base.less_log(logits, self._scaled(None))
