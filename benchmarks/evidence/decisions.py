"""What finished runs reach under three decisions, from their logits: nothing is trained.

* trained: arg max of the logits, as the network was trained;
* fair: the offsets of `Balancer.fit_decision` by default, fitted on the hold-out: the strongest of
  the front whose cross-fitted price is at most `MAX_PRICE`; the front begins with the logits as
  trained, or with λ taken out, whichever has the higher mean recall on the hold-out;
* equal: `equal_recall_offset`, the front's end.
"""

from __future__ import annotations

import json
import multiprocessing as mp
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.evidence.methods import LOGIT_SCALE
from benchmarks.evidence.training import path_of
from equipoise.decision import fit_class_decision
from equipoise.decision.front import ALPHAS
from examples.harness import figures, recalls_of

MAX_PRICE = 0.01
DECISIONS = ("trained", "fair", "equal")


def decided(path: Path, scale: float = 1.0) -> dict[str, Any]:
    """Recalls `(C,)` on the test images under each decision, and the front there, of one run.

    "front" has a row for each α: α (infinite for equal recalls), mean, sd and lowest recall on the
    test images. "price" is the mean recall with λ taken out less that of the fair decision; "tenth"
    the mean recall, under each decision, of the tenth of the classes that is lowest on the hold-out
    as trained.
    """
    with np.load(path) as z:
        held, test, shift = (torch.from_numpy(z[k]).double() for k in ("held", "test", "shift"))
        held_y, test_y = z["held_y"], z["test_y"]
    held, test, classes = held * scale, test * scale, held.shape[1]

    def recalls(offset: torch.Tensor | float) -> list[float]:
        return recalls_of((test + offset).argmax(1), test_y, classes)

    fair = fit_class_decision(held, torch.from_numpy(held_y), max_price=MAX_PRICE, start=shift)
    rows = fair.front
    found = {
        "trained": recalls(0),
        "fair": recalls(fair.values),
        "equal": recalls(rows[-1]["offset"]),
    }
    on_holdout = np.array(recalls_of(held.argmax(1), held_y, classes))
    tenth = np.argsort(on_holdout, kind="stable")[: max(1, classes // 10)]
    return {
        "recalls": found,
        "alpha": fair.alpha,
        "price": float(np.nanmean(recalls(shift)) - np.nanmean(found["fair"])),
        "tenth": {name: float(np.nanmean(np.array(r)[tenth])) for name, r in found.items()},
        "front": [
            [row["alpha"], *figures(recalls(row["offset"])).tolist()]
            for row in rows
            if row["alpha"] in (*ALPHAS, np.inf)
        ],
    }


def _decided_once(path: Path, scale: float, again: bool) -> dict[str, Any]:
    """Read back from beside the logits, unless these are newer or it is to be done `again`."""
    kept = path.with_suffix(".decided.json")
    if kept.exists() and not again and kept.stat().st_mtime >= path.stat().st_mtime:
        return json.loads(kept.read_text())
    torch.set_num_threads(1)
    found = decided(path, scale)
    kept.write_text(json.dumps(found))
    return found


def decide_all(
    folder: Path, runs: Iterable[tuple[str, int]], jobs: int = 1, again: bool = False
) -> list[dict[str, Any]]:
    """`decided` of the runs in a folder, each with its "method" and "seed"."""
    runs = list(runs)
    paths = [path_of(folder, method, seed).with_suffix(".npz") for method, seed in runs]
    scales = [LOGIT_SCALE.get(method, 1.0) for method, _ in runs]
    # Forked processes would wait for ever for the threads torch has in this one
    with ProcessPoolExecutor(jobs, mp.get_context("spawn")) as pool:
        found = list(pool.map(_decided_once, paths, scales, repeat(again)))
    return [{"method": m, "seed": s} | run for (m, s), run in zip(runs, found, strict=True)]
