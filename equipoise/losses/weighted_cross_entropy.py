"""Cross-entropy with a weight for each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses.base import (
    ClassVector,
    Loss,
    at_least_float32,
    check_choice,
    check_number,
    check_per_class,
    check_reduction,
    check_single_label,
    class_vector,
    log_of,
    reduce,
)

NORMALIZATIONS = ("batch", "weight")


def weighted_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    *,
    normalization: str = "batch",
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy, each example weighted by the weight of its class.

    ``l_i = −w_y log p_y``; with label smoothing ε it is, as in torch,
    ``l_i = −(1−ε) w_y log p_y − ε/C Σ_c w_c log p_c``.

    Args:
        logits: ``(B, C)``, any floating dtype.
        targets: ``(B,)`` integer class ids in 0..C−1.
        weight: ``(C,)`` weights ≥ 0. It receives no gradient.
        normalization: what ``"mean"`` divides by: ``"batch"``, the number of examples, or
            ``"weight"``, the sum of the examples' class weights, as
            ``torch.nn.functional.cross_entropy`` does. The latter takes much of the weights'
            effect away in small batches: a batch of a single class is not weighted at all.
            Weights that sum to zero give a loss of zero.
        label_smoothing: ε in [0, 1].
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or ``(B,)`` for ``"none"``. dtypes: see ``equipoise.losses.base``.

    Raises:
        TypeError: If logits are not floating point or targets are not integers.
        ValueError: If shapes do not agree or an option is unknown.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> weighted_cross_entropy(logits, torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
        tensor(0.5334)
    """
    check_reduction(reduction)
    check_choice("normalization", normalization, NORMALIZATIONS)
    targets = check_single_label(logits, targets)
    check_per_class("weight", weight, logits)
    dtype = at_least_float32(logits.dtype)
    weight = None if weight is None else weight.detach().to(dtype)
    per_example = F.cross_entropy(
        logits.to(dtype), targets, weight, reduction="none", label_smoothing=label_smoothing
    )
    if reduction == "mean" and normalization == "weight" and weight is not None:
        return per_example.sum() / weight[targets].sum().clamp_min(torch.finfo(dtype).tiny)
    return reduce(per_example, reduction, logits.dtype)


class WeightedCrossEntropy(Loss):
    """Cross-entropy weighted by ``weight · exp(λ)`` of the true class; see the function.

    Class-balanced loss (Cui et al. 2019) is this with effective-number weights.

    Args:
        weight: ``(C,)`` finite weights ≥ 0; ``None`` is all ones.
        normalization: ``"batch"`` or ``"weight"``, for the mean.
        label_smoothing: ε in [0, 1].
        log_weight: λ, ``(C,)``.
        reduction: the mean is over the B examples (or see ``normalization``).

    Raises:
        ValueError: If an argument is out of range.

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
        *,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.normalization = check_choice("normalization", normalization, NORMALIZATIONS)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, 0.0, 1.0)
        self.register_buffer("weight", class_vector("weight", weight, minimum=0.0))

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return weighted_cross_entropy(
            logits,
            targets,
            self._scaled(self.weight),
            normalization=self.normalization,
            label_smoothing=self.label_smoothing,
            reduction=reduction,
        )

    def correct(self, logits: Tensor) -> Tensor:
        """``z − log(w exp λ)``. Label smoothing is not undone; it does not move the arg max."""
        weight = self._scaled(self.weight)
        return logits if weight is None else logits - log_of(weight)
