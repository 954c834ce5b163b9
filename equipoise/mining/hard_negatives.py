"""HardNegatives: all positives and the hardest negatives of multilabel targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from equipoise._order_sampler import require_int
from equipoise.mining.base import (
    BatchMiner,
    Settings,
    check_choice,
    check_losses,
    check_share,
    sum_of_chosen,
)

DEFAULT_RATIO = 10.0


def hard_negatives(
    losses: Tensor,
    positives: Tensor,
    *,
    ratio: float | None = None,
    keep: float | None = None,
    per: str = "example",
    trim: float = 0.0,
    most: int | None = None,
) -> Tensor:
    """The mask of all positives and, of each example or label, the hardest negatives.

    Of n negatives and P positives in a row (or column), ⌈ratio · P⌉ or ⌈keep · n⌉ negatives are
    chosen, at least 1 where there is one: those of the largest losses after the ⌊trim · n⌋
    largest. Nothing is chosen whose loss is NaN or infinite.

    Source: Liu et al. 2016 (SSD, 3 negatives a positive), Shrivastava et al. 2016.

    Args:
        losses: `(B, C)`, any floating dtype.
        positives: `(B, C)` bool.
        ratio: negatives a positive, above 0; 10 if neither it nor `keep` is given.
        keep: share of the negatives in (0, 1] instead.
        per: "example" to rank within a row, "label" within a column.
        trim: share of the negatives in [0, 1) to leave out at the top: a label that was missed
            by the annotators looks like a very hard negative.
        most: no more negatives of a row (or column) than this. With many labels a small one is
            several times faster: the rest need not be sorted.

    Returns:
        `(B, C)` bool.

    Example:
        >>> losses = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
        >>> hard_negatives(losses, torch.tensor([[True, False, False, False]]), ratio=2).tolist()
        [[True, True, False, True]]
    """
    dim = 1 if per == "example" else 0
    losses = losses.detach()
    finite = torch.isfinite(losses)
    negatives = finite & ~positives
    scores, width = torch.where(negatives, losses, -torch.inf), losses.shape[dim]
    if most is None:
        order = scores.argsort(dim=dim, descending=True, stable=True)
    else:
        order = scores.topk(min(most + int(trim * width), width), dim).indices
    rank = torch.arange(order.shape[dim], device=losses.device)
    rank = rank[None] if dim == 1 else rank[:, None]
    count = negatives.sum(dim, keepdim=True)
    if keep is not None:
        wanted = keep * count
    else:
        wanted = (DEFAULT_RATIO if ratio is None else ratio) * (positives & finite).sum(
            dim, keepdim=True
        )
    wanted = (wanted - 1e-6).ceil().long().clamp(1, most)
    skipped = torch.minimum((trim * count).long(), (count - wanted).clamp_min(0))
    hard = (rank >= skipped) & (rank < skipped + wanted)
    return (finite & positives) | (negatives & torch.zeros_like(finite).scatter_(dim, order, hard))


class HardNegatives(BatchMiner):
    """The mean loss over all positives and the hardest negatives; see `hard_negatives`.

    It changes what is learnt from a batch and saves no time in the network.

    Args:
        ratio: negatives a positive; 10 if neither is given: of 1, 3 and 10 an example it had the
            best mean macro AUPRC on the hold-outs of five multilabel sets. None of them is above
            all negatives by more than noise, and 1 and 3 lose much on one set
            (benchmarks/results/hard_negatives.md).
        keep: share of the negatives instead.
        per, trim, most: see `hard_negatives`.
        reduction: "mean" over the chosen entries; "positives": their sum over the number of
            positives (SSD). The mean is over fewer, harder entries than `Loss`'s mean over B · C:
            the learning rate may have to follow.
        warm_up, final, num_epochs, num_classes, seed: see `Miner`.

    Raises:
        ValueError: an argument out of range; losses that are not `(B, C)`.

    Example:
        >>> miner = HardNegatives(ratio=1)
        >>> losses = torch.tensor([[0.1, 0.9, 0.5]], requires_grad=True)
        >>> miner(losses, torch.tensor([[1.0, 0.0, 0.0]])).item()
        0.5
    """

    multilabel = True

    def __init__(
        self,
        ratio: float | None = None,
        *,
        keep: float | None = None,
        per: str = "example",
        trim: float = 0.0,
        most: int | None = None,
        reduction: str = "mean",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(**settings)
        if ratio is not None and keep is not None:
            raise ValueError(f"Expected ratio or keep, but got both: {ratio} and {keep}.")
        if ratio is not None and not 0 < ratio < float("inf"):
            raise ValueError(f"Expected ratio to be a finite number above 0, but got {ratio!r}.")
        if most is not None:
            require_int("most", most, 1)
        self.options: dict[str, Any] = {
            "ratio": ratio,
            "keep": None if keep is None else check_share("keep", keep),
            "per": check_choice("per", per, ("example", "label")),
            "trim": check_share("trim", trim, zero=True),
            "most": most,
        }
        self.reduction = check_choice("reduction", reduction, ("mean", "positives"))

    def select(self, losses: Tensor, targets: Tensor) -> Tensor:
        """The `(B, C)` mask of the entries to learn from in this epoch."""
        if not self.active:
            return torch.isfinite(losses)
        return hard_negatives(losses, targets > 0, **self.options)

    def __call__(
        self, losses: Tensor, targets: Tensor | None = None, indices: Tensor | None = None
    ) -> Tensor:
        """The batch's reduced loss, of `(B, C)` losses and targets; see `BatchMiner`.

        Targets above 0 are positives; `indices` are not used.
        """
        check_losses(losses, 2)
        if targets is None or targets.shape != losses.shape:
            raise ValueError(
                f"Expected targets to be of shape {tuple(losses.shape)}, as the losses, "
                f"but got {None if targets is None else tuple(targets.shape)}."
            )
        targets = targets.to(losses.device)
        chosen = self.select(losses, targets)
        self.tally.add(losses, chosen)
        over = chosen if self.reduction == "mean" else targets > 0
        return sum_of_chosen(losses, chosen) / over.sum().clamp_min(1)
