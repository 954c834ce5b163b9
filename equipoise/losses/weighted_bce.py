"""Binary cross-entropy of each label, with weights for positives, labels and examples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from equipoise.losses import base
from equipoise.losses.base import ClassVector
from equipoise.losses.engine import is_large
from equipoise.losses.multilabel import (
    LabelLoss,
    LabelOptions,
    as_labels,
    check_labels,
    known_labels,
    label_loss,
)
from equipoise.losses.pointwise import Terms

NORMALIZATIONS = ("batch", "weight", "nonzero")


def pos_weight_from_counts(counts: ClassVector, num_examples: ClassVector | int) -> Tensor:
    """Negatives/positives of each label, the usual `pos_weight`.

    A label without positives is treated as having one, and a label without negatives as having one,
    so every weight is finite and above zero. The mean predicted probability then is no longer the
    prevalence, until `WeightedBCE.correct` is applied.

    Args:
        counts: `(C,)` numbers of positives, between 0 and `num_examples`.
        num_examples: number of examples N, or `(C,)` of those whose label is known.

    Returns:
        `(C,)` weights `max(N − n, 1) / max(n, 1)`.

    Raises:
        ValueError: If a count lies outside 0..N.

    Example:
        >>> pos_weight_from_counts([50, 1, 0], 100)
        tensor([ 1., 99., 100.])
    """
    checked: Tensor = base.class_vector("counts", counts, minimum=0.0)
    total = torch.as_tensor(num_examples)
    if bool((checked > total).any()):
        raise ValueError(
            f"Expected counts to be at most num_examples = {num_examples}, "
            f"but got {checked.max().item()}"
        )
    return (total - checked).clamp_min(1.0) / checked.clamp_min(1.0)


def weighted_bce(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    *,
    pos_weight: Tensor | None = None,
    example_weight: Tensor | None = None,
    unknown: float | Tensor | None = None,
    normalization: str = "batch",
    reduction: str = "mean",
    fused: bool = False,
) -> Tensor:
    """Binary cross-entropy `e_i w_c [ −v_c y log p − (1−y) log(1−p) ]`, p = sigmoid(z).

    `weight` and `pos_weight` are what `torch.nn.functional.binary_cross_entropy_with_logits` calls
    so, and come in its order.

    The arguments are explained at `WeightedBCE` and `LabelLoss`; `example_weight` is e, `(B,)`, as
    TensorFlow's `sample_weight`, or `(B, C)`, of elements.

    Example:
        >>> import torch
        >>> logits, targets = torch.tensor([[0.0, 1.0]]), torch.tensor([[1, 0]])
        >>> weighted_bce(logits, targets, pos_weight=torch.tensor([3.0, 1.0]))
        tensor(1.6964)
    """
    base.check_reduction(reduction)
    base.check_choice("normalization", normalization, NORMALIZATIONS)
    check_labels(logits, targets)
    weight = base.per_class("weight", weight, logits)
    pos_weight = base.per_class("pos_weight", pos_weight, logits)

    bce = F.binary_cross_entropy_with_logits
    everything = unknown is None and example_weight is None and logits.numel() > 0
    if everything and not fused and not is_large(logits):  # torch reduces in the same step
        z = base.upcast(logits)
        y = as_labels(targets, z.dtype)
        return bce(z, y, weight, pos_weight=pos_weight, reduction=reduction)

    def elements(z: Tensor, y: Tensor) -> Tensor:
        return bce(z, y, weight, pos_weight=pos_weight, reduction="none")

    def terms() -> Terms:
        both = weight if pos_weight is None else pos_weight
        both = both if weight is None or pos_weight is None else weight * pos_weight
        return Terms(negative_weight=weight, positive_weight=both)

    values = label_loss(
        logits,
        targets,
        elements,
        terms,
        unknown=unknown,
        reduction=reduction if example_weight is None else "none",
        fused=fused,
    )
    if example_weight is None:
        return values
    e = base.per_element(example_weight, values)
    if reduction != "mean":
        return (e * values).sum() if reduction == "sum" else e * values
    divisor = known_labels(targets, unknown)
    if normalization != "batch":
        divisor = divisor * (e if normalization == "weight" else e != 0)
    divisor = divisor.sum(dtype=values.dtype)
    return torch.where(divisor == 0, 0.0, 1.0 / divisor) * (e * values).sum()


class WeightedBCE(LabelLoss):
    """Weighted binary cross-entropy of each label; see the function.

    Class-balanced BCE (Cui et al. 2019) is this with effective-number weights as `weight`.

    Args:
        pos_weight: `(C,)` weights ≥ 0 of positives, as from `pos_weight_from_counts`.
        weight: w, `(C,)`, on positives and negatives of a label.
        normalization: what `"mean"` divides the sum by, where example weights are given: `"batch"`,
            the number of elements counted (Keras' `sum_over_batch_size`); `"weight"`, the sum of
            their e (Keras' `mean_with_sample_weight`); `"nonzero"`, the number of those with e ≠ 0
            (TensorFlow 1's `SUM_BY_NONZERO_WEIGHTS`). A divisor of zero gives a loss of zero.
        log_weight: λ, `(C,)`: positives are weighted by `pos_weight · exp(λ)`.
        options: see `LabelLoss`.

    Example:
        >>> import torch
        >>> loss = WeightedBCE([3.0, 1.0])
        >>> loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1, 0]]))
        tensor(1.6964)
    """

    pos_weight: Tensor | None
    weight: Tensor | None

    def __init__(
        self,
        pos_weight: ClassVector | None = None,
        weight: ClassVector | None = None,
        normalization: str = "batch",
        **options: Unpack[LabelOptions],
    ) -> None:
        super().__init__(**options)
        self.normalization = base.check_choice("normalization", normalization, NORMALIZATIONS)
        self.register_buffer("pos_weight", base.class_vector("pos_weight", pos_weight, minimum=0.0))
        self.register_buffer("weight", base.class_vector("weight", weight, minimum=0.0))

    def forward(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """Loss of the batch, reduced by `self.reduction`; see `Loss` and `normalization`."""
        return self._loss(logits, targets, self.reduction, weight)

    def _loss(
        self, logits: Tensor, targets: Tensor, reduction: str, weight: Tensor | None = None
    ) -> Tensor:
        return weighted_bce(
            logits,
            targets,
            self.weight,
            pos_weight=self._scaled(self.pos_weight),
            example_weight=weight,
            normalization=self.normalization,
            **self._options(reduction),
        )

    def correct(self, logits: Tensor) -> Tensor:
        """`z − log(pos_weight exp λ)`: log-odds. `weight` does not move the optimum."""
        return base.less_log(logits, self._scaled(self.pos_weight))
