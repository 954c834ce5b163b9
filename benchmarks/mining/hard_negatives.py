"""Hard negatives against all negatives, on multilabel sets.

    python -m benchmarks.mining.hard_negatives --folder FOLDER

FOLDER holds Mulan's sets as `.npz`. The network, its training and the figures are those of
examples/multilabel.py (method "plain", binary cross-entropy); only `mining=` differs:
`HardNegatives` with 1, 3 or 10 negatives a positive, of each example or of each label, or none, so
that all negatives are learnt from. Every seed of a set trains all rows in turn. Figures go to
runs/hard_negatives, the table to benchmarks/results/hard_negatives.md; `--table` only writes that.

AUPRC and F1 are of the test rows, F1 with cuts fitted on the hold-out; the last columns are of the
hold-out alone, for choosing a ratio.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import equipoise
from equipoise.mining import HardNegatives
from examples.labels import load_data
from examples.multilabel import train

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "runs" / "hard_negatives"
RESULTS = ROOT / "benchmarks" / "results" / "hard_negatives.md"
EPOCHS = {"yeast": 20, "corel5k": 20, "bibtex": 20, "tmc2007_500": 15, "delicious": 15}
ROWS = ((None, ""), *((r, per) for per in ("example", "label") for r in (1, 3, 10)))
FIGURES = {
    "macro AUPRC": "auprc_macro",
    "micro AUPRC": "auprc_micro",
    "macro F1": "f1_macro_f1",
    "micro F1": "f1_micro_f1",
    "hold-out macro AUPRC": "holdout_macro_auprc",
}


def measure(folder: Path, name: str, seeds: int) -> None:
    """Train every row with every seed that has not been trained yet."""
    path = RUNS / f"{name}.json"
    results = json.loads(path.read_text()) if path.exists() else []
    data = load_data(str(folder / f"{name}.npz"), 64)
    settings = {"epochs": EPOCHS[name], "lr": 3e-3, "holdout": 0.2, "device": "cpu"}
    settings |= {"net": "small", "width": None}
    settings["batch_size"] = 64 if len(data["train"]) < 8000 else 256
    done = {(r["ratio"], r["per"], r["seed"]) for r in results}
    for seed in range(seeds):
        for ratio, per in ROWS:
            if (ratio, per, seed) in done:
                continue
            mining = None if ratio is None else HardNegatives(ratio, per=per)
            found = train("plain", seed, data, settings | {"mining": mining})
            kept = {key: found[key] for key in (*FIGURES.values(), "share_kept") if key in found}
            results.append({"ratio": ratio, "per": per, "seed": seed} | kept)
            path.write_text(json.dumps(results, indent=1))
            print(name, seed, ratio, per, flush=True)


def table(name: str) -> list[str]:
    """A row for each ratio: what all negatives reach, and the differences to it, seed by seed."""
    results = json.loads((RUNS / f"{name}.json").read_text())
    rows = {row: [r for r in results if (r["ratio"], r["per"]) == row] for row in ROWS}
    every = {r["seed"]: r for r in rows[ROWS[0]]}
    lines = []
    for (ratio, per), runs in rows.items():
        if not runs:
            continue
        share = np.mean([r.get("share_kept", 1.0) for r in runs])
        what = "all" if ratio is None else f"{ratio} a positive, of each {per}"
        cells = [name, what, f"{share:.2f}", str(len(runs))]
        for key in FIGURES.values():
            values = [r[key] - (0 if ratio is None else every[r["seed"]][key]) for r in runs]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):{'.3f' if ratio is None else '+.3f'}}{spread}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def write(path: Path) -> None:
    head = ("set", "negatives", "of all entries", "seeds", *FIGURES)
    lines = [
        "# Hard negatives",
        "",
        "Written by `python -m benchmarks.mining.hard_negatives --folder FOLDER`; "
        f"equipoise {equipoise.__version__}, torch {torch.__version__}, one thread, CPU.",
        "",
        *(__doc__ or "").split("\n\n", 2)[2].strip().splitlines(),
        "",
        "Rows below a set's first: differences to it, seed by seed, ± their sd over the seeds.",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for name in EPOCHS:
        if (RUNS / f"{name}.json").exists():
            lines += table(name)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where Mulan's sets lie as .npz")
    parser.add_argument("--sets", nargs="+", choices=list(EPOCHS), default=list(EPOCHS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only write the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    for name in () if args.table else args.sets:
        measure(args.folder, name, args.seeds)
    write(RESULTS)


if __name__ == "__main__":
    main()
