"""Speed of ClassBalancedSampler against torch's WeightedRandomSampler, in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.samplers.speed

Prints, as Markdown: time to first batch at N = 10^4 … 10^7 (the index over the classes built), a
whole epoch of 10^7 positions, the cost of a feedback update, and what `import equipoise` adds to
`import torch`. Ratios are of runs next to each other: median, minimum and maximum of the pairs.
Labels: 1,000 classes with Zipf frequencies.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import BatchSampler, WeightedRandomSampler

from equipoise import Targets
from equipoise.samplers import ClassBalancedSampler

BATCH = 256


def zipf_targets(examples: int, classes: int) -> Targets:
    share = 1 / np.arange(1, classes + 1)
    counts = np.maximum(1, (share / share.sum() * examples).astype(np.int64))
    counts[0] += examples - counts.sum()
    labels = np.repeat(np.arange(classes), counts)
    np.random.default_rng(0).shuffle(labels)
    targets = Targets(labels, classes)
    _ = targets.members
    return targets


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def spread(values: list[float], unit: str = "", digits: int = 2) -> str:
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f}–{high:.{digits}f})"


def first_batch(sampler: ClassBalancedSampler) -> Callable[[], object]:
    def call() -> None:
        stream = iter(sampler)
        for _ in range(BATCH):
            next(stream)

    return call


def new_weights(sampler: ClassBalancedSampler) -> Callable[[], object]:
    classes = sampler.targets.num_classes
    log_weights = iter(np.random.default_rng(1).normal(size=(1000, classes)))
    return lambda: sampler.set_log_weight(next(log_weights))


def small_costs(sizes: list[int], classes: int, repeats: int) -> None:
    samplers = {n: ClassBalancedSampler(zipf_targets(n, classes), seed=1) for n in sizes}
    print(f"\n| N | first batch of {BATCH}, ms | its ratio to N = {sizes[0]:,} | new λ, ms |")
    print("|-|-|-|-|")
    firsts: dict[int, list[float]] = {n: [] for n in sizes}
    for _ in range(repeats):
        for n, sampler in samplers.items():
            firsts[n].append(seconds(first_batch(sampler)))
    for n, sampler in samplers.items():
        update = new_weights(sampler)
        updates = [seconds(update) * 1e3 for _ in range(repeats)]
        ratios = [a / b for a, b in zip(firsts[n], firsts[sizes[0]], strict=True)]
        milliseconds = [t * 1e3 for t in firsts[n]]
        print(f"| {n:,} | {spread(milliseconds)} | {spread(ratios)} | {spread(updates)} |")


def whole_epochs(examples: int, classes: int, repeats: int) -> None:
    targets = zipf_targets(examples, classes)
    ours = ClassBalancedSampler(targets, seed=1)
    weights = torch.from_numpy(1.0 / targets.counts)[torch.from_numpy(targets.labels.astype(int))]
    theirs = WeightedRandomSampler(weights, examples)
    rng = np.random.default_rng(0)
    calls = {
        "ours, as one array": ours.indices,
        "ours, iterated": lambda: sum(1 for _ in ours),
        "ours, in batches of 256": lambda: sum(1 for _ in ours.batches(256)),
        "WeightedRandomSampler, iterated": lambda: sum(1 for _ in theirs),
        "BatchSampler over it": lambda: sum(1 for _ in BatchSampler(theirs, 256, False)),
        "torch.multinomial alone": lambda: torch.multinomial(weights, examples, True),
        "numpy permutation + gather": lambda: targets.members[rng.permutation(examples)],
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call))
    print(f"\n| a whole epoch of {examples:,} positions | seconds | WeightedRandomSampler takes |")
    print("|-|-|-|")
    reference = times["WeightedRandomSampler, iterated"]
    for name, values in times.items():
        ratios = [r / t for r, t in zip(reference, values, strict=True)]
        print(f"| {name} | {spread(values)} | {spread(ratios, ' ×', 1)} |")


def import_time(repeats: int) -> None:
    def run(code: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))

    added = []
    for _ in range(repeats):
        alone = run("import torch")
        added.append(run("import torch, equipoise") - alone)
    print(f"\n`import equipoise` adds {spread(added, ' s')} to `import torch`.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--largest", type=int, default=10**7)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, "
        f"{platform.processor() or platform.machine()}, one thread. "
        "Median (minimum–maximum)."
    )
    sizes = [n for n in (10**4, 10**5, 10**6, 10**7, 10**8) if n <= args.largest]
    small_costs(sizes, args.classes, 4 * args.repeats)
    whole_epochs(args.largest, args.classes, args.repeats)
    import_time(args.repeats)


if __name__ == "__main__":
    main()
