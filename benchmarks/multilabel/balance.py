"""Label imbalance left by multilabel samplers at equal effective sample size, on real label sets.

    python -m benchmarks.multilabel.balance --data DIR [--out FILE] [--large]

DIR holds `NAME.npz` with the label matrix in CSR parts (`Y_data, Y_indices, Y_indptr, Y_shape`)
and, where there is one, `NAME.measures.json` with measures computed by R's mldr. For each set:

1. `audit` against the stored measures;
2. MeanIR after ML-ROS (P = .25, 5 seeds) against the values of Mulan's algorithm;
3. MeanIR of each peer, and of `LabelBalancedSampler` (exponent 0) with its floor set to that peer's
   effective sample size, keeping the distribution of labels an example, their mean, or neither;
4. the solver's time, on the sets and (`--large`) on a made-up 80,000 × 7,900 matrix;
5. how far label counts of a hold-out of a fifth are from a fifth of the label's examples:
   `multilabel_holdout_split`, scikit-multilearn's iterative stratification (order 1), random.

Nothing is trained: MeanIR is that of the expected label frequencies of an epoch.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import scipy.sparse as sp

import equipoise
from equipoise.audit import audit
from equipoise.samplers import (
    LabelWeightSampler,
    MLROSSampler,
    RepeatFactorSampler,
    label_balancing_weights,
)
from equipoise.samplers.label_balancing import effective_size, mean_ir
from equipoise.splits import multilabel_holdout_split
from equipoise.targets import Targets

# MeanIR after ML-ROS by Mulan's algorithm, P = .25: mean and sd over 5 seeds, made independently
ML_ROS_TRUTH = {
    "emotions": (1.483, 0.009),
    "scene": (1.204, 0.002),
    "yeast": (3.830, 0.016),
    "birds": (3.702, 0.033),
    "genbase": (15.990, 0.145),
    "enron": (33.60, 0.23),
    "corel5k": (94.52, 0.26),
}
MAX_REPEAT = 100.0


def load(path: Path) -> tuple[Targets, list[str]]:
    with np.load(path, allow_pickle=False) as z:
        parts = (z["Y_data"], z["Y_indices"], z["Y_indptr"])
        names = [str(name) for name in z["label_names"]]
        return Targets(sp.csr_matrix(parts, shape=tuple(z["Y_shape"]))), names


def check_audit(targets: Targets, names: list[str], path: Path) -> float | None:
    """Largest difference between `audit` and the stored measures; None where there are none."""
    stored_path = path.with_suffix("").with_suffix(".measures.json")
    if not stored_path.exists():
        return None
    stored = json.loads(stored_path.read_text(encoding="utf-8"))
    found, measures = audit(targets), stored["measures"]
    off = [
        found.mean_ir - measures["meanIR"],
        found.scumble - measures["scumble"],
        found.cardinality - measures["cardinality"],
        found.density - measures["density"],
        found.num_label_sets - measures["num.labelsets"],
        found.num_single_label_sets - measures["num.single.labelsets"],
        found.label_sets[0][1] - measures["max.frequency"],
    ]
    for mine, theirs in ((found.irlbl, "IRLbl"), (found.scumble_per_label, "SCUMBLE_per_label")):
        # one label's name is spelt otherwise in delicious: compare the sorted values there
        if set(names) == set(stored[theirs]):
            off += [mine[c] - stored[theirs][name] for c, name in enumerate(names)]
        else:
            off += list(np.sort(mine) - np.sort(list(stored[theirs].values())))
    return float(np.abs(off).max())


def reached(targets: Targets, repeats: np.ndarray) -> tuple[float, float, float]:
    """MeanIR, effective size, change of the mean number of labels."""
    share = repeats / repeats.sum()
    frequency = targets.matrix.T @ share
    change = frequency.sum() / (targets.counts.sum() / targets.num_examples) - 1
    return mean_ir(frequency), effective_size(share), float(change)


def peers(targets: Targets) -> dict[str, tuple[float, float, float]]:
    ml_ros = [reached(targets, MLROSSampler(targets, seed=seed).repeats) for seed in range(5)]
    by_weight = {
        f"{how} label weight{name}": LabelWeightSampler(targets, weight, reduce=how)
        for how in ("max", "mean")
        for name, weight in (
            ("", None),
            (", square root", np.maximum(targets.counts, 1) ** -0.5),
        )
    }
    by_factor = {f"repeat factor, t = {t:g}": RepeatFactorSampler(targets, t) for t in (0.05, 0.2)}
    found = {name: reached(targets, s.repeats) for name, s in (by_factor | by_weight).items()}
    return {"ML-ROS": tuple(np.mean(ml_ros, axis=0)), **found}  # type: ignore[dict-item]


def large_targets(n: int = 80_000, classes: int = 7_900, seed: int = 0) -> Targets:
    """About 130 labels an example; labels of a topic come together."""
    rng = np.random.default_rng(seed)
    counts = np.exp(rng.uniform(np.log(900), np.log(12_000), classes))
    counts *= n * 137 / counts.sum()
    topics = rng.gamma(0.3, size=(n, 60)).astype(np.float32) + 0.05
    cumulative = np.cumsum(topics / topics.sum(0), axis=0)
    rows, columns = [], []
    for label in range(classes):
        at = np.searchsorted(cumulative[:, rng.integers(60)], rng.random(int(counts[label])))
        rows.append(np.unique(np.minimum(at, n - 1)))
        columns.append(np.full(len(rows[-1]), label))
    ids = (np.concatenate(rows), np.concatenate(columns))
    return Targets(sp.csr_matrix((np.ones(len(ids[0]), np.uint8), ids), shape=(n, classes)))


def splits(targets: Targets, share: float = 0.2) -> list[str]:
    """Mean distance of held-out label counts from share · count, and seconds, for three ways."""

    def iterative() -> np.ndarray:
        from skmultilearn.model_selection import IterativeStratification

        folds = IterativeStratification(
            n_splits=2, order=1, sample_distribution_per_fold=[share, 1 - share]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one, other = next(folds.split(np.zeros((n, 1)), targets.matrix.toarray()))
        return min(one, other, key=len)

    n, cells = targets.num_examples, []
    for way in (
        lambda: multilabel_holdout_split(targets, share)[1],
        iterative,
        lambda: np.random.default_rng(0).permutation(n)[: round(share * n)],
    ):
        start = time.perf_counter()
        held = way()
        seconds = time.perf_counter() - start
        inside = np.bincount(targets.matrix[held].indices, minlength=targets.num_classes)
        off = np.abs(inside - share * targets.counts)
        bare = int(((inside == targets.counts) & (inside > 0)).sum())
        cells += [f"{off.mean():.2f}", f"{off.max():.1f}", str(bare), f"{seconds:.2f}"]
    return cells[:-1]


def scale(targets: Targets) -> list[list[str]]:
    """Seconds and memory (in units of the CSR's) of reading and auditing."""
    matrix = targets.matrix
    size = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    rows = []
    for kind, labels in (("CSR", matrix), ("COO", matrix.tocoo()), ("dense", matrix.toarray())):
        start = time.perf_counter()
        Targets(labels)
        seconds = time.perf_counter() - start
        tracemalloc.start()
        kept = Targets(labels)
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        rows.append(
            [f"Targets, {kind}", f"{seconds:.2f}", f"{held / size:.1f}", f"{peak / size:.1f}"]
        )
        del kept
    start = time.perf_counter()
    audit(targets)
    rows.append(["audit", f"{time.perf_counter() - start:.2f}", "", ""])
    return rows


def timed(targets: Targets, **settings: Any) -> tuple[Any, float, float]:
    """What is found, seconds by the clock, and seconds of CPU."""
    start = time.perf_counter(), time.process_time()
    found = label_balancing_weights(targets, **settings)
    return found, time.perf_counter() - start[0], time.process_time() - start[1]


def table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of NAME.npz")
    parser.add_argument("--out", type=Path, help="where to write the tables (Markdown)")
    parser.add_argument("--large", action="store_true", help="also 80,000 × 7,900")
    args = parser.parse_args()

    audits, truths, rows, times, holdouts, sizes = [], [], [], [], [], []
    lost: list[str] = []
    ties = compared = 0
    for path in sorted(args.data.glob("*.npz")):
        targets, names = load(path)
        name, shape = path.stem, f"{targets.num_examples:,} × {targets.num_classes:,}"
        off = check_audit(targets, names, path)
        if off is not None:
            audits.append([name, shape, f"{off:.1e}"])
        for peer, (peer_ir, size, peer_change) in peers(targets).items():
            if peer == "ML-ROS" and name in ML_ROS_TRUTH:
                mean, sd = ML_ROS_TRUTH[name]
                truths.append([name, f"{mean} ± {sd}", f"{peer_ir:.3f}"])
            cells, kept = [], {}
            for cardinality in ("distribution", "mean", None):
                ours, _, _ = timed(
                    targets,
                    exponent=0.0,
                    min_effective=min(size, 1.0),
                    max_repeat=MAX_REPEAT,
                    cardinality=cardinality,
                )
                change = ours.cardinality / ours.cardinality_before - 1
                kept[cardinality] = ours.mean_ir
                cells.append(f"{ours.mean_ir:.2f}")
                if ours.effective_size < size - 1e-3:
                    cells[-1] += f" (size {ours.effective_size:.3f})"
            rows.append(
                [f"{name}: {peer}", f"{size:.3f}", f"{peer_ir:.2f}", f"{peer_change:+.1%}"]
                + [*cells, f"{change:+.1%}"]
            )
            compared += 1
            if size > 0.9999:
                ties += 1  # the peer leaves the data as they are
            elif kept["distribution"] >= peer_ir:
                lost.append(
                    f"{name}, {peer}: {kept['distribution']:.2f} (mean kept {kept['mean']:.2f}, "
                    f"free {kept[None]:.2f}) against {peer_ir:.2f}"
                )
            print(" | ".join(rows[-1]), flush=True)
        best_of = [timed(targets) for _ in range(3)]
        found, clock, cpu = min(best_of, key=lambda timing: timing[1])
        times.append([name, shape, f"{targets.counts.sum():,}", f"{clock:.2f}", f"{cpu:.2f}"])
        times[-1].append(str(found))
        holdouts.append([name, *splits(targets)])
        print(times[-1], holdouts[-1], flush=True)
    if args.large:
        targets = large_targets()
        sizes = scale(targets)
        shape = f"{targets.num_examples:,} × {targets.num_classes:,}"
        for exponent in (0.5, 0.0):
            best_of = [timed(targets, exponent=exponent) for _ in range(2)]
            found, clock, cpu = min(best_of, key=lambda timing: timing[1])
            times.append(
                [f"made up, exponent {exponent:g}", shape, f"{targets.counts.sum():,}"]
                + [f"{clock:.2f}", f"{cpu:.2f}", str(found)]
            )
            print(times[-1], flush=True)
        for some in (4_000, 8_000):  # theirs takes the dense matrix, and minutes beyond this
            part = Targets(targets.matrix[:some])
            holdouts.append([f"made up, {some:,} × 7,900", *splits(part)])
        start = time.perf_counter()
        multilabel_holdout_split(targets, 0.2)
        sizes.append(["hold-out", f"{time.perf_counter() - start:.2f}", "", ""])

    text = f"""# Multilabel balance

`python -m benchmarks.multilabel.balance --data DIR --out FILE{" --large" if args.large else ""}`,
{datetime.date.today()}; equipoise {equipoise.__version__}, Python {platform.python_version()},
NumPy {np.__version__}, SciPy {scipy.__version__}; 2 cores, shared
with other work (times vary up to threefold). Written by that command; nothing here is edited.

## Audit against R's mldr

Largest difference over MeanIR, SCUMBLE, cardinality, density, label sets, and IRLbl and SCUMBLE of
every label.

{table(["set", "shape", "largest difference"], audits)}

## MeanIR after ML-ROS, P = .25

{table(["set", "Mulan's algorithm, 5 seeds", "here, mean of 5 seeds"], truths)}

## MeanIR at the peer's effective sample size

`LabelBalancedSampler` with exponent 0 and `max_repeat={
        MAX_REPEAT:g}`. "distribution" and "mean" say
what of the number of labels an example is kept (both keep the mean exactly); "free" keeps
neither, and the last column says how its mean changes. In {compared} comparisons, {
        ties
    } peers leave
the data as they are (equal by construction), and "distribution", the default, has the lower MeanIR
in {compared - ties - len(lost)}. Not lower: {"; ".join(lost) or "none"}.

{
        table(
            ["set: peer", "effective size", "peer", "its labels an example"]
            + ["distribution", "mean", "free", "free: labels an example"],
            rows,
        )
    }

## Time to solve, with the defaults

Best of 3 for the sets, of 2 for the made-up ones; seconds by the clock and of CPU, one thread.

{table(["set", "shape", "positives", "s", "CPU s", "reached"], times)}

## A stratified hold-out of a fifth

By how much the held-out examples of a label differ from a fifth of its examples: mean and largest
over labels (a whole number differs by .25 on average); labels left without an example for
training; seconds. Theirs is `skmultilearn.model_selection.IterativeStratification`, order 1.

{
        table(
            ["set", "ours: mean", "largest", "lost", "s"]
            + ["theirs: mean", "largest", "lost", "s", "random: mean", "largest", "lost"],
            holdouts,
        )
    }

## Reading and auditing 80,000 × 7,900

Memory as a multiple of the CSR's (one byte a value, int32 indices), without the input's own.

{table(["what", "s", "kept", "peak"], sizes)}
"""
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
