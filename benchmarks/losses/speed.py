"""Losses against plain torch of the same formula: processor time of forward + backward.

    OMP_NUM_THREADS=1 python -m benchmarks.losses.speed [--sizes 32x10 256x7900] [--repeats 15]

Each run of a loss is paired with one of the plain formula next to it, in one process and one
thread; thread CPU time, so that other work on the machine matters less. Prints, as Markdown, the
median ratio of the pairs with its quartiles. At small sizes a run is many steps. `--form` gives
labels as float32 (the default), bool, or sparse CSR; plain torch always has float32.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from equipoise import losses

Loss = Callable[[Tensor, Tensor], Tensor]
SIZES = ["32x10", "128x10", "256x100", "512x1000", "256x7900", "4096x1000"]


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    surprise = F.cross_entropy(logits, targets, reduction="none")
    return ((1 - torch.exp(-surprise)) ** 2 * surprise).mean()


def asymmetric(logits: Tensor, targets: Tensor) -> Tensor:
    """Ridnik et al. (2021), with the operations of the authors' ``AsymmetricLoss``."""
    p = logits.sigmoid()
    q = (1 - p + 0.05).clamp(max=1)
    value = targets * p.clamp(min=1e-8).log() + (1 - targets) * q.clamp(min=1e-8).log()
    p_true = p * targets + q * (1 - targets)
    weight = (1 - p_true) ** (targets + 4 * (1 - targets))
    return -(value * weight).mean()


def two_way(logits: Tensor, targets: Tensor) -> Tensor:
    """Kobayashi (2023), with −∞ for the other side."""
    positive = targets != 0
    rising = logits.masked_fill(positive, -math.inf)
    falling = (logits / -4).masked_fill(~positive, -math.inf)
    total = logits.new_zeros(())
    for dim in (1, 0):
        some = positive.any(dim)
        margin = rising.logsumexp(dim) + 4 * falling.logsumexp(dim)
        total = total + F.softplus(margin[some]).mean()
    return total


def single_label(counts: Tensor) -> dict[str, tuple[Loss, Loss]]:
    """Each loss and its plain formula."""
    weight, log_prior = counts / counts.mean(), (counts / counts.sum()).log()
    margins, divisor = losses.ldam_margins(counts), (counts.max() / counts) ** 0.15

    def weighted(z: Tensor, y: Tensor) -> Tensor:  # a mean over the targets that are counted
        return F.cross_entropy(z, y, weight, reduction="sum") / (y != -100).sum()

    def seesaw(z: Tensor, y: Tensor) -> Tensor:
        share = z.detach().softmax(1)
        compensation = (share / share.gather(1, y[:, None])).clamp(min=1) ** 2
        mitigation = (counts / counts[y][:, None]).clamp(max=1) ** 0.8
        return F.cross_entropy(z + (mitigation * compensation).log(), y)

    return {
        "weighted cross-entropy": (losses.WeightedCrossEntropy(weight), weighted),
        "logit-adjusted": (
            losses.LogitAdjustedCrossEntropy(counts),
            lambda z, y: F.cross_entropy(z + log_prior, y),
        ),
        "LDAM": (
            losses.LDAM(counts),
            lambda z, y: F.cross_entropy(30 * (z - F.one_hot(y, len(counts)) * margins), y),
        ),
        "vector scaling": (
            losses.VectorScaling(counts),
            lambda z, y: F.cross_entropy(z / divisor + 1.25 * log_prior, y),
        ),
        "focal": (losses.FocalLoss(), focal),
        "seesaw": (losses.Seesaw(counts), seesaw),
    }


def multilabel(counts: Tensor) -> dict[str, tuple[Loss, Loss]]:
    """Each loss and its plain formula."""
    weight, inverse = counts / counts.mean(), 1 / counts
    bias = 0.05 * (1e3 / counts - 1).log()

    def distribution_balanced(z: Tensor, y: Tensor) -> Tensor:
        share = inverse / (y * inverse).sum(1, keepdim=True)
        factor = (0.1 + torch.sigmoid(10 * (share - 0.2))) * (y + (1 - y) / 2)
        shifted = (z - bias) * (y + (1 - y) * 2)
        return F.binary_cross_entropy_with_logits(shifted, y, factor)

    return {
        "weighted BCE": (losses.WeightedBCE(), F.binary_cross_entropy_with_logits),
        "weighted BCE, both weights": (
            losses.WeightedBCE(weight, weight),
            lambda z, y: F.binary_cross_entropy_with_logits(z, y, weight, pos_weight=weight),
        ),
        "sigmoid focal": (
            losses.SigmoidFocalLoss(),
            lambda z, y: sigmoid_focal_loss(z, y, reduction="mean"),
        ),
        "asymmetric": (losses.AsymmetricLoss(), asymmetric),
        "distribution-balanced": (
            losses.DistributionBalancedLoss(counts, 1e3),
            distribution_balanced,
        ),
        "two-way": (losses.TwoWayLoss(), two_way),
    }


def seconds(loss: Loss, logits: Tensor, targets: Tensor, steps: int) -> float:
    logits = logits.detach().requires_grad_()
    began = time.thread_time()
    for _ in range(steps):
        logits.grad = None
        loss(logits, targets).backward()
    return time.thread_time() - began


def ratio(pair: tuple[Loss, Loss], logits: Tensor, given: list[Tensor], repeats: int) -> str:
    steps, found = max(1, 100_000 // logits.numel()), []
    for number in range(repeats + 2):
        order = (0, 1) if number % 2 else (1, 0)
        times = {i: seconds(pair[i], logits, given[i], min(40, steps)) for i in order}
        found.append(times[0] / times[1])
    low, middle, high = np.quantile(found[2:], [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="examples x classes")
    parser.add_argument("--form", choices=["float32", "bool", "CSR"], default="float32")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch calls its sparse CSR tensors beta
    print(f"Python {platform.python_version()}, torch {torch.__version__}, one thread.\n")
    print("| examples × classes | loss | to plain torch |\n|-|-|-|")
    for size in args.sizes:
        examples, classes = map(int, size.split("x"))
        generator = torch.Generator().manual_seed(0)
        logits = 3 * torch.randn(examples, classes, generator=generator)
        counts = torch.rand(classes, generator=generator) * 100 + 1
        ids = torch.randint(classes, (examples,), generator=generator)
        labels = (torch.rand(logits.shape, generator=generator) < max(0.016, 1.5 / classes)).float()
        forms = {"float32": labels, "bool": labels.bool(), "CSR": labels.to_sparse_csr()}
        rows = [(name, pair, logits, [ids, ids]) for name, pair in single_label(counts).items()]
        given = [forms[args.form], labels]
        rows += [(name, pair, logits - 3, given) for name, pair in multilabel(counts).items()]
        for name, *row in rows:
            print(
                f"| {examples:,} × {classes:,} | {name} | {ratio(*row, args.repeats)} |", flush=True
            )


if __name__ == "__main__":
    main()
