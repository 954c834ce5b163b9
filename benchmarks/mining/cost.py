"""What an epoch costs with each miner, as a fraction of plain training's in the same round.

    OMP_NUM_THREADS=1 python -m benchmarks.mining.cost --net small --rounds 20

Processor time, of everything: forward, backward, optimiser, ranking, the choice of the epoch,
collecting batches. Images are made up and in memory, labels random. Within a round the miners take
turns in a random order, because the machine's speed drifts; given are the median of the rounds'
ratios and their quartiles. `plain again` says what there is where nothing differs, and `random` is
the floor: a random subset of the same size. Nets: ResNet-18 with a 3×3 stem on 32×32, and the net
of examples/harness.py. Goals at keep .5: loss pruning .65, selective backprop .8.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from equipoise.mining import HardestExamples, LossPruning, SelectiveBackprop
from equipoise.samplers import ClassBalancedSampler
from examples.harness import Arrays, small_net


def unreduced(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="none")


class Training:
    """One net, optimiser and order of draws, trained an epoch at a time with one miner."""

    def __init__(self, net: nn.Module, data: Arrays, batch_size: int, lr: float, kind, seed=0):
        self.net, self.kind = net, kind
        self.optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
        self.miner = None if kind is None else kind()
        sampler = ClassBalancedSampler(data.labels, np.ones(10), seed=seed)
        self.prunes = isinstance(self.miner, LossPruning)
        self.sampler = self.miner.over(sampler) if self.prunes else sampler
        self.loader = DataLoader(data, batch_size, sampler=self.sampler, collate_fn=lambda b: b)
        self.epoch = 0

    def step(self, loss: torch.Tensor) -> None:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def run_epoch(self) -> None:
        self.net.train()
        self.sampler.set_epoch(self.epoch)
        if self.miner is not None:
            self.miner.set_epoch(self.epoch)
        batches = self.loader
        if isinstance(self.miner, SelectiveBackprop):
            batches = self.miner(self.loader, self.net, unreduced)
        for inputs, labels, indices in batches:
            losses = unreduced(self.net(inputs), labels)
            if isinstance(self.miner, HardestExamples):
                self.step(self.miner(losses, labels))
            else:
                self.step(self.miner(losses, labels, indices) if self.prunes else losses.mean())
        self.epoch += 1


class RandomSubset(LossPruning):
    """Nothing is remembered, so every draw is kept with the same probability."""

    def __call__(self, losses, targets=None, indices=None):
        return losses.mean()


def miners() -> dict[str, object]:
    bf16 = torch.bfloat16
    return {
        "plain": None,
        "plain again": None,
        "hardest .5": lambda: HardestExamples(0.5),
        "hardest .25": lambda: HardestExamples(0.25),
        "selective .5": lambda: SelectiveBackprop(0.5),
        "selective .25": lambda: SelectiveBackprop(0.25),
        "selective .5, bfloat16": lambda: SelectiveBackprop(0.5, autocast=bf16),
        "selective .5, half resolution": lambda: SelectiveBackprop(0.5, resolution=0.5),
        "selective .25, half resolution": lambda: SelectiveBackprop(0.25, resolution=0.5),
        "loss pruning .5": lambda: LossPruning(0.5),
        "loss pruning .25": lambda: LossPruning(0.25),
        "random .5": lambda: RandomSubset(0.5),
        "random .25": lambda: RandomSubset(0.25),
    }


def make_net(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "small":
        return small_net(10, 24)
    from torchvision.models import resnet18

    net = resnet18(num_classes=10)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return net.to(memory_format=torch.channels_last)


def measure(name: str, rounds: int) -> None:
    batch_size, batches = {"small": (128, 16), "resnet18": (32, 8)}[name]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size * batches, 3, 32, 32, generator=generator)
    labels = torch.arange(len(images)) % 10
    data = Arrays(images.to(memory_format=torch.channels_last), labels)
    runs = {
        label: Training(make_net(name), data, batch_size, 1e-3, kind)
        for label, kind in miners().items()
    }
    seconds = defaultdict(list)
    order = np.random.default_rng(0)
    for turn in range(rounds + 1):
        for label in order.permutation(list(runs)):
            began = time.process_time()
            runs[label].run_epoch()
            if turn:  # the first one warms up, and fills the memory
                seconds[label].append(time.process_time() - began)
    plain = np.array(seconds["plain"])
    print(f"\n{name}: {batches} batches of {batch_size}, {rounds} rounds; of plain:")
    for label in runs:
        low, middle, high = np.quantile(np.array(seconds[label]) / plain, [0.25, 0.5, 0.75])
        print(f"{label:32} {middle:.2f} ({low:.2f} – {high:.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--net", nargs="+", default=["small", "resnet18"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.net:
        measure(name, args.rounds)


if __name__ == "__main__":
    main()
