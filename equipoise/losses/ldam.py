"""Label-distribution-aware margins."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from equipoise.losses import base
from equipoise.losses.base import ClassVector
from equipoise.losses.class_ids import (
    ClassLoss,
    ClassOptions,
    check_targets,
    log_odds_against,
    reduce,
    softmax_loss,
)


def ldam_margins(counts: ClassVector, max_margin: float = 0.5) -> Tensor:
    """Margins `m_c ∝ n_c^(−1/4)`, `(C,)`, scaled so that the largest is `max_margin`.

    Args:
        counts: `(C,)` class counts. A class without examples counts as having one.
        max_margin: the margin of the rarest class, ≥ 0.

    Example:
        >>> ldam_margins([10000, 625, 0])
        tensor([0.0500, 0.1000, 0.5000])
    """
    base.check_number("max_margin", max_margin, 0.0)
    margins = base.class_counts("counts", counts).pow(-0.25)
    return margins * (max_margin / margins.max())


def ldam(
    logits: Tensor,
    targets: Tensor,
    margins: Tensor,
    scale: float = 30.0,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of `s·(z − m_y e_y)`: the true class has to win by its margin.

    Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss" (2019).
    The margins are on the scale of cosines: the last layer must be normalised
    (`CosineClassifier(…, scale=1)`), so that logits lie in [−1, 1]; with free logits a net outgrows
    them.

    `margins`, `(C,)`, are those of `ldam_margins`; the other arguments are explained at `LDAM` and
    `ClassLoss`.

    Example:
        >>> import torch
        >>> ldam(torch.tensor([[0.2, 0.9]]), torch.tensor([1]), ldam_margins([1000, 10]))
        tensor(0.0025)
    """
    base.check_reduction(reduction)
    base.check_number("scale", scale, 1e-6)
    targets = check_targets(logits, targets)
    weight = base.per_class("weight", weight, logits)
    lead = -scale * base.per_class("margins", margins, logits)
    if targets.is_floating_point():
        # log(1 + Σ_{j≠c} exp(s z_j) / exp(s z_c − s m_c)) is a softplus of log-odds and margin.
        z = scale * logits.to(targets.dtype)
        value = F.softplus(log_odds_against(z) - base.along_classes(lead, z), threshold=50.0)
        value = value * (targets if weight is None else targets * base.along_classes(weight, z))
        return reduce(value.sum(1), targets, ignore_index, reduction)

    def adjust(z: Tensor, y: Tensor) -> Tensor:
        y = y.unsqueeze(1)
        return (scale * z).scatter_add_(1, y, lead.take(y))

    return softmax_loss(
        logits,
        targets,
        adjust,
        factor=scale,
        by_target=True,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )


class LDAM(ClassLoss):
    """Cross-entropy of `s·(z − m_y e_y)`, with margins from class counts; see the function.

    The paper trains without class weights first and with them in the last epochs (DRW, deferred
    re-weighting). Within a `Balancer` that is a matter of its policy, for this loss and any other;
    without one, call `set_log_weight` when the time has come.

    Args:
        counts: `(C,)` class counts. A class without examples counts as having one.
        max_margin: the margin of the rarest class, ≥ 0.
        scale: s > 0, which makes up for the short range of cosines.
        weight: `(C,)` weights ≥ 0 by true class.
        log_weight: λ, `(C,)`: the weights are multiplied by `exp(λ)` of the true class.
        options: see `ClassLoss`.

    Example:
        >>> import torch
        >>> from equipoise.losses import CosineClassifier
        >>> layer, loss = CosineClassifier(16, 2, scale=1.0), LDAM([1000, 10])
        >>> loss(layer(torch.randn(4, 16)), torch.tensor([0, 0, 0, 1])).shape
        torch.Size([])
    """

    margins: Tensor
    weight: Tensor | None

    def __init__(
        self,
        counts: ClassVector,
        max_margin: float = 0.5,
        scale: float = 30.0,
        weight: ClassVector | None = None,
        **options: Unpack[ClassOptions],
    ) -> None:
        super().__init__(**options)
        self.max_margin = base.check_number("max_margin", max_margin, 0.0)
        self.scale = base.check_number("scale", scale, 1e-6)
        self.register_buffer("margins", ldam_margins(counts, max_margin))
        self.register_buffer("weight", base.class_vector("weight", weight, minimum=0.0))

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        weight, options = self._scaled(self.weight), self._options(reduction)
        return ldam(logits, targets, self.margins, self.scale, weight, **options)

    def correct(self, logits: Tensor) -> Tensor:
        """`s·z − log(w exp λ)`. The margins cannot be undone: they depend on the true class.

        With margins of zero the answer is exact; otherwise the log-posterior is only as good as
        the margins are small against the differences of cosines.
        """
        logits = self.scale * base.upcast(logits)
        return base.less_log(logits, self._scaled(self.weight))
