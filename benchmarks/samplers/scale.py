"""How samplers' costs grow with the number of examples and classes: ours and its peers'.

    OMP_NUM_THREADS=1 python -m benchmarks.samplers.scale

N = 10^5 … 10^8 examples of 10 … 10^5 classes with Zipf frequencies, int64 labels; every class is
asked for equally often. Each sampler, N and number of classes runs in a process of its own, for its
peak memory, and the samplers in turn, round by round. Times are the processor's. Measured:

* construct: from labels to a sampler, with whatever index or weights it needs;
* first batch: the first 256 ids of an epoch, the sampler being there;
* epoch: all its ids, in the form it gives them (a row says which);
* update: new class weights, as feedback after an epoch has them;
* memory: the process's highest resident size above what it had with the labels loaded;
* state: the pickled `state_dict` (ours alone has one).

A peer is left out, with the reason, where it cannot be imported, fails, or would take more than
`--limit` seconds (180) or 6 GB going by the size before. Writes results/sampler_scale.md and .json.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing as mp
import pickle
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.samplers.scale_report import QUANTITIES, Rows, write_report
from equipoise import Targets
from equipoise.samplers import ClassBalancedSampler

BATCH = 256
MOST_GB = 6
RESULTS = Path(__file__).parents[1] / "results"


class Iterated:
    """What gives its ids one by one: `sampler`."""

    def first(self) -> Any:
        return list(islice(self.sampler, BATCH))

    def epoch(self) -> Any:
        for _ in self.sampler:
            pass


class AtOnce:
    """What gives an epoch as an array: its first batch takes as long."""

    update = None

    def first(self) -> Any:
        return self.epoch()[:BATCH]


class Ours(Iterated):
    """ClassBalancedSampler, iterated."""

    def __init__(self, labels: np.ndarray, classes: int) -> None:
        self.sampler = ClassBalancedSampler(Targets(labels, classes), seed=1)
        self.update = self.sampler.set_log_weight

    def sizes(self) -> dict[str, int]:
        targets = self.sampler.targets
        return {
            "state": len(pickle.dumps(self.sampler.state_dict())),
            "index": targets.members.nbytes + targets.starts.nbytes,
            "labels": targets.labels.nbytes,
        }


class OursArray(Ours):
    """ClassBalancedSampler, an epoch as one array (what FFCV takes)."""

    def epoch(self) -> Any:
        return self.sampler.indices()


class Weighted(Iterated):
    """torch.utils.data.WeightedRandomSampler, iterated."""

    def __init__(self, labels: np.ndarray, classes: int) -> None:
        self.labels = torch.from_numpy(labels)
        self.update(np.log(1 / np.bincount(labels, minlength=classes)))

    def update(self, log_weight: np.ndarray) -> None:
        weights = torch.from_numpy(np.exp(log_weight))[self.labels]
        self.sampler = torch.utils.data.WeightedRandomSampler(weights, len(weights))


class Choice(AtOnce):
    """numpy.random.Generator.choice with p, an array."""

    def __init__(self, labels: np.ndarray, classes: int) -> None:
        self.labels, self.rng = labels, np.random.default_rng(1)
        self.update(np.log(1 / np.bincount(labels, minlength=classes)))

    def update(self, log_weight: np.ndarray) -> None:
        weights = np.exp(log_weight)[self.labels]
        self.p = weights / weights.sum()

    def first(self) -> Any:
        return self.rng.choice(len(self.p), BATCH, p=self.p)

    def epoch(self) -> Any:
        return self.rng.choice(len(self.p), len(self.p), p=self.p)


class Permutation(AtOnce):
    """numpy.random.Generator.permutation and a gather, an array: no balancing at all."""

    def __init__(self, labels: np.ndarray, classes: int) -> None:
        self.members = np.argsort(labels, kind="stable")
        self.rng = np.random.default_rng(1)

    def epoch(self) -> Any:
        return self.members[self.rng.permutation(len(self.members))]


class Ufoym(Iterated):
    """torchsampler.ImbalancedDatasetSampler, iterated; new weights are a new one."""

    def __init__(self, labels: np.ndarray, classes: int) -> None:
        self.labels = labels
        self.update(None)

    def update(self, log_weight: np.ndarray | None) -> None:
        from torchsampler import ImbalancedDatasetSampler

        self.sampler = ImbalancedDatasetSampler(self.labels, labels=self.labels)


class Imblearn(AtOnce):
    """imblearn.over_sampling.RandomOverSampler to N/C a class at least, an array of up to 2 N."""

    def __init__(self, labels: np.ndarray, classes: int) -> None:
        from imblearn.over_sampling import RandomOverSampler

        least = len(labels) // classes
        counts = np.bincount(labels, minlength=classes)
        wanted = {c: max(int(n), least) for c, n in enumerate(counts)}
        self.labels, self.ids = labels, np.arange(len(labels))[:, None]
        self.sampler = RandomOverSampler(sampling_strategy=wanted, random_state=1)

    def epoch(self) -> Any:
        return self.sampler.fit_resample(self.ids, self.labels)[0][:, 0]


SAMPLERS: dict[str, Any] = {
    "ours": Ours,
    "ours, array": OursArray,
    "WeightedRandomSampler": Weighted,
    "choice(p=)": Choice,
    "permutation + gather": Permutation,
    "torchsampler": Ufoym,
    "imbalanced-learn": Imblearn,
}


def peak() -> int:
    """Highest resident size of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def seconds(call: Callable[[], Any], most: int = 5, within: float = 2.0) -> float:
    """The median, in processor time, of up to `most` calls: those begun `within` seconds."""
    times: list[float] = []
    while len(times) < most and sum(times) < within:
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return float(np.median(times))


def measure(name: str, path: str, classes: int) -> dict[str, Any]:
    """In a process of its own: every quantity of one sampler."""
    SAMPLERS[name](np.arange(2000) % 10, 10).epoch()  # imports, and first calls
    labels = np.load(path)
    before = peak()
    began = time.thread_time()
    sampler = SAMPLERS[name](labels, classes)
    row: dict[str, Any] = {"construct": time.thread_time() - began}
    row["memory to construct"] = peak() - before
    row["first batch"] = seconds(sampler.first)
    row["epoch"] = seconds(sampler.epoch, most=3)
    if sampler.update is not None:
        draws: Iterator[np.ndarray] = iter(np.random.default_rng(2).normal(size=(5, classes)))
        row["update"] = seconds(lambda: sampler.update(next(draws)))
    row["memory"] = peak() - before
    return row | (sampler.sizes() if hasattr(sampler, "sizes") else {})


def write_labels(path: Path, examples: int, classes: int) -> None:
    """Zipf labels in random order, int64, every class with one example at least; by blocks."""
    share = 1 / np.arange(1, classes + 1)
    ends = np.cumsum(share / share.sum())
    rng = np.random.default_rng(0)
    labels = np.lib.format.open_memmap(path, "w+", np.int64, (examples,))
    for first in range(0, examples, 1 << 22):
        block = labels[first : first + (1 << 22)]
        block[:] = np.searchsorted(ends[:-1], rng.random(len(block)), side="right")
    labels[rng.permutation(min(examples, 10 * classes))[:classes]] = np.arange(classes)
    labels.flush()


def run(name: str, path: Path, classes: int, limit: float) -> dict[str, Any]:
    """`measure` in a forked process: this one has imported everything, and holds nothing else."""
    here, there = mp.get_context("fork").Pipe(duplex=False)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (int(3 * limit) + 1,) * 2)
        try:
            there.send(measure(name, str(path), classes))
        except Exception as error:
            there.send({"why": f"{type(error).__name__}: {error}".splitlines()[0][:120]})

    (process := mp.get_context("fork").Process(target=work)).start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        return {"why": f"ended by the system, or at {3 * limit:.0f} s"}
    finally:
        process.join()


def cost(one: dict[str, Any]) -> float:
    """Seconds to do each thing once."""
    return sum(one.get(q, 0.0) for q in QUANTITIES if q != "memory")


def expected_too_much(smaller: list[dict[str, Any]], growth: float, limit: float) -> str | None:
    """Why not to try, going by the size before."""
    one = smaller[0]
    if "why" in one:
        return one["why"]
    took, held = growth * cost(one), growth * one["memory"] / 1e9
    if took > limit:
        return f"would take {took:.0f} s"
    return f"would take {held:.0f} GB" if held > MOST_GB else None


def measure_all(args: argparse.Namespace, path: Path) -> Iterator[Rows]:
    """Everything measured so far, after each size and number of classes; labels are at `path`."""
    rows: Rows = {}
    for examples, classes in product(sorted(int(n) for n in args.sizes), args.classes):
        write_labels(path, examples, classes)
        before = max((n for _, n, _ in rows if n < examples), default=0)
        for _, name in product(range(args.rounds), args.sampler):
            measured = rows.setdefault((name, examples, classes), [])
            if measured and ("why" in measured[0] or cost(measured[0]) > args.patience):
                continue
            why = None
            if before and not name.startswith("ours"):  # ours is always tried
                smaller = rows[name, before, classes]
                why = expected_too_much(smaller, examples / before, args.limit)
            measured.append({"why": why} if why else run(name, path, classes, args.limit))
            print(name, f"{examples:,}", f"{classes:,}", measured[-1], flush=True)
        yield rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e5, 1e6, 1e7, 1e8])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000, 100_000])
    parser.add_argument("--sampler", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=10, help="s; longer is not repeated")
    parser.add_argument("--limit", type=float, default=180, help="s that a peer may take")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for kind in SAMPLERS.values():
        with contextlib.suppress(ImportError):
            kind(np.arange(2000) % 10, 10)  # what it imports, the forked processes have
    about = [
        f"Up to {args.rounds} rounds (one where doing each once takes over {args.patience:.0f} s, "
        f"a peer at most {args.limit:.0f} s), median (least–most); processor time, one thread. "
        "Zipf frequencies.",
        "",
        *(f"* {name}: {SAMPLERS[name].__doc__}" for name in args.sampler),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for rows in measure_all(args, Path(folder) / "labels.npy"):
            write_report(rows, about, args.results)


if __name__ == "__main__":
    main()
