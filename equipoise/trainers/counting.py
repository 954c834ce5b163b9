"""What every trainer does alike with the hold-out's counts."""

from __future__ import annotations

from equipoise.balancer import Balancer
from equipoise.mining import LoaderMiner

__all__ = ["keep_on_first_rank", "recall_summary", "refuse_loader_mining"]


def recall_summary(balancer: Balancer) -> dict[str, float]:
    """Mean, sd and lowest of the recalls observed since the last step; empty where none were."""
    row = balancer.rates.summary()
    if "recalls" not in row:
        return {}
    return {name: row[f"{name}_recall"] for name in ("mean", "sd", "lowest")}


def keep_on_first_rank(balancer: Balancer, rank: int) -> None:
    """Forget the counts, which are those of all ranks together, everywhere but on rank 0.

    `Balancer.step` adds up the ranks' counts, and rank 0 saves the checkpoint: so each hold-out
    example is counted once, and a resumed run knows all of them.
    """
    if rank != 0:
        balancer.rates.reset()


def refuse_loader_mining(balancer: Balancer) -> None:
    """Raise for a miner that has to sit between loader and loop, where a trainer has no place."""
    if isinstance(balancer.mining, LoaderMiner):
        raise ValueError(
            "Expected mining to act on the loss or the sampler under a trainer, but got "
            f"{type(balancer.mining).__name__}, which needs a loop of your own over "
            "balancer.mine(loader, model)."
        )
