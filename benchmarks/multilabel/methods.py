"""How much each method predicts of every label, and how well: real sets and two users' cases.

    python -m benchmarks.multilabel.methods --folder FOLDER

FOLDER holds Mulan's sets as `.npz` (see examples/multilabel.py). Each set is trained by
examples/multilabel.py in a process of its own; figures go to runs/multilabel_methods, tables to
benchmarks/results/multilabel_methods.md. `--sets` chooses, `--table` only writes the tables anew.

* bibtex, corel5k, delicious, tmc2007_500, yeast: Mulan's splits; a fifth of the training rows,
  drawn at random, is the hold-out for cuts and calibration. Settings were chosen on rows carved
  from the training part; the test rows were used for the tables alone.
* four-labels: 224,000 examples with 19,000, 65,000, 38,000 and 105,000 positives, 24 features.
* many-labels: 84,000 examples (4,000 are the test), 7,900 labels of 900 to 12,000 positives, 130 an
  example, 32 features; one seed, for time.

In both made cases features and labels share latent factors, so labels are correlated.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from scipy.stats import norm

import equipoise
from examples.labels import TABLES

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "runs" / "multilabel_methods"

# set: what examples/multilabel.py is told
SETS = {
    "bibtex": "--epochs 20 --seeds 3",
    "corel5k": "--epochs 20 --seeds 3",
    "delicious": "--epochs 15 --seeds 3",
    "tmc2007_500": "--epochs 15 --seeds 3",
    "yeast": "--epochs 20 --seeds 3",
    "four-labels": "--epochs 5 --seeds 3 --batch-size 1024",
    "many-labels": "--epochs 4 --seeds 1 --batch-size 256 --width 64 --lr .01 --holdout .05",
}


def save(name: str, x: np.ndarray, y: sp.csr_matrix, test: int) -> None:
    """An `.npz` as examples/multilabel.py reads it; the last `test` rows are the test."""
    features = sp.csr_matrix(x.astype(np.float32))
    split = np.arange(len(x)) >= len(x) - test
    parts = {
        f"{key}_{part}": value
        for key, matrix in (("X", features), ("Y", y))
        for part, value in (
            ("data", matrix.data),
            ("indices", matrix.indices),
            ("indptr", matrix.indptr),
            ("shape", np.array(matrix.shape)),
        )
    }
    names = np.array([f"label {i}" for i in range(y.shape[1])])
    np.savez(RUNS / f"{name}.npz", split=split.astype(np.uint8), label_names=names, **parts)


def four_labels() -> None:
    """Exact counts among 224,000 examples; labels pairwise correlated through their factors."""
    rng = np.random.default_rng(0)
    n, counts = 224_000, (19_000, 65_000, 38_000, 105_000)
    x = rng.standard_normal((n, 24))
    shared = rng.standard_normal((24, 1)) + 1.2 * rng.standard_normal((24, 4))
    score = np.tanh(x) @ (shared / np.linalg.norm(shared, axis=0)) * 1.3 + rng.standard_normal(
        (n, 4)
    )
    y = np.zeros((n, 4), np.uint8)
    for label, count in enumerate(counts):
        y[np.argsort(-score[:, label])[:count], label] = 1
    save("four-labels", x, sp.csr_matrix(y), 24_000)


def many_labels() -> None:
    """Counts of a truncated Pareto law with a mean of 1,316, which makes 130 labels an example."""
    rng = np.random.default_rng(0)
    n, labels, factors = 84_000, 7_900, 32
    counts = np.clip(900 * rng.uniform(size=labels) ** (-1 / 3.0), 900, 12_000)
    cut = norm.isf(counts / 80_000).astype(np.float32)
    x = rng.standard_normal((n, factors), np.float32)
    tilt = rng.standard_normal((factors, labels), np.float32)
    tilt *= 0.75 / np.linalg.norm(tilt, axis=0)
    noise = np.float32(np.sqrt(1 - 0.75**2))
    blocks = []
    for first in range(0, n, 2000):
        score = x[first : first + 2000] @ tilt
        score += noise * rng.standard_normal(score.shape, np.float32)
        blocks.append(sp.csr_matrix((score > cut).astype(np.uint8)))
    save("many-labels", x, sp.vstack(blocks, "csr"), 4_000)


CASES = {"four-labels": four_labels, "many-labels": many_labels}


def mean_and_sd(values: list[float]) -> str:
    text = f"{np.mean(values):.3f}"
    return f"{text} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else text


def table(results: list[dict]) -> list[str]:
    """Markdown: the columns of examples/multilabel.py's tables, in one row a method."""
    keys = [key for columns in TABLES.values() for key in columns.values()]
    heads = " | ".join(key.replace("_", " ") for key in keys)
    lines = [f"| method | {heads} |", "|---" * (len(keys) + 1) + "|"]
    for method in dict.fromkeys(r["method"] for r in results):
        runs = [r for r in results if r["method"] == method]
        cells = [mean_and_sd([r[key] for r in runs]) for key in keys]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def write(path: Path) -> None:
    doc = __doc__ or ""
    lines = [
        "# Multilabel methods",
        "",
        "Written by `python -m benchmarks.multilabel.methods --folder FOLDER`; "
        f"equipoise {equipoise.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, one thread, CPU.",
        "",
        *doc.split("\n\n", 3)[3].strip().splitlines(),
        "",
        "Every method trains the same network (an MLP, its weights averaged over steps) and has "
        "its cuts fitted on the same hold-out. half: at a probability of .5; searched: every cut "
        "tried for each label; f1, prevalence: `fit_decision` for them, on corrected logits; "
        "unlabelled: as many of the test rows' scores as the training labels' prevalence says. "
        "ratio: predicted over true positives on the test rows, of the median label among those "
        "with 10 or more (worst: of the worst). corrected: loss and sampling taken out by "
        "`correct`; calibrated: a slope and intercepts fitted besides. ± sd over the seeds. Two "
        "settings, the same for all methods, were changed after a first table had been seen: "
        "hold-outs are drawn at random, and the last bias starts at each label's frequency.",
    ]
    for name, settings in SETS.items():
        found = RUNS / f"{name}.json"
        if not found.exists():
            continue
        results = json.loads(found.read_text())["results"]
        lines += ["", f"## {name}", "", f"`examples/multilabel.py {settings}`", ""]
        lines += table(results)
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where Mulan's sets lie as .npz")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--table", action="store_true", help="only write the tables anew")
    args = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    for name in () if args.table else args.sets:
        if name in CASES:
            CASES[name]()
        elif args.folder is None:
            parser.error(f"{name} needs --folder")
        path = (RUNS if name in CASES else args.folder) / f"{name}.npz"
        command = [sys.executable, "-m", "examples.multilabel", "--data", str(path.resolve())]
        command += [*SETS[name].split(), "--out", str(RUNS)]
        subprocess.run(command, check=True, cwd=ROOT)
    write(ROOT / "benchmarks" / "results" / "multilabel_methods.md")


if __name__ == "__main__":
    main()
