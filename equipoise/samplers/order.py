"""The order as a function: whole-number quotas, and the class order.

`index = order(position; seed, epoch, weights)` with random access and O(C) state. Position t goes
through a keyed bijection of the epoch's M slots; the slot's place among the cumulative class quotas
gives the class; its rank within the class, plus the class's cursor, goes through a second keyed
bijection over the class's members. So the class counts of an epoch are exact, members are used
without replacement, pass after pass, and nothing is ever drawn for all N.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from equipoise.samplers.permutation import (
    CHUNK,
    halves,
    key_of,
    keys_of,
    permute,
    shortened,
    walk,
    word_for,
)

__all__ = ["ClassOrder", "quotas"]


def quotas(expected: np.ndarray, offset: float) -> np.ndarray:
    """Whole numbers with the sum of `expected`, each its floor or ceiling.

    Systematic rounding: the fractional parts are laid end to end and one in each unit is rounded
    up, at `offset` in [0, 1). Uniform offsets make every quota's mean its expected value; whole
    expected numbers are returned as they are.

    Example:
        >>> quotas(np.array([2.0, 0.5, 0.5]), offset=0.3).tolist()
        [2, 1, 0]
    """
    whole, parts = _laid_out(expected)
    return whole + np.diff(_rounded_up(parts, offset), prepend=0)


def sum_of_quotas(expected: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The sum of `quotas(expected, offset)` over `offsets`, in blocks that stay in cache.

    Example:
        >>> sum_of_quotas(np.array([2.0, 0.5, 0.5]), np.array([0.3, 0.8])).tolist()
        [4, 1, 1]
    """
    whole, parts = _laid_out(expected)
    total = np.zeros(len(whole), np.int64)
    rows = max(1, CHUNK // len(whole))
    for first in range(0, len(offsets), rows):
        total += _rounded_up(parts, offsets[first : first + rows, None]).sum(axis=0)
    return len(offsets) * whole + np.diff(total, prepend=0)


def _laid_out(expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole parts, and the ends of the fractional ones laid end to end (the last end is whole)."""
    rounding = np.minimum(1e-9 * np.maximum(expected, 1), 1e-3)
    whole = np.floor(expected + rounding).astype(np.int64)
    missing = round(float(expected.sum())) - int(whole.sum())
    if missing <= 0:
        return whole, np.zeros(len(whole))
    parts = np.cumsum(np.maximum(expected - whole, 0))
    parts *= missing / parts[-1]
    parts[-1] = missing
    return whole, parts


def _rounded_up(parts: np.ndarray, offset: float | np.ndarray) -> np.ndarray:
    """How many of the fractional parts up to each are rounded up, for one offset or a column."""
    steps = np.minimum(np.floor(parts + (1 - offset)), parts[-1]).astype(np.int64)
    steps[..., -1] = parts[-1]
    return steps


class ClassOrder:
    """Example ids at any position of any epoch, with exact class quotas.

    Args:
        members: `(N,)` example ids grouped by class.
        counts: `(C,)` examples of each class; classes without any are never drawn.
        num_samples: M, positions an epoch.
        seed: with the epoch, all the randomness there is.

    The state is `base_epoch`, the `cursors` the classes had when it began, and the class
    `shares` since then: O(C).
    """

    def __init__(
        self, members: np.ndarray, counts: np.ndarray, num_samples: int, seed: int
    ) -> None:
        self.members, self.counts = members, counts.astype(np.int64)
        self.num_samples, self.seed = num_samples, seed
        self.base_epoch = 0
        self.cursors = np.zeros(len(counts), np.int64)
        self._known = 0, self.cursors  # the epoch last gone to, and the cursors when it begins
        self.shares = self.counts / self.counts.sum()
        self._class_keys = keys_of(key_of(seed, 1), np.arange(len(counts)))
        self._word = word_for(len(members) + num_samples + int(counts.max()))
        self._sizes = np.maximum(self.counts, 1).astype(self._word)
        self._bits, self._radix = halves(self._sizes)
        self._starts = np.cumsum(self.counts) - self.counts
        self.set_epoch(0)

    def set_shares(self, shares: np.ndarray) -> None:
        """Draw classes in these proportions from the current epoch on."""
        self.cursors, self.base_epoch = self._cursors_at(self.epoch), self.epoch
        self.shares = shares / shares.sum()
        self.set_epoch(self.epoch)

    def restore(self, base_epoch: int, cursors: np.ndarray, shares: np.ndarray) -> None:
        """Take over the state another order of the same members and seed had."""
        self.base_epoch, self.cursors = base_epoch, cursors.copy()
        self._known = base_epoch, self.cursors
        self.shares = shares / shares.sum()
        self.set_epoch(base_epoch)

    def set_epoch(self, epoch: int) -> None:
        """Go to any epoch from `base_epoch` on."""
        if epoch < self.base_epoch:
            raise ValueError(
                f"Expected epoch to be at least {self.base_epoch}, where the class weights last "
                f"changed, but got {epoch}."
            )
        self.epoch = epoch
        offset = float(self._offsets_at(np.array([epoch]))[0])
        self.quotas = quotas(self.num_samples * self.shares, offset)
        self._ends = np.cumsum(self.quotas)
        turns, begun = np.divmod(self._cursors_at(epoch), np.maximum(self.counts, 1))
        self._turn_keys = self._class_keys + turns.astype(np.uint64)
        self._offsets = begun + self.quotas - self._ends  # slot + offset = rank since that turn
        self._slot_key = key_of(self.seed, 3, epoch)
        self._plan_lookup()

    def _offsets_at(self, epochs: np.ndarray) -> np.ndarray:
        # A golden-ratio sequence from a random start: the means are exact in the long run
        return (key_of(self.seed, 4) / 2**64 + epochs * (5**0.5 - 1) / 2) % 1.0

    def _cursors_at(self, epoch: int) -> np.ndarray:
        """What each class has drawn before `epoch`: O(C) from one epoch to the next."""
        at, cursors = self._known if self._known[0] <= epoch else (self.base_epoch, self.cursors)
        expected = self.num_samples * self.shares
        for first in range(at, epoch, CHUNK):
            epochs = np.arange(first, min(first + CHUNK, epoch))
            cursors = cursors + sum_of_quotas(expected, self._offsets_at(epochs))
        self._known = epoch, cursors
        return cursors

    def _plan_lookup(self) -> None:
        """A table from a slot's leading bits to the class of the first slot with these."""
        cells = 1 << min(max(10, (32 * len(self.counts)).bit_length()), 21)
        shift = max(self.num_samples.bit_length() - cells.bit_length() + 1, 0)
        edges = np.arange((self.num_samples >> shift) + 1) << shift
        self._shift = np.array(shift, self._word)
        self._cell_class = np.searchsorted(self._ends, edges, side="right")
        self._word_ends, self._word_offsets = (
            each.astype(self._word) for each in (self._ends, self._offsets)
        )

    def _classes(self, slots: np.ndarray) -> np.ndarray:
        found = self._cell_class.take((slots >> self._shift).astype(np.int64))
        behind = (self._word_ends.take(found) <= slots).nonzero()[0]
        for _ in range(4):  # a cell has one class, or a few; where it has many they are searched
            if not len(behind):
                return found
            found[behind] += 1
            behind = behind[self._word_ends.take(found[behind]) <= slots[behind]]
        found[behind] = np.searchsorted(self._word_ends, slots[behind], side="right")
        return found

    def _slots(self, positions: np.ndarray) -> np.ndarray:
        slots = permute(positions, self.num_samples, self._slot_key)
        return slots.astype(self._word, copy=False)

    def classes(self, positions: np.ndarray) -> np.ndarray:
        """Classes at `positions` of the current epoch."""
        return self._classes(self._slots(positions))

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at `positions` of the current epoch, each in [0, num_samples)."""
        slots = self._slots(positions)
        classes = self._classes(slots)
        slots += self._word_offsets.take(classes)  # negative offsets wrap around
        size = self._sizes.take(classes)
        turns = np.divide(slots, size).astype(self._word)
        slots -= turns * size  # now the rank within the turn
        ids = self.members_at(slots, classes, keys_of(self._turn_keys.take(classes), turns))
        return ids.astype(np.int64, copy=False)

    def epoch_at_once(self) -> np.ndarray:
        """Example ids (int64) at all positions: what a call with all of them gives.

        Slot by slot instead of position by position: so classes and turns come in runs, with
        nothing to look up for a single slot, and members are read close to one another.
        """
        out = np.empty(self.num_samples, np.int64)
        # The smaller ids are collected at the end of the same memory, which halves random writing
        ids = out.view(self.members.dtype)[-self.num_samples :]
        for first in range(0, self.num_samples, CHUNK):
            slots = np.arange(first, min(first + CHUNK, self.num_samples), dtype=self._word)
            places = permute(slots, self.num_samples, self._slot_key, inverse=True)
            classes, turns, begins, lengths = self._runs(first, first + len(slots))
            slots -= np.repeat(begins.astype(self._word), lengths)
            keys = keys_of(self._turn_keys.take(classes), turns)
            each = lambda values, lengths=lengths: np.repeat(values, lengths)  # noqa: E731
            ids[places.astype(np.int64)] = self.members_at(slots, classes, keys, each)
        for first in range(0, self.num_samples, CHUNK):  # up to here all ids are moved already
            out[first : first + CHUNK] = ids[first : first + CHUNK]
        return out

    def _runs(self, first: int, last: int) -> tuple[np.ndarray, ...]:
        """Slots [first, last) in runs of one class and turn: these, the turn's slot 0, lengths."""
        low, high = np.searchsorted(self._ends, [first, last - 1], side="right")
        some = slice(low, high + 1)
        ends, sizes = np.minimum(self._ends[some], last), np.maximum(self.counts[some], 1)
        begins = np.maximum(self._ends[some] - self.quotas[some], first)
        offsets = self._offsets[some]
        turn, last_turn = (begins + offsets) // sizes, (ends + offsets - 1) // sizes
        number = last_turn - turn + 1
        of = np.repeat(np.arange(len(number)), number)
        turns = np.arange(len(of)) + np.repeat(turn - np.cumsum(number) + number, number)
        begins = turns * sizes[of] - offsets[of]
        lengths = np.diff(np.minimum(begins + sizes[of], ends[of]), prepend=first)
        return of + low, turns, begins, lengths

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
        tables = self._sizes, self._bits, self._radix
        size, bits, radix = (each(table.take(classes)) for table in tables)
        within = walk(ranks, size, bits, radix, each(shortened(keys, self._word)))
        within = within.astype(np.int64)
        within += each(self._starts.take(classes))
        return self.members.take(within, mode="wrap")  # all are inside; this mode copies least
