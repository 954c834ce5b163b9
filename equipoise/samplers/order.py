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

CHUNK = 32768  # positions worked on at a time: a few such arrays fit the L2 cache

# glibc gives the memory of each chunk's temporaries back to the kernel, and getting it again takes
# as long as the arithmetic. Having freed one large block raises its thresholds (mallopt(3),
# M_MMAP_THRESHOLD); the block itself is never touched, so it costs nothing.
np.empty(1 << 24, np.uint8)

_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = 6  # with four, neighbours in classes of 4 to 100 were correlated
_MULTIPLIERS = (  # odd, from the digits of pi
    *(0x243F6A8885A308D3, 0x13198A2E03707345, 0xA4093822299F31D1),
    *(0x082EFA98EC4E6C89, 0x452821E638D01377, 0xBE5466CF34E90C6D),
)


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
    mixed = np.asarray(keys, np.uint64) + numbers.astype(np.uint64)
    mixed *= np.uint64(_GOLDEN)
    mixed ^= mixed >> np.uint64(29)
    return mixed


def word_for(largest: int) -> np.dtype:
    """The unsigned dtype in which sizes up to `largest` are permuted."""
    return np.dtype(np.uint32 if largest < 2**32 else np.uint64)


def _halves(size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two radices of about equal length with a·b ≥ size, none below 4: halves of 2 mix badly."""
    word = size.dtype.type
    least = np.where(size > 2, word(4), size)
    a = np.maximum(np.ceil(np.sqrt(size.astype(np.float64))).astype(word), least)
    return a, np.maximum((size - word(1)) // a + word(1), least)


def _feistel(x, a, b, key) -> np.ndarray:  # type: ignore[no-untyped-def]
    """A keyed bijection of {0 … a·b−1}: a mixed-radix Feistel network, in the dtype of x.

    A round is half ← (half + hash(other half) · radix / 2^h) mod radix, h half the dtype's bits,
    with hash(x) = (m · (x xor key))² and an odd m for each round. Every operation writes into
    memory that is in cache already.
    """
    word = x.dtype.type
    half = word(4 * x.itemsize)
    left, scratch = np.empty_like(x), np.empty_like(x)
    right = x // a if np.ndim(a) == 0 else np.divide(x, a).astype(word)
    np.multiply(right, a, out=left)
    np.subtract(x, left, out=left)
    sides = (left, right, a), (right, left, b)
    for i in range(_ROUNDS):
        moved, other, radix = sides[i % 2]
        np.bitwise_xor(other, key, out=scratch)
        np.multiply(scratch, word(_MULTIPLIERS[i] & np.iinfo(word).max), out=scratch)
        np.multiply(scratch, scratch, out=scratch)
        np.right_shift(scratch, half, out=scratch)
        np.multiply(scratch, radix, out=scratch)
        np.right_shift(scratch, half, out=scratch)
        np.add(moved, scratch, out=moved)
        np.subtract(moved, radix, out=scratch)  # wraps to a huge number where moved < radix …
        np.minimum(moved, scratch, out=moved)  # … so the minimum is the remainder
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


def _short(keys: np.ndarray, word: np.dtype) -> np.ndarray:
    """The leading bits of 64-bit keys, as many as the dtype holds."""
    return (keys >> np.uint64(64 - 8 * word.itemsize)).astype(word)


def permute(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a keyed permutation of {0 … size−1} sends `positions`, with random access.

    A Feistel network over mixed radices with cycle-walking: a bijection for every size and key,
    O(1) state, a few nanoseconds a position. The answer is uint32, or uint64 for sizes from 2^32.
    Over 10^6 keys every place is equally likely; pairs of places deviate from independence by up to
    5% for sizes below 64, and by nothing to be seen from 250 on.

    Args:
        positions: whole numbers in [0, size).
        size: up to 2^52.
        key: 64-bit, see `key_of`.

    Example:
        >>> sorted(permute(np.arange(5), size=5, key=7).tolist())
        [0, 1, 2, 3, 4]
    """
    word = word_for(size)
    a, b = (half[0] for half in _halves(np.array([size], word)))
    short = _short(np.array([key], np.uint64), word)[0]
    return _walk(np.asarray(positions).astype(word), word.type(size), a, b, short)


def permute_each(positions: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Like `permute`, with a size and a key for each position."""
    word = word_for(int(sizes.max()))
    sizes = sizes.astype(word)
    return _walk(positions.astype(word), sizes, *_halves(sizes), _short(keys, word))


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
    whole = np.floor(expected + 1e-9 * np.maximum(expected, 1)).astype(np.int64)
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
        self._halves = _halves(self._sizes)
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
        # slot + offset = how far into the class's current turn; negative ones wrap around
        self._offsets = (begun + self.quotas - self._ends).astype(self._word)
        self._turn_keys = self._class_keys + turns.astype(np.uint64)
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
        """A table from the slot's leading bits to its class; mixed cells are searched."""
        cells = 1 << min(max(10, (32 * len(self.counts)).bit_length()), 21)
        self._shift = max(self.num_samples.bit_length() - cells.bit_length() + 1, 0)
        edges = np.arange((self.num_samples >> self._shift) + 2) << self._shift
        first = np.searchsorted(self._ends, edges, side="right")
        first = np.minimum(first, len(self.counts) - 1)
        self._cell_class, self._cell_mixed = first[:-1], first[:-1] != first[1:]

    def _classes(self, slots: np.ndarray) -> np.ndarray:
        cells = (slots >> slots.dtype.type(self._shift)).astype(np.int64)
        classes = self._cell_class.take(cells)
        mixed = np.flatnonzero(self._cell_mixed.take(cells))
        if len(mixed):
            classes[mixed] = np.searchsorted(self._ends, slots[mixed], side="right")
        return classes

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at `positions` of the current epoch, each in [0, num_samples)."""
        slots = permute(positions, self.num_samples, self._slot_key).astype(self._word, copy=False)
        classes = self._classes(slots)
        slots += self._offsets.take(classes)
        size = self._sizes.take(classes)
        turn = np.divide(slots, size).astype(self._word)
        slots -= turn * size  # now the rank within the turn
        keys = _short(keys_of(self._turn_keys.take(classes), turn), self._word)
        a, b = (half.take(classes) for half in self._halves)
        within = _walk(slots, size, a, b, keys).astype(np.int64)
        within += self._starts.take(classes)
        return self.members.take(within).astype(np.int64, copy=False)
