"""The processes of torch.distributed: which one this is, sums over all, and whether they agree."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["rank_and_replicas", "require_same", "several", "sum_over_ranks"]


def several() -> bool:
    """Whether torch.distributed is initialised with more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank_and_replicas(rank: int | None, num_replicas: int | None) -> tuple[int, int]:
    """The two as given, or if neither is those of torch.distributed; without it (0, 1)."""
    if (rank is None) != (num_replicas is None):
        raise ValueError(
            "Expected rank and num_replicas to be given together or not at all, but got "
            f"rank={rank} and num_replicas={num_replicas}."
        )
    if rank is not None and num_replicas is not None:
        return rank, num_replicas
    return (dist.get_rank(), dist.get_world_size()) if several() else (0, 1)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of every rank's `tensor`, on its device. Every rank has to call it."""
    if not several():
        return tensor
    cuda = "nccl" in dist.get_backend()
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    total = tensor.to(device, copy=True)
    dist.all_reduce(total)
    return total.to(tensor.device)


def require_same(what: dict[str, Any]) -> None:
    """Raise on every rank unless all have the same values. Every rank has to call it."""
    if not several():
        return
    gathered: list[dict[str, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(gathered, what)
    for name in what:
        values = [other.get(name) for other in gathered]
        if any(value != values[0] for value in values):
            told = ", ".join(f"rank {rank}: {value!r}" for rank, value in enumerate(values))
            raise ValueError(f"Expected {name} to be the same on all ranks, but got {told}.")
