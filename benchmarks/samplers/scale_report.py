"""What sampler_scale.py has measured, as Markdown and JSON."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

QUANTITIES = ("construct", "first batch", "epoch", "update", "memory")

# By sampler, examples and classes: what each round has measured, or why it has not
Rows = dict[tuple[str, int, int], list[dict[str, Any]]]


def table(rows: Rows, classes: int) -> list[str]:
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


def growth(rows: Rows, classes: int) -> list[str]:
    """Exponents: the slope of log cost over log N, from the smallest to the largest measured N."""
    lines = ["| grows as N to the power | N | " + " | ".join(QUANTITIES) + " |", "|" + "---|" * 7]
    for name in dict.fromkeys(s for s, _, _ in rows):
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


def ratios(rows: Rows, examples: int) -> list[str]:
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


def sizes(rows: Rows) -> list[str]:
    lines = ["| N | classes | state, bytes | class index, bytes an example |", "|---|---|---|---|"]
    for (name, examples, classes), measured in rows.items():
        if name == "ours" and "state" in measured[0]:
            one = measured[0]
            lines.append(
                f"| 10^{np.log10(examples):.0f} | {classes:,} | {one['state']:,} | "
                f"{one['index'] / examples:.2f}, and {one['labels'] / examples:.0f} for labels |"
            )
    return lines


def write_report(rows: Rows, about: list[str], folder: Path) -> None:
    """`sampler_scale.md`, which `about` begins, and `sampler_scale.json`."""
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}, NumPy "
        f"{np.__version__}, {platform.machine()}."
    )
    command = " ".join(["python -m benchmarks.samplers.scale", *map(shlex.quote, sys.argv[1:])])
    lines = ["# Samplers, from 10^5 to 10^8 examples", "", f"`OMP_NUM_THREADS=1 {command}`"]
    lines += ["", versions, *about]
    for classes in sorted({c for _, _, c in rows}):
        lines += ["", f"## {classes:,} classes", "", *table(rows, classes)]
        lines += ["", *growth(rows, classes)]
    for examples in sorted({n for _, n, _ in rows}):
        if pairs := ratios(rows, examples):
            lines += ["", f"## A whole epoch of 10^{np.log10(examples):.0f}", "", *pairs]
    lines += ["", "## Sizes", "", *sizes(rows)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sampler_scale.md").write_text("\n".join(lines) + "\n")
    record = [
        {"sampler": s, "examples": n, "classes": c, "rounds": m} for (s, n, c), m in rows.items()
    ]
    (folder / "sampler_scale.json").write_text(json.dumps(record) + "\n")
