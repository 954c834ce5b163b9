"""What a miner's epoch costs, and how much of what it mines is mislabelled.

    python -m benchmarks.mining.cost                      # both parts, one thread
    python -m benchmarks.mining.cost --part time --net small --rounds 20

Part `time`: what an epoch over the same draws takes with each miner, as a fraction of what plain
training takes in the same round, by the wall-clock and by processor time (of all threads, which
other programs on the machine disturb less). It is all in: forward, backward, optimiser, ranking,
the choice of the epoch, collecting batches. Images are made up and in memory, labels random. Within
a round the miners take turns in a random order, because the machine's speed drifts; given are the
median of the rounds' ratios and their quartiles. `plain again` says what there is where nothing
differs, and `random` is the floor: a random subset of the same size. Nets: ResNet-18 with a 3×3
stem on 32×32, and the net of examples/harness.py. Goals at keep .5: loss pruning .65, selective
backprop .8.

`hardest` ranks the losses of a batch that went through the network already: it saves nothing.

Part `flipped`: 8×8 digits (scikit-learn), 10% of the training labels moved to another class, a
small fully connected net. Given are, over the last epochs, the share of flipped examples among what
is mined (10% if it were random), and the mean recall on test images with clean labels; mean and
standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from equipoise.mining import HardestExamples, LossPruning, SelectiveBackprop
from equipoise.rates import ClassRates
from equipoise.samplers import ClassBalancedSampler
from examples.harness import Arrays, small_net

GOALS = {"loss pruning .5": 0.65, "selective .5": 0.80}


def unreduced(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="none")


class Training:
    """One net, optimiser and order of draws, trained an epoch at a time with one miner."""

    def __init__(self, net: nn.Module, data: Arrays, batch_size: int, lr: float, kind, seed=0):
        self.net, self.kind = net, kind
        self.optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
        self.miner = None if kind is None or kind == "plain" else kind()
        sampler = ClassBalancedSampler(data.labels, np.ones(10), seed=seed)
        self.prunes = isinstance(self.miner, LossPruning)
        self.sampler = self.miner.over(sampler) if self.prunes else sampler
        self.loader = DataLoader(data, batch_size, sampler=self.sampler, collate_fn=lambda b: b)
        self.epoch = 0
        self.used: list[torch.Tensor] = []  # indices learnt from in the last epoch

    def step(self, loss: torch.Tensor) -> None:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def run_epoch(self) -> None:
        self.net.train()
        self.used = []
        self.sampler.set_epoch(self.epoch)
        if self.miner is not None:
            self.miner.set_epoch(self.epoch)
        batches = self.loader
        if isinstance(self.miner, SelectiveBackprop):
            batches = self.miner(self.loader, self.net, unreduced)
        for inputs, labels, indices in batches:
            losses = unreduced(self.net(inputs), labels)
            if isinstance(self.miner, HardestExamples):
                chosen = self.miner.select(losses, labels)
                self.used.append(indices[chosen])
                self.step(torch.where(chosen, losses, 0).sum() / chosen.sum().clamp_min(1))
                continue
            self.used.append(indices)
            self.step(self.miner(losses, labels, indices) if self.prunes else losses.mean())
        self.epoch += 1


class RandomSubset(LossPruning):
    """Nothing is remembered, so every draw is kept with the same probability."""

    def __call__(self, losses, targets=None, indices=None):
        return losses.mean()


def time_miners() -> dict[str, object]:
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


def time_part(args: argparse.Namespace) -> dict:
    results = {}
    for name in args.net:
        batch_size, batches = {"small": (128, 16), "resnet18": (32, 8)}[name]
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch_size * batches, 3, 32, 32, generator=generator)
        labels = torch.arange(len(images)) % 10
        data = Arrays(images.to(memory_format=torch.channels_last), labels)
        runs = {
            label: Training(make_net(name), data, batch_size, 1e-3, kind)
            for label, kind in time_miners().items()
        }
        seconds = defaultdict(list)
        order = np.random.default_rng(0)
        for turn in range(args.rounds + 1):
            for label in order.permutation(list(runs)):
                began = time.perf_counter(), time.process_time()
                runs[label].run_epoch()
                if turn:  # the first one warms up, and fills the memory
                    ended = time.perf_counter(), time.process_time()
                    seconds[label].append(np.subtract(ended, began).tolist())
        plain = np.array(seconds["plain"])
        wall, processor = np.median(plain, 0)
        print(
            f"\n{name}: {batches} batches of {batch_size}, {args.rounds} rounds, {args.threads} "
            f"thread(s); a plain epoch took {wall:.2f} s, {processor:.2f} s of the processor"
        )
        print(f"{'of plain: ':32} wall-clock           processor time       goal")
        rows = {}
        for label in runs:
            quartiles = np.quantile(np.array(seconds[label]) / plain, [0.25, 0.5, 0.75], axis=0)
            cells = [f"{middle:.2f} ({low:.2f} – {high:.2f})" for low, middle, high in quartiles.T]
            goal = GOALS.get(label)
            met = ["met" if middle <= (goal or 0) else "missed" for middle in quartiles[1]]
            verdict = "" if goal is None else f"{goal:.2f}: {met[0]}, {met[1]}"
            print(f"{label:32} {cells[0]}   {cells[1]}   {verdict}", flush=True)
            rows[label] = {"quartiles": quartiles.tolist(), "seconds": seconds[label]}
        results[name] = rows
    return results


def flipped_miners() -> dict[str, object]:
    def with_keep(keep: float) -> dict[str, object]:
        k = f"{keep:g}".lstrip("0")
        return {
            f"hardest {k}": lambda: HardestExamples(keep),
            f"hardest {k}, trim .1": lambda: HardestExamples(keep, trim=0.1),
            f"hardest {k}, percentile": lambda: HardestExamples(keep, selection="percentile"),
            f"hardest {k}, percentile, trim .1": lambda: HardestExamples(
                keep, selection="percentile", trim=0.1
            ),
            f"selective {k}": lambda: SelectiveBackprop(keep),
            f"selective {k}, trim .1": lambda: SelectiveBackprop(keep, trim=0.1),
            f"selective {k}, percentile": lambda: SelectiveBackprop(keep, selection="percentile"),
            f"loss pruning {k}": lambda: LossPruning(keep),
            f"loss pruning {k}, not rescaled": lambda: LossPruning(keep, rescale=False),
            f"random {k}": lambda: RandomSubset(keep),
        }

    return {"plain": None, **with_keep(0.5), **with_keep(0.25)}


def flipped_part(args: argparse.Namespace) -> dict:
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs = torch.from_numpy(digits.data).float() / 8 - 1
    clean = torch.from_numpy(digits.target).long()
    last = 5
    rows = defaultdict(list)
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        arrangement = rng.permutation(len(clean))
        train, test = arrangement[:1200], arrangement[1200:]
        labels = clean[train].clone()
        flipped = torch.zeros(len(train), dtype=torch.bool)
        flipped[rng.permutation(len(train))[: len(train) // 10]] = True
        moved = torch.from_numpy(rng.integers(1, 10, len(train)))
        labels[flipped] = (labels[flipped] + moved[flipped]) % 10
        data = Arrays(inputs[train], labels)
        for label, kind in flipped_miners().items():
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
            run = Training(net, data, 64, 0.05, kind, seed)
            shares = []
            for epoch in range(args.epochs):
                run.run_epoch()
                if epoch >= args.epochs - last:
                    shares.append(flipped[torch.cat(run.used)].float().mean().item())
            net.eval()
            rates = ClassRates(10)
            with torch.no_grad():
                rates.update(net(inputs[test]), clean[test])
            rows[label].append((float(np.mean(shares)), float(rates.recalls().mean())))
    print(
        f"\ndigits, 10% of 1,200 labels flipped, {args.epochs} epochs, {args.seeds} seeds; "
        f"share flipped over the last {last}"
    )
    print(f"{'miner':38} flipped among mined   mean recall on clean test images")
    results = {}
    for label, values in rows.items():
        mean, sd = np.mean(values, 0), np.std(values, 0, ddof=1 if len(values) > 1 else 0)
        print(f"{label:38} {mean[0]:.3f} ± {sd[0]:.3f}         {mean[1]:.3f} ± {sd[1]:.3f}")
        results[label] = {"flipped": mean[0], "recall": mean[1], "sd": sd.tolist()}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--part", nargs="+", choices=["time", "flipped"], default=["time", "flipped"]
    )
    parser.add_argument(
        "--net", nargs="+", choices=["small", "resnet18"], default=["small", "resnet18"]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20, help="of the flipped part")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record: dict = {"settings": vars(args), "torch": torch.__version__, "cpu": platform.processor()}
    if "time" in args.part:
        record["time"] = time_part(args)
    if "flipped" in args.part:
        record["flipped"] = flipped_part(args)
    if args.out:
        Path(args.out).write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
