"""Progress: how many examples of the running epoch have been trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

__all__ = ["Progress"]


class Progress:
    """Counts the examples given to the loss, or taken from the loader by a miner, of all ranks.

    What a `DataLoader` has prefetched does not count, so a state saved in mid-epoch says what was
    trained on.

    Args:
        sampler: asked how far it was iterated as long as nothing was counted; and for the number
            of ranks.

    Attributes:
        counts: whether anything was ever counted, in this process or the one whose state it is.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.counts, self._trained = sampler, False, 0

    def add(self, targets: Any) -> None:
        """Count a batch, unless gradients are switched off: then nothing is trained."""
        if torch.is_grad_enabled():
            self._trained += len(targets) * self.sampler.num_replicas
            self.counts = True

    def over(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of a loader, each counted when it comes."""
        for batch in loader:
            self.add(batch[1])
            yield batch

    @property
    def position(self) -> int:
        """The global position in the epoch where a resumed run goes on."""
        if not self.counts:
            return int(self.sampler.position)
        return min(self._trained, int(self.sampler.num_samples))

    def go_to(self, epoch: int, position: int) -> None:
        """Let the sampler's next iteration begin there."""
        self.sampler.set_epoch(epoch, position=position)
        self._trained = position

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any], epoch: int) -> None:
        """Go on in that epoch where `state_dict` was taken."""
        self.go_to(epoch, state["position"])
        self.counts = state["counts"]
