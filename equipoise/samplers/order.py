"""The order as a function: keyed bijections, whole-number quotas, and the class order.

`index = order(position; seed, epoch, weights)` with random access and O(C) state. Position t goes
through a keyed bijection of the epoch's M slots; the slot's place among the cumulative class quotas
gives the class; its rank within the class, plus the class's cursor, goes through a second keyed
bijection over the class's members. So the class counts of an epoch are exact, members are used
without replacement, pass after pass, and nothing is ever drawn for all N.

Everything is uint64 arithmetic on chunks that stay in cache, so the stream is the same everywhere.
"""

from __future__ import annotations

import numpy as np

__all__ = ["CHUNK", "ClassOrder", "key_of", "keys_of", "permute", "permute_each", "quotas"]

CHUNK = 16384  # positions worked on at a time: a few such arrays fit the L2 cache

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)
_ROUND_KEYS = np.array(
    [
        *(0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0),
        *(0x082EFA98EC4E6C89, 0x452821E638D01377, 0xBE5466CF34E90C6C),
    ],
    dtype=np.uint64,
)  # digits of pi; six rounds: with four, neighbours in classes of 4 to 100 were correlated


def key_of(*parts: int) -> int:
    """A 64-bit key hashed from whole numbers (splitmix64, chained).

    Example:
        >>> key_of(0, 1) != key_of(1, 0)
        True
    """
    state = 0
    for part in parts:
        state = (state ^ (part & (2**64 - 1))) + _GOLDEN & 2**64 - 1
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 2**64 - 1
        state ^= state >> 31
    return state


def keys_of(keys: np.ndarray | int, numbers: np.ndarray) -> np.ndarray:
    """64-bit keys, uint64, hashed from keys and whole numbers element by element."""
    mixed = (np.asarray(keys, np.uint64) + numbers.astype(np.uint64)) * np.uint64(_GOLDEN)
    mixed ^= mixed >> np.uint64(29)
    return mixed


def _halves(size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two radices of about equal length with a·b ≥ size, none below 4: halves of 2 mix badly."""
    least = np.where(size > 2, np.uint64(4), size)
    a = np.maximum(np.ceil(np.sqrt(size.astype(np.float64))).astype(np.uint64), least)
    return a, np.maximum((size + a - np.uint64(1)) // a, least)


def _mix_in(half, other, radix, key, scratch, high) -> None:  # type: ignore[no-untyped-def]
    """half ← (half + hash(other, key) · radix / 2^32) mod radix, in place."""
    np.bitwise_xor(other, key, out=scratch)
    np.multiply(scratch, np.uint64(_GOLDEN), out=scratch)
    np.right_shift(scratch, _HALF, out=high)
    np.bitwise_xor(scratch, high, out=scratch)
    np.multiply(scratch, _MIX, out=scratch)
    np.right_shift(scratch, _HALF, out=scratch)
    np.multiply(scratch, radix, out=scratch)
    np.right_shift(scratch, _HALF, out=scratch)
    np.add(half, scratch, out=half)
    np.subtract(half, radix, out=scratch)  # wraps to a huge number where half < radix …
    np.minimum(half, scratch, out=half)  # … so the minimum is the remainder


def _feistel(x, a, b, key) -> np.ndarray:  # type: ignore[no-untyped-def]
    """A keyed bijection of {0 … a·b−1}: six rounds of a mixed-radix Feistel network."""
    left = np.empty_like(x)
    right = x // a if np.ndim(a) == 0 else np.divide(x, a).astype(np.uint64)
    np.multiply(right, a, out=left)
    np.subtract(x, left, out=left)
    scratch, high = np.empty_like(x), np.empty_like(x)
    for i in (0, 2, 4):
        _mix_in(left, right, a, key ^ _ROUND_KEYS[i], scratch, high)
        _mix_in(right, left, b, key ^ _ROUND_KEYS[i + 1], scratch, high)
    np.multiply(right, a, out=right)
    np.add(right, left, out=right)
    return right


def _walk(x, size, a, b, key) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The Feistel bijection, repeated where it leaves {0 … size−1} (cycle-walking)."""
    out = _feistel(x, a, b, key)
    outside = np.flatnonzero(out >= size)
    while len(outside):
        at = [part if np.ndim(part) == 0 else part[outside] for part in (a, b, key, size)]
        again = _feistel(out[outside], *at[:3])
        out[outside] = again
        outside = outside[again >= at[3]]
    return out


def permute(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a keyed permutation of {0 … size−1} sends `positions`, uint64, with random access.

    A Feistel network over mixed radices with cycle-walking: a bijection for every size and key,
    O(1) state, a few nanoseconds a position.

    Args:
        positions: whole numbers in [0, size).
        size: up to 2^52.
        key: 64-bit, see `key_of`.

    Example:
        >>> sorted(permute(np.arange(5), size=5, key=7).tolist())
        [0, 1, 2, 3, 4]
    """
    a, b = (half[0] for half in _halves(np.array([size], np.uint64)))
    x = np.asarray(positions).astype(np.uint64)
    return _walk(x, np.uint64(size), a, b, np.uint64(key))


def permute_each(positions: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Like `permute`, with a size and a key for each position."""
    sizes = sizes.astype(np.uint64)
    return _walk(positions.astype(np.uint64), sizes, *_halves(sizes), keys)


def quotas(expected: np.ndarray, offset: float) -> np.ndarray:
    """Whole numbers with the sum of `expected`, each its floor or ceiling.

    Systematic rounding: the fractional parts are laid end to end and one in each unit is rounded
    up, at `offset` in [0, 1). Uniform offsets make every quota's mean its expected value; whole
    expected numbers are returned as they are.

    Example:
        >>> quotas(np.array([2.0, 0.5, 0.5]), offset=0.3).tolist()
        [2, 1, 0]
    """
    total = round(float(expected.sum()))
    whole = np.floor(expected + 1e-9 * np.maximum(expected, 1)).astype(np.int64)
    parts = np.cumsum(np.maximum(expected - whole, 0))
    missing = total - int(whole.sum())
    if missing <= 0:
        return whole
    parts *= missing / parts[-1]
    parts[-1] = missing
    steps = np.minimum(np.floor(parts + (1 - offset)), missing).astype(np.int64)
    steps[-1] = missing
    return whole + np.diff(steps, prepend=0)


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
        self.shares = self.counts / self.counts.sum()
        sizes = np.maximum(self.counts, 1).astype(np.uint64)
        self._sizes = sizes
        self._halves = _halves(sizes)
        self._starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.uint64)
        self._class_keys = keys_of(key_of(seed, 1), np.arange(len(counts)))
        self.set_epoch(0)

    def set_shares(self, shares: np.ndarray) -> None:
        """Draw classes in these proportions from the current epoch on."""
        self.cursors, self.base_epoch = self._cursors_at(self.epoch), self.epoch
        self.shares = shares / shares.sum()
        self.set_epoch(self.epoch)

    def restore(self, base_epoch: int, cursors: np.ndarray, shares: np.ndarray) -> None:
        """Take over the state another order of the same members and seed had."""
        self.base_epoch, self.cursors = base_epoch, cursors.copy()
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
        self.quotas = self._quotas_at(epoch)
        ends = np.cumsum(self.quotas)
        self._ends = ends.astype(np.uint64)
        # slot + offset = rank within the class, counted from the class's first example ever drawn
        self._offsets = (self._cursors_at(epoch) - ends + self.quotas).astype(np.uint64)
        self._slot_key = key_of(self.seed, 3, epoch)
        self._plan_lookup()

    def _quotas_at(self, epoch: int) -> np.ndarray:
        # A golden-ratio sequence from a random start: the means are exact in the long run
        offset = (key_of(self.seed, 4) / 2**64 + epoch * (5**0.5 - 1) / 2) % 1.0
        return quotas(self.num_samples * self.shares, offset)

    def _cursors_at(self, epoch: int) -> np.ndarray:
        drawn = self.cursors.copy()
        for earlier in range(self.base_epoch, epoch):
            drawn += self._quotas_at(earlier)
        return drawn

    def _plan_lookup(self) -> None:
        """A table from the slot's leading bits to its class; mixed cells are searched."""
        cells = 1 << min(max(10, (32 * len(self.counts)).bit_length()), 21)
        self._shift = np.uint64(max(self.num_samples.bit_length() - cells.bit_length() + 1, 0))
        edges = np.arange((self.num_samples >> int(self._shift)) + 2, dtype=np.uint64)
        first = np.searchsorted(self._ends, edges << self._shift, side="right")
        first = np.minimum(first, len(self.counts) - 1)
        self._cell_class, self._cell_mixed = first[:-1], first[:-1] != first[1:]

    def _classes(self, slots: np.ndarray) -> np.ndarray:
        cells = (slots >> self._shift).astype(np.int64)
        classes = self._cell_class.take(cells)
        mixed = np.flatnonzero(self._cell_mixed.take(cells))
        if len(mixed):
            classes[mixed] = np.searchsorted(self._ends, slots[mixed], side="right")
        return classes

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at `positions` of the current epoch, each in [0, num_samples)."""
        slots = permute(positions, self.num_samples, self._slot_key)
        classes = self._classes(slots)
        rank = slots + self._offsets.take(classes)
        size = self._sizes.take(classes)
        turn = np.divide(rank, size).astype(np.uint64)  # how often the class was gone through
        rank -= turn * size
        key = keys_of(self._class_keys.take(classes), turn)
        a, b = (half.take(classes) for half in self._halves)
        within = _walk(rank, size, a, b, key)
        within += self._starts.take(classes)
        return self.members.take(within.astype(np.int64)).astype(np.int64, copy=False)
