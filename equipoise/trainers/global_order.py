"""GlobalOrder: the whole order on every rank, for loaders that are split by somebody else."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from equipoise.balancer import Balancer

__all__ = ["GlobalOrder"]


class GlobalOrder(torch.utils.data.Sampler[int]):
    """A balancer's order of all ranks together: the same example ids on each of them.

    For accelerate and Lightning Fabric, which split every loader over the processes themselves:
    by whole batches, by parts of each batch (`split_batches`), from rank 0 (`dispatch_batches`),
    or by a `DistributedSampler`. `balancer.sampler` already draws for one rank of several, so it
    would be split twice, and most examples would never come. Give them this one instead:

        loader = DataLoader(data, batch_size, sampler=GlobalOrder(balancer))
        loader = accelerator.prepare(loader)  # or fabric.setup_dataloaders(loader)

    The balancer alone says which epoch it is, by its `step()`; a framework's `set_epoch` is not
    heard. Each iteration begins at the start of the epoch: to resume, skip batches as the
    framework does (`skip_first_batches`).

    Args:
        balancer: whose epoch, λ and order are followed.

    Example:
        >>> balancer = Balancer([0, 0, 0, 1], rank=1, num_replicas=2)
        >>> len(list(balancer.sampler)), len(list(GlobalOrder(balancer)))
        (2, 4)
    """

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer

    def __len__(self) -> int:
        return int(self.balancer.sampler.num_samples)

    def __iter__(self) -> Iterator[int]:
        self.balancer.sampler.handed_out = True
        order = self.balancer.sampler.snapshot()
        order.set_ranks(0, 1)
        return iter(order)
