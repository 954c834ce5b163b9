"""Cross-entropy with a weight for each class."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from equipoise.losses import base
from equipoise.losses.base import ClassVector
from equipoise.losses.class_ids import (
    ClassLoss,
    ClassOptions,
    check_targets,
    cross_entropy,
    reduce,
    weight_of,
)

NORMALIZATIONS = ("batch", "weight")


def weighted_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    *,
    normalization: str = "batch",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy, each example weighted by the weight of its class.

    `l_i = −w_y [ (1−ε) log p_y + ε/C Σ_c log p_c ]`. With label smoothing ε the weight scales the
    example of class y; in torch the smoothing's term of class c has the weight of class c, so
    that a rare class with a large weight is predicted for everything.

    The arguments are explained at `WeightedCrossEntropy` and `ClassLoss`.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> weighted_cross_entropy(logits, torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
        tensor(0.5334)
    """
    base.check_reduction(reduction)
    base.check_choice("normalization", normalization, NORMALIZATIONS)
    base.check_number("label_smoothing", label_smoothing, 0.0, 1.0)
    targets = check_targets(logits, targets)
    weight = base.per_class("weight", weight, logits)
    z = base.upcast(logits)
    if label_smoothing == 0.0 and (normalization == "batch" or reduction != "mean"):
        return cross_entropy(z, targets, weight, ignore_index, reduction)
    value = cross_entropy(z, targets, weight, ignore_index, "none")
    scale = weight_of(targets, weight, ignore_index, z)
    value = torch.lerp(value, -z.log_softmax(1).mean(1) * scale, label_smoothing)
    if normalization == "weight" and reduction == "mean":
        return value.sum() / scale.sum().clamp_min(torch.finfo(z.dtype).tiny)
    return reduce(value, targets, ignore_index, reduction)


class WeightedCrossEntropy(ClassLoss):
    """Cross-entropy weighted by `weight · exp(λ)` of the true class; see the function.

    Class-balanced loss (Cui et al. 2019) is this with effective-number weights.

    Args:
        weight: `(C,)` finite weights ≥ 0; `None` is all ones.
        normalization: what `"mean"` divides by: `"batch"`, the number of elements counted, or
            `"weight"`, the sum of their class weights, as `torch.nn.functional.cross_entropy` does.
            The latter takes much of the weights' effect away in small batches: a batch of a single
            class is not weighted at all. Weights that sum to zero give a loss of zero.
        label_smoothing: ε in [0, 1].
        options: see `ClassLoss`.

    Example:
        >>> import torch
        >>> loss = WeightedCrossEntropy([1.0, 3.0])
        >>> loss(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        tensor(0.5334)
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: ClassVector | None = None,
        normalization: str = "batch",
        label_smoothing: float = 0.0,
        **options: Unpack[ClassOptions],
    ) -> None:
        super().__init__(**options)
        self.normalization = base.check_choice("normalization", normalization, NORMALIZATIONS)
        self.label_smoothing = base.check_number("label_smoothing", label_smoothing, 0.0, 1.0)
        self.register_buffer("weight", base.class_vector("weight", weight, minimum=0.0))

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return weighted_cross_entropy(
            logits,
            targets,
            self._scaled(self.weight),
            normalization=self.normalization,
            label_smoothing=self.label_smoothing,
            **self._options(reduction),
        )

    def correct(self, logits: Tensor) -> Tensor:
        """`z − log(w exp λ)`. Label smoothing is not undone; it does not move the arg max."""
        return base.less_log(logits, self._scaled(self.weight))
