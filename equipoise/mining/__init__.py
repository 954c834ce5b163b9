"""Mining: which of the drawn examples are learnt from. Each miner is usable without a `Balancer`.

* `HardestExamples` and `HardNegatives` choose among a batch's losses. They save nothing.
* `SelectiveBackprop` chooses before the backward pass, by a forward pass of its own, and saves
  backward passes.
* `LossPruning` chooses before loading, by remembered losses, and saves whole steps.

**In the batch** (`HardestExamples`, `HardNegatives`, `LossPruning`) a miner turns unreduced losses
into a scalar::

    losses = loss.unreduced(logits, targets)         # (B,), or (B, C) multilabel
    miner(losses, targets, indices).backward()       # `indices` are needed by LossPruning alone

**Before the backward pass** `SelectiveBackprop` turns a loader into one of full batches of chosen
examples, to be trained on with the plain loss::

    for images, labels in miner(loader, model, loss): ...

**Before loading** `LossPruning` wraps a sampler::

    sampler = miner.over(ClassBalancedSampler(targets))   # shorter epochs, by what is remembered

The three are the types `BatchMiner`, `LoaderMiner` and `SamplerMiner`, by which a `Balancer` tells
what to do with a miner. Every `Miner` has `set_epoch(epoch)`, `active`, `tally` (what was kept),
`state_dict`, `load_state_dict`, and `multilabel` (whether losses and targets are `(B, C)`).

A loader gives indices if its data set does: `return image, label, index`. With FFCV it is
`equipoise.ffcv`'s sample index.
"""

from __future__ import annotations

from equipoise.mining.base import BatchMiner, LoaderMiner, Miner, SamplerMiner
from equipoise.mining.hard_negatives import HardNegatives, hard_negatives
from equipoise.mining.hardest_examples import HardestExamples, hardest_examples
from equipoise.mining.loss_memory import LossMemory, class_means
from equipoise.mining.loss_pruning import LossPruning, keep_probabilities
from equipoise.mining.pruned_sampler import PrunedSampler
from equipoise.mining.selective_backprop import SelectiveBackprop

__all__ = [
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
    "class_means",
    "hard_negatives",
    "hardest_examples",
    "keep_probabilities",
]
