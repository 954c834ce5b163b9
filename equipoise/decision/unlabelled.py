"""Thresholds of labels from scores alone: as many are predicted as the known prevalence says."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["thresholds_at_prevalence"]

_AT_A_TIME = 1 << 22  # elements sorted at once


def thresholds_at_prevalence(logits: Tensor, prevalence: Tensor) -> Tensor:
    """`(C,)` thresholds with ⌊prevalence · N + ½⌋ of each label's logits above them.

    No targets are looked at: the logits are those to be decided on, the prevalence is known from
    elsewhere, for instance from training. Use it where examples come in large batches and labels
    are as frequent there as they were in training, but scores may have drifted since the hold-out;
    where frequencies may change, use `label_thresholds`. The threshold lies halfway between
    neighbouring logits; equal logits fall on one side together.

    Args:
        logits: `(N, C)`, finite, any floating dtype; corrected or not, the predictions are the
            same.
        prevalence: `(C,)` shares of positives, in [0, 1].

    Returns:
        `(C,)` float32 on the CPU; +∞ for a label of which none is to be predicted, −∞ for all.

    Raises:
        ValueError: shapes that do not match, logits that are not finite, shares outside [0, 1].

    Example:
        >>> logits = torch.linspace(-3, 1, 200)[:, None] + torch.tensor([[0.0, 1.0]])
        >>> cut = thresholds_at_prevalence(logits, torch.tensor([0.1, 0.25]))
        >>> (logits > cut).sum(0).tolist()
        [20, 50]
    """
    z, share = logits.detach().cpu().float(), torch.as_tensor(prevalence).cpu().double()
    if z.ndim != 2 or not len(z) or share.shape != z.shape[1:]:
        raise ValueError(
            "Expected logits to be (N, C) with N above 0 and prevalence (C,), "
            f"but got {tuple(z.shape)} and {tuple(share.shape)}."
        )
    if not torch.isfinite(z).all():
        raise ValueError(f"Expected logits to be finite, but got {z[~torch.isfinite(z)][0]}.")
    if not ((share >= 0) & (share <= 1)).all():
        wrong = share[~((share >= 0) & (share <= 1))][0]
        raise ValueError(f"Expected prevalence to be shares in [0, 1], but got {wrong}.")
    count = (share * len(z) + 0.5).floor().long()
    cuts = []
    for first in range(0, z.shape[1], step := max(1, _AT_A_TIME // len(z))):
        part = slice(first, first + step)
        descending = z[:, part].sort(0, descending=True).values
        ends = torch.full((1, descending.shape[1]), torch.inf)
        bordered = torch.cat([ends, descending, -ends])
        above, below = (bordered.gather(0, count[part][None] + i)[0] for i in (0, 1))
        cuts.append((above + below) / 2)
    return torch.cat(cuts)
