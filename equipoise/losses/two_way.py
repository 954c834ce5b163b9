"""Two-way loss: positives against negatives, within each example and within each label."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from equipoise.losses import base
from equipoise.losses.base import ClassVector
from equipoise.losses.engine import is_large
from equipoise.losses.multilabel import LabelLoss, as_labels, check_labels, known_labels
from equipoise.losses.two_way_engine import two_way_by_sums

REDUCTIONS = ("mean", "sum")
NOTHING = -1e30  # the logarithm of what is not there


def two_way_loss(
    logits: Tensor,
    targets: Tensor,
    positive_temperature: float = 4.0,
    negative_temperature: float = 1.0,
    log_weight: Tensor | None = None,
    *,
    example_weight: Tensor | None = None,
    unknown: float | Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Soft margin between a group's positives and its negatives; groups are rows and columns.

    Kobayashi, "Two-Way Multi-Label Loss" (2023)::

        softplus( T_n log Σ (1−y) exp(z/T_n) + T_p log Σ y exp(λ_c − z/T_p) )

    over each example's labels, and over each label's examples in the batch. Groups without
    positives are left out; a group without negatives costs nothing.

    The arguments are explained at `TwoWayLoss` and `LabelLoss`. A label between 0 and 1 is that
    much of a positive, and the rest of a negative. `example_weight`, `(B,)`: an example of weight w
    counts as w of them, in the sum over examples and within each label's group.

    Example:
        >>> import torch
        >>> two_way_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        tensor(0.6931)
    """
    base.check_choice("reduction", reduction, REDUCTIONS)
    t_p = base.check_number("positive_temperature", positive_temperature, 1e-6)
    t_n = base.check_number("negative_temperature", negative_temperature, 1e-6)
    check_labels(logits, targets)
    lift = base.per_class("log_weight", log_weight, logits)
    if example_weight is not None and example_weight.shape != logits.shape[:1]:
        raise ValueError(
            f"Expected the weight of examples to be of shape ({logits.shape[0]},), as the two-way "
            f"loss compares the elements with each other, but got {tuple(example_weight.shape)}"
        )
    dtype = base.at_least_float32(logits.dtype)

    def plain(logits: Tensor) -> Tensor:
        z, y = logits.to(dtype), as_labels(targets, dtype)
        # Far below any logit, so that it leaves no trace; of −∞ alone a gradient would be NaN.
        log_y, log_rest = y.log().clamp_min(NOTHING), (1 - y).log().clamp_min(NOTHING)
        if unknown is not None:
            known = known_labels(targets, unknown)
            log_y, log_rest = (side.masked_fill(~known, NOTHING) for side in (log_y, log_rest))
        rising, falling = z / t_n + log_rest, log_y - z / t_p
        if lift is not None:
            falling = falling + lift
        total, weight = z.new_zeros(()), None
        if example_weight is not None:
            weight = example_weight.detach().to(dtype)
        for dim in (1, 0):
            log_n, log_p = rising.logsumexp(dim), falling.logsumexp(dim)
            values = F.softplus(t_n * log_n + t_p * log_p)
            if weight is not None and dim == 1:
                values, shift = values * weight, weight.log().clamp_min(NOTHING).unsqueeze(1)
                rising, falling = rising + shift, falling + shift
            some = (log_p > NOTHING / 2).sum() if reduction == "mean" else None
            total = total + (values.sum() if some is None else values.sum() / some.clamp_min(1))
        return total

    if is_large(logits, sooner=5) and unknown is None and example_weight is None:
        value = two_way_by_sums(logits, targets, t_p, t_n, lift, reduction, plain)
        if value is not None:
            return value
    return plain(logits)


class TwoWayLoss(LabelLoss):
    """Two-way loss; see the function. It has no per-element form, so it cannot be mined.

    Args:
        positive_temperature: T_p > 0.
        negative_temperature: T_n > 0.
        log_weight: λ, `(C,)`: a positive counts as `exp(λ_c)` positives.
        reduction: `"mean"`, the mean over examples that have a positive plus the mean over labels
            that have one; or `"sum"`, the two sums. There is no `"none"`.

    Example:
        >>> import torch
        >>> TwoWayLoss()(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        tensor(0.6931)
    """

    def __init__(
        self,
        positive_temperature: float = 4.0,
        negative_temperature: float = 1.0,
        *,
        unknown: float | None = None,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
    ) -> None:
        base.check_choice("reduction", reduction, REDUCTIONS)
        super().__init__(unknown=unknown, log_weight=log_weight, reduction=reduction)
        self.positive_temperature = base.check_number(
            "positive_temperature", positive_temperature, 1e-6
        )
        self.negative_temperature = base.check_number(
            "negative_temperature", negative_temperature, 1e-6
        )

    def unreduced(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """Not there: the loss compares elements with each other.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "Expected a loss with a per-element form, but got TwoWayLoss, which compares the "
            "elements of a batch with each other; for mining, use another loss"
        )

    def forward(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """Loss of the batch; weights are those of examples, `(B,)`."""
        return two_way_loss(
            logits,
            targets,
            self.positive_temperature,
            self.negative_temperature,
            self.log_weight,
            example_weight=weight,
            unknown=self.unknown,
            reduction=self.reduction,
        )
