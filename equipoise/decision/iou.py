"""Offsets of class logits that raise the mean IoU, and hold on other images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.decision.elements import elements_of, folds_of
from equipoise.decision.soft_recalls import centred, check_holdout

__all__ = ["iou_offset", "mean_iou"]

STRENGTHS = (1.0, 0.75, 0.5, 0.25)
SWEEPS = 8  # over the classes, at most
CANDIDATES = 256  # thresholds looked at, of the class's own elements and of all


def iou_offset(
    logits: Tensor,
    targets: Tensor,
    *,
    images: Tensor | None = None,
    prior: Any = None,
    folds: int = 5,
    ignore_index: int = -100,
) -> tuple[Tensor, float]:
    """Per-class offsets b under which arg max(z + b) has a higher mean IoU, and the gain.

    IoU_c = hits / (elements that are of class c or predicted to be). Coordinate ascent: with the
    other offsets fixed, element i is predicted as c where b_c is above its margin
    m_i = max_{j≠c}(z_ij + b_j) − z_ic. So the confusion matrix, and with it the mean IoU, is known
    for any b_c from the margins in order, and the best one is taken: exactly, at up to 512
    quantiles of them.

    The guard: images are cut into `folds` runs of neighbours, and each is judged with offsets
    fitted on the others. Offsets are kept at the strength (1, ¾, ½, ¼) whose mean IoU over all of
    them is highest, and only where it is above that of arg max z by more than one standard error
    of the folds' differences. Else they are 0. No guard sees that other data differ from all of
    the hold-out, but how often classes come is made to agree by `prior`.

    Args:
        logits: `(N, C)` or `(N, C, d1, …)`, finite, of a hold-out.
        targets: class ids, `(N,)` or `(N, d1, …)`.
        images: `(N,)` the image each row of `(N, C)` logits is of, see `ElementSample`; by default
            each is one by itself.
        prior: `(C,)` how often classes come where it counts, as counts or shares: elements of the
            hold-out then weigh up to ten times more or less, so that its classes come as often.
            A `Balancer` gives those of the training elements.
        folds: at least 2.
        ignore_index: the class id that is left out.

    Returns:
        `(C,)` float64 on the CPU, with mean zero over the classes that have elements, 0 for the
        others; and the cross-fitted gain in mean IoU.

    Raises:
        ValueError: as for `fair_offset`; fewer than 2 folds.

    Example:
        >>> targets = (torch.rand(20, 400, generator=torch.Generator().manual_seed(0)) < 0.1).long()
        >>> logits = torch.randn(20, 2, 400, generator=torch.Generator().manual_seed(1))
        >>> logits[:, 1] += 2 * targets - 5
        >>> offset, gain = iou_offset(logits, targets)
        >>> bool(offset[1] > offset[0] + 1), gain > 0.05
        (True, True)
    """
    if images is None:
        logits, targets, images = elements_of(logits, targets, ignore_index)
    z, y = check_holdout(logits, targets)
    z = z.float()
    fold = folds_of(y, images, folds)
    seen = torch.bincount(y, minlength=z.shape[1]) > 0
    weight = _weight(y, z.shape[1], prior)
    whole = _ascend(z, y, weight)
    parts = []
    for k in range(folds):
        inside = fold == k
        offset = _ascend(z[~inside], y[~inside], weight)
        parts.append((z[inside], y[inside], offset))

    def confusions(strength: float) -> Tensor:
        return torch.stack([_confusion(z, y, strength * b, weight) for z, y, b in parts])

    before = confusions(0.0)
    best, kept = 0.0, 0.0
    for strength in STRENGTHS:
        after = confusions(strength)
        gain = float(mean_iou(after.sum(0)) - mean_iou(before.sum(0)))
        # Folds lack classes: each is left out in turn, and not judged by itself.
        without = torch.stack(
            [
                mean_iou(after.sum(0) - a) - mean_iou(before.sum(0) - b)
                for a, b in zip(after, before, strict=True)
            ]
        )
        error = float(((folds - 1) / folds * (without - without.mean()).square().sum()).sqrt())
        if gain > error and gain > best:
            best, kept = gain, strength
    return centred(kept * whole, seen), best


def mean_iou(confusion: Tensor) -> Tensor:
    """Mean IoU over the classes that have elements.

    Args:
        confusion: `(C, C)` elements by true class (row) and predicted one.

    Example:
        >>> mean_iou(torch.tensor([[8, 2], [0, 10]])).item()
        0.81666...
    """
    support, hits = confusion.sum(1), confusion.diagonal().double()
    seen = support > 0
    return (hits / (support + confusion.sum(0) - hits).clamp_min(1e-12))[seen].mean()


def _weight(y: Tensor, classes: int, prior: Any) -> Tensor:
    """`(C,)` float64: what an element of each class weighs, 1 on average."""
    if prior is None:
        return torch.ones(classes, dtype=torch.float64)
    prior = torch.as_tensor(prior, dtype=torch.float64)
    if prior.shape != (classes,) or not bool((prior >= 0).all()) or not bool(prior.any()):
        raise ValueError(f"Expected prior to be {classes} frequencies, but got {prior.tolist()}.")
    share = torch.bincount(y, minlength=classes) / len(y)
    return (prior / prior.sum() / share.clamp_min(1e-12)).clamp(0.1, 10.0)


def _confusion(z: Tensor, y: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    classes = z.shape[1]
    cell = y * classes + (z + offset.to(z)).argmax(1)
    counts = torch.bincount(cell, minlength=classes**2).view(classes, classes)
    return counts * weight[:, None]


def _ascend(z: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Offsets `(C,)` float64 of the highest mean IoU that coordinate ascent finds."""
    shifted, seen = z.clone(), torch.bincount(y, minlength=z.shape[1]) > 0
    offset = torch.zeros(z.shape[1], dtype=torch.float64)
    best = float(mean_iou(_confusion(z, y, offset, weight)))
    for _ in range(SWEEPS):
        before = best
        for c in seen.nonzero()[:, 0].tolist():
            value, move = _best_move(shifted, y, c, seen, weight)
            if value > best + 1e-6:
                best = value
                offset[c] += move
                shifted[:, c] += move
        if best < before + 1e-5:
            break
    return offset


def _best_move(
    shifted: Tensor, y: Tensor, c: int, seen: Tensor, weight: Tensor
) -> tuple[float, float]:
    """The highest mean IoU that moving one offset reaches, and by how much to move it."""
    classes = shifted.shape[1]
    own = shifted[:, c].clone()
    shifted[:, c] = -torch.inf
    others, rival = shifted.max(1)  # whom the element goes to where it does not go to c
    shifted[:, c] = own
    margin = (others - own).numpy()
    is_own = (y == c).numpy()
    share = np.linspace(0, 1, CANDIDATES)
    some = margin[:: 1 + len(margin) // 20_000], margin[is_own]
    cuts = np.unique(np.concatenate([np.quantile(m, share) for m in some]))
    bin_ = torch.from_numpy(np.searchsorted(cuts, margin, side="right"))
    wide = len(cuts) + 1

    def leaving(chosen: Tensor) -> Tensor:
        """`(C, cuts)`: of each rival's elements, how many go to c at each cut."""
        cell = rival[chosen] * wide + bin_[chosen]
        return _sums(cell, y[chosen], weight, classes * wide).view(classes, wide).cumsum(1)[:, :-1]

    every = torch.ones_like(y, dtype=torch.bool)
    taken = leaving(every)
    support = _sums(y, y, weight, classes)[:, None]
    predicted = _sums(rival, y, weight, classes)[:, None] - taken
    right = y == rival
    hits = _sums(y[right], y[right], weight, classes)[:, None] - leaving(right)
    predicted[c], hits[c] = taken.sum(0), leaving(y == c).sum(0)
    iou = (hits / (support + predicted - hits).clamp_min(1e-12))[seen].mean(0)
    top = int(iou.argmax())
    return float(iou[top]), float(cuts[top])


def _sums(cell: Tensor, y: Tensor, weight: Tensor, cells: int) -> Tensor:
    """Weight in each cell."""
    return torch.bincount(cell, weight[y], minlength=cells)
