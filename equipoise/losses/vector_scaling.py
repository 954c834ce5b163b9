"""Vector-scaling (VS) loss: logits scaled and shifted by class."""

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
    class_vector,
    log_of,
    reduce,
    weighted,
)
from equipoise.losses.cross_entropy import adjusted_cross_entropy


def vector_scaling(
    logits: Tensor,
    targets: Tensor,
    divisor: Tensor,
    shift: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of ``z/Δ + ι``, weighted by true class.

    Kini et al., "Label-Imbalanced and Group-Sensitive Classification under
    Overparameterization" (2021). The shift acts early in training; the divisor still acts
    once the training data are fitted, where shifts and weights no longer do.

    Args:
        logits: ``(B, C)``, any floating dtype.
        targets: ``(B,)`` integer class ids.
        divisor: Δ, ``(C,)``, > 0.
        shift: ι, ``(C,)``.
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
        >>> divisor, shift = torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.1]).log()
        >>> vector_scaling(torch.zeros(1, 2), torch.tensor([1]), divisor, shift)
        tensor(2.3026)
    """
    check_reduction(reduction)
    targets = check_single_label(logits, targets)
    check_per_class("divisor", divisor, logits)
    check_per_class("shift", shift, logits)
    check_per_class("weight", weight, logits)
    dtype = at_least_float32(logits.dtype)
    factor, shift = divisor.detach().to(dtype).reciprocal(), shift.detach().to(dtype)

    def adjust(z: Tensor, y: Tensor) -> Tensor:
        return torch.addcmul(shift, z, factor)

    per_example = adjusted_cross_entropy(logits, targets, adjust, factor)
    return reduce(weighted(per_example, targets, weight), reduction, logits.dtype)


class VectorScaling(Loss):
    """Cross-entropy of ``z/Δ + τ log π``, with ``Δ_c = (n_max/n_c)^γ``; see the function.

    With γ = 0 it is logit adjustment.

    Args:
        counts: ``(C,)`` class counts. A class without examples counts as having one.
        gamma: γ ≥ 0, strength of the divisor.
        tau: τ ≥ 0, strength of the prior.
        weight: ``(C,)`` weights ≥ 0 by true class.
        log_weight: λ, ``(C,)``: the weights are multiplied by ``exp(λ)`` of the true class.
        reduction: the mean is over the B examples.

    Raises:
        ValueError: If an argument is out of range.

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
        *,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.gamma = check_number("gamma", gamma, 0.0)
        self.tau = check_number("tau", tau, 0.0)
        checked: Tensor = class_counts("counts", counts)
        self.register_buffer("divisor", (checked.max() / checked).pow(gamma))
        self.register_buffer("shift", tau * (checked / checked.sum()).log())
        self.register_buffer("weight", class_vector("weight", weight, minimum=0.0))

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        weight = self._scaled(self.weight)
        return vector_scaling(
            logits, targets, self.divisor, self.shift, weight, reduction=reduction
        )

    def correct(self, logits: Tensor) -> Tensor:
        """``z/Δ + τ log π − log(w exp λ)``."""
        weight = self._scaled(self.weight)
        adjusted = logits / self.divisor + self.shift
        return adjusted if weight is None else adjusted - log_of(weight)
