"""Vector-scaling (VS) loss: logits scaled and shifted by class."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from equipoise.losses import base
from equipoise.losses.base import ClassVector
from equipoise.losses.class_ids import ClassLoss, ClassOptions, check_targets, softmax_loss


def vector_scaling(
    logits: Tensor,
    targets: Tensor,
    divisor: Tensor,
    shift: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of `z/Δ + ι`, weighted by true class.

    Kini et al., "Label-Imbalanced and Group-Sensitive Classification under
    Overparameterization" (2021). The shift acts early in training; the divisor still acts
    once the training data are fitted, where shifts and weights no longer do.

    Δ and ι are `(C,)`; the other arguments are explained at `VectorScaling` and `ClassLoss`.

    Example:
        >>> import torch
        >>> divisor, shift = torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.1]).log()
        >>> vector_scaling(torch.zeros(1, 2), torch.tensor([1]), divisor, shift)
        tensor(2.3026)
    """
    base.check_reduction(reduction)
    targets = check_targets(logits, targets)
    factor = base.per_class("divisor", divisor, logits).reciprocal()
    scales = base.along_classes(factor, logits)
    shifts = base.along_classes(base.per_class("shift", shift, logits), logits)
    return softmax_loss(
        logits,
        targets,
        lambda z, y: (z * scales).add_(shifts),
        factor=factor,
        weight=base.per_class("weight", weight, logits),
        ignore_index=ignore_index,
        reduction=reduction,
    )


class VectorScaling(ClassLoss):
    """Cross-entropy of `z/Δ + τ log π`, with `Δ_c = (n_max/n_c)^γ`; see the function.

    With γ = 0 it is logit adjustment.

    Args:
        counts: `(C,)` class counts. A class without examples counts as having one.
        gamma: γ ≥ 0, strength of the divisor.
        tau: τ ≥ 0, strength of the prior.
        weight: `(C,)` weights ≥ 0 by true class.
        log_weight: λ, `(C,)`: the weights are multiplied by `exp(λ)` of the true class.
        options: see `ClassLoss`.

    Example:
        >>> import torch
        >>> loss = VectorScaling([900, 100])
        >>> loss.correct(torch.zeros(1, 2)).argmax(-1)
        tensor([0])
    """

    divisor: Tensor
    shift: Tensor
    weight: Tensor | None

    def __init__(
        self,
        counts: ClassVector,
        gamma: float = 0.15,
        tau: float = 1.25,
        weight: ClassVector | None = None,
        **options: Unpack[ClassOptions],
    ) -> None:
        super().__init__(**options)
        self.gamma = base.check_number("gamma", gamma, 0.0)
        self.tau = base.check_number("tau", tau, 0.0)
        checked: Tensor = base.class_counts("counts", counts)
        self.register_buffer("divisor", (checked.max() / checked).pow(gamma))
        self.register_buffer("shift", tau * (checked / checked.sum()).log())
        self.register_buffer("weight", base.class_vector("weight", weight, minimum=0.0))

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        weight, options = self._scaled(self.weight), self._options(reduction)
        return vector_scaling(logits, targets, self.divisor, self.shift, weight, **options)

    def correct(self, logits: Tensor) -> Tensor:
        """`z/Δ + τ log π − log(w exp λ)`."""
        divisor, shift = (base.along_classes(v, logits) for v in (self.divisor, self.shift))
        return base.less_log(logits / divisor + shift, self._scaled(self.weight))
