"""OrderSampler, what all samplers share: a stream of fixed length, cut from an order function."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import length_hint
from typing import Any, TypedDict

import numpy as np
import torch

from equipoise.targets import Targets

__all__ = ["Batches", "OrderSampler", "draws_by_class", "numbers_by_class", "require_int"]

VERSION = 4  # of the states that `state_dict` gives
FIRST_CHUNK = 1024  # positions drawn before the first is yielded; then CHUNK at a time
CHUNK = 65536  # a few such arrays of words fit the L2 cache
AT_ONCE = 1 << 24  # up to so many are drawn at once after the first chunk, where that is faster


class Settings(TypedDict, total=False):
    """What every `OrderSampler` takes beside its own arguments."""

    seed: int
    rank: int
    num_replicas: int


class LengthSettings(Settings, total=False):
    """The same with the length of an epoch."""

    num_samples: int | None


class OrderSampler(torch.utils.data.Sampler[int]):
    """A sampler whose order is a function of the position: a subclass says which, in `draw`.

    That is all a subclass has to define. What a `Balancer`, FFCV's order and the miners ask of a
    sampler is declared here, with an answer that holds for every order.

    **Epochs.** An epoch has `num_samples` positions, and the stream depends on the seed, the epoch,
    the position and the sampler's weights alone. `set_epoch(epoch)` goes to an epoch, as with
    torch's `DistributedSampler`. Where nobody calls it the sampler goes on by itself: the
    iteration that follows a complete one begins the next epoch, in a fresh order. An iteration
    that was broken off does not count, nor does `indices`; the next one begins the same epoch
    again. `auto_advance = False` switches this off: then `set_epoch` alone changes the epoch, and
    FFCV's number of it does not.

    **Iterations** keep the order they began with. What `set_epoch` or `set_log_weight` change
    while an iterator, or that of a `DataLoader`, is running shows in the iterations after it.

    **Ranks.** Rank r of R takes positions r, r + R, r + 2R, …, all ranks equally many, so that no
    rank waits for another; where R does not divide `num_samples` the last positions, R − 1 at
    most, are left out. The global batch at step k holds the same examples for any R.

    Args:
        num_samples: positions in an epoch, over all ranks.
        targets: labels of the examples that the ids number, anything that `Targets` takes; `None`
            if the order knows none.
        num_examples: how many examples the ids number, if there are no targets that say it.
        seed: of the order.
        rank: this process's number.
        num_replicas: how many processes draw from the order together; at most `num_samples`.

    Attributes:
        takes_log_weight: whether `set_log_weight` is supported.
        auto_advance: whether a complete iteration is followed by the next epoch; `True` at first.
            A `Balancer`, whose `step` begins an epoch, sets it to `False`.
        targets: a `Targets`, or `None`.
        num_examples: an int, or `None`.
        epoch: the current epoch; 0 at first.
        handed_out: whether some of the epoch has been handed out, by an iteration or `indices`, so
            that new weights have to wait for the next; `set_epoch` makes it `False`.

    Example:
        >>> class Backwards(OrderSampler):
        ...     def draw(self, positions):
        ...         return self.num_samples - 1 - positions
        >>> sampler = Backwards(5, targets=[0, 0, 1, 1, 1])
        >>> list(sampler), list(sampler.batches(2)), sampler.expected_draws().tolist()
        ([4, 3, 2, 1, 0], [[4, 3], [2, 1], [0]], [2.0, 3.0])
    """

    takes_log_weight = False

    def __init__(
        self,
        num_samples: int,
        *,
        targets: Any = None,
        num_examples: int | None = None,
        seed: int = 0,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        require_int("num_samples", num_samples, 1)
        require_int("seed", seed, 0)
        self.targets: Targets | None = None if targets is None else Targets.of(targets)
        self.num_examples = num_examples if self.targets is None else self.targets.num_examples
        self.num_samples, self.seed, self.epoch = int(num_samples), int(seed), 0
        self.auto_advance = True
        self.set_ranks(rank, num_replicas)
        self._begin_at(0)

    # What a subclass defines: `draw`, and the rest where it knows better.

    def draw(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at global positions of the current epoch.

        Args:
            positions: `(n,)` int64 in [0, `num_samples`), in any order.
        """
        raise NotImplementedError

    def set_log_weight(self, log_weight: Any) -> None:
        """Draw class c exp(`log_weight[c]`) times as often as its share of the data.

        The log-weight λ, in nats (natural-log units), acts in the current epoch if nothing of it
        has been handed out yet, by an iteration or by `indices`; otherwise from the next epoch on,
        so that the quotas and passes of an epoch stay whole. Whoever changes both the epoch and λ
        calls `set_epoch` first.

        Args:
            log_weight: `(C,)` finite numbers.

        Raises:
            TypeError: a sampler whose `takes_log_weight` is false.
        """
        raise TypeError(
            "Expected sampler to take class log-weights, but got a "
            f"{type(self).__name__}, which draws as it does whatever λ is. Let the loss carry all "
            "of λ: pass sampler_share=0 to the Balancer."
        )

    @property
    def log_weight(self) -> np.ndarray | None:
        """`(C,)` float64: λ of the current epoch; `None` for samplers that take none."""
        return None

    def expected_draws(self) -> np.ndarray:
        """`(C,)` float64: the expected number of draws of each class in an epoch, over all ranks.

        For labels: of draws that carry the label. This general answer counts the draws of the
        current epoch; samplers that know their expectation give that.

        Raises:
            ValueError: a sampler without `targets`.
        """
        targets = self._known_targets()
        repeats = np.bincount(self._drawn(0, 1, self.num_samples), minlength=targets.num_examples)
        return draws_by_class(targets, repeats)

    def logit_shift(self) -> np.ndarray:
        """`(C,)` float64: what sampling adds to the logits of a network trained on the stream.

        For class ids log(share of the draws / share of the data), with mean zero. For labels the
        change in log-odds, log f / (1 − f) − log p / (1 − p), with p the share of the examples that
        carry the label and f that of the draws. 0 for a class that has no examples, is never
        drawn, or is carried by all examples or draws. Subtract it from the logits to get those of
        a network trained on the data as they are.

        Raises:
            ValueError: a sampler without `targets`.
        """
        targets = self._known_targets()
        before = targets.counts / targets.num_examples
        after = self.expected_draws() / self.num_samples
        least, most = np.minimum(before, after), np.maximum(before, after)
        moves = (least > 0) & ((most < 1) | (not targets.multilabel))
        p, f = np.where(moves, before, 0.5), np.where(moves, after, 0.5)
        shift = np.log(f) - np.log(p)
        if targets.multilabel:
            return shift - np.log1p(-f) + np.log1p(-p)
        return np.where(moves, shift - shift[moves].mean(), 0.0)

    def snapshot(self) -> OrderSampler:
        """The sampler as it is now: an iteration, or a thread, draws from it undisturbed.

        A shallow copy. A subclass that changes what `draw` reads in place, instead of replacing
        it, has to copy that too.
        """
        same = copy.copy(self)
        same._begin_at(0)  # it shares no iteration
        return same

    def _go_to_epoch(self, epoch: int) -> None:
        """Hook: what a subclass does before `epoch` changes; also called with the same epoch."""

    def _whole_epoch(self) -> np.ndarray | None:
        """Hook: all ids of the epoch, if computing them at once is faster; `None` otherwise."""
        return None

    # What every sampler does alike.

    def set_ranks(self, rank: int, num_replicas: int) -> None:
        """Take the positions of this rank of so many, from the next iteration on."""
        require_int("num_replicas", num_replicas, 1)
        require_int("rank", rank, 0)
        if rank >= num_replicas:
            raise ValueError(
                f"Expected rank to be below num_replicas={num_replicas}, but got {rank}."
            )
        if num_replicas > self.num_samples:
            raise ValueError(
                f"Expected num_replicas to be at most num_samples={self.num_samples}, so that "
                f"every rank draws, but got {num_replicas}."
            )
        self.rank, self.num_replicas = int(rank), int(num_replicas)

    def set_epoch(self, epoch: int, position: int | None = None) -> None:
        """Go to an epoch, at a global position; `None` is its start.

        A position that was given for this very epoch, here or by `load_state_dict`, and that no
        iteration has begun at yet, is kept by `None`: a resumed loop may call `set_epoch(epoch)`
        as every epoch does.
        """
        require_int("epoch", epoch, 0)
        if position is None:
            position = self._start if epoch == self.epoch else 0
        if not 0 <= position <= self.num_samples:
            raise ValueError(
                f"Expected position to be in [0, {self.num_samples}], but got {position}."
            )
        self._go_to_epoch(int(epoch))
        self.epoch = int(epoch)
        self._begin_at(int(position))

    def _begin_at(self, position: int) -> None:
        self._start = position  # where the next iteration begins
        self.handed_out = position > 0  # so that weights wait for the next epoch
        self._complete = False  # whether the state of a complete iteration was loaded
        self._pass: _Pass | None = None  # the newest iteration

    def __len__(self) -> int:
        """How many examples this rank draws in an epoch."""
        return self.num_samples // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        # in C: a generator's `yield` costs as much again
        return chain.from_iterable(self._chunks(None, False))

    def batches(self, batch_size: int, drop_last: bool = False) -> Batches:
        """Batches of ids for `DataLoader(batch_sampler=…)`.

        Args:
            batch_size: ids in a batch of this rank.
            drop_last: whether to leave out the last batch where it is not full.
        """
        return Batches(self, batch_size, drop_last)

    def _chunks(self, batch_size: int | None, drop_last: bool) -> Iterator[Iterator[Any]]:
        """One iteration, in pieces: iterators over ids, or over lists of `batch_size` of them."""
        over = self._complete or (self._pass is not None and self.position == self.num_samples)
        if over and self.auto_advance:
            self.set_epoch(self.epoch + 1)
        start, self._start, self.handed_out = self._start, 0, True
        each = batch_size or 1
        length = (self.num_samples - start) // self.num_replicas
        length -= length % each if drop_last else 0
        order, current = self.snapshot(), _Pass(start, length, self.num_replicas, each)
        self._pass = current
        alone = start == 0 and order.num_replicas == 1 and order.num_samples <= AT_ONCE
        first, size, whole = 0, -(-FIRST_CHUNK // each) * each, None
        while first < length:
            last = min(first + size, length)
            if whole is None:
                steps = np.arange(first, last) * order.num_replicas
                ids = order.draw(steps + (start + order.rank))
            else:
                ids = whole[first:last]
            if batch_size is None:
                yield current.over(first, ids.tolist())
            else:  # each batch becomes a list when it is asked for, in memory that is in cache
                rows = [ids[i : i + batch_size] for i in range(0, len(ids), batch_size)]
                yield map(np.ndarray.tolist, current.over(first, rows))
            if first == 0 and last < length and alone:
                whole = order._whole_epoch()
            first, size = last, -(-CHUNK // each) * each

    @property
    def position(self) -> int:
        """The global position of the next draw: what was yielded, of all ranks alike.

        Yielded to whoever asks: a `DataLoader` with workers has asked for more than it has given
        out, up to `prefetch_factor * num_workers` batches a rank. To go on there, count the
        examples trained on, over all ranks, and call `set_epoch(epoch, position=count)`. FFCV
        takes whole epochs by `indices`, which moves nothing: see `BalancedLoader.resume`.
        """
        if self._pass is None:
            return self._start
        yielded = self._pass.yielded()
        if yielded >= self._pass.length:
            return self.num_samples
        return self._pass.start + self._pass.num_replicas * yielded

    def indices(self) -> np.ndarray:
        """This rank's whole epoch as one contiguous int64 array.

        The epoch then counts as handed out, see `set_log_weight`, but not as iterated.
        `snapshot().indices()` is only a look.
        """
        self.handed_out = True
        if self.num_replicas == 1 and (whole := self._whole_epoch()) is not None:
            return whole
        return self._drawn(self.rank, self.num_replicas, len(self))

    def _drawn(self, start: int, step: int, length: int) -> np.ndarray:
        out = np.empty(length, np.int64)
        for first in range(0, length, CHUNK):
            steps = np.arange(first, min(first + CHUNK, length))
            out[first : first + CHUNK] = self.draw(start + step * steps)
        return out

    def state_dict(self) -> dict[str, Any]:
        """Epoch and global position (what was yielded), for `load_state_dict` on any rank.

        With the workers of a `DataLoader`, or with FFCV, what was yielded is not what was trained
        on: see `position`.
        """
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, also with another number of ranks.

        The next iteration does, and later ones are whole; `set_epoch(epoch)` of the state's epoch
        before it changes nothing.

        Raises:
            ValueError: a state of a sampler with other settings, or of another version.
        """
        for name, mine in self._identity().items():
            if name not in state or state[name] != mine:
                raise ValueError(
                    f"Expected state of a {type(self).__name__} with {name}={mine!r}, "
                    f"but got {state.get(name)!r}."
                )
        self._restore(state)
        self.set_epoch(state["epoch"], state["position"])
        self._complete = state["position"] == self.num_samples

    def _identity(self) -> dict[str, Any]:
        """Hook: what a state must agree with to be loaded."""
        return {"version": VERSION, "num_samples": self.num_samples, "seed": self.seed}

    def _restore(self, state: dict[str, Any]) -> None:
        """Hook: what a subclass takes from a state that agrees."""

    def _known_targets(self) -> Targets:
        if self.targets is None:
            raise ValueError(
                f"Expected {type(self).__name__} to know the targets of its examples, but got "
                "none. Pass targets= to it."
            )
        return self.targets


class Batches(torch.utils.data.Sampler[list[int]]):
    """Batches of a sampler's ids, as lists: for `DataLoader(batch_sampler=…)`.

    The same batches as those of torch's `BatchSampler`, each made at once. It is one with its
    sampler: iterating it moves the sampler, and its state is the sampler's, so that torchdata's
    `StatefulDataLoader` resumes it.

    Made by `OrderSampler.batches`, see there.
    """

    def __init__(self, sampler: OrderSampler, batch_size: int, drop_last: bool = False) -> None:
        require_int("batch_size", batch_size, 1)
        self.sampler, self.batch_size, self.drop_last = sampler, int(batch_size), drop_last

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        return chain.from_iterable(self.sampler._chunks(self.batch_size, self.drop_last))

    def state_dict(self) -> dict[str, Any]:
        """The sampler's."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the sampler's."""
        self.sampler.load_state_dict(state)


@dataclass
class _Pass:
    """How far an iteration has come, in draws of one rank."""

    start: int  # the global position it began at
    length: int
    num_replicas: int
    each: int  # draws yielded at a time
    before: int = 0  # draws yielded before the running chunk
    chunk: list[Any] = field(default_factory=list)
    left: Iterator[Any] = field(default_factory=lambda: iter(()))  # of the chunk

    def over(self, before: int, chunk: list[Any]) -> Iterator[Any]:
        self.before, self.chunk, self.left = before, chunk, iter(chunk)
        return self.left

    def yielded(self) -> int:
        return self.before + self.each * (len(self.chunk) - length_hint(self.left))


def draws_by_class(targets: Targets, repeats: np.ndarray) -> np.ndarray:
    """`(C,)` float64: how often each class comes where example i comes `repeats[i]` times.

    Example:
        >>> draws_by_class(Targets([[1, 0], [1, 1]]), np.array([1.0, 3.0])).tolist()
        [4.0, 3.0]
    """
    if targets.labels is not None:
        return np.bincount(targets.labels, repeats, targets.num_classes)
    matrix: Any = targets.matrix
    return np.asarray(matrix.T @ repeats, np.float64)


def numbers_by_class(
    name: str, values: Any, num_classes: int, *, positive: bool = False
) -> np.ndarray:
    """A copy of `values` as `(C,)` float64, checked to be finite, and positive if they must be."""
    numbers = np.asarray(values, np.float64).copy()
    right = np.isfinite(numbers) & ((numbers > 0) | (not positive))
    if numbers.shape != (num_classes,) or not right.all():
        kind = "positive finite numbers" if positive else "finite numbers"
        raise ValueError(
            f"Expected {name} to be {num_classes} {kind}, one for each class, but got {values!r}."
        )
    return numbers


def require_int(name: str, value: Any, least: int) -> None:
    """Raise unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"Expected {name} to be an int, but got {value!r}.")
    if value < least:
        raise ValueError(f"Expected {name} to be at least {least}, but got {value}.")
