"""Mining: which of the drawn examples are learnt from. Each miner is usable without a `Balancer`.

* `HardestExamples` and `HardNegatives` choose among a batch's losses. They save nothing.
* `SelectiveBackprop` chooses before the backward pass, by a forward pass of its own, and saves
  backward passes.
* `LossPruning` chooses before loading, by remembered losses, and saves whole steps.

The types `BatchMiner`, `LoaderMiner` and `SamplerMiner` say how each is used, with a `Balancer` or
without; see docs/mining.md. `LossPruning` needs each example's index: a loader gives it if its data
set does (`return image, label, index`), with FFCV it is `BalancedLoader(…, with_indices=True)`.
"""

from __future__ import annotations

from collections.abc import Callable

from equipoise.mining.base import BatchMiner, LoaderMiner, Miner, SamplerMiner
from equipoise.mining.hard_negatives import HardNegatives, hard_negatives
from equipoise.mining.hardest_examples import HardestExamples, hardest_examples
from equipoise.mining.loss_memory import LossMemory
from equipoise.mining.loss_pruning import LossPruning, PrunedSampler, keep_probabilities
from equipoise.mining.selective_backprop import SelectiveBackprop
from equipoise.targets import Targets

__all__ = [
    "MINERS",
    "BatchMiner",
    "HardNegatives",
    "HardestExamples",
    "LoaderMiner",
    "LossMemory",
    "LossPruning",
    "Miner",
    "PrunedSampler",
    "SamplerMiner",
    "SelectiveBackprop",
    "hard_negatives",
    "hardest_examples",
    "keep_probabilities",
]

MINERS: dict[str, Callable[[Targets], Miner]] = {
    "hardest-examples": lambda t: HardestExamples(
        per_class=not t.multilabel, num_classes=None if t.multilabel else t.num_classes
    ),
    "hard-negatives": lambda t: HardNegatives(),
    "selective-backprop": lambda t: SelectiveBackprop(keep=0.5, per_class=not t.multilabel),
    "loss-pruning": lambda t: LossPruning(keep=0.5),
}
"""By the names that `Balancer(mining=…)` takes: what makes each for a training set's labels."""
