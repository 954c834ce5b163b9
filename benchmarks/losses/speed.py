"""Losses against torch's own and against peers: CPU time of forward + backward, bytes kept.

    OMP_NUM_THREADS=1 python -m benchmarks.losses.speed [--batch 4096 --labels 1000 --positives 16]

Multilabel losses are measured against torch's binary_cross_entropy_with_logits, losses for class
ids against torch's cross_entropy. Each run of a loss is paired with a run of torch's next to it;
thread CPU time, so that other work on the machine matters less. Prints, as Markdown, the median
ratio of the pairs with its quartiles, and what autograd keeps for backward in units of one logits
tensor, apart from the logits and the targets themselves.

Peers: torchvision's focal loss, timm's asymmetric loss where timm can be imported, and the
published formulas written with torch's operations, as the authors' code has them. "compiled"
rows are ours under torch.compile (with --compiled; this takes minutes).
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
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from equipoise import losses

Loss = Callable[[Tensor, Tensor], Tensor]


def plain_asymmetric(logits: Tensor, targets: Tensor) -> Tensor:
    """Ridnik et al. (2021), with the operations of the authors' ``AsymmetricLoss``."""
    p = logits.sigmoid()
    q = (1 - p + 0.05).clamp(max=1)
    value = targets * p.clamp(min=1e-8).log() + (1 - targets) * q.clamp(min=1e-8).log()
    p_true = p * targets + q * (1 - targets)
    weight = (1 - p_true) ** (targets + 4 * (1 - targets))
    return -(value * weight).mean()


def plain_distribution_balanced(counts: Tensor, num_examples: float) -> Loss:
    """Wu et al. (2020): rebalanced weights, negative-tolerant regularisation."""
    inverse = 1 / counts
    bias = 0.05 * (num_examples / counts - 1).log()

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        share = inverse / (targets * inverse).sum(1, keepdim=True)
        weight = 0.1 + torch.sigmoid(10 * (share - 0.2))
        shifted = logits - bias
        shifted = shifted * (1 - targets) * 2 + shifted * targets
        weight = weight / 2 * (1 - targets) + weight * targets
        return F.binary_cross_entropy_with_logits(shifted, targets, weight)

    return loss


def plain_two_way(logits: Tensor, targets: Tensor) -> Tensor:
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


def seconds(loss: Loss, logits: Tensor, targets: Tensor) -> float:
    logits = logits.detach().requires_grad_()
    began = time.thread_time()
    loss(logits, targets).backward()
    return time.thread_time() - began


def kept(loss: Loss, logits: Tensor, targets: Tensor) -> float:
    """Bytes kept for backward, without logits and targets, in units of one logits tensor."""
    logits = logits.detach().requires_grad_()
    given = {t.data_ptr() for t in (logits, targets) if t.layout == torch.strided}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided and tensor.data_ptr() not in given:
            found[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(logits, targets)
    return sum(found.values()) / (logits.numel() * logits.element_size())


def ratios(
    loss: Loss, logits: Tensor, targets: Tensor, base: Loss, base_targets: Tensor, repeats: int
) -> str:
    pairs = []
    for number in range(repeats + 3):
        order = [(loss, targets), (base, base_targets)]
        times = [seconds(f, logits, y) for f, y in (order if number % 2 else order[::-1])]
        pairs.append(times if number % 2 else times[::-1])
    low, middle, high = np.quantile([a / b for a, b in pairs[3:]], [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def multilabel(args: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch, args.labels)
    logits = torch.randn(shape, generator=generator) * 3 - 3
    positive = torch.rand(shape, generator=generator) < args.positives / args.labels
    dense = positive.float()
    forms = {"bool": positive, "float32": dense, "CSR": dense.to_sparse_csr()}
    counts = torch.rand(args.labels, generator=generator) * 100 + 1
    weight = torch.rand(args.labels, generator=generator) + 0.5
    rows: list[tuple[str, Loss, bool]] = [
        ("torch's BCE", F.binary_cross_entropy_with_logits, True),
        ("weighted BCE", losses.weighted_bce, False),
        (
            "weighted BCE, `weight` and `pos_weight`",
            lambda z, y: losses.weighted_bce(z, y, weight, pos_weight=weight),
            False,
        ),
        ("sigmoid focal", losses.sigmoid_focal_loss, False),
        (
            "torchvision's focal",
            lambda z, y: torchvision_focal(z, y, reduction="mean"),
            True,
        ),
        ("asymmetric", losses.asymmetric_loss, False),
        ("asymmetric, authors' operations", plain_asymmetric, True),
        (
            "distribution-balanced",
            lambda z, y: losses.distribution_balanced_loss(z, y, counts, 1e3),
            False,
        ),
        (
            "distribution-balanced, plain autograd",
            plain_distribution_balanced(counts, 1e3),
            True,
        ),
        ("two-way", losses.two_way_loss, False),
        ("two-way, plain autograd", plain_two_way, True),
    ]
    try:
        from timm.loss import AsymmetricLossMultiLabel

        timm_loss = AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=1, clip=0.05)
        rows.insert(6, ("timm's asymmetric", lambda z, y: timm_loss(z, y), True))
    except ImportError:
        print("timm cannot be imported: its row is left out.\n")
    if args.compiled:
        for name, loss, peer in [row for row in rows if not row[2]]:
            rows.append((f"{name}, compiled", torch.compile(loss, dynamic=False), peer))
    print(
        f"{shape[0]:,} × {shape[1]:,} float32, {int(positive.sum()) / args.batch:.0f} positives an "
        f"example, {args.repeats} pairs.\n"
    )
    print("| loss | " + " | ".join(forms) + " | kept |\n" + "|-" * (2 + len(forms)) + "|")
    for name, loss, peer in rows:
        cells = [
            ""
            if form != "float32" and (peer or "compiled" in name)
            else ratios(
                loss, logits, targets, F.binary_cross_entropy_with_logits, dense, args.repeats
            )
            for form, targets in forms.items()
        ]
        print(f"| {name} | " + " | ".join(cells) + f" | {kept(loss, logits, dense):.1f} |")


def single_label(args: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (4096, 1000)
    logits = torch.randn(shape, generator=generator) * 3
    targets = torch.randint(shape[1], shape[:1], generator=generator)
    counts = torch.rand(shape[1], generator=generator) * 100 + 1
    rows: dict[str, Loss] = {
        "torch's cross_entropy": F.cross_entropy,
        "weighted cross-entropy": losses.WeightedCrossEntropy(counts / counts.mean()),
        "logit-adjusted": losses.LogitAdjustedCrossEntropy(counts),
        "LDAM": losses.LDAM(counts),
        "vector scaling": losses.VectorScaling(counts),
        "focal": losses.FocalLoss(),
        "seesaw": losses.Seesaw(counts),
    }
    print(f"\n{shape[0]:,} × {shape[1]:,} float32, class ids, {args.repeats} pairs.\n")
    print("| loss | to torch's cross_entropy | kept |\n|-|-|-|")
    for name, loss in rows.items():
        cell = ratios(loss, logits, targets, F.cross_entropy, targets, args.repeats)
        print(f"| {name} | {cell} | {kept(loss, logits, targets):.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--labels", type=int, default=7900)
    parser.add_argument("--positives", type=int, default=130, help="of an example, on average")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--compiled", action="store_true", help="also under torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch calls its sparse CSR tensors beta
    print(f"Python {platform.python_version()}, torch {torch.__version__}, one thread.")
    multilabel(args)
    single_label(args)


if __name__ == "__main__":
    main()
