"""OrderSampler, what all samplers share: a fixed-length stream cut from an order function."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from operator import length_hint
from typing import Any

import numpy as np
import torch

__all__ = ["OrderSampler", "require_int"]

FIRST_CHUNK = 1024  # positions drawn before the first is yielded; then CHUNK at a time
CHUNK = 65536


class OrderSampler(torch.utils.data.Sampler[int]):
    """A sampler whose order is a function of the position: subclasses say which, in `draw`.

    An epoch has `num_samples` positions. Rank r of R takes positions r, r + R, r + 2R, …, so the
    ranks' streams make up the single-rank stream, nothing lost or doubled, and the global batch at
    step k holds the same examples for any R. Where R does not divide `num_samples` the first ranks
    yield one example more.

    The stream depends on (seed, epoch, position) and the sampler's weights alone. As with torch's
    `DistributedSampler`, call `set_epoch` at the start of each epoch: without it every epoch has
    the same order.

    Args:
        num_samples: positions an epoch, over all ranks.
        seed: of the order.
        rank: this process's number.
        num_replicas: how many processes draw from the order together.
    """

    def __init__(
        self, num_samples: int, *, seed: int = 0, rank: int = 0, num_replicas: int = 1
    ) -> None:
        require_int("num_samples", num_samples, 1)
        require_int("seed", seed, 0)
        self.set_ranks(rank, num_replicas)
        self.num_samples, self.seed = int(num_samples), int(seed)
        self.epoch = 0
        self._begin_at(0)

    def _begin_at(self, position: int) -> None:
        self._start = position  # where the next iteration begins
        # of the running one: where its chunk begins, the chunk's length, and what is left of it
        self._running: tuple[int, int, Iterator[int]] = position, 0, iter(())

    def set_ranks(self, rank: int, num_replicas: int) -> None:
        """Take the positions of this rank of so many, from the next iteration on."""
        require_int("num_replicas", num_replicas, 1)
        require_int("rank", rank, 0)
        if rank >= num_replicas:
            raise ValueError(
                f"Expected rank to be below num_replicas={num_replicas}, but got {rank}."
            )
        self.rank, self.num_replicas = int(rank), int(num_replicas)

    def draw(self, positions: np.ndarray) -> np.ndarray:
        """Example ids (int64) at global positions of the current epoch."""
        raise NotImplementedError

    def _go_to_epoch(self, epoch: int) -> None:
        """Hook: what a subclass does when the epoch changes."""

    def _whole_epoch(self) -> np.ndarray | None:
        """Hook: all ids of the epoch, where they come faster together than by `draw`."""
        return None

    @property
    def num_examples(self) -> int | None:
        """How many examples the ids number: those of `targets`; `None` where it is not known."""
        return getattr(getattr(self, "targets", None), "num_examples", None)

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

    def __len__(self) -> int:
        """How many examples this rank draws in an epoch."""
        return max(0, -(-(self.num_samples - self.rank) // self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        # in C: a generator's `yield` costs as much again
        return chain.from_iterable(self._chunks())

    def _chunks(self) -> Iterator[Iterator[int]]:
        start, self._start = self._start, 0
        stride = self.num_replicas
        first, size = start, FIRST_CHUNK
        while first < self.num_samples:
            last = min(first + stride * size, self.num_samples)
            drawn = self.draw(np.arange(first + self.rank, last, stride)).tolist()
            self._running = first, len(drawn), iter(drawn)
            yield self._running[2]
            first, size = last, CHUNK
        self._running = self.num_samples, 0, iter(())

    @property
    def position(self) -> int:
        """The global position of the next draw: what was yielded, of all ranks alike.

        Yielded to whoever asks: a `DataLoader` with workers has asked for more than it has given
        out, up to `prefetch_factor * num_workers` batches a rank. To go on there, count the
        examples trained on, over all ranks, and call `set_epoch(epoch, position=count)`. FFCV
        takes whole epochs by `indices`, which moves nothing: see `BalancedLoader.resume`.
        """
        first, length, left = self._running
        return min(first + self.num_replicas * (length - length_hint(left)), self.num_samples)

    def indices(self) -> np.ndarray:
        """This rank's whole epoch as one contiguous int64 array."""
        if self.num_replicas == 1 and (whole := self._whole_epoch()) is not None:
            return whole
        out = np.empty(len(self), np.int64)
        for first in range(0, len(out), CHUNK):
            ranks = np.arange(first, min(first + CHUNK, len(out)))
            out[first : first + CHUNK] = self.draw(self.rank + self.num_replicas * ranks)
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
        """
        for name, mine in self._identity().items():
            if name not in state or state[name] != mine:
                raise ValueError(
                    f"Expected state of a {type(self).__name__} with {name}={mine!r}, "
                    f"but got {state.get(name)!r}."
                )
        self._restore(state)
        self.set_epoch(state["epoch"], state["position"])

    def _identity(self) -> dict[str, Any]:
        """Hook: what a state must agree with to be loaded."""
        return {"num_samples": self.num_samples, "seed": self.seed}

    def _restore(self, state: dict[str, Any]) -> None:
        """Hook: what a subclass takes from a state that agrees."""


def require_int(name: str, value: Any, least: int) -> None:
    """Raise unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"Expected {name} to be an int, but got {value!r}.")
    if value < least:
        raise ValueError(f"Expected {name} to be at least {least}, but got {value}.")
