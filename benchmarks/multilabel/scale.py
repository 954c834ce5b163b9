"""What 7,900 labels cost: targets, audit, hold-out, sampler, decisions, and labels through FFCV.

    OMP_NUM_THREADS=1 python -m benchmarks.multilabel.scale [--part scale decisions ffcv]

`scale`: 80,000 made-up examples × 7,900 labels × 130 labels an example; seconds by the clock and of
CPU, once each. The memory of `Targets` is the peak of a process of its own. `decisions`: thresholds
of 20,000 × 7,900 logits, and equal-recall offsets of class logits. `ffcv`: 4,000 examples through a
real loader (batches of 256, one worker, `os_cache=True`), as FFCV's `NDArrayField` of bytes, as
`MultiHotField` (one bit a label), and with `max_labels` (ids of 16 bits, padded to the most labels
an example has). The loaders take turns in a random order each round, so that all
see the same machine; ratios are those of one round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.multilabel.balance import large_targets
from equipoise.audit import audit
from equipoise.decision import OBJECTIVES, equal_recall_offset, label_thresholds
from equipoise.samplers import LabelBalancedSampler
from equipoise.splits import multilabel_holdout_split
from equipoise.targets import Targets

EXAMPLES, LABELS = 80_000, 7_900

PEAK = """
import json, pathlib, sys, time
import numpy as np
from scipy.sparse import csr_matrix
from equipoise.targets import Targets
parts = [np.load(f"{sys.argv[1]}/{name}.npy") for name in ("data", "indices", "indptr")]
matrix = csr_matrix(tuple(parts), shape=json.loads(sys.argv[2]))
size = sum(part.nbytes for part in parts)
if sys.argv[3] == "COO":
    matrix = matrix.tocoo()
def kilobytes(what):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
before = kilobytes("VmRSS")
start = time.perf_counter()
Targets(matrix)
seconds = time.perf_counter() - start
print(json.dumps([seconds, 1024 * (kilobytes("VmHWM") - before) / size]))
"""


def timed(name: str, run: Callable[[], Any], note: Callable[[Any], str] = lambda _: "") -> Any:
    clock, cpu = time.perf_counter(), time.process_time()
    result = run()
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    print(f"| {name} | {clock:.2f} | {cpu:.2f} | {note(result)} |", flush=True)
    return result


def distance(targets: Targets, held: np.ndarray) -> float:
    inside = np.bincount(targets.matrix[held].indices, minlength=targets.num_classes)
    return float(np.abs(inside - len(held) / targets.num_examples * targets.counts).mean())


def scale() -> None:
    targets = large_targets(EXAMPLES, LABELS)
    matrix = targets.matrix
    cardinality = np.diff(matrix.indptr)
    print(f"\n{matrix.nnz:,} positives\n\n| what | s | CPU s | |\n|-|-|-|-|")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("data", "indices", "indptr"):
            np.save(f"{folder}/{name}.npy", getattr(matrix, name))
        for kind in ("CSR", "COO"):
            command = [sys.executable, "-c", PEAK, folder, json.dumps(matrix.shape), kind]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            seconds, peak = json.loads(out)
            print(
                f"| `Targets`, from {kind} | {seconds:.2f} | | peak {peak:.2f} × the CSR's, "
                "beside the input |",
                flush=True,
            )
    timed("`audit`", lambda: audit(targets))
    timed(
        "`multilabel_holdout_split`, .2",
        lambda: multilabel_holdout_split(targets, 0.2)[1],
        lambda held: (
            f"label counts off by {distance(targets, held):.2f}; labels "
            f"an example {cardinality[held].mean():.1f} ± {cardinality[held].std():.1f}, of all "
            f"{cardinality.mean():.1f} ± {cardinality.std():.1f}"
        ),
    )
    timed("`LabelBalancedSampler`", lambda: LabelBalancedSampler(targets))


def decisions(labels: int) -> None:
    print("\n| what | s | CPU s | |\n|-|-|-|-|")
    generator = torch.Generator().manual_seed(0)
    common = torch.linspace(-6, -1, labels)
    logits = torch.randn(20_000, labels, generator=generator).mul_(1.5).add_(common)
    parts = logits.split(500)
    targets = torch.cat(
        [torch.rand(z.shape, generator=generator) < torch.sigmoid(z) for z in parts]
    )
    for objective in OBJECTIVES:
        floor = 0.6 if objective in ("recall", "precision") else None
        name = f'`label_thresholds`, "{objective}", 20,000 × {labels:,}'
        timed(name, lambda o=objective, f=floor: label_thresholds(logits, targets, o, at_least=f))
    for examples, classes in ((6_000, 300), (10_000, 1_000)):
        ids = torch.arange(examples) % classes
        logits = torch.randn(examples, classes, generator=generator)
        logits += 0.8 * torch.randn(classes, generator=generator)
        logits[torch.arange(examples), ids] += 2.5
        name = f"`equal_recall_offset`, {examples:,} × {classes:,}"
        timed(name, lambda z=logits, y=ids: equal_recall_offset(z, y))


def ffcv(rounds: int) -> None:
    from ffcv.fields import NDArrayField
    from ffcv.fields.base import Field
    from ffcv.loader import Loader, OrderOption

    from equipoise.ffcv import MultiHotField, write

    rng = np.random.default_rng(0)
    prevalence = np.exp(rng.uniform(np.log(900), np.log(12_000), LABELS))
    prevalence *= 130 / prevalence.sum()
    crowded = rng.gamma(20, 1 / 20, size=(4_000, 1))  # labels an example: 130 ± 30
    hot = (rng.random((4_000, LABELS)) < crowded * prevalence).astype(np.uint8)
    most = int(hot.sum(1).max())
    kinds: dict[str, tuple[Field, dict[str, Any]]] = {
        "`NDArrayField`, a byte a label": (NDArrayField(np.dtype("u1"), (LABELS,)), {}),
        "`MultiHotField`, a bit a label": (MultiHotField(LABELS), {"label": MultiHotField}),
        f"`MultiHotField`, max_labels={most}": (
            MultiHotField(LABELS, most),
            {"label": MultiHotField},
        ),
    }
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaders, sizes = {}, {}
        for i, (name, (field, custom)) in enumerate(kinds.items()):
            path = Path(folder) / f"{i}.beton"
            write(_Examples(hot), path, {"label": field, "number": None}, progress=False)
            sizes[name] = path.stat().st_size / len(hot)
            order = OrderOption.RANDOM
            loader = Loader(str(path), 256, num_workers=1, order=order, custom_fields=custom)
            loaders[name] = loader
            for labels, numbers in loader:  # compiles; and what is read is what was written
                if not (labels.numpy() == hot[numbers[:, 0].numpy()]).all():
                    raise SystemExit(f"{name} is read wrongly")
        times: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(rounds):
            for name in rng.permutation(list(loaders)):
                start = time.perf_counter()
                for _ in loaders[str(name)]:
                    pass
                times[str(name)].append(time.perf_counter() - start)
    print(f"\n{hot.sum(1).mean():.0f} labels an example, {rounds} rounds\n")
    print(
        "| field | bytes an example, the whole file | samples/s | ratio | quartiles |\n|-|-|-|-|-|"
    )
    first = np.array(next(iter(times.values())))
    count = 256 * (len(hot) // 256)
    for name, took in times.items():
        low, middle, high = np.quantile(first / np.array(took), [0.25, 0.5, 0.75])
        speed = count / np.median(took)
        row = f"| {name} | {sizes[name]:,.0f} | {speed:,.0f} | {middle:.2f} "
        print(row + f"| {low:.2f}–{high:.2f} |", flush=True)


class _Examples:
    """Labels, and the example's number."""

    def __init__(self, hot: np.ndarray) -> None:
        self.hot = hot

    def __len__(self) -> int:
        return len(self.hot)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.hot[i], i


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = ["scale", "decisions", "ffcv"]
    parser.add_argument("--part", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=40, help="of --part ffcv")
    parser.add_argument("--labels", type=int, default=LABELS, help="of --part decisions")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if "scale" in args.part:
        scale()
    if "decisions" in args.part:
        decisions(args.labels)
    if "ffcv" in args.part:
        ffcv(args.rounds)


if __name__ == "__main__":
    main()
