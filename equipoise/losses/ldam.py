"""Label-distribution-aware margins, and the normalised last layer they need."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def ldam_margins(counts: Tensor, max_margin: float = 0.5) -> Tensor:
    """Margins ``m_c ∝ n_c^(−1/4)``, scaled so that the largest is ``max_margin``.

    Args:
        counts: ``(C,)`` class counts > 0.
        max_margin: the margin of the rarest class.

    Returns:
        ``(C,)`` margins.

    Example:
        >>> import torch
        >>> ldam_margins(torch.tensor([10000.0, 625.0, 1.0]))
        tensor([0.0500, 0.1000, 0.5000])
    """
    margins = counts.pow(-0.25)
    return margins * (max_margin / margins.max())


def ldam(
    logits: Tensor,
    targets: Tensor,
    margins: Tensor,
    scale: float = 30.0,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of ``s·(z − m_y e_y)``: the true class has to win by its margin.

    Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss" (2019).
    The margins are on the scale of cosines: the last layer must be normalised
    (``NormedLinear``), so that logits lie in [−1, 1]; with free logits a net outgrows them.

    Args:
        logits: ``(B, C)`` cosines, any floating dtype.
        targets: ``(B,)`` integer class ids.
        margins: ``(C,)``, from ``ldam_margins``.
        scale: s, which makes up for the short range of cosines.
        weight: ``(C,)`` weights ≥ 0 by true class (the paper switches them on late: DRW).
        reduction: ``"mean"`` over the B examples, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or ``(B,)`` for ``"none"``. dtypes: see ``equipoise.losses.base``. Only logits
        receive a gradient.

    Raises:
        TypeError: If logits are not floating point or targets are not integers.
        ValueError: If shapes do not agree or ``reduction`` is unknown.

    Example:
        >>> import torch
        >>> margins = ldam_margins(torch.tensor([1000.0, 10.0]))
        >>> ldam(torch.tensor([[0.2, 0.9]]), torch.tensor([1]), margins)
        tensor(0.0025)
    """
    check_reduction(reduction)
    targets = check_single_label(logits, targets)
    check_per_class("margins", margins, logits)
    check_per_class("weight", weight, logits)
    dtype = at_least_float32(logits.dtype)
    lead = -scale * margins.detach().to(dtype)

    def adjust(z: Tensor, y: Tensor) -> Tensor:
        return (z * scale).scatter_add_(1, y.unsqueeze(1), lead[y].unsqueeze(1))

    per_example = adjusted_cross_entropy(logits, targets, adjust, scale)
    return reduce(weighted(per_example, targets, weight), reduction, logits.dtype)


class LDAM(Loss):
    """Cross-entropy of ``s·(z − m_y e_y)``, with margins from class counts; see the function.

    Args:
        counts: ``(C,)`` class counts. A class without examples counts as having one.
        max_margin: the margin of the rarest class, ≥ 0.
        scale: s, > 0.
        weight: ``(C,)`` weights ≥ 0 by true class.
        log_weight: λ, ``(C,)``: the weights are multiplied by ``exp(λ)`` of the true class.
        reduction: the mean is over the B examples.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> layer, loss = NormedLinear(16, 2), LDAM([1000, 10])
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
        *,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.max_margin = check_number("max_margin", max_margin, 0.0)
        self.scale = check_number("scale", scale, 1e-6)
        self.register_buffer("margins", ldam_margins(class_counts("counts", counts), max_margin))
        self.register_buffer("weight", class_vector("weight", weight, minimum=0.0))

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        weight = self._scaled(self.weight)
        return ldam(logits, targets, self.margins, self.scale, weight, reduction=reduction)

    def correct(self, logits: Tensor) -> Tensor:
        """``s·z − log(w exp λ)``. The margins cannot be undone: they depend on the true class.

        With margins of zero the answer is exact; otherwise the log-posterior is only as good as
        the margins are small against the differences of cosines.
        """
        weight = self._scaled(self.weight)
        logits = self.scale * logits.to(at_least_float32(logits.dtype))
        return logits if weight is None else logits - log_of(weight)


class NormedLinear(nn.Module):
    """Cosines between features and class vectors: a last layer without lengths and bias.

    Args:
        in_features: length of a feature vector.
        out_features: number of classes.

    Example:
        >>> import torch
        >>> bool((NormedLinear(8, 3)(torch.randn(5, 8)).abs() <= 1.0001).all())
        True
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        # Directions drawn uniformly; lengths do not matter.
        self.weight = nn.Parameter(F.normalize(torch.randn(out_features, in_features), dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """Cosines ``(…, out_features)`` of features ``(…, in_features)``."""
        return F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))
