"""Streams: class shares of BalancedStream, pytorch-resample and WebDataset's RandomMix.

    pip install --target LIB pytorch-resample
    PYTHONPATH=LIB python -m benchmarks.streams

One long-tailed stream of pairs (number, class), the most frequent class a hundred times as frequent
as the rarest, from which flat shares are asked. Of each way: total variation between yielded and
asked shares over windows of 10,000 (mean and largest, after the first fifth of what is yielded),
source examples read for one yielded, how often a yielded example comes (mean and most), items a
second of processor time, and how many examples are held. A way stops after 60 s.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

from equipoise.samplers.permutation import keys_of
from equipoise.streams import BalancedStream, due_order

WINDOW = 10_000


class Counted:
    """A source that knows how often it was read."""

    def __init__(self, pairs: Iterable[tuple[int, int]]) -> None:
        self.pairs, self.read = pairs, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        self.read = 0
        for pair in self.pairs:
            self.read += 1
            yield pair


def ways(pairs: list[tuple[int, int]], classes: int) -> Iterator[tuple[str, Any, Counted, Any]]:
    """Name, stream, its source, and how many examples are held."""
    source = Counted(pairs)
    for name, options in {"": {}, ", max_repeats=20": {"max_repeats": 20, "max_read": 20}}.items():
        stream = BalancedStream(source, 1, np.ones(classes), **options)
        held = stream.state_dict
        yield f"BalancedStream{name}", stream, source, lambda held=held: kept(held())
    try:
        import pytorch_resample
    except ImportError:
        print("pytorch-resample is left out: it is not installed")
    else:
        flat = dict.fromkeys(range(classes), 1 / classes)
        for kind, options in (("Under", {}), ("Over", {}), ("Hybrid", {"sampling_rate": 1})):
            made = getattr(pytorch_resample, f"{kind}Sampler")
            stream = made(source, flat, seed=0, **options)
            yield f"pytorch-resample, {kind.lower()}", stream, source, lambda: 1
    from webdataset.mix import RandomMix

    of_class: list[list[tuple[int, int]]] = [[] for _ in range(classes)]
    for pair in pairs:
        of_class[pair[1]].append(pair)
    mix = RandomMix([cycle(each) for each in of_class], [1 / classes] * classes)
    yield "RandomMix over split sources", mix, Counted([]), lambda: len(pairs)


def kept(state: dict[str, Any]) -> int:
    return sum(map(len, state["new"])) + sum(map(len, state["used"]))


def measure(stream: Any, source: Counted, classes: int, most: int) -> dict[str, float]:
    numbers, labels, spent = [], [], time.process_time()
    for n, (number, label) in enumerate(stream, 1):
        numbers.append(number)
        labels.append(label)
        if n == most or (n % 1000 == 0 and time.process_time() - spent > 120):
            break
    spent = time.process_time() - spent
    came = np.array(labels[len(labels) // 5 :])
    counts = [
        np.bincount(came[i : i + WINDOW], minlength=classes)
        for i in range(0, len(came) - WINDOW + 1, WINDOW // 10 + 1)
    ]
    apart = np.abs(np.array(counts) / WINDOW - 1 / classes).sum(-1) / 2 if counts else np.array([])
    times = Counter(numbers)
    return {
        "mean": apart.mean() if len(apart) else np.nan,
        "largest": apart.max() if len(apart) else np.nan,
        "read": source.read / len(labels),
        "yields": len(labels) / len(times),
        "most": max(times.values()),
        "speed": len(labels) / spent,
        "read_speed": source.read / spent,
    }


def at_scale(classes: int, draws: float) -> str:
    """The arrangement where `draws` examples have come: state, time, exactness."""
    shares, keys = np.full(classes, 1 / classes), keys_of(0, np.arange(classes))
    before = draws * shares + np.random.default_rng(0).random(classes)
    counts, spent = np.zeros(classes, int), time.process_time()
    for _ in range(1000):
        until = before + 256 * shares
        counts += np.bincount(due_order(before, until, shares, keys), minlength=classes)
        before = until
    spent = (time.process_time() - spent) / 1000
    off = np.abs(counts - 256_000 * shares).max()
    return (
        f"After {draws:.0e} draws, {classes} classes: the arrangement's state is {before.nbytes:,} "
        f"bytes, a batch of 256 takes {1e3 * spent:.2f} ms; of the next 256,000 examples each "
        f"class has its number to within {off:.2f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--labels", type=int, default=1_000_000)
    args = parser.parse_args()
    print("| classes | | TV mean | largest | read | yields | most | items/s | read/s | held |")
    print("|-|-|-|-|-|-|-|-|-|-|", flush=True)
    for classes in args.classes:
        shares = 0.01 ** (np.arange(classes) / (classes - 1))
        rng = np.random.default_rng(0)
        labels = rng.choice(classes, args.labels, p=shares / shares.sum()).tolist()
        for name, stream, source, held in ways(list(enumerate(labels)), classes):
            m = measure(stream, source, classes, args.labels)
            print(
                f"| {classes} | {name} | {m['mean']:.4f} | {m['largest']:.4f} | {m['read']:.2f} "
                f"| {m['yields']:.2f} | {m['most']} | {m['speed']:,.0f} | {m['read_speed']:,.0f} "
                f"| {held():,} |",
                flush=True,
            )
    print("\n" + at_scale(1000, 1e9))


if __name__ == "__main__":
    main()
