"""The order as a function: the plan of an epoch, from positions to example ids.

`index = order(position; seed, epoch, weights)` with random access and O(C) state. Position t goes
through a keyed bijection of the epoch's M slots; the slot's place among the cumulative class quotas
gives the class; its rank within the class, plus the class's cursor, goes through a second keyed
bijection over the class's members. So the class counts of an epoch are exact, members are used
without replacement, pass after pass, and nothing is ever drawn for all N.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from equipoise._order_sampler import CHUNK
from equipoise.samplers.permutation import (
    find,
    halves,
    key_of,
    keys_of,
    offset_of,
    permute,
    shortened,
    walk,
    word_for,
)

__all__ = ["ClassOrder", "ClassPlan", "class_shares", "quotas"]


def class_shares(counts: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """Each class's share of the draws: in proportion to count · exp(log-weight).

    Example:
        >>> class_shares(np.array([90, 10]), np.log([1.0, 9.0])).tolist()
        [0.5, 0.5]
    """
    shares = counts * np.exp(log_weight - log_weight.max())
    return shares / shares.sum()


def quotas(expected: np.ndarray, offset: float) -> np.ndarray:
    """Whole numbers with the sum of `expected`, each its floor or ceiling.

    Systematic rounding: the fractional parts are laid end to end and one in each unit is rounded
    up, at `offset` in [0, 1). Uniform offsets make every quota's mean its expected value; whole
    expected numbers are returned as they are.

    Example:
        >>> quotas(np.array([2.0, 0.5, 0.5]), offset=0.3).tolist()
        [2, 1, 0]
    """
    rounding = np.minimum(1e-9 * np.maximum(expected, 1), 1e-3)
    whole = np.floor(expected + rounding).astype(np.int64)
    missing = round(float(expected.sum())) - int(whole.sum())
    if missing <= 0:
        return whole
    ends = np.cumsum(np.maximum(expected - whole, 0))
    ends *= missing / ends[-1]
    up = np.minimum(np.floor(ends + (1 - offset)), missing).astype(np.int64)
    up[-1] = missing
    return whole + np.diff(up, prepend=0)


class ClassOrder:
    """Classes and their members, and the keys of their arrangements: what plans have in common.

    Where class c has drawn `cursors[c]` examples before an epoch, that epoch takes its next ones:
    each member once, then each once more in a fresh order, and so on.

    Args:
        members: `(N,)` example ids grouped by class.
        counts: `(C,)` how many each class has; 0 is allowed where its share is 0.
        num_samples: M, positions in an epoch; up to 2^52 (whole numbers in float64).
        seed: with the epoch, all the randomness there is.
    """

    def __init__(
        self, members: np.ndarray, counts: np.ndarray, num_samples: int, seed: int
    ) -> None:
        self.members, self.counts = members, counts.astype(np.int64)
        self.num_samples, self.seed = num_samples, seed
        self.class_keys = keys_of(key_of(seed, 1), np.arange(len(counts)))
        self.word = word_for(len(members) + num_samples + int(counts.max()))
        self.sizes = np.maximum(self.counts, 1).astype(self.word)
        self.bits, self.radix = halves(self.sizes)
        self.starts = np.cumsum(self.counts) - self.counts

    def plan(self, log_weight: np.ndarray) -> ClassPlan:
        """The plan of epoch 0."""
        return ClassPlan(self, 0, log_weight, np.zeros(len(self.counts), np.int64))

    def members_at(
        self,
        ranks: np.ndarray,
        classes: np.ndarray,
        keys: np.ndarray,
        each: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> np.ndarray:
        """Members at ranks within turns of their classes; the turns' keys are 64-bit.

        Where ranks come in runs, `classes` and `keys` are those of the runs, and `each` repeats.
        """
        size, bits, radix = (
            each(table.take(classes)) for table in (self.sizes, self.bits, self.radix)
        )
        within = walk(ranks, size, bits, radix, each(shortened(keys, self.word)))
        within = within.astype(np.int64)
        within += each(self.starts.take(classes))
        return self.members.take(within, mode="wrap")  # all are inside; this mode copies least


@dataclass(frozen=True, eq=False)
class ClassPlan:
    """Example ids at any position of one epoch, classes in proportion to count · exp(log-weight).

    Nothing of it ever changes: an iteration that draws from it is not disturbed by new weights or
    another epoch, which are other plans.

    Attributes:
        order: classes and members.
        epoch: from 0 up.
        log_weight: `(C,)` float64, in nats.
        cursors: `(C,)` int64, what each class has drawn before.
        shares: `(C,)` float64, of the draws on average.
        quotas: `(C,)` int64, draws of each class.
    """

    order: ClassOrder
    epoch: int
    log_weight: np.ndarray
    cursors: np.ndarray

    @property
    def size(self) -> int:
        """How many positions there are."""
        return self.order.num_samples

    @cached_property
    def shares(self) -> np.ndarray:
        return class_shares(self.order.counts, self.log_weight)

    @cached_property
    def quotas(self) -> np.ndarray:
        return self._quotas_of(self.epoch)

    def _quotas_of(self, epoch: int) -> np.ndarray:
        return quotas(self.size * self.shares, offset_of(key_of(self.order.seed, 4), epoch))

    def at(self, epoch: int) -> ClassPlan:
        """The plan of a later epoch with the same weights: O(C) for each one in between."""
        if epoch == self.epoch:
            return self
        drawn = sum(map(self._quotas_of, range(self.epoch, epoch)))
        return replace(self, epoch=epoch, cursors=self.cursors + drawn)

    def next(self, log_weight: np.ndarray) -> ClassPlan:
        """The plan of the next epoch, with other weights."""
        return ClassPlan(self.order, self.epoch + 1, log_weight, self.cursors + self.quotas)

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "log_weight": torch.tensor(self.log_weight),
            "cursors": torch.tensor(self.cursors),
        }

    def restored(self, state: dict[str, Any]) -> ClassPlan:
        """The plan that had this state, with this one's order."""
        log_weight, cursors = (state[name].numpy().copy() for name in ("log_weight", "cursors"))
        return ClassPlan(self.order, state["epoch"], log_weight, cursors)

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.quotas)

    @cached_property
    def _offsets(self) -> np.ndarray:
        """Slot + offset is a slot's rank since the turn its class is in as the epoch begins."""
        return self.cursors % np.maximum(self.order.counts, 1) + self.quotas - self._ends

    @cached_property
    def _turn_keys(self) -> np.ndarray:
        turns = self.cursors // np.maximum(self.order.counts, 1)
        return self.order.class_keys + turns.astype(np.uint64)

    @cached_property
    def _slot_key(self) -> int:
        return key_of(self.order.seed, 3, self.epoch)

    @cached_property
    def _lookup(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Class of the first slot with each value of the leading bits, the shift, ends, offsets."""
        cells = 1 << min(max(10, (32 * len(self.order.counts)).bit_length()), 21)
        shift = max(self.size.bit_length() - cells.bit_length() + 1, 0)
        edges = np.arange((self.size >> shift) + 1) << shift
        word = self.order.word
        first = np.searchsorted(self._ends, edges, side="right")
        return first, np.array(shift, word), self._ends.astype(word), self._offsets.astype(word)

    def _slots(self, positions: np.ndarray) -> np.ndarray:
        slots = permute(positions, self.size, self._slot_key)
        return slots.astype(self.order.word, copy=False)

    def _classes(self, slots: np.ndarray) -> np.ndarray:
        first, shift, ends, _ = self._lookup
        return find(ends, slots, first.take((slots >> shift).astype(np.int64)))

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at `positions`, each in [0, `size`)."""
        slots = self._slots(positions)
        classes = self._classes(slots)
        slots += self._lookup[3].take(classes)  # negative offsets wrap around
        size = self.order.sizes.take(classes)
        turns = np.divide(slots, size).astype(self.order.word)
        slots -= turns * size  # now the rank within the turn
        keys = keys_of(self._turn_keys.take(classes), turns)
        return self.order.members_at(slots, classes, keys).astype(np.int64, copy=False)

    def at_once(self) -> np.ndarray:
        """Example ids (int64) at all positions: what a call with all of them gives.

        Slot by slot instead of position by position: so classes and turns come in runs, with
        nothing to look up for a single slot, and members are read close to one another.
        """
        out = np.empty(self.size, np.int64)
        # The smaller ids are collected at the end of the same memory, which halves random writing
        ids = out.view(self.order.members.dtype)[-self.size :]
        for first in range(0, self.size, CHUNK):
            slots = np.arange(first, min(first + CHUNK, self.size), dtype=self.order.word)
            places = permute(slots, self.size, self._slot_key, inverse=True)
            classes, turns, begins, lengths = self._runs(first, first + len(slots))
            slots -= np.repeat(begins.astype(self.order.word), lengths)
            keys = keys_of(self._turn_keys.take(classes), turns)
            each = lambda values, lengths=lengths: np.repeat(values, lengths)  # noqa: E731
            ids[places.astype(np.int64)] = self.order.members_at(slots, classes, keys, each)
        for first in range(0, self.size, CHUNK):  # up to here all ids are moved already
            out[first : first + CHUNK] = ids[first : first + CHUNK]
        return out

    def _runs(self, first: int, last: int) -> tuple[np.ndarray, ...]:
        """Slots [first, last) in runs of one class and turn: these, the turn's slot 0, lengths."""
        low, high = np.searchsorted(self._ends, [first, last - 1], side="right")
        some = slice(low, high + 1)
        ends, sizes = np.minimum(self._ends[some], last), np.maximum(self.order.counts[some], 1)
        begins = np.maximum(self._ends[some] - self.quotas[some], first)
        offsets = self._offsets[some]
        turn, last_turn = (begins + offsets) // sizes, (ends + offsets - 1) // sizes
        number = last_turn - turn + 1
        of = np.repeat(np.arange(len(number)), number)
        turns = np.arange(len(of)) + np.repeat(turn - np.cumsum(number) + number, number)
        begins = turns * sizes[of] - offsets[of]
        lengths = np.diff(np.minimum(begins + sizes[of], ends[of]), prepend=first)
        return of + low, turns, begins, lengths
