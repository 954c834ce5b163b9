"""The order of a sampler as FFCV's `Loader` wants it, checked before FFCV sees it."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any

import numpy as np
import torch
from ffcv.loader import Loader
from ffcv.memory_managers import ProcessCacheManager
from ffcv.traversal_order.base import TraversalOrder

from equipoise.ffcv.checking import check_again
from equipoise.ffcv.just_in_time import JustInTime, check_just_in_time
from equipoise.ffcv.late import LateOrder, snapshot
from equipoise.mining import PrunedSampler
from equipoise._order_sampler import OrderSampler

__all__ = ["SamplerOrder", "attach", "order"]


class _OrderClass(ABCMeta):
    """The type of what `order` returns: a class that also passes for an instance.

    FFCV 1.0.2 wants `isinstance(order, TraversalOrder)`, its main branch
    `issubclass(order, TraversalOrder)`; both then call `order(loader)`.
    """


TraversalOrder.register(_OrderClass)


class SamplerOrder(TraversalOrder, metaclass=_OrderClass):
    """The `TraversalOrder` that draws a sampler's stream for one loader; see `order`.

    FFCV asks for an order in `Loader.__init__` and in `Loader.__iter__`, both on the caller's
    thread: whatever is wrong is raised there, and FFCV's own threads only ever get a contiguous
    int64 array of valid example ids, as long in every epoch as in the first.
    """

    def __init__(self, loader: Loader, sampler: OrderSampler, follow_epoch: bool) -> None:
        super().__init__(loader)
        self.sampler: OrderSampler = sampler
        self.follow_epoch = follow_epoch
        self._drawn, self.length = len(sampler), _equal_length(sampler)
        self.skip = 0  # examples left out of the next order alone, to resume within an epoch
        self._begun: LateOrder | JustInTime | None = None
        size = len(loader.indices)
        _check_loader(loader, sampler, size)
        if loader.drop_last and self.length < loader.batch_size:
            raise ValueError(
                f"Expected the sampler to draw at least batch_size={loader.batch_size} examples "
                f"an epoch and rank, but got {self.length}: with drop_last=True that is no batch. "
                "Pass drop_last=False to the loader, or a larger num_samples to the sampler."
            )
        # FFCV's default is every example in the file's order: nothing to translate then
        self._ids = None if _is_range(loader.indices) else np.asarray(loader.indices, np.int64)
        self._size = size

    def sample_order(self, epoch: int) -> np.ndarray:
        """The ids in the file of this rank's epoch; `epoch` is FFCV's number."""
        if self._begun is not None:
            late, self._begun = self._begun, None
            return late.ids
        self._go_to(epoch)
        drawn = _checked(self.sampler.indices(), self._size, type(self.sampler).__name__)
        self._check_length(len(drawn))
        drawn = drawn[: self.length]
        ids = drawn if self._ids is None else self._ids[drawn]
        if self.skip:
            whole = len(self.loader) * self.loader.batch_size
            ids, self.skip = ids[self.skip : whole], 0
        return np.ascontiguousarray(ids)

    def begin(self, epoch: int) -> LateOrder | None:
        """Start drawing an epoch, which the next `sample_order` returns; `None` where it cannot."""
        self._begun = None
        if self.skip:
            return None
        self._go_to(epoch)
        sampler = snapshot(self.sampler, self.loader)
        if sampler is None or len(sampler) != self._drawn:
            return None
        ids, size, rank, ranks = self._ids, self._size, sampler.rank, sampler.num_replicas

        def draw(first: int, last: int) -> np.ndarray:
            drawn = sampler.draw(rank + ranks * np.arange(first, last))
            drawn = _checked(drawn, size, type(sampler).__name__)
            return drawn if ids is None else ids[drawn]

        self._begun = LateOrder(draw, self.length, filler=int(self.loader.indices[0]))
        return self._begun

    def begin_just_in_time(self, epoch: int, state: dict[str, Any] | None = None) -> JustInTime:
        """An epoch, which the next `sample_order` returns, whose batches are still to be drawn.

        Args:
            epoch: FFCV's number.
            state: `batch` to begin with and ids `drawn` from there on, of an interrupted epoch.
        """
        loader, sampler = self.loader, self.sampler
        check_just_in_time(loader, sampler)
        self._go_to(epoch)
        self._check_length(len(sampler))
        user, running = type(sampler).__name__, sampler.epoch
        size, ranks, batch_size = self._size, sampler.num_replicas, loader.batch_size
        length = min(self.length, len(loader) * batch_size)  # the rest FFCV drops
        take = getattr(sampler, "take", None)
        hand_out = getattr(sampler, "hand_out", None)

        def draw(k: int) -> np.ndarray:
            if sampler.epoch != running:
                raise ValueError(
                    f"Expected the sampler to stay at epoch {running} while its batches are drawn "
                    f"just in time, but got {sampler.epoch}: call set_epoch, or Balancer.step, "
                    "between epochs."
                )
            # of all ranks, so that each counts alike what was drawn
            first, last = k * batch_size * ranks, min((k + 1) * batch_size, length) * ranks
            drawn = take(first, last) if take else sampler.draw(np.arange(first, last))
            if len(drawn) != last - first:
                raise ValueError(f"Expected {user} to draw {last - first}, but got {len(drawn)}.")
            drawn = _checked(drawn, size, user)[sampler.rank :: ranks]
            return drawn if self._ids is None else self._ids[drawn]

        self._begun = JustInTime(
            draw,
            hand_out or (lambda: None),
            length=length,
            batch_size=batch_size,
            ahead=loader.batches_ahead + 2,
            filler=int(loader.indices[0]),
            **({} if state is None else {"first": state["batch"], "drawn": state["drawn"].numpy()}),
        )
        return self._begun

    def _check_length(self, length: int) -> None:
        if length != self._drawn:
            raise ValueError(
                f"Expected the sampler to draw {self._drawn} examples in every epoch, as many as "
                f"when the loader was made, but got {length}. FFCV fixes the length of an "
                "epoch; attach the sampler again to change it."
            )

    def _go_to(self, epoch: int) -> None:
        if self.follow_epoch and self.sampler.epoch != epoch:
            self.sampler.set_epoch(epoch)


def order(sampler: Any, *, follow_epoch: bool = True) -> type[SamplerOrder]:
    """An object for `Loader(order=…)`: FFCV then reads the examples the sampler draws.

    It works with FFCV 1.0.2 and with its main branch, with both caches. An epoch of the loader is
    `sampler.indices()`: this rank's share, duplicates included. Under `num_replicas > 1` every
    rank gets `num_samples // num_replicas` examples, so up to `num_replicas - 1` positions at the
    epoch's end are left out and no rank waits for another.

    The sampler numbers the examples that the loader reads. With `Loader(indices=ids)` its example
    i is therefore `ids[i]` of the file, and its targets are those of `ids` alone, as they are for
    a `torch.utils.data.Subset`. `loader.filter(…)` makes such a loader too: filter first, then
    `attach` a sampler over what is left.

    Args:
        sampler: an `OrderSampler`, or a `Balancer`.
        follow_epoch: whether `sampler.set_epoch` gets FFCV's epoch number before each epoch.
            Otherwise (always for a `Balancer`, whose `step` does it) the sampler's own current
            epoch is drawn, as often as the loader is iterated.

    Raises:
        TypeError: `sampler` is neither.
        ValueError: by `Loader(…)` where the sampler's number of examples differs from the
            loader's, it draws ids out of range, or too few for a batch under `drop_last=True`;
            never within FFCV's threads.

    Example:
        .. code-block:: python

            sampler = ClassBalancedSampler(equipoise.ffcv.targets("train.beton"))
            loader = Loader("train.beton", 512, order=equipoise.ffcv.order(sampler))
    """
    sampler, follow_epoch = _resolve(sampler, follow_epoch)

    class Order(SamplerOrder):
        def __init__(self, loader: Loader, **_: Any) -> None:
            super().__init__(loader, sampler, follow_epoch)

    Order.__name__ = Order.__qualname__ = f"order({type(sampler).__name__})"
    return Order


def attach(loader: Loader, sampler: Any, *, follow_epoch: bool = True) -> Loader:
    """`loader`, which from its next epoch on reads the examples the sampler draws.

    The same as building it with `order=order(sampler)`, but without compiling it again. A loader
    that `filter` returns was built anew and needs its own `attach`.

    Args:
        loader: FFCV's, or a `BalancedLoader` around it.
        sampler: see `order`.
        follow_epoch: see `order`.
    """
    sampler, follow_epoch = _resolve(sampler, follow_epoch)
    inner = getattr(loader, "loader", loader)
    if not isinstance(inner, Loader):
        raise TypeError(f"Expected loader to be an ffcv.loader.Loader, but got {type(loader)}.")
    new = SamplerOrder(inner, sampler, follow_epoch)
    first = new.sample_order(inner.next_epoch)
    inner.traversal_order, inner.first_traversal_order = new, first
    return loader


def _resolve(sampler: Any, follow_epoch: bool) -> tuple[Any, bool]:
    if isinstance(sampler, OrderSampler):
        return sampler, follow_epoch
    inner = getattr(sampler, "sampler", None)  # a Balancer
    if isinstance(inner, OrderSampler):
        return inner, False
    raise TypeError(
        "Expected sampler to be an OrderSampler of equipoise.samplers, or a Balancer, "
        f"but got {type(sampler)}."
    )


def _is_range(indices: np.ndarray) -> bool:
    return bool(np.array_equal(indices, np.arange(len(indices), dtype=indices.dtype)))


def _equal_length(sampler: OrderSampler) -> int:
    """Examples an epoch and rank: the same for all ranks."""
    length = sampler.num_samples // sampler.num_replicas
    if length < 1:
        raise ValueError(
            f"Expected num_samples of the sampler to be at least num_replicas="
            f"{sampler.num_replicas}, so that every rank draws, but got {sampler.num_samples}."
        )
    return length


def _checked(drawn: Any, size: int, user: str) -> np.ndarray:
    """What a sampler drew as int64, each in [0, size)."""
    drawn = np.asarray(drawn)
    if drawn.ndim != 1 or drawn.dtype.kind not in "iu":
        raise ValueError(
            f"Expected {user} to draw whole numbers of shape (n,), but got {drawn.dtype} of shape "
            f"{drawn.shape}."
        )
    if len(drawn) and (int(drawn.min()) < 0 or int(drawn.max()) >= size):
        raise ValueError(
            f"Expected {user} to draw examples in [0, {size}), those that the loader reads, but "
            f"got {int(drawn.min())} … {int(drawn.max())}."
        )
    return drawn.astype(np.int64, copy=False)


def _check_loader(loader: Loader, sampler: Any, size: int) -> None:
    """Raise for what would hang or crash FFCV, or silently read other examples than meant."""
    inner = sampler.inner if isinstance(sampler, PrunedSampler) else sampler
    known = inner.num_examples
    if known is not None and known != size:
        in_file = int(loader.reader.num_samples)
        what = "weight" if inner.targets is None else "targets"
        part = (
            "" if size == in_file else f" ({size} of the file's {in_file}, by indices= or filter)"
        )
        raise ValueError(
            f"Expected {what} of the sampler to have one entry for each of the {size} examples "
            f"that the loader reads{part}, but got {known}. Build the sampler from "
            "equipoise.ffcv.targets(loader)."
        )
    ids = np.asarray(loader.indices)
    if (
        size == 0
        or ids.dtype.kind not in "iu"
        or int(ids.min()) < 0
        or int(ids.max()) >= int(loader.reader.num_samples)
    ):
        raise ValueError(
            "Expected indices of the loader to be at least one id, whole numbers in "
            f"[0, {int(loader.reader.num_samples)}), but got {ids!r}."
        )
    check_again(loader.reader)
    if not len(loader.reader.alloc_table) and isinstance(
        loader.memory_manager, ProcessCacheManager
    ):
        raise ValueError(
            f"Expected os_cache=True for {loader.fname}, whose fields all lie in its index, but "
            "got os_cache=False, with which FFCV raises OverflowError."
        )
    if loader.distributed and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size()
        if sampler.num_replicas != world:
            raise ValueError(
                f"Expected num_replicas of the sampler to be the world size {world}, but got "
                f"{sampler.num_replicas}: every rank would read the same examples. Pass rank= and "
                "num_replicas= to the sampler; FFCV does not split a custom order."
            )
