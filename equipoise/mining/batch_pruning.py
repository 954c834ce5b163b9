"""BatchPruning: which of a batch's candidates are kept, decided when the batch is drawn."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from equipoise.mining.loss_pruning import LossPruning

__all__ = ["NEW", "BatchPruning", "keep_positions", "kinds_of", "scaled_to"]

NEW = 0  # the kind of an example never seen
CANDIDATES = 256  # of each class, over about which many counts and means are averaged


def kinds_of(losses: np.ndarray, groups: np.ndarray, means: np.ndarray) -> np.ndarray:
    """3 · class + kind (0 never seen, 1 hard: at least its class's mean, 2 easy) of each loss.

    Example:
        >>> kinds_of(np.array([np.nan, 2.0, 1.0]), np.array([0, 0, 1]), np.array([2.0, 3.0]))
        array([0, 1, 5])
    """
    kind = np.where(np.isnan(losses), NEW, np.where(losses >= means[groups], 1, 2))
    return 3 * groups.astype(np.int64) + kind


def scaled_to(probability: np.ndarray, counts: np.ndarray, length: float) -> np.ndarray:
    """min(1, f · probability) with the factor f for which counts · that sum to `length`.

    Args:
        probability: `(K,)` positive.
        counts: `(K,)`, at least `length` together.
        length: above 0.

    Example:
        >>> scaled_to(np.array([0.8, 0.4]), np.array([4, 10]), 9)
        array([1. , 0.5])
    """
    falling = np.argsort(-probability)
    p, n = probability[falling], counts[falling]
    surely = np.cumsum(n) - n  # how many have 1 where the first k kinds do …
    rest = np.cumsum((p * n)[::-1])[::-1]
    factors = np.divide(length - surely, rest, out=np.full(len(p), np.inf), where=rest > 0)
    fits = factors * p <= 1  # … and the others less: the first such k
    factor = factors[fits.argmax()] if fits.any() else np.inf
    return np.minimum(1.0, factor * probability)


def keep_positions(
    kinds: np.ndarray, probability: np.ndarray, length: int, offset: float
) -> np.ndarray:
    """`length` positions, ascending; position t is among them with probability[kinds[t]].

    Systematic sampling: positions are laid out kind by kind, each as long as its probability, and
    those are kept into which one of offset, offset + 1, … falls. So each kind is kept as often as
    its probability says, rounded up or down.

    Args:
        kinds: `(M,)` small integers.
        probability: of each kind; over all positions they sum to `length`.
        length: how many to keep.
        offset: in [0, 1), random and uniform.

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


class BatchPruning:
    """Keeps a fixed number of the candidates of each batch, by the losses remembered then.

    The probabilities are `LossPruning`'s for what candidates have lately been like, times the
    factor that makes them sum to the batch's length over the batch's own candidates. What was easy
    or hard, and the means that tell, are averages over the candidates of late, about 256 of each
    class: nothing goes over all examples.

    Whatever the probabilities are, they are fixed before the draw, and the draw's randomness is the
    batch's own. So losses / probability sum, on average, to those of all candidates, given
    everything that went before.

    Args:
        pruning: a `LossPruning`.
    """

    def __init__(self, pruning: LossPruning) -> None:
        self.pruning = pruning
        self._groups = pruning.groups()
        kinds = pruning.num_kinds
        # Of the candidates of late: how many of each kind; losses and how many of each class
        self._counts, self._sums = np.zeros(kinds), np.zeros((2, kinds // 3))
        self._waiting: deque[tuple[Tensor, Tensor]] = deque()  # drawn, not handed out
        table = torch.full((pruning.memory.num_examples,), torch.nan)
        self._tables = {table.device: table}

    def begin(self) -> None:
        """Start an epoch."""
        self._waiting.clear()

    def keep(self, ids: np.ndarray, length: int, offset: float) -> np.ndarray:
        """`length` of the candidates `ids`, in their order.

        Args:
            ids: example ids, at least `length`.
            length: of the batch.
            offset: in [0, 1), random and uniform.
        """
        kinds = self._kinds(ids)
        drawn = np.bincount(kinds, minlength=len(self._counts))
        self._counts += drawn
        expected = self._counts * (len(ids) / self._counts.sum())
        probability = self.pruning.probabilities(expected, length)
        probability = scaled_to(probability, drawn, length)
        kept = keep_positions(kinds, probability, length, offset)
        chosen = ids[kept]
        told = torch.from_numpy(probability[kinds[kept]]).float()
        self._waiting.append((torch.from_numpy(chosen), told))
        return chosen

    def _kinds(self, ids: np.ndarray) -> np.ndarray:
        classes = self._sums.shape[1]
        fade = np.exp(-len(ids) / max(CANDIDATES * classes, 4 * len(ids)))
        self._counts *= fade
        self._sums *= fade
        losses = self.pruning.memory.recall(ids)
        groups = np.zeros(len(ids), np.int64) if self._groups is None else self._groups[ids]
        seen = np.flatnonzero(~np.isnan(losses))
        self._sums[0] += np.bincount(groups[seen], losses[seen], minlength=classes)
        self._sums[1] += np.bincount(groups[seen], minlength=classes)
        means = np.divide(
            self._sums[0], self._sums[1], where=self._sums[1] > 0, out=np.zeros(classes)
        )
        return kinds_of(losses, groups, means)

    def hand_out(self) -> None:
        """The next of the batches kept is about to be trained on."""
        ids, probability = self._waiting.popleft()
        for device, table in self._tables.items():
            table[ids.to(device, non_blocking=True)] = probability.to(device, non_blocking=True)

    def probability(self, indices: Tensor) -> Tensor:
        """With which each example was kept in the batch last handed out that holds it, or NaN."""
        if indices.device not in self._tables:
            here = next(iter(self._tables.values()))
            self._tables[indices.device] = here.to(indices.device)
        return self._tables[indices.device][indices.long()]

    def state_dict(self) -> dict[str, Any]:
        return {
            "counts": torch.from_numpy(self._counts.copy()),
            "sums": torch.from_numpy(self._sums.copy()),
            "waiting": [(ids.clone(), probability.clone()) for ids, probability in self._waiting],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._counts, self._sums = state["counts"].numpy().copy(), state["sums"].numpy().copy()
        self._waiting = deque((ids.clone(), p.clone()) for ids, p in state["waiting"])
