"""LabelRates: streaming recall and average precision of each label, from score histograms."""

from __future__ import annotations

import warnings
from math import asinh

import torch
from torch import Tensor

from equipoise.rates.base import Rates
from equipoise.rates.smoothing import smoothed_recalls

__all__ = ["LabelRates", "average_precisions", "hits_at_support"]

_AT_A_TIME = 1 << 22  # elements of the temporaries of an update
# Bins are of equal width in asinh(logit / 2): .016 wide at 0, .05 at ±6, .13 at ±16 for 1,024.
_SCALE, _LIMIT = 2.0, 64.0


def hits_at_support(positives: Tensor, negatives: Tensor) -> Tensor:
    """Hits among each label's n best-scored examples, n its number of positives.

    There predicted positives = true positives, so precision, recall and F1 are the same number
    (the break-even point), hits / n. Within a bin, positives and negatives count as evenly mixed;
    both are `(C, bins)` counts, scores ascending.

    Example:
        >>> hits_at_support(torch.tensor([[0, 1, 2]]), torch.tensor([[3, 1, 1]]))
        tensor([2.], dtype=torch.float64)
    """
    up_to, all_up_to = (
        part.double().flip(1).cumsum(1) for part in (positives, positives + negatives)
    )
    support = up_to[:, -1:].contiguous()
    bin_ = torch.searchsorted(all_up_to, support).clamp_max(positives.shape[1] - 1)
    hits, taken = up_to.gather(1, bin_), all_up_to.gather(1, bin_)
    in_bin = [part.flip(1).gather(1, bin_).double() for part in (positives, negatives)]
    surplus = (taken - support).clamp_min(0) / (in_bin[0] + in_bin[1]).clamp_min(1)
    return (hits - surplus * in_bin[0])[:, 0]


def average_precisions(positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Average precision of each label, and how far it could be off because scores share a bin.

    It is the mean over a label's positives of the precision at each. In a bin of p positives and n
    negatives, below T positives and S examples in all, the k-th positive counts
    (T + k) / (S + k + n k / (p + 1)), the negatives being evenly mixed in. With a = 1 + n / (p + 1)
    the sum over k is p/a + (T − S/a)/a · [ψ(p + 1 + S/a) − ψ(1 + S/a)], ψ the digamma function:
    exact, and only bins with positives are looked at.

    It is highest where in each bin all positives come before the negatives, which is n = 0 in this
    sum, and lowest where all come after them, which is S + n in place of S besides. A label without
    positives has NaN.

    Example:
        >>> average_precisions(torch.tensor([[1, 0, 1]]), torch.tensor([[0, 1, 0]]))[0]
        tensor([0.8333], dtype=torch.float64)
        >>> average_precisions(torch.tensor([[1, 0]]), torch.tensor([[1, 5]]))[1]
        tensor([0.0238], dtype=torch.float64)
    """
    each = positives.flip(1), negatives.flip(1)
    above = (each[0].cumsum(1) - each[0]).double()
    all_above = above + (each[1].cumsum(1) - each[1])
    label, bin_ = each[0].nonzero(as_tuple=True)
    p, n, t, s = (counts[label, bin_].double() for counts in (*each, above, all_above))

    def total(s: Tensor, a: Tensor) -> Tensor:
        return p / a + (t - s / a) / a * (torch.digamma(p + 1 + s / a) - torch.digamma(1 + s / a))

    def mean(total: Tensor) -> Tensor:
        sums = torch.zeros(len(positives), dtype=torch.float64, device=positives.device)
        return sums.index_add_(0, label, total) / positives.sum(1)

    one = torch.ones_like(n)
    return mean(total(s, 1 + n / (p + 1))), mean(total(s, one) - total(s + n, one))


class LabelRates(Rates):
    """Histograms of each label's logits, of positives and of negatives, fed batch by batch.

    From them come, at any time, the recall of each label at the threshold where as many are
    predicted as are true, and its average precision. A plain recall at .5 would reward predicting
    too much; these two do not change when all logits of a label are shifted.

    `update` stays on the logits' device and never waits for it. A logit that is NaN, or whose
    target is neither 0 nor 1 (−1 for "unknown", say), is left out of every rate; the examples with
    such are counted in `num_nan` and `num_invalid`.

    Args:
        num_labels: C.
        num_bins: the finest near 0, see the source; logits beyond ±64 count in the outermost.

    Memory: 8 · C · num_bins bytes (65 MB for 7,900 labels). With 1,024 bins both rates agree with
    exact ones to about .001, for rare labels to a fraction of 1 / support. Scores that lie close
    together, such as cosines, fall into few bins; where that leaves the average precision uncertain
    by more than .05 a `UserWarning` says so.

    Example:
        >>> rates = LabelRates(2)
        >>> logits = torch.tensor([[2.0, -1.0], [1.0, -2.0], [0.0, -3.0], [-1.0, -4.0]])
        >>> rates.update(logits, torch.tensor([[1, 0], [0, 0], [1, 1], [0, 0]]))
        >>> rates.recalls().tolist(), rates.average_precisions().tolist()
        ([0.5, 0.0], [0.8333..., 0.3333...])
    """

    def __init__(self, num_labels: int, num_bins: int = 1024) -> None:
        for name, value in (("num_labels", num_labels), ("num_bins", num_bins)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Expected {name} to be a positive int, but got {value!r}.")
        self.num_labels, self.num_bins = num_labels, num_bins
        super().__init__()
        self._counts = torch.zeros(2 * num_labels * num_bins, dtype=torch.int32)

    @torch.no_grad()
    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch: logits `(B, C)` of any floating dtype, targets `(B, C)` of 0 and 1.

        Targets may be of any dtype, dense or sparse.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_labels:
            raise ValueError(
                f"Expected logits to have shape (B, {self.num_labels}), "
                f"but got {tuple(logits.shape)}."
            )
        if targets.shape != logits.shape:
            raise ValueError(
                f"Expected targets to be of shape {tuple(logits.shape)}, as the logits, "
                f"but got {tuple(targets.shape)}."
            )
        self._move(logits.device)
        if targets.layout != torch.strided:
            targets = targets.to_dense()
        targets = targets.to(logits.device)
        rows = max(1, _AT_A_TIME // self.num_labels)
        for part in range(0, len(logits), rows):
            self._count(logits[part : part + rows], targets[part : part + rows])

    def _count(self, logits: Tensor, targets: Tensor) -> None:
        nan = torch.isnan(logits)
        positive = targets == 1
        invalid = ~positive & (targets != 0)
        end = asinh(_LIMIT / _SCALE)
        place = (logits.float() / _SCALE).asinh_().add_(end).mul_(self.num_bins / (2 * end))
        cell = place.nan_to_num_(0.0).clamp_(0, self.num_bins - 1).long()
        cell += torch.arange(self.num_labels, device=cell.device) * self.num_bins
        cell += positive * (self.num_labels * self.num_bins)
        used = (~(nan | invalid)).int()
        self._counts.scatter_add_(0, cell.view(-1), used.view(-1))
        self._ignored += torch.stack([nan.any(1).sum(), invalid.any(1).sum()])

    def histograms(self) -> tuple[Tensor, Tensor]:
        """Positives and negatives `(C, bins)`, int64 on the CPU, scores ascending."""
        counts = self._counts.cpu().view(2, self.num_labels, self.num_bins).long()
        return counts[1], counts[0]

    def recalls(self, prior: float | None = 0.0) -> Tensor:
        """`(C,)` float64 recalls at the threshold where predicted = true positives, on the CPU.

        Raw, unless `prior` says otherwise: see `smoothed_recalls`; `None` estimates it. A label
        without positives gets the mean of the others.
        """
        positives, negatives = self.histograms()
        return smoothed_recalls(hits_at_support(positives, negatives), positives.sum(1), prior)

    def average_precisions(self) -> Tensor:
        """`(C,)` float64 on the CPU, the area under the precision-recall curve (scikit-learn's).

        NaN for a label without positives.
        """
        precisions, unsure = average_precisions(*self.histograms())
        if unsure.nanmean() > 0.05:
            warnings.warn(
                f"The scores lie so close together that average precision is uncertain by "
                f"{unsure.nanmean():.2f}: multiply the logits, which changes no rank, so that they "
                "spread over some units around 0.",
                stacklevel=2,
            )
        return precisions

    @property
    def support(self) -> Tensor:
        """`(C,)` int64 positives of each label seen since the last reset."""
        return self.histograms()[0].sum(1)
