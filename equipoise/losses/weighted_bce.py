"""Binary cross-entropy of each label, with weights for positives, labels and examples."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.losses.base import (
    ClassVector,
    Loss,
    check_choice,
    check_fused,
    check_multilabel,
    check_per_class,
    check_reduction,
    class_vector,
    log_of,
)
from equipoise.losses.curves import mirrored, softplus
from equipoise.losses.pointwise import Terms, pointwise

NORMALIZATIONS = ("batch", "weight", "nonzero")


def pos_weight_from_counts(counts: ClassVector, num_examples: int) -> Tensor:
    """Negatives/positives of each label, the usual ``pos_weight``.

    A label without positives is treated as having one, and a label without negatives as having one,
    so every weight is finite and above zero. The mean predicted probability then is no longer the
    prevalence, until ``WeightedBCE.correct`` is applied.

    Args:
        counts: ``(C,)`` numbers of positives, between 0 and ``num_examples``.
        num_examples: number of examples N.

    Returns:
        ``(C,)`` weights ``max(N − n, 1) / max(n, 1)``.

    Raises:
        ValueError: If a count lies outside 0..N.

    Example:
        >>> pos_weight_from_counts([50, 1, 0], 100)
        tensor([ 1., 99., 100.])
    """
    checked: Tensor = class_vector("counts", counts, minimum=0.0)
    if bool((checked > num_examples).any()):
        raise ValueError(
            f"Expected counts to be at most num_examples = {num_examples}, "
            f"but got {checked.max().item()}"
        )
    return (num_examples - checked).clamp_min(1.0) / checked.clamp_min(1.0)


def _negative(z: Tensor, out: Tensor) -> Tensor:
    torch.sigmoid(z, out=out)
    return softplus(z)


def weighted_bce(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    weight: Tensor | None = None,
    example_weight: Tensor | None = None,
    *,
    normalization: str = "batch",
    reduction: str = "mean",
    fused: bool = False,
) -> Tensor:
    """Binary cross-entropy ``e_i w_c [ −v_c y log p − (1−y) log(1−p) ]``, p = sigmoid(z).

    Args:
        logits: ``(B, C)``, any floating dtype.
        targets: ``(B, C)``, 0/1 of any dtype, or soft labels as floats; dense or sparse CSR.
        pos_weight: v, ``(C,)``, on positives only.
        weight: w, ``(C,)``, on positives and negatives of a label.
        example_weight: e, ``(B,)``, as TensorFlow's ``sample_weight``.
        normalization: what ``"mean"`` divides the sum by, where example weights are given:
            ``"batch"``, B·C (Keras' ``sum_over_batch_size``); ``"weight"``, C·Σe (Keras'
            ``mean_with_sample_weight``); ``"nonzero"``, C times the number of e ≠ 0
            (TensorFlow 1's ``SUM_BY_NONZERO_WEIGHTS``). A divisor of zero gives a loss of zero.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        fused: use one Triton kernel, on CUDA; not yet run on a GPU: see ``equipoise.losses.fused``.

    Returns:
        A scalar, or ``(B, C)`` for ``"none"``. dtypes: see ``equipoise.losses.base``. Only logits
        receive a gradient, and it can be differentiated once.

    Raises:
        TypeError: If logits are not floating point, or targets are sparse but not CSR.
        ValueError: If shapes do not agree, an option is unknown, or ``fused`` cannot be had.

    Example:
        >>> import torch
        >>> logits, targets = torch.tensor([[0.0, 1.0]]), torch.tensor([[1, 0]])
        >>> weighted_bce(logits, targets, pos_weight=torch.tensor([3.0, 1.0]))
        tensor(1.6964)
    """
    check_reduction(reduction)
    check_choice("normalization", normalization, NORMALIZATIONS)
    check_multilabel(logits, targets)
    check_per_class("pos_weight", pos_weight, logits)
    check_per_class("weight", weight, logits)
    both = pos_weight if weight is None else weight if pos_weight is None else weight * pos_weight
    focusing = (0.0, 0.0, 0.0) if fused else None
    terms = Terms(_negative, mirrored(_negative), weight, both, example_weight, focusing=focusing)
    if reduction != "mean" or example_weight is None or normalization == "batch":
        return pointwise(logits, targets, terms, reduction)
    total = pointwise(logits, targets, terms, "sum")
    counted = example_weight if normalization == "weight" else example_weight != 0
    divisor = counted.sum(dtype=total.dtype) * logits.shape[1]
    return torch.where(divisor == 0, 0.0, 1.0 / divisor) * total


class WeightedBCE(Loss):
    """Weighted binary cross-entropy of each label; see the function.

    Class-balanced BCE (Cui et al. 2019) is this with effective-number weights as ``weight``.

    Args:
        pos_weight: ``(C,)`` weights ≥ 0 of positives, as from ``pos_weight_from_counts``.
        weight: ``(C,)`` weights ≥ 0 of labels.
        normalization: ``"batch"``, ``"weight"`` or ``"nonzero"``, for example weights.
        log_weight: λ, ``(C,)``: positives are weighted by ``pos_weight · exp(λ)``.
        reduction: the mean is over the B·C elements (or see ``normalization``).
        fused: one Triton kernel on CUDA, opt-in: see the function.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> loss = WeightedBCE([3.0, 1.0])
        >>> loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1, 0]]))
        tensor(1.6964)
    """

    multilabel = True
    pos_weight: Tensor | None
    weight: Tensor | None

    def __init__(
        self,
        pos_weight: ClassVector | None = None,
        weight: ClassVector | None = None,
        normalization: str = "batch",
        *,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
        fused: bool = False,
    ) -> None:
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.fused = check_fused(fused)
        self.normalization = check_choice("normalization", normalization, NORMALIZATIONS)
        self.register_buffer("pos_weight", class_vector("pos_weight", pos_weight, minimum=0.0))
        self.register_buffer("weight", class_vector("weight", weight, minimum=0.0))

    def forward(
        self, logits: Tensor, targets: Tensor, example_weight: Tensor | None = None
    ) -> Tensor:
        """Loss of the batch, reduced by ``self.reduction``; examples weighted if asked for."""
        return self._loss(logits, targets, self.reduction, example_weight)

    def _loss(
        self,
        logits: Tensor,
        targets: Tensor,
        reduction: str,
        example_weight: Tensor | None = None,
    ) -> Tensor:
        return weighted_bce(
            logits,
            targets,
            self._scaled(self.pos_weight),
            self.weight,
            example_weight,
            normalization=self.normalization,
            reduction=reduction,
            fused=self.fused,
        )

    def correct(self, logits: Tensor) -> Tensor:
        """``z − log(pos_weight exp λ)``: log-odds. ``weight`` does not move the optimum."""
        pos_weight = self._scaled(self.pos_weight)
        return logits if pos_weight is None else logits - log_of(pos_weight)
