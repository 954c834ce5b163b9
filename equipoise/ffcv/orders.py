"""The order of a sampler as FFCV's `Loader` wants it, checked before FFCV sees it."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any

import numpy as np
import torch
from ffcv.loader import Loader
from ffcv.memory_managers import ProcessCacheManager
from ffcv.traversal_order.base import TraversalOrder

from equipoise.balancer import Balancer
from equipoise.ffcv.checking import check_again
from equipoise.samplers import OrderSampler

__all__ = ["SamplerOrder", "check_batches_ahead", "order", "sampler_of"]


class _OrderClass(ABCMeta):
    """The type of what `order` returns: a class that also passes for an instance.

    FFCV 1.0.2 wants `isinstance(order, TraversalOrder)`, its main branch
    `issubclass(order, TraversalOrder)`; both then call `order(loader)`.
    """


TraversalOrder.register(_OrderClass)


class SamplerOrder(TraversalOrder, metaclass=_OrderClass):
    """The `TraversalOrder` that draws a sampler's stream for one loader; see `order`.

    FFCV asks for an order in `Loader.__init__` and in `Loader.__iter__`, both on the caller's
    thread. Whatever is wrong is raised there, and FFCV's own threads only ever get a contiguous
    int64 array of valid example ids, which is as long in every epoch as in the first.

    Attributes:
        length: examples an epoch, the same on every rank.
        part: what of the epoch the next `sample_order`, and that one alone, gives.
    """

    def __init__(self, loader: Loader, sampler: OrderSampler) -> None:
        super().__init__(loader)
        self.loader: Loader = loader
        self.sampler, self.length = sampler, len(sampler)
        self._asked = False
        self.part = slice(None)
        check_batches_ahead(loader)
        _check_loader(loader, sampler)
        least = loader.batch_size if loader.drop_last else 1
        if self.length < least:
            raise ValueError(
                f"Expected the sampler to draw at least {least} examples per epoch and rank, which "
                f"make one batch, but got {self.length}. Pass drop_last=False to the loader, or a "
                "larger num_samples to the sampler."
            )
        # FFCV's default is every example in the file's order: nothing to translate then
        ids = np.asarray(loader.indices, np.int64)
        self._ids = None if np.array_equal(ids, np.arange(len(ids))) else ids

    def sample_order(self, epoch: int) -> np.ndarray:
        """FFCV's hook: the ids in the file of this rank's epoch; `epoch` is FFCV's number."""
        # FFCV asks first for the length alone: nothing of the epoch is handed out by that
        sampler = self.sampler if self._asked else self.sampler.snapshot()
        self._asked = True
        part, self.part = self.part, slice(None)
        if sampler.auto_advance and sampler.epoch != epoch:
            sampler.set_epoch(epoch)
        drawn = self._checked(sampler.indices())
        ids = drawn if self._ids is None else self._ids[drawn]
        return np.ascontiguousarray(ids, np.int64)[part]

    def _checked(self, drawn: np.ndarray) -> np.ndarray:
        """What the sampler drew: `length` examples that the loader reads."""
        size, user = len(self.loader.indices), type(self.sampler).__name__
        if len(drawn) != self.length:
            raise ValueError(
                f"Expected {user} to draw {self.length} examples, but got {len(drawn)}. FFCV fixes "
                "the length of an epoch when the loader is made; attach the sampler again to "
                "change it."
            )
        if len(drawn) and (int(drawn.min()) < 0 or int(drawn.max()) >= size):
            raise ValueError(
                f"Expected {user} to draw examples in [0, {size}), those that the loader reads, "
                f"but got {int(drawn.min())} … {int(drawn.max())}."
            )
        return drawn


def order(sampler: Any) -> type[SamplerOrder]:
    """An object for `Loader(order=…)`: FFCV then reads the examples the sampler draws.

    It works with FFCV 1.0.2 and with its main branch, with both caches. An epoch of the loader is
    `sampler.indices()`: this rank's share, duplicates included, equally long on every rank.

    The sampler numbers the examples that the loader reads. With `Loader(indices=ids)` its example
    i is therefore `ids[i]` of the file, and its targets are those of `ids` alone, as they are for
    a `torch.utils.data.Subset`. `loader.filter(…)` makes such a loader too: filter first, then
    `attach` a sampler over what is left.

    `sampler.set_epoch` gets FFCV's epoch number before each epoch. Where `sampler.auto_advance` is
    `False`, as for a `Balancer`, whose `step` begins the epochs, the sampler's own current epoch is
    drawn, as often as the loader is iterated.

    Args:
        sampler: an `OrderSampler`, or a `Balancer`.

    Raises:
        TypeError: `sampler` is neither.
        ValueError: raised by `Loader(…)`, never within FFCV's threads, where the sampler's number
            of examples differs from the loader's, where it draws ids out of range, or too few for
            a batch under `drop_last=True`, and for `batches_ahead=0`.

    Example:
        .. code-block:: python

            sampler = ClassBalancedSampler(equipoise.ffcv.targets("train.beton"))
            loader = Loader("train.beton", 512, order=equipoise.ffcv.order(sampler))
    """
    drawn_from = sampler_of(sampler)

    class Order(SamplerOrder):
        def __init__(self, loader: Loader, **_: Any) -> None:
            super().__init__(loader, drawn_from)

    Order.__name__ = Order.__qualname__ = f"order({type(drawn_from).__name__})"
    return Order


def sampler_of(source: Any) -> OrderSampler:
    """The sampler, or that of a `Balancer`."""
    sampler = source.sampler if isinstance(source, Balancer) else source
    if not isinstance(sampler, OrderSampler):
        raise TypeError(
            "Expected sampler to be an OrderSampler of equipoise.samplers, or a Balancer that has "
            f"one, but got {type(sampler)}."
        )
    return sampler


def check_batches_ahead(loader: Loader) -> None:
    """Raise for a loader whose queue of finished batches has no limit: FFCV overwrites them."""
    if loader.batches_ahead < 1:
        raise ValueError(
            f"Expected batches_ahead of the loader to be at least 1, but got "
            f"{loader.batches_ahead}: FFCV would then overwrite batches before they are read, and "
            "yield wrong ones. Leave it out for FFCV's default of 3."
        )


def _check_loader(loader: Loader, sampler: OrderSampler) -> None:
    """Raise for what would hang or crash FFCV, or silently read other examples than meant."""
    ids, in_file = np.asarray(loader.indices), int(loader.reader.num_samples)
    known = sampler.num_examples
    if known is not None and known != len(ids):
        part = (
            f" ({len(ids)} of the file's {in_file}, by indices= or filter)"
            if len(ids) != in_file
            else ""
        )
        raise ValueError(
            f"Expected the sampler to be made for the {len(ids)} examples that the loader reads"
            f"{part}, but got one for {known}. Build it from equipoise.ffcv.targets(loader)."
        )
    if (
        not len(ids)
        or ids.dtype.kind not in "iu"
        or int(ids.min()) < 0
        or int(ids.max()) >= in_file
    ):
        raise ValueError(
            "Expected indices of the loader to be at least one id, whole numbers in "
            f"[0, {in_file}), but got {ids!r}."
        )
    check_again(loader.reader)
    pages_only = isinstance(loader.memory_manager, ProcessCacheManager)
    if pages_only and not len(loader.reader.alloc_table):
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
