"""Which examples rank hardest, in all or within their class, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["hardest"]

_NOWHERE = torch.iinfo(torch.int64).max  # the group of what can never be chosen
_EPSILON = 1e-9  # 0.29 · 100 is 28.999…


def hardest(
    losses: Tensor,
    share: float,
    groups: Tensor | None = None,
    *,
    offset: float = 0.0,
    at_least: int = 0,
    carry: Tensor | None = None,
) -> Tensor:
    """The mask of a share of the examples: those of the largest losses.

    Of n examples ⌊share·n + offset⌋ are chosen; with an offset spread evenly over [0, 1) that is
    share·n on average. With `groups`, the examples are laid out group by group, and a group from
    place a to place b of n gives ⌊share·b + offset⌋ − ⌊share·a + offset⌋ of its own: a number next
    to share · (b − a), and on average exactly that (systematic sampling), so that groups keep
    their proportions. Nothing is chosen whose loss is NaN or infinite. Ties go to the first.

    Args:
        losses: `(B,)`, any floating dtype.
        share: of the examples, in [0, 1].
        groups: `(B,)` integers, usually class ids.
        offset: in [0, 1).
        at_least: how many to choose of a batch without `groups`, however small the share.
        carry: `(C,)` float64 in [0, 1), what group c is owed from the batches before, overwritten
            with what it is owed after this one. Group c then gives ⌊share · n_c + carry_c⌋, and
            over any number of batches its share to within one example. Groups are in 0..C−1.

    Returns:
        `(B,)` bool.

    Example:
        >>> hardest(torch.tensor([0.1, 0.9, float("nan"), 0.5]), 0.5).tolist()
        [False, True, False, True]
        >>> losses, classes = torch.tensor([9.0, 8.0, 7.0, 1.0, 2.0]), torch.tensor([0, 0, 0, 1, 1])
        >>> hardest(losses, 0.5, classes, offset=0.5).tolist()
        [True, True, False, False, True]
    """
    finite = torch.isfinite(losses)
    order = torch.where(finite, losses, -torch.inf).argsort(descending=True, stable=True)
    if groups is None:
        k = max(int(len(losses) * share + offset + _EPSILON), at_least)
        chosen = torch.zeros_like(finite).index_fill_(0, order[:k], True)
        return chosen & finite
    order, start, end = _within(order, finite, groups)
    rank = torch.arange(len(losses), device=losses.device) - start
    if carry is None:
        quota = _floor(end, share, offset) - _floor(start, share, offset)
    else:
        due = carry + share * torch.zeros_like(carry).scatter_add_(0, groups, finite.double())
        quota = due.floor().long()[groups][order]
        carry.copy_(due.frac())
    return torch.zeros_like(finite).scatter_(0, order, rank < quota) & finite


def _within(order: Tensor, finite: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`order` sorted by group, and where each one's group starts and ends in it."""
    group = torch.where(finite, groups.long(), _NOWHERE)[order]
    group, by_group = group.sort(stable=True)
    start = torch.searchsorted(group, group)
    end = torch.searchsorted(group, group, right=True)
    return order[by_group], start, end


def _floor(place: Tensor, share: float, offset: float) -> Tensor:
    return (place.double() * share + (offset + _EPSILON)).floor().long()
