"""GlobalOrder: the whole order on every rank, for loaders that are split by somebody else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from equipoise.balancer import Balancer

__all__ = ["GlobalOrder"]

CHUNK = 4096  # positions drawn at a time


class GlobalOrder(torch.utils.data.Sampler[int]):
    """A balancer's order of all ranks together: the same example ids on each of them.

    `accelerator.prepare(loader)` splits every loader over the processes: `BatchSamplerShard` gives
    each its batches, or its part of every batch under `split_batches`; under `dispatch_batches`
    rank 0 reads for all. `balancer.sampler` already draws for one rank of several, so under
    accelerate it would be split twice, and most examples never come. Give this one instead:

        loader = accelerator.prepare(DataLoader(data, batch_size, sampler=GlobalOrder(balancer)))

    Which epoch it is, the balancer alone says, by its `step()`. Each iteration begins at the
    start of the epoch: to resume, skip batches as the framework does (`skip_first_batches`).

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
        for first in range(0, len(self), CHUNK):
            positions = np.arange(first, min(first + CHUNK, len(self)))
            yield from self.balancer.sampler.draw(positions).tolist()
