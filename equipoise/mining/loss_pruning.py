"""LossPruning: easy examples dropped with a known probability, the rest scaled by its inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Unpack

from equipoise._order_sampler import CHUNK, OrderSampler
from equipoise.mining.base import SamplerMiner, Settings, check_losses, check_share, key_of
from equipoise.mining.loss_memory import LossMemory


def keep_probabilities(counts: np.ndarray, budget: float, least: float) -> np.ndarray:
    """With which probability to keep a draw, so that `budget` draws are kept on average.

    Draws are of a class, and there of one of three kinds: of an example never seen, a hard one
    (loss at least the class's mean), an easy one. Never-seen ones are kept. Of the rest each class
    keeps the same share of its draws where it can: hard ones first, easy ones with what
    probability is left, but none with less than `least`. Where not even the never-seen ones fit,
    all of them have the same probability below 1.

    Args:
        counts: `(C, 3)` draws of each class: never seen, hard, easy.
        budget: between `least` · all draws and all draws.
        least: lowest probability, above 0, so that the inverse is bounded.

    Returns:
        `(C, 3)` float64 in [least, 1]; (counts · probabilities).sum() is `budget`.

    Example:
        >>> keep_probabilities(np.array([[0, 3, 5], [4, 3, 5]]), 10, least=0.1)
        array([[1. , 1. , 0.2],
               [1. , 0.5, 0.1]])
        >>> keep_probabilities(np.array([[0, 4, 6], [0, 2, 3]]), 9, least=0.1)
        array([[1.        , 1.        , 0.33333333],
               [1.        , 1.        , 0.33333333]])
    """
    counts = np.asarray(counts, np.float64)
    new, hard, easy = counts.T
    total, needed = counts.sum(1), new + least * (hard + easy)
    if needed.sum() >= budget:
        rest = budget - least * (hard + easy).sum()
        first = np.clip(rest / new.sum(), least, 1.0) if new.any() else 1.0
        return np.tile([first, least, least], (len(counts), 1))
    # Which share of its draws each class keeps, where it needs no more: those that need the least
    # get it, as many of them as it suffices for
    need = np.divide(needed, total, out=np.zeros_like(needed), where=total > 0)
    rising = np.argsort(need, kind="stable")
    left = budget - (needed.sum() - np.cumsum(needed[rising]))
    among = np.cumsum(total[rising])
    shares = np.divide(left, among, out=np.zeros_like(left), where=among > 0)
    share = shares[(shares <= np.append(need[rising][1:], np.inf)) & (among > 0)][0]
    rest = np.maximum(needed, min(share, 1.0) * total) - new
    of_easy = np.divide(rest - hard, easy, out=np.ones_like(rest), where=easy > 0)
    of_easy = np.clip(of_easy, least, 1.0)
    of_hard = np.divide(rest - easy * of_easy, hard, out=np.ones_like(rest), where=hard > 0)
    of_hard = np.clip(of_hard, least, 1.0)
    return np.stack([np.ones_like(rest), of_hard, np.minimum(of_easy, of_hard)], axis=1)


def keep_positions(
    kinds: np.ndarray, probability: np.ndarray, length: int, offset: float
) -> np.ndarray:
    """`length` positions, ascending; position t is among them with probability[kinds[t]].

    Systematic sampling: positions are laid out kind by kind, each as long as its probability, and
    those are kept into which one of offset, offset + 1, … falls. So each kind is kept as often as
    its probability says, rounded up or down. `kinds` are `(M,)` small integers, `offset` is random
    in [0, 1), and the positions' probabilities sum to `length`.

    Example:
        >>> keep_positions(np.array([0, 1, 1, 0, 1, 1]), np.array([1.0, 0.5]), 4, 0.3).tolist()
        [0, 2, 3, 5]
    """
    surely = probability[kinds] >= 1 - 1e-9
    rest = np.flatnonzero(~surely)
    rest = rest[np.argsort(kinds[rest], kind="stable")]
    wanted = length - int(np.count_nonzero(surely))
    if not len(rest) or wanted <= 0:
        return np.flatnonzero(surely)
    ends = np.cumsum(probability[kinds[rest]])
    places = np.floor(ends * (wanted / ends[-1]) + offset).astype(np.int64)
    places[-1] = wanted  # floor(wanted + offset) but for rounding errors
    kept = surely.copy()
    kept[rest[np.diff(places, prepend=0) > 0]] = True
    return np.flatnonzero(kept)


class LossPruning(SamplerMiner):
    """Shorter epochs without the easy examples, the gradient's expectation unchanged.

    It remembers each example's last loss (`memory`), and `over(sampler)` is a sampler that draws
    `keep` of the other's positions: hard examples (loss at least the mean of their class) first,
    easy ones with what is left, never-seen ones always where they fit in. Each kind is kept with
    a known probability p, and `miner(losses, targets, indices)` is the mean of losses · keep / p:
    its expectation is the plain mean over the other sampler's epoch, so what that one and the
    loss weigh stays true and the decision has nothing to undo. The choice is fixed at the start
    of an epoch, so the losses of the running one act from the next on.

    The loader has to give each example's index with it. Only the sampler's `set_epoch` need be
    called. With several ranks see `LossMemory`.

    Source: Qin et al. 2024 (InfoBatch), here by class and with an epoch of fixed length.

    Args:
        keep: share in (0, 1] of the other sampler's draws.
        least: lowest probability in (0, keep]; weights are at most keep / least.
        fixed_length: whether epochs that are not mined are as long as the others (a random share
            `keep` of the draws), as FFCV and learning-rate schedules want; otherwise they hold
            all draws.
        warm_up, final, num_epochs, num_classes, seed: see `Miner`.

    With several ranks, what each remembers is brought together by `Balancer.step`. A state saved in
    mid-epoch holds the losses of its own rank since then; resumed on all ranks, the running epoch
    is exact, and later ones choose without the others' losses of that part of it.

    Example:
        >>> from equipoise.samplers import ClassBalancedSampler
        >>> miner = LossPruning(keep=0.5)
        >>> sampler = miner.over(ClassBalancedSampler([0] * 6 + [1] * 2))
        >>> indices = torch.tensor(list(sampler))
        >>> len(indices), miner.weight(indices).tolist()
        (4, [1.0, 1.0, 1.0, 1.0])
    """

    memory: LossMemory

    def __init__(
        self,
        keep: float = 0.5,
        *,
        least: float | None = None,
        fixed_length: bool = True,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(**settings)
        self.keep = check_share("keep", keep)
        self.least = check_share("least", min(0.1, self.keep / 2) if least is None else least)
        if self.least > self.keep:
            raise ValueError(f"Expected least to be at most keep={keep}, but got {least}.")
        self.fixed_length = fixed_length
        self.sampler: PrunedSampler | None = None

    def over(self, sampler: OrderSampler, targets: Any = None) -> PrunedSampler:
        """A sampler of `keep` of the draws of `sampler`.

        Args:
            sampler: any `OrderSampler`.
            targets: by default `sampler.targets`. With multi-hot ones all examples are one class.
        """
        self.sampler = PrunedSampler(sampler, self, targets)
        targets = self.sampler.targets
        if targets is None:
            raise TypeError(
                "Expected targets to be given for a sampler without them, but got None and a "
                f"{type(sampler).__name__}."
            )
        self.memory = LossMemory(targets.num_examples)
        several = targets.multilabel
        self._classes = np.zeros(targets.num_examples, np.int64) if several else targets.labels
        self.num_kinds = 3 * (1 if several else targets.num_classes)
        return self.sampler

    def kinds(self) -> np.ndarray:
        """`(N,)` 3 · class + kind (0 never seen, 1 hard, 2 easy) of the examples, as of now."""
        losses, classes = self.memory.losses(), self._classes
        seen = np.flatnonzero(np.isfinite(losses))
        counts = np.bincount(classes[seen], minlength=self.num_kinds // 3)
        sums = np.bincount(classes[seen], losses[seen], minlength=self.num_kinds // 3)
        means = sums / np.maximum(counts, 1)
        kind = np.where(np.isnan(losses), 0, np.where(losses >= means[classes], 1, 2))
        return (3 * classes + kind).astype(np.min_scalar_type(-self.num_kinds))

    def probabilities(self, counts: np.ndarray, length: int) -> np.ndarray:
        """`(3C,)` probabilities for `counts` draws of each kind, of which `length` are kept."""
        if not self.active:
            return np.full(self.num_kinds, length / counts.sum())
        return keep_probabilities(counts.reshape(-1, 3), length, self.least).reshape(-1)

    def inclusion_probability(self, indices: Any) -> Tensor:
        """Probability that a draw of each example is kept in the running epoch, float32 `(B,)`.

        An example that the other sampler draws r times an epoch comes r times this on average.
        """
        indices = self.memory.check_indices(torch.as_tensor(indices))
        return self._sampler().inclusion_probability(indices)

    def weight(self, indices: Tensor) -> Tensor:
        """keep / p of each example, float32 `(B,)`: their mean over an epoch is 1 on average."""
        return self._sampler().share / self.inclusion_probability(indices)

    def __call__(
        self, losses: Tensor, targets: Tensor | None = None, indices: Tensor | None = None
    ) -> Tensor:
        """The mean of losses · keep / p over the batch (0 for a NaN); remembers the losses.

        Of `(B, C)` losses the mean over labels is taken. `targets` are for the tally alone;
        `indices` are needed. See `BatchMiner`.
        """
        losses = losses.mean(1) if losses.ndim == 2 else losses
        check_losses(losses, 1)
        if indices is None:
            raise ValueError(
                "Expected indices, the example ids of the batch, but got None: the loader has to "
                "give each example's index with it (see equipoise.mining)."
            )
        indices = self.memory.check_indices(indices, losses.shape)
        # before anything new is remembered, lest the epoch's choice is still to be made
        weight = self.weight(indices).to(losses.device, non_blocking=True)
        self.memory.update(indices, losses.detach())
        finite = torch.isfinite(losses.detach())
        ids = targets if targets is not None and targets.ndim == 1 else None
        self.tally.add(losses.detach(), finite, ids)
        values = torch.where(finite, losses, 0).to(torch.promote_types(losses.dtype, torch.float32))
        return (values * weight).mean()

    def _sampler(self) -> PrunedSampler:
        if self.sampler is None:
            raise RuntimeError("Expected over(sampler) to be called first: it makes the sampler.")
        return self.sampler

    def cost(self) -> float:
        """The share of the epoch's draws that came."""
        return self._sampler().share

    def sum_over_ranks(self) -> None:
        super().sum_over_ranks()
        self.memory.merge_ranks()

    def state_dict(self) -> dict[str, Any]:
        """The memory; the running epoch's choice is in the sampler's state."""
        self._sampler()
        return {**super().state_dict(), "memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sampler()
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])


class PrunedSampler(OrderSampler):
    """The stream of another sampler without some of its positions, in that one's order.

    Of the M positions of the inner sampler's epoch round(keep · M) are kept, exactly, in every
    epoch (with `fixed_length=False`, all M in epochs that are not mined); which, is drawn without
    replacement, with probabilities by kind that `inclusion_probability` tells. It is decided when
    the epoch's first position is drawn, from the losses remembered by then, and kept until
    `set_epoch` or `set_log_weight`: asking twice gives the same. It takes O(M), once an epoch.
    Rank r of R takes places r, r + R, … of what is kept.

    Made by `LossPruning.over(sampler)`.

    Args:
        sampler: the inner one.
        pruning: decides on the probabilities.
        targets: of the examples.
    """

    def __init__(self, sampler: OrderSampler, pruning: LossPruning, targets: Any = None) -> None:
        if not isinstance(sampler, OrderSampler):
            raise TypeError(
                "Expected sampler to be an equipoise.samplers.OrderSampler, but got "
                f"{type(sampler).__name__}."
            )
        self.inner, self.pruning = sampler, pruning
        super().__init__(
            self._length(),
            targets=sampler.targets if targets is None else targets,
            num_examples=sampler.num_examples,
            seed=sampler.seed,
            rank=sampler.rank,
            num_replicas=sampler.num_replicas,
        )
        self.epoch, self.takes_log_weight = sampler.epoch, sampler.takes_log_weight
        self._forget()

    def _length(self) -> int:
        """Positions of the epoch that the pruning is in."""
        if self.pruning.active or self.pruning.fixed_length:
            return max(1, round(self.pruning.keep * self.inner.num_samples))
        return self.inner.num_samples

    def set_log_weight(self, log_weight: Any) -> None:
        """Pass class log-weights on to the inner sampler; see there from when on they act."""
        self.inner.handed_out = self.handed_out
        self.inner.set_log_weight(log_weight)
        if not self.handed_out:
            self._forget()

    @property
    def log_weight(self) -> np.ndarray | None:
        """The inner sampler's."""
        return self.inner.log_weight

    def expected_draws(self) -> np.ndarray:
        """The inner sampler's, less the share that is left out: classes keep their proportions."""
        return self.share * self.inner.expected_draws()

    def logit_shift(self) -> np.ndarray:
        """The inner sampler's: the miner's weights make up for what is left out."""
        return self.inner.logit_shift()

    @property
    def share(self) -> float:
        """How much of the inner sampler's epoch is kept."""
        return self.num_samples / self.inner.num_samples

    def set_epoch(self, epoch: int, position: int | None = None) -> None:
        """Go to an epoch, at a global position; the same epoch keeps its choice.

        See `OrderSampler.set_epoch`.
        """
        if epoch != self.epoch:
            self.inner.set_epoch(epoch)
            self._forget()
        self.pruning.set_epoch(epoch)
        self.num_samples = self._length()
        super().set_epoch(epoch, position)

    def _forget(self) -> None:
        self._kept: np.ndarray | None = None
        self._kinds: np.ndarray | None = None
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _decide(self) -> np.ndarray:
        """The kept positions of this epoch."""
        if self._kept is None:
            if self._kinds is None:  # else they were saved
                self._kinds = self.pruning.kinds()
            m, length = self.inner.num_samples, self.num_samples
            some = (np.arange(first, min(first + CHUNK, m)) for first in range(0, m, CHUNK))
            drawn = np.concatenate([self._kinds[self.inner.draw(positions)] for positions in some])
            counts = np.bincount(drawn, minlength=self.pruning.num_kinds)
            self._probability = self.pruning.probabilities(counts, length)
            offset = np.random.default_rng(key_of(self.seed, 21, self.epoch)).random()
            self._kept = keep_positions(drawn, self._probability, length, offset)
        return self._kept

    def inclusion_probability(self, indices: Tensor) -> Tensor:
        """Probability that a draw of each example is kept in this epoch, on the indices' device."""
        self._decide()
        device = indices.device
        if device not in self._tables:
            of_kinds = torch.from_numpy(self._probability).float().to(device)
            self._tables[device] = torch.from_numpy(self._kinds).to(device), of_kinds
        kinds, of_kinds = self._tables[device]
        return of_kinds[kinds[indices.long()].long()]

    def draw(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at global positions of the current epoch."""
        return self.inner.draw(self._decide()[positions])

    def snapshot(self) -> PrunedSampler:
        """The sampler as it is now, with this epoch's choice made; see `OrderSampler.snapshot`."""
        self._decide()
        same: Any = super().snapshot()
        same.inner = self.inner.snapshot()
        return same

    def state_dict(self) -> dict[str, Any]:
        """Epoch, global position and the epoch's choice; the memory is in the miner's state."""
        kinds = None if self._kinds is None else torch.from_numpy(self._kinds.copy())
        return {**super().state_dict(), "kinds": kinds, "inner": self.inner.state_dict()}

    def _identity(self) -> dict[str, Any]:
        inner = {"num_samples": self.inner.num_samples, "keep": self.pruning.keep}
        return {**super()._identity(), **inner}

    def _restore(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.epoch = self.inner.epoch
        self._forget()
        if state["kinds"] is not None:
            self._kinds = state["kinds"].numpy().copy()
