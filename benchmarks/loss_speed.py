"""Multilabel losses against torch's own BCE-with-logits: CPU time of forward + backward.

    OMP_NUM_THREADS=1 python benchmarks/loss_speed.py

Each run of a loss is paired with a run of torch's BCE next to it; thread CPU time, so that other
work on the machine matters less. Prints the median ratio of the pairs with its quartiles, for dense
(bool, float32) and sparse CSR targets, as Markdown. "plain autograd" rows are the textbook formulas
written with torch's operations, as peers have them.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise import losses


def plain_focal(logits: Tensor, targets: Tensor) -> Tensor:
    p = logits.sigmoid()
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_true = p * targets + (1 - p) * (1 - targets)
    alpha = 0.25 * targets + 0.75 * (1 - targets)
    return (alpha * bce * (1 - p_true) ** 2).mean()


def plain_asymmetric(logits: Tensor, targets: Tensor) -> Tensor:
    p = logits.sigmoid()
    shifted = (p - 0.05).clamp_min(0)
    positive = targets * p.clamp_min(1e-8).log() * (1 - p)
    negative = (1 - targets) * (1 - shifted).clamp_min(1e-8).log() * shifted**4
    return -(positive + negative).mean()


def seconds(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor) -> float:
    logits = logits.detach().requires_grad_()
    began = time.thread_time()
    loss(logits, targets).backward()
    return time.thread_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--labels", type=int, default=7900)
    parser.add_argument("--positives", type=int, default=130, help="of an example, on average")
    parser.add_argument("--repeats", type=int, default=25)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch calls its sparse CSR tensors beta
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch, args.labels)
    logits = torch.randn(shape, generator=generator) * 3 - 3
    positive = torch.rand(shape, generator=generator) < args.positives / args.labels
    dense = positive.float()
    forms = {"bool": positive, "float32": dense, "CSR": dense.to_sparse_csr()}
    counts = torch.rand(args.labels, generator=generator) * 100 + 1
    weight = torch.rand(args.labels, generator=generator) + 0.5
    ours = {
        "weighted BCE": losses.weighted_bce,
        "weighted BCE with pos_weight": lambda z, y: losses.weighted_bce(z, y, weight),
        "sigmoid focal": losses.sigmoid_focal_loss,
        "asymmetric": losses.asymmetric_loss,
        "distribution-balanced": lambda z, y: losses.distribution_balanced_loss(z, y, counts, 1e3),
        "two-way": losses.two_way_loss,
    }
    plain = {"focal, plain autograd": plain_focal, "asymmetric, plain autograd": plain_asymmetric}
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, one thread, "
        f"{shape[0]} × {shape[1]:,} float32, {int(positive.sum()) / args.batch:.0f} positives an "
        f"example, {args.repeats} pairs. Median ratio to torch's BCE (quartiles).\n"
    )
    print("| loss | " + " | ".join(forms) + " |\n" + "|-" * (1 + len(forms)) + "|")
    for name, loss in {**ours, **plain}.items():
        cells = []
        for form, targets in forms.items():
            if name in plain and form != "float32":
                cells.append("")
                continue
            pairs = [
                (
                    seconds(loss, logits, targets),
                    seconds(F.binary_cross_entropy_with_logits, logits, dense),
                )
                for _ in range(args.repeats + 2)
            ][2:]
            low, middle, high = np.quantile([a / b for a, b in pairs], [0.25, 0.5, 0.75])
            cells.append(f"{middle:.2f} ({low:.2f}–{high:.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
