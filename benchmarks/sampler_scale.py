"""How samplers' costs grow with the number of examples and classes: ours and its peers'.

    OMP_NUM_THREADS=1 python benchmarks/sampler_scale.py

N = 10^5 … 10^8 examples of 10 … 10^5 classes with Zipf frequencies, int64 labels; every class is
asked for equally often. Each sampler, N and number of classes runs in a process of its own, for its
peak memory, and the samplers in turn, round by round. Times are the processor's. Measured:

* construct: from labels to a sampler, with whatever index or weights it needs;
* first batch: the first 256 ids of an epoch, the sampler being there;
* epoch: all its ids, in the form it gives them (a row says which);
* update: new class weights, as feedback after an epoch has them;
* memory: the process's highest resident size above what it had with the labels loaded;
* state: the pickled `state_dict` (ours alone has one).

A peer is left out, and the table says so, where it does not apply, cannot be imported, would take
more than `--limit` seconds (180) or 6 GB going by the size before, or fails. Writes
results/sampler_scale.md and .json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing as mp
import pickle
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipoise import Targets
from equipoise.samplers import ClassBalancedSampler

BATCH = 256
MOST_BYTES = 6e9
RESULTS = Path(__file__).parent / "results"
QUANTITIES = ("construct", "first batch", "epoch", "update", "memory")


# ---------------------------------------------------------------------- one sampler, one process


class Ours:
    """ClassBalancedSampler, iterated."""

    def __init__(self, labels: np.ndarray, classes: int) -> None:
        self.sampler = ClassBalancedSampler(Targets(labels, classes), seed=1)

    def first(self) -> Any:
        stream = iter(self.sampler)
        return [next(stream) for _ in range(BATCH)]

    def epoch(self) -> Any:
        for _ in self.sampler:
            pass

    def update(self, log_weight: np.ndarray) -> None:
        self.sampler.set_log_weight(log_weight)

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


class Weighted:
    """torch.utils.data.WeightedRandomSampler, iterated."""

    def __init__(self, labels: np.ndarray, classes: int) -> None:
        self.labels = torch.from_numpy(labels)
        self.counts = np.bincount(labels, minlength=classes)
        self.update(np.log(1 / self.counts))

    def update(self, log_weight: np.ndarray) -> None:
        weights = torch.from_numpy(np.exp(log_weight))[self.labels]
        self.sampler = torch.utils.data.WeightedRandomSampler(weights, len(weights))

    def first(self) -> Any:
        stream = iter(self.sampler)
        return [next(stream) for _ in range(BATCH)]

    def epoch(self) -> Any:
        for _ in self.sampler:
            pass


class Choice:
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


class Permutation:
    """numpy.random.Generator.permutation and a gather, an array: no balancing at all."""

    update = None

    def __init__(self, labels: np.ndarray, classes: int) -> None:
        self.members = np.argsort(labels, kind="stable")
        self.rng = np.random.default_rng(1)

    def first(self) -> Any:
        return self.epoch()[:BATCH]

    def epoch(self) -> Any:
        return self.members[self.rng.permutation(len(self.members))]


class Ufoym:
    """torchsampler.ImbalancedDatasetSampler, iterated."""

    def __init__(self, labels: np.ndarray, classes: int) -> None:
        from torchsampler import ImbalancedDatasetSampler

        self.make = lambda: ImbalancedDatasetSampler(labels, labels=labels)
        self.sampler = self.make()

    def update(self, log_weight: np.ndarray) -> None:
        self.sampler = self.make()  # its weights are fixed at 1/n: what new ones would cost

    def first(self) -> Any:
        stream = iter(self.sampler)
        return [next(stream) for _ in range(BATCH)]

    def epoch(self) -> Any:
        for _ in self.sampler:
            pass


class Imblearn:
    """imblearn.over_sampling.RandomOverSampler to N/C a class at least, an array of up to 2 N."""

    update = None  # it has no state: new targets are a new epoch

    def __init__(self, labels: np.ndarray, classes: int) -> None:
        from imblearn.over_sampling import RandomOverSampler

        counts = np.bincount(labels, minlength=classes)
        least = len(labels) // classes
        wanted = {c: max(int(n), least) for c, n in enumerate(counts)}
        self.labels, self.ids = labels, np.arange(len(labels))[:, None]
        self.sampler = RandomOverSampler(sampling_strategy=wanted, random_state=1)

    def first(self) -> Any:
        return self.epoch()[:BATCH]

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


def seconds(call: Callable[[], Any]) -> float:
    """Processor time of this thread, the only one: other work on the machine matters less."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def repeated(call: Callable[[], Any], most: int = 5, within: float = 2.0) -> float:
    """The median of up to `most` calls, as many as begin within `within` seconds."""
    times: list[float] = []
    while len(times) < most and sum(times) < within:
        times.append(seconds(call))
    return float(np.median(times))


def measure(name: str, path: str, classes: int) -> dict[str, Any]:
    """In a process of its own: every quantity of one sampler."""
    SAMPLERS[name](np.arange(2000) % 10, 10).epoch()  # imports, and first calls
    labels = np.load(path)
    before = peak()
    made: list[Any] = []
    row: dict[str, Any] = {
        "construct": seconds(lambda: made.append(SAMPLERS[name](labels, classes)))
    }
    sampler = made[0]
    row["memory to construct"] = peak() - before
    row["first batch"] = repeated(sampler.first)
    row["epoch"] = repeated(sampler.epoch, most=3)
    if sampler.update is not None:
        draws: Iterator[np.ndarray] = iter(np.random.default_rng(2).normal(size=(5, classes)))
        row["update"] = repeated(lambda: sampler.update(next(draws)))
    row["memory"] = peak() - before
    return row | (sampler.sizes() if hasattr(sampler, "sizes") else {})


# ------------------------------------------------------------------------------ all the processes


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

    process = mp.get_context("fork").Process(target=work)
    process.start()
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
    """Why not to try, going by the size before; ours is always tried."""
    if not smaller:
        return None
    if "why" in smaller[0]:
        return smaller[0]["why"]
    one = smaller[0]
    if growth * cost(one) > limit:
        return f"would take {growth * cost(one):.0f} s"
    if growth * one["memory"] > MOST_BYTES:
        return f"would take {growth * one['memory'] / 1e9:.0f} GB"
    return None


def table(rows: dict[tuple[str, int, int], list[dict[str, Any]]], classes: int) -> list[str]:
    lines = [
        "| sampler | N | construct, s | first batch, ms | epoch, s | update, ms | memory, MB |",
        "|" + "---|" * 7,
    ]
    for (name, examples, c), measured in rows.items():
        if c != classes:
            continue
        if "why" in measured[0]:
            cells = [measured[0]["why"]] + [""] * 4
        else:
            scales = (1, 1e3, 1, 1e3, 1e-6)
            cells = [
                spread([m[q] * scale for m in measured]) if q in measured[0] else ""
                for q, scale in zip(QUANTITIES, scales, strict=True)
            ]
        lines.append(f"| {name} | 10^{np.log10(examples):.0f} | " + " | ".join(cells) + " |")
    return lines


def spread(values: list[float]) -> str:
    low, middle, high = (
        f"{v:.3g}" if v < 100 else f"{v:.0f}" for v in np.quantile(values, [0, 0.5, 1])
    )
    return middle if low == high else f"{middle} ({low}–{high})"


def growth(rows: dict[tuple[str, int, int], list[dict[str, Any]]], classes: int) -> list[str]:
    """Exponents: the slope of log cost over log N, from the smallest to the largest measured N."""
    lines = ["| grows as N to the power | N | " + " | ".join(QUANTITIES) + " |", "|" + "---|" * 7]
    for name in SAMPLERS:
        known = {n: m for (s, n, c), m in rows.items() if (s, c) == (name, classes)}
        sizes = [n for n, m in known.items() if "why" not in m[0]]
        if len(sizes) < 2:
            continue
        low, high = min(sizes), max(sizes)
        cells = []
        for q in QUANTITIES:
            pair = [np.median([m.get(q, np.nan) for m in known[n]]) for n in (low, high)]
            slope = np.log(max(pair[1], 1e-9) / max(pair[0], 1e-9)) / np.log(high / low)
            cells.append("" if np.isnan(slope) else f"{slope:.2f}")
        span = f"10^{np.log10(low):.0f}–10^{np.log10(high):.0f}"
        lines.append(f"| {name} | {span} | " + " | ".join(cells) + " |")
    return lines


def ratios(rows: dict[tuple[str, int, int], list[dict[str, Any]]], examples: int) -> list[str]:
    """A whole epoch against the peers', round by round."""
    lines = []
    for (name, n, classes), mine in rows.items():
        if n != examples or not name.startswith("ours"):
            continue
        for other in ("WeightedRandomSampler", "permutation + gather"):
            theirs = rows.get((other, n, classes), [{"why": ""}])
            if "why" in theirs[0] or "why" in mine[0]:
                continue
            pairs = [b["epoch"] / a["epoch"] for a, b in zip(mine, theirs, strict=False)]
            lines.append(
                f"* {classes:,} classes: {other} takes {spread(pairs)} × the time of {name}."
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e5, 1e6, 1e7, 1e8])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000, 100_000])
    parser.add_argument("--sampler", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--patience", type=float, default=10, help="s; longer runs are not repeated"
    )
    parser.add_argument("--limit", type=float, default=180, help="s that a peer may take")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for kind in SAMPLERS.values():
        with contextlib.suppress(ImportError):
            kind(np.arange(2000) % 10, 10)  # what it imports, the forked processes have
    rows: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    sizes = sorted(int(n) for n in args.sizes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.npy"
        for i, examples in enumerate(sizes):
            for classes in args.classes:
                write_labels(path, examples, classes)
                for _ in range(args.rounds):
                    for name in args.sampler:
                        measured = rows.setdefault((name, examples, classes), [])
                        if measured and ("why" in measured[0] or cost(measured[0]) > args.patience):
                            continue
                        why = None
                        if i and not name.startswith("ours"):
                            smaller = rows[name, sizes[i - 1], classes]
                            why = expected_too_much(smaller, examples / sizes[i - 1], args.limit)
                        measured.append(
                            {"why": why} if why else run(name, path, classes, args.limit)
                        )
                        print(name, f"{examples:,}", f"{classes:,}", measured[-1], flush=True)
                write_report(rows, args)


def write_report(rows: dict[tuple[str, int, int], list[dict[str, Any]]], args: Any) -> None:
    lines = [
        "# Samplers, from 10^5 to 10^8 examples",
        "",
        f"`OMP_NUM_THREADS=1 python benchmarks/sampler_scale.py`, up to {args.rounds} rounds (one "
        f"where doing each once takes over {args.patience:.0f} s, a peer at most "
        f"{args.limit:.0f} s), median (least–most). Python "
        f"{platform.python_version()}, torch {torch.__version__.split('+')[0]}, NumPy "
        f"{np.__version__}, {platform.machine()}, one thread, processor time. Zipf frequencies.",
        "",
        *[f"* {name}: {kind.__doc__}" for name, kind in SAMPLERS.items()],
    ]
    for classes in args.classes:
        lines += ["", f"## {classes:,} classes", "", *table(rows, classes)]
        lines += ["", *growth(rows, classes)]
    for examples in sorted({n for _, n, _ in rows}):
        if pairs := ratios(rows, examples):
            lines += ["", f"## A whole epoch of 10^{np.log10(examples):.0f}", "", *pairs]
    lines += ["", "## Sizes", "", "| N | classes | state, bytes | class index, bytes an example |"]
    lines += ["|---|---|---|---|"]
    for (name, examples, classes), measured in rows.items():
        if name == "ours" and "state" in measured[0]:
            index = measured[0]["index"] / examples
            lines.append(
                f"| 10^{np.log10(examples):.0f} | {classes:,} | {measured[0]['state']:,} | "
                f"{index:.2f}, and {measured[0]['labels'] / examples:.0f} for the labels |"
            )
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "sampler_scale.md").write_text("\n".join(lines) + "\n")
    record = [
        {"sampler": s, "examples": n, "classes": c, "rounds": m} for (s, n, c), m in rows.items()
    ]
    (args.results / "sampler_scale.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
