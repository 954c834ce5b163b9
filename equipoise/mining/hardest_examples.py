"""HardestExamples: the loss of a batch's hardest examples (online hard example mining)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from equipoise.mining.base import BatchMiner, Settings, check_losses, check_share, sum_of_chosen

_EPSILON = 1e-9  # 0.29 · 100 is 28.999…


def hardest_examples(
    losses: Tensor,
    keep: float | None = 0.5,
    *,
    threshold: float | None = None,
    groups: Tensor | None = None,
    trim: float = 0.0,
    offset: float = 0.0,
    carry: Tensor | None = None,
) -> Tensor:
    """The mask of the examples to learn from.

    In this order: examples with a loss that is NaN or infinite are left out; so is the share
    `trim` of the largest losses, as they are often mislabelled; of the rest those from `threshold`
    up are chosen, and besides the largest until the share `keep` of all is reached. Shares are of
    the batch or, with `groups`, of each group, on average over batches exactly;
    where a small group has too few left, its quota goes before the trimming.

    Source: Shrivastava et al. 2016 (OHEM).

    Args:
        losses: `(B,)`, any floating dtype.
        keep: share of the batch in (0, 1]; `None` with `threshold` alone.
        threshold: loss from which on an example is always chosen; `None` for none.
        groups: `(B,)` class ids, for a quota in each.
        trim: share in [0, 1) of the largest losses.
        offset: in [0, 1), rounds the shares; spread it evenly over the batches.
        carry: `(C,)`, see `hardest`; it is overwritten.

    Returns:
        `(B,)` bool.

    Example:
        >>> losses = torch.tensor([4.0, 3.0, 2.0, 1.0])
        >>> hardest_examples(losses, 0.5).tolist()
        [True, True, False, False]
        >>> hardest_examples(losses, 0.5, trim=0.25).tolist()
        [False, True, True, False]
        >>> hardest_examples(losses, keep=None, threshold=1.5).tolist()
        [True, True, True, False]
    """
    losses = losses.detach()
    chosen = trimmed = torch.zeros_like(losses, dtype=torch.bool)
    if trim:
        trimmed = hardest(losses, trim, groups, offset=offset)
    if keep is not None:
        # last in rank rather than left out, so that quotas stay what they are
        scores = losses.masked_fill(trimmed, torch.finfo(losses.dtype).min)
        chosen = hardest(scores, keep, groups, offset=offset, at_least=1, carry=carry)
    if threshold is not None:
        chosen = chosen | ((losses >= threshold) & torch.isfinite(losses) & ~trimmed)
    return chosen


def hardest(
    losses: Tensor,
    share: float,
    groups: Tensor | None = None,
    *,
    offset: float = 0.0,
    at_least: int = 0,
    carry: Tensor | None = None,
) -> Tensor:
    """The mask of a share of the examples: those of the largest finite losses, ties the first.

    Of n examples ⌊share·n + offset⌋ are chosen; with an offset spread evenly over [0, 1) that is
    share·n on average. Groups are laid out one after another, and one from place a to place b gives
    ⌊share·b + offset⌋ − ⌊share·a + offset⌋: systematic sampling, by which they keep their
    proportions on average.

    With `carry`, `(C,)` in [0, 1), what group c is owed from the batches before, group c gives
    ⌊share · n_c + carry_c⌋ instead, and over any number of batches its share to within one example;
    it is overwritten with what is owed then. `at_least` holds without groups.

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
        return torch.zeros_like(finite).index_fill_(0, order[:k], True) & finite
    # by group, those that can never be chosen last, and where each one's group starts and ends
    nowhere = torch.iinfo(torch.int64).max
    group, by_group = torch.where(finite, groups.long(), nowhere)[order].sort(stable=True)
    order, start = order[by_group], torch.searchsorted(group, group)
    if carry is None:
        end = torch.searchsorted(group, group, right=True)
        before, after = (
            (place.double() * share + (offset + _EPSILON)).floor().long() for place in (start, end)
        )
        quota = after - before
    else:
        due = carry + share * torch.zeros_like(carry).scatter_add_(0, groups, finite.double())
        quota = due.floor().long()[groups][order]
        carry.copy_(due.frac())
    rank = torch.arange(len(losses), device=losses.device) - start
    return torch.zeros_like(finite).scatter_(0, order, rank < quota) & finite


class HardestExamples(BatchMiner):
    """The mean loss over a batch's hardest examples; see `hardest_examples` for which they are.

    It changes what is learnt from a batch. It saves no time: the whole batch has gone through the
    network already. `SelectiveBackprop` and `LossPruning` choose before that.

    Give it losses as they are weighted (`Loss.unreduced`). An example whose loss is NaN or
    infinite is never chosen and is counted (`tally.num_nonfinite`); its own part of the loss's
    gradient is 0. Where its *logits* are NaN, the network's backward pass still multiplies that
    0 by NaN: only choosing before the forward pass helps there.

    Args:
        keep: share in (0, 1] of each class (or of the batch) to learn from. Whole numbers are
            taken so that the share is exact on average; a batch gives at least one example,
            but with quotas a small one may give none. `None` with `threshold` alone.
        threshold: loss from which on an example is always chosen.
        per_class: whether each class keeps the same share, so that the sampler's class shares
            stay: with `num_classes` given to within one example of each class over any number of
            batches; without, on average, and over T batches give or take √T / 2 examples.
            Needs class ids for targets. With hardly any examples of a class in a batch the
            choice within it is close to random: what is hard cannot be told from one example.
        trim: share of the largest losses (of each class) to leave out.
        warm_up, final, num_epochs, num_classes, seed: see `Miner`.

    Raises:
        ValueError: an argument out of range, or an empty batch.

    Example:
        >>> miner = HardestExamples(keep=0.5, per_class=False)
        >>> miner(torch.tensor([1.0, 4.0, 2.0, 0.0]), torch.tensor([0, 0, 1, 1]))
        tensor(3.)
    """

    def __init__(
        self,
        keep: float | None = 0.5,
        *,
        threshold: float | None = None,
        per_class: bool = True,
        trim: float = 0.0,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(**settings)
        if keep is None and threshold is None:
            raise ValueError("Expected keep or threshold to be given, but got None for both.")
        self.keep = None if keep is None else check_share("keep", keep)
        self.trim = check_share("trim", trim, zero=True)
        if self.keep is not None and self.keep < 1 and self.keep + self.trim > 1 + 1e-9:
            raise ValueError(f"Expected keep + trim to be at most 1, but got {keep} + {trim}.")
        if threshold is not None and not threshold == threshold:
            raise ValueError(f"Expected threshold to be a number, but got {threshold!r}.")
        self.threshold, self.per_class = threshold, per_class
        # What each class is owed; staggered, so that they are not all paid in the same batch
        stagger = torch.arange(self.tally.num_classes or 0, dtype=torch.float64) * (5**0.5 - 1) / 2
        self._carry = (stagger + self._next_offset()).frac()

    def select(self, losses: Tensor, targets: Tensor | None = None) -> Tensor:
        """The `(B,)` mask of the examples to learn from in this epoch."""
        if not self.active:
            return torch.isfinite(losses)
        offset = self._next_offset()
        if self._carry.device != losses.device:
            self._carry = self._carry.to(losses.device)
        return hardest_examples(
            losses,
            self.keep,
            threshold=self.threshold,
            groups=check_groups(losses, targets) if self.per_class else None,
            trim=self.trim,
            offset=offset,
            carry=self._carry if self.per_class and len(self._carry) else None,
        )

    def __call__(
        self, losses: Tensor, targets: Tensor | None = None, indices: Tensor | None = None
    ) -> Tensor:
        """The mean loss of the chosen examples, 0 if there are none; see `BatchMiner`.

        Of `(B, C)` losses the mean over labels is taken. `targets` are for the quotas; `indices`
        are not used.
        """
        losses = losses.mean(1) if losses.ndim == 2 else losses
        check_losses(losses, 1)
        chosen = self.select(losses, targets)
        self.tally.add(losses, chosen, targets)
        return sum_of_chosen(losses, chosen) / chosen.sum().clamp_min(1)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "carry": self._carry.cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._carry = state["carry"].clone()


def check_groups(losses: Tensor, targets: Tensor | None) -> Tensor:
    """`targets` as class ids on the losses' device."""
    if targets is None or targets.is_floating_point() or targets.shape != losses.shape:
        got = None if targets is None else f"{targets.dtype} of shape {tuple(targets.shape)}"
        raise ValueError(
            f"Expected targets to be {len(losses)} class ids for a quota in each class, but got "
            f"{got}. Without class ids use per_class=False."
        )
    return targets.to(losses.device).long()
