"""How much hold-out `fit_class_decision` needs: what it gains and costs on the other test images.

    OMP_NUM_THREADS=1 python -m benchmarks.decision.holdout runs/evidence/cifar10/plain-1.npz …

Takes the logits of test images that benchmarks.evidence keeps. Each draw fits the default decision
on n test images of each class and judges it on all others; prints a Markdown table.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch

from equipoise.decision import fair_offset, fit_class_decision
from examples.harness import recalls_of

SIZES = (5, 10, 20, 50, 100, 200, 500)


def recalls(logits: torch.Tensor, targets: torch.Tensor, offset: torch.Tensor) -> np.ndarray:
    return np.array(recalls_of((logits + offset.float()).argmax(1), targets.numpy(), 10))


def draw(logits: torch.Tensor, targets: torch.Tensor, best: torch.Tensor, n: int, seed: int):
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    held = torch.cat([order[targets[order] == c][:n] for c in range(10)])
    rest = torch.ones(len(targets), dtype=torch.bool)
    rest[held] = False
    decision = fit_class_decision(logits[held], targets[held])
    z, y = logits[rest], targets[rest]
    plain, decided = (recalls(z, y, b) for b in (torch.zeros(10), decision.values))
    price = max(plain.mean(), recalls(z, y, best).mean()) - decided.mean()
    return decided.min() - plain.min(), price, decision.price


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="LOGITS.npz")
    parser.add_argument("--draws", type=int, default=10)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of few examples
    print(
        "| held out of a class | net | gain of the lowest | in the worst draw | price | predicted |"
    )
    print("|---|---|---|---|---|---|")
    for path in args.files:
        stored = np.load(path)
        logits, targets = torch.from_numpy(stored["test"]), torch.from_numpy(stored["test_y"])
        best = fair_offset(logits, targets, alpha=0.0)  # generous to what the price is against
        for n in SIZES:
            found = np.array([draw(logits, targets, best, n, s) for s in range(args.draws)])
            (gain, price, told), (sd, price_sd, _) = found.mean(0), found.std(0)
            print(
                f"| {n} | {path.parent.name} | {gain:+.3f} ± {sd:.3f} | {found[:, 0].min():+.3f} "
                f"| {price:.3f} ± {price_sd:.3f} | {told:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
