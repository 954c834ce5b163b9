"""Wall-clock to a mean recall with each miner, against shorter plain training and random subsets.

    python -m benchmarks.mining.time_to_recall --data cifar10.npz --epochs 15 --out runs/mining.json

For each seed and each miner, on CIFAR-10 with the net and the augmentation of examples/harness.py:

* the miner, over the draws of `--epochs` epochs;
* (a) plain training on all examples with the schedule shortened to the miner's wall-clock;
* (b) a fresh random subset an epoch with the same keep, over as many epochs;
* (c) plain training for `--epochs` epochs.

Every run has a schedule of its own that is fully decayed at its end: the learning rate rises over a
fifth of its steps and falls to zero. The clock runs while training, loading and augmenting, and
stands while test images are predicted, after every `--every` part of a run. Given are the mean
recall at the end, the seconds, and the seconds until `--target` was first reached (0.98 of what
plain training ended with by default), as mean and standard deviation over the seeds; beside the
wall-clock the processor time, which other programs on the machine disturb less.

(a) is planned from what an optimiser step costs with each miner: processor time against a plain
step's in the same round, median of `--rounds` short rounds before the first seed. Other programs on
the machine disturb that less than the wall-clock of whole runs. Finished runs and these costs are
read back from `--out`.
`--imbalance 100` makes a long tail: class c keeps 100^(−c/9) of its examples.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.mining.cost import RandomSubset, unreduced
from equipoise.mining import HardestExamples, LossPruning, SelectiveBackprop
from equipoise.rates import ClassRates
from equipoise.samplers import ClassBalancedSampler
from examples.harness import Arrays, augment, load_images, small_net, to_input

MINERS = {
    "hardest .5": lambda epochs: HardestExamples(0.5),
    "selective .5": lambda epochs: SelectiveBackprop(0.5),
    "selective .5, trim .1": lambda epochs: SelectiveBackprop(0.5, trim=0.1),
    "selective .5, half resolution": lambda epochs: SelectiveBackprop(0.5, resolution=0.5),
    "selective .25, half resolution": lambda epochs: SelectiveBackprop(0.25, resolution=0.5),
    "loss pruning .5": lambda epochs: LossPruning(0.5),
    "loss pruning .5, last fifth all": lambda epochs: LossPruning(
        0.5, final=-(-epochs // 5), num_epochs=epochs
    ),
    "loss pruning .25": lambda epochs: LossPruning(0.25),
}


def make_miner(name: str, args: argparse.Namespace):
    miner = MINERS[name](args.epochs)
    if args.bf16 and isinstance(miner, SelectiveBackprop):
        miner.autocast = torch.bfloat16
    return miner


def batches_of(loader: DataLoader, generator: torch.Generator):
    for images, labels, indices in loader:
        yield to_input(augment(images, generator, True)), labels, indices


def rate_at(progress: float) -> float:
    """Rises over a fifth, falls to zero."""
    return min(progress / 0.2, (1 - progress) / 0.8)


@torch.no_grad()
def mean_recall(net, images: torch.Tensor, labels: torch.Tensor, bf16: bool) -> float:
    training = net.training
    net.eval()
    rates = ClassRates(10)
    for x, y in zip(images.split(1000), labels.split(1000), strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = net(to_input(x))
        rates.update(logits.float(), y)
    net.train(training)
    return float(rates.recalls().mean())


def train(miner, steps: int, data: Arrays, test, args: argparse.Namespace, seed: int) -> dict:
    """`steps` optimiser steps; the clock stands while test images are predicted."""
    torch.manual_seed(seed)
    net = small_net(10, args.width).train()
    optimizer = torch.optim.SGD(net.parameters(), args.lr, 0.9, weight_decay=5e-4, nesterov=True)
    sampler = ClassBalancedSampler(data.labels, np.ones(10), seed=seed)
    prunes = isinstance(miner, LossPruning)
    sampler = miner.over(sampler) if prunes else sampler
    loader = DataLoader(
        data, args.batch_size, sampler=sampler, collate_fn=lambda batch: batch, drop_last=True
    )
    generator = torch.Generator().manual_seed(seed)
    check = max(1, round(args.every * steps))
    clock, wall = time.process_time(), time.perf_counter()
    process_seconds, seconds, curve = 0.0, 0.0, []
    step = epoch = 0
    while step < steps:
        sampler.set_epoch(epoch)
        if miner is not None:
            miner.set_epoch(epoch)
        batches = batches_of(loader, generator)
        if isinstance(miner, SelectiveBackprop):
            batches = miner(batches, net, unreduced)
        for inputs, labels, indices in batches:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * rate_at((step + 0.5) / steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                logits = net(inputs)
            losses = unreduced(logits, labels)
            in_batch = prunes or isinstance(miner, HardestExamples)
            loss = miner(losses, labels, indices) if in_batch else losses.mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if (step % check == 0 or step == steps) and test is not None:
                process_seconds += time.process_time() - clock
                seconds += time.perf_counter() - wall
                curve.append((seconds, process_seconds, mean_recall(net, *test, args.bf16)))
                clock, wall = time.process_time(), time.perf_counter()
            if step == steps:
                break
        epoch += 1
    if test is None:
        return {"process_seconds": time.process_time() - clock}
    return {
        "steps": steps,
        "seconds": seconds,
        "process_seconds": process_seconds,
        "recall": curve[-1][2],
        "curve": curve,
    }


def long_tail(labels: np.ndarray, imbalance: float) -> np.ndarray:
    """Ids of the first examples of each class, class c's share being imbalance^(−c/9)."""
    share = imbalance ** (-np.arange(10) / 9)
    ids = [np.flatnonzero(labels == c) for c in range(10)]
    return np.concatenate([i[: round(len(i) * s)] for i, s in zip(ids, share, strict=True)])


def step_costs(data: Arrays, test, args: argparse.Namespace, done: dict) -> dict[str, float]:
    """Processor time of an optimiser step with each miner, as a multiple of a plain step's."""
    if "step costs" not in done:
        ratios = defaultdict(list)
        for round_ in range(args.rounds):
            seconds = {}
            for name in np.random.default_rng(round_).permutation(["plain", *args.miner]):
                miner = None if name == "plain" else make_miner(name, args)
                seconds[name] = train(miner, args.cost_steps, data, None, args, 0)[
                    "process_seconds"
                ]
            for name in args.miner:
                ratios[name].append(seconds[name] / seconds["plain"])
        done["step costs"] = {name: float(np.median(values)) for name, values in ratios.items()}
        for name, cost in done["step costs"].items():
            print(f"a step of {name:42} {cost:.2f} of a plain step", flush=True)
    return done["step costs"]


def run_all(data: Arrays, test, args: argparse.Namespace, done: dict) -> dict:
    whole = args.epochs * (len(data) // args.batch_size)
    costs = step_costs(data, test, args, done)
    for seed in range(args.seeds):

        def run(name: str, miner, steps: int, seed: int = seed) -> dict:
            key = f"{name} | seed {seed}"
            if key not in done:
                done[key] = train(miner, max(1, steps), data, test, args, seed)
                row = done[key]
                print(f"{key:52} {row['seconds']:7.1f} s  recall {row['recall']:.3f}", flush=True)
                if args.out:
                    Path(args.out).write_text(json.dumps(done, indent=1))
            return done[key]

        run("plain", None, whole)
        for name in args.miner:
            miner = make_miner(name, args)
            shrinks = not isinstance(miner, HardestExamples)
            steps = round(whole * miner.keep) if shrinks else whole
            run(name, miner, steps)
            if shrinks:
                run(f"random {miner.keep:g}", RandomSubset(miner.keep), steps)
                run(f"plain in the time of {name}", None, round(steps * costs[name]))
    return done


def plus_minus(values, digits: int) -> str:
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.{digits}f} ± {spread:.{digits}f}"


def print_table(done: dict, args: argparse.Namespace) -> None:
    rows = defaultdict(list)
    for key, row in done.items():
        if " | " not in key:
            continue
        rows[key.split(" | ")[0]].append(row)
    target = args.target
    if target is None:
        target = 0.98 * float(np.mean([row["recall"] for row in rows["plain"]]))
    head = ["mean recall", "seconds", "of the processor", f"to {target:.3f}", "of the processor"]
    print(f"\n{'run':52}" + "".join(f"{cell:>18}" for cell in head))
    for name, runs in rows.items():
        cells = [
            plus_minus([row[key] for row in runs], digits)
            for key, digits in (("recall", 3), ("seconds", 0), ("process_seconds", 0))
        ]
        reached = [next((c[:2] for c in row["curve"] if c[2] >= target), None) for row in runs]
        if None in reached:
            cells += [f"missed by {reached.count(None)} of {len(runs)}", ""]
        else:
            cells += [plus_minus(column, 0) for column in zip(*reached, strict=True)]
        print(f"{name:52}" + "".join(f"{cell:>18}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="cifar10", help="cifar10, digits, or a path to an .npz")
    parser.add_argument("--miner", nargs="+", choices=list(MINERS), default=list(MINERS))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--every", type=float, default=0.1, help="part of a run between checks")
    parser.add_argument("--target", type=float, help="mean recall to reach")
    parser.add_argument("--imbalance", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=7, help="rounds that measure a step's cost")
    parser.add_argument("--cost-steps", type=int, default=40, help="steps of each in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16, scoring too")
    parser.add_argument("--out", help="JSON file: written after each run, and read back")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = load_images(args.data)
    images, labels = loaded["train"]
    if args.imbalance > 1:
        kept = long_tail(labels, args.imbalance)
        images, labels = images[kept], labels[kept]
    data = Arrays(torch.from_numpy(images), torch.from_numpy(labels))
    test = tuple(torch.from_numpy(part) for part in loaded["test"])
    done = {}
    if args.out and Path(args.out).exists():
        done = json.loads(Path(args.out).read_text())
    print_table(run_all(data, test, args, done), args)


if __name__ == "__main__":
    main()
