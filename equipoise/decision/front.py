"""The front from the highest mean recall to equal recalls, as it holds on other data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.decision.elements import elements_of, folds_of
from equipoise.decision.equal_recall import equalise
from equipoise.decision.fair import Fairness
from equipoise.decision.soft_recalls import (
    TEMPERATURES,
    SoftRecalls,
    centred,
    check_holdout,
    recalls_of,
    spread_of_logits,
    warn_of_missing,
)

__all__ = ["ALPHAS", "front", "strongest_below"]

ALPHAS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
LOGGER = logging.getLogger(__name__)
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
SURE = 0.5  # standard errors by which a row has to be better than the mean's own decision
SHARES = (0.25, 0.5, 0.75)  # where rows are put between two α
STEP = 0.004  # of mean recall, beyond which rows are put between two α


def front(
    logits: Tensor,
    targets: Tensor,
    alphas: Sequence[float] = ALPHAS,
    kappa: float = 20.0,
    *,
    images: Tensor | None = None,
    folds: int = 5,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """What can be had: mean and lowest recall and their price, from α = 0 to equal recalls.

    A row for each α, rows between two of them where the mean recall changes much, and a last one
    (α = ∞) for `equal_recall_offset`. All recalls are cross-fitted: the hold-out is cut into
    `folds` parts with the same share of each class, and each part is decided with offsets fitted
    on the others. So a small hold-out does not flatter them.
    Offsets are shrunk towards the mean's own decision: that of a row is b_0 + s · (b_α − b_0), with
    b_α from `fair_offset`, b_0 the offset of the row α = 0, and s the one of ¼, ½, ¾ and 1 with the
    highest cross-fitted U. Where that is not above the U of b_0 by more than half the standard
    error of their difference, the row is the one before it. (b_0 is likewise held against no
    offset.)

    It fits `folds` + 1 times: 5,000 × 10 logits take a second, 10,000 × 1,000 about 15 s of one
    core. `logging.basicConfig(level="INFO")` shows how far it is.

    Args:
        logits: `(N, C)` or `(N, C, d1, …)` of a hold-out, as for `fair_offset`.
        targets: class ids, `(N,)` or `(N, d1, …)`.
        alphas: in ascending order; 0 is put in front where it is missing.
        kappa: as for `fair_offset`.
        images: `(N,)` the image that each row is of, see `ElementSample`: then folds are runs of
            neighbouring images. For dense logits it is known.
        folds: at least 2.
        seed: of the cut into folds.

    Returns:
        A list of dicts:

        * `alpha`; `offset`, `(C,)` float64 on the CPU, mean zero, fitted on the whole hold-out;
          `strength`, its s;
        * `mean`, `sd` and `lowest` of the cross-fitted recalls, and `recalls`, `(C,)`, NaN for a
          class without examples;
        * `mean_interval` and `lowest_interval`: where these two are for 95% of hold-outs of this
          size, from draws of each class's hits at its recall;
        * `price`: how much lower `mean` is than that of α = 0.

    Raises:
        ValueError: as for `fair_offset`; fewer than 2 folds.

    Example:
        >>> targets = torch.arange(4000) % 4
        >>> logits = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
        >>> logits += 1.5 * torch.eye(4)[targets] + torch.tensor([0.6, 0, 0, -0.6])
        >>> rows = front(logits, targets, alphas=(0, 4))
        >>> [(row["alpha"], round(row["mean"], 2), round(row["lowest"], 2)) for row in rows]
        [(0.0, 0.69, 0.6), (4.0, 0.69, 0.67), (inf, 0.69, 0.69)]
    """
    alphas = sorted({0.0, *map(float, alphas)})
    if logits.ndim > 2:
        logits, targets, images = elements_of(logits, targets)
    z, y = check_holdout(logits, targets)
    fold = folds_of(y, images, folds, seed)
    warn_of_missing(y, z.shape[1])
    support, scale = torch.bincount(y, minlength=z.shape[1]), spread_of_logits(z)
    z, seen = z / scale, support > 0
    plain = float(recalls_of(z, y)[seen].mean())
    ladder = [Fairness(alpha, kappa, plain) for alpha in alphas]
    fitted = []
    for k in range(folds):
        LOGGER.info("front: %d of %d parts fitted", k, folds)
        fitted.append(_fit_all(z[fold != k], y[fold != k], ladder))
    fits = torch.stack([*fitted, _fit_all(z, y, ladder)])  # (folds + 1, α, C), the last of all
    parts = [(z[fold == k].float(), y[fold == k]) for k in range(folds)]
    truths = torch.cat([truth for _, truth in parts])

    def hits_at(offsets: Tensor) -> Tensor:
        """Cross-fitted hits `(N,)`, 0 or 1: part k decided with offsets[k]."""
        pairs = zip(parts, offsets.float(), strict=False)
        return torch.cat([(z + b).argmax(1) == y for (z, y), b in pairs]).double()

    def by_class(values: Tensor) -> Tensor:
        """Means `(C,)`, NaN for a class without examples."""
        return torch.bincount(truths, values, minlength=len(support)) / support

    def row(alpha: float, strength: float, offsets: Tensor) -> dict[str, Any]:
        recalls = by_class(hits_at(offsets))
        return {
            "alpha": alpha,
            **_figures(recalls[seen], support[seen], seed),
            "recalls": recalls,
            "strength": strength,
            "offset": centred(offsets[-1], seen) * scale,
        }

    base = torch.zeros_like(fits[:, 0])  # of each fold, and of the whole hold-out
    rows: list[dict[str, Any]] = []
    before, still = base, hits_at(base)
    for place, fairness in enumerate(ladder):
        strength, offsets = rows[-1]["strength"] if place > 1 else 0.0, before
        start, worth = fairness(by_class(still)[seen])
        best = float(fairness(by_class(hits_at(offsets))[seen])[0])
        for s in STRENGTHS:
            tried = base + s * (fits[:, place] - base)
            hits = hits_at(tried)
            value = float(fairness(by_class(hits)[seen])[0])
            noise = (by_class((hits - still) ** 2) - by_class(hits - still) ** 2) / support
            error = float((worth**2 * noise[seen]).sum().sqrt())
            if value > best and value > float(start) + SURE * error:
                best, strength, offsets = value, s, tried
        new = row(fairness.alpha, strength, offsets)
        if place == 0:
            base, still = offsets, hits_at(offsets)
        elif abs(rows[-1]["mean"] - new["mean"]) > STEP:  # show what lies between
            last = rows[-1]
            for share in SHARES:
                alpha, s = (last[k] + share * (new[k] - last[k]) for k in ("alpha", "strength"))
                rows.append(row(alpha, s, before + share * (offsets - before)))
        rows.append(new)
        before = offsets
    rows.append(row(float("inf"), 1.0, fits[:, -1]))
    for each in rows:
        each["price"] = rows[0]["mean"] - each["mean"]
    return rows


def strongest_below(rows: list[dict[str, Any]], max_price: float | None) -> dict[str, Any]:
    """The last row of a front before the first one whose price is above `max_price`.

    Rows of `front` or of `top_k_front`. `None` for no limit: the last row but the one of equal
    recalls.
    """
    fair = [row for row in rows if row.get("alpha") != float("inf")]
    if max_price is None:
        return fair[-1]
    chosen = fair[0]
    for row in fair:
        if row["price"] > max_price:
            break
        chosen = row
    return chosen


def _fit_all(z: Tensor, y: Tensor, ladder: list[Fairness]) -> Tensor:
    """`(α, C)` offsets for each α, each found from the one before; and those of equal recalls."""
    smooth, sharp = TEMPERATURES
    start = torch.zeros(z.shape[1], dtype=z.dtype)
    start = SoftRecalls(z, y).maximise(ladder[0], start, smooth)
    soft = SoftRecalls(z, y, near=start)
    offsets = [soft.maximise(ladder[0], start, sharp)]
    for fairness in ladder[1:]:
        offsets.append(soft.maximise(fairness, offsets[-1], sharp, steps=20))
    return torch.stack([*offsets, equalise(soft, z, y)])


def _figures(recalls: Tensor, support: Tensor, seed: int) -> dict[str, Any]:
    """Mean, sd and lowest recall, and the first and the last with intervals."""
    r, n = recalls.numpy(), support.numpy()
    drawn = np.random.default_rng(seed).binomial(n, (r * n + 0.5) / (n + 1), (1000, len(n))) / n
    intervals = {
        f"{name}_interval": tuple(np.percentile(values, (2.5, 97.5)).tolist())
        for name, values in (("mean", drawn.mean(1)), ("lowest", drawn.min(1)))
    }
    figures = {"mean": r.mean(), "sd": r.std(), "lowest": r.min()}
    return {name: float(value) for name, value in figures.items()} | intervals
