"""Fitting a decision on a hold-out, by the name of its objective."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from equipoise.decision.decisions import ClassDecision, LabelDecision
from equipoise.decision.elements import ElementSample
from equipoise.decision.equal_recall import equal_recall_offset, price_of_equality
from equipoise.decision.fair import fair_offset
from equipoise.decision.front import ALPHAS, front, strongest_below
from equipoise.decision.iou import iou_offset
from equipoise.decision.soft_recalls import check_holdout, recalls_of, warn_of_missing
from equipoise.decision.thresholds import label_thresholds
from equipoise.decision.top_k import log_worth, top_k_front

__all__ = ["fit_class_decision", "fit_label_decision"]

SLOW = 50_000  # elements that "fair" and "equal-recall" look at, which take time


def fit_class_decision(
    logits: Tensor,
    targets: Tensor,
    objective: str | None = None,
    *,
    max_price: float | None = 0.01,
    alpha: float | None = None,
    kappa: float = 20.0,
    start: Tensor | None = None,
    leave_out: np.ndarray | None = None,
    listed: Callable[[list[int]], str] = str,
    images: Tensor | None = None,
    ignore_index: int = -100,
    prior: np.ndarray | None = None,
) -> ClassDecision:
    """The decision for class ids that reaches an objective on a hold-out.

    * `"fair"` (by default): low recalls raised, at a price of at most `max_price`. Of the points
      of `front` it is the strongest whose cross-fitted price, and that of all weaker ones, is at
      most that. `alpha` fixes the point instead, and `max_price=None` removes the limit.
    * `"equal-recall"`: the same recall for every class at any price (`equal_recall_offset`). A
      `UserWarning` says the price where it is above .02, and which classes it is paid for.
    * `"iou"`: a higher mean IoU, where that holds on other images (`iou_offset`).
    * `"accuracy"`: no offsets, for logits that are corrected for sampling and loss.

    Args:
        logits: `(N, C)` of a hold-out that the network was not trained on, or `(N, C, d1, …)`, of
            whose elements a random sample is looked at: 100,000, or 50,000 but for "iou".
        targets: class ids, `(N,)` or `(N, d1, …)`.
        objective: see above.
        max_price: in mean recall, of "fair" only.
        alpha: α ≥ 0 of "fair", see `fair_offset`.
        kappa: κ ≥ 1 of "fair".
        start: `(C,)` offsets that "fair" begins with in place of none, if they give the higher mean
            recall on the hold-out; for instance those that remove the λ of the training. Offsets
            fitted on few examples stay near where they begin.
        leave_out: `(C,)` bool, classes whose hold-out examples are not to be trusted: nothing is
            fitted on them, and their offset is 0 (the others' mean), or that of `start`.
        listed: how classes are named in warnings.
        images: `(N,)` the image that each row of `(N, C)` logits is of, see `ElementSample`.
        ignore_index: the class id that is left out of dense targets.
        prior: `(C,)` how often classes come where it counts, for "iou": see `iou_offset`.

    Raises:
        ValueError: an unknown objective, a negative `max_price`, or as for `fair_offset`.

    Example:
        >>> targets = torch.arange(2000) % 2
        >>> logits = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
        >>> logits += 2 * torch.eye(2)[targets] + torch.tensor([1.0, 0.0])
        >>> decision = fit_class_decision(logits, targets)
        >>> decision.price < 0.01, decision.values.round(decimals=1).tolist()
        (True, [-0.5, 0.5])
    """
    logits, targets = torch.as_tensor(logits), torch.as_tensor(targets)
    if logits.ndim > 2:
        sample = ElementSample(ignore_index=ignore_index)
        sample.add(logits, targets)
        logits, targets, images = sample.logits, sample.targets, sample.images
    if images is not None and objective != "iou":  # in random order, so the first will do
        logits, targets, images = logits[:SLOW], targets[:SLOW], images[:SLOW]
    if objective != "accuracy":
        warn_of_missing(check_holdout(logits, targets)[1], logits.shape[1], listed)
    if leave_out is not None and leave_out.any() and not leave_out.all():
        trusted = torch.from_numpy(~leave_out)[targets.cpu().long()]
        logits, targets = logits.cpu()[trusted], targets.cpu()[trusted]
        images = None if images is None else images.cpu()[trusted]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Classes without an example")  # named just now
        if objective in (None, "fair"):
            return _fair(logits, targets, max_price, alpha, kappa, images, start)
        if objective == "iou":
            offset, gain = iou_offset(logits, targets, images=images, prior=prior)
            return ClassDecision("iou", offset, gain=gain)
        if objective == "equal-recall":
            return _equal_recall(logits, targets, listed)
        if objective == "accuracy":
            zeros = torch.zeros(logits.shape[1], dtype=torch.float64)
            return ClassDecision("accuracy", zeros, corrected=True)
    raise ValueError(
        'Expected objective to be "fair", "equal-recall", "iou" or "accuracy" for class ids, '
        f"but got {objective!r}."
    )


def fit_label_decision(
    logits: Tensor,
    targets: Tensor,
    objective: str | None = None,
    *,
    at_least: float | None = None,
    k: int | None = None,
    max_price: float | None = 0.01,
    unknown: float | None = None,
) -> LabelDecision:
    """The decision for labels that reaches an objective on a hold-out.

    * The objectives of `label_thresholds`: a cut for each label.
    * `"top-k"`: exactly `k` labels an example, those of `top_k`. As its exchange rate rises, so
      does the macro recall at k, and at some point the precision at k falls: the rate is the
      highest whose price in precision, and that of all lower ones, is at most `max_price`.

    Args:
        logits: `(N, C)`, corrected for sampling and loss; a tensor or an array.
        targets: `(N, C)` of 0 and 1.
        objective: "prevalence" by default.
        at_least: of "recall" and "precision".
        k: of "top-k".
        max_price: of "top-k", in precision at k; `None` for no limit, which is the rate ∞.
        unknown: the value of entries that are unknown; for "top-k" they count as not positive.

    Raises:
        ValueError: as for `label_thresholds`; `k` missing, out of range or not asked for.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> shares = torch.tensor([0.6, 0.3, 0.02])
        >>> targets = torch.rand(4000, 3, generator=generator) < shares
        >>> logits = torch.randn(4000, 3, generator=generator) + 2 * targets + shares.logit() - 1
        >>> decision = fit_label_decision(logits, targets, "top-k", k=1, max_price=0.05)
        >>> decision.top(logits).shape, decision.rate > 0
        (torch.Size([4000, 1]), True)
    """
    if (k is None) != (objective != "top-k"):
        raise ValueError(
            f'Expected k for objective="top-k", and only there, but got k={k} for {objective!r}.'
        )
    objective = objective or "prevalence"
    logits, targets = torch.as_tensor(logits), torch.as_tensor(targets)
    if k is not None:
        _require_price(max_price)
        prior, rows = top_k_front(logits, targets, k)
        rate = strongest_below(rows, max_price)["rate"]
        return LabelDecision("top-k", log_worth(prior, k, rate), True, k, rate, rows)
    cuts = label_thresholds(logits, targets, objective, at_least=at_least, unknown=unknown)
    return LabelDecision(objective, cuts)


def _require_price(max_price: float | None) -> None:
    if max_price is not None and not max_price >= 0:
        raise ValueError(f"Expected max_price to be at least 0 or None, but got {max_price}.")


def _fair(
    logits: Tensor,
    targets: Tensor,
    max_price: float | None,
    alpha: float | None,
    kappa: float,
    images: Tensor | None,
    start: Tensor | None,
) -> ClassDecision:
    _require_price(max_price)
    alphas = ALPHAS if alpha is None else (*ALPHAS, alpha)
    begin = _better_start(logits, targets, start)
    z = logits.detach().cpu()
    z = z + begin.to(torch.promote_types(z.dtype, torch.float32))
    rows = front(z, targets, alphas, kappa, images=images)
    for row in rows:
        row["offset"] = row["offset"] + begin
    chosen = strongest_below(rows, max_price)
    if alpha is not None:
        chosen = next(row for row in rows if row["alpha"] == alpha)
    support = torch.bincount(targets.cpu().long(), minlength=logits.shape[1])
    usual = int(support[support > 0].median())
    if chosen["alpha"] > 0 and chosen["strength"] < 0.5 and usual < 50:
        warnings.warn(
            f"The hold-out has {usual} examples of a class (median), too few to tell that raising "
            "low recalls beyond the best mean would hold on other data: these offsets are at "
            f"{chosen['strength']:.0%} of their strength. More held-out examples move them on.",
            stacklevel=4,
        )
    price, equality = chosen["price"], price_of_equality(logits, targets)
    return ClassDecision(
        "fair", chosen["offset"], False, chosen["alpha"], price, equality, front=rows
    )


def _better_start(logits: Tensor, targets: Tensor, start: Tensor | None) -> Tensor:
    """`start`, if its mean recall is higher than that of the logits as they are; else zeros."""
    none = torch.zeros(logits.shape[1], dtype=torch.float64)
    if start is None:
        return none
    start = start.detach().cpu().double()
    start = start - start.mean()
    without, with_it = (_recalls(logits, targets, b).nanmean() for b in (none, start))
    return start if with_it > without else none


def _equal_recall(
    logits: Tensor, targets: Tensor, listed: Callable[[list[int]], str]
) -> ClassDecision:
    offset, best = equal_recall_offset(logits, targets), fair_offset(logits, targets, alpha=0.0)
    before, after, mean = (
        _recalls(logits, targets, b) for b in (torch.zeros_like(offset), offset, best)
    )
    price = max(float(before.nanmean()), float(mean.nanmean())) - float(after.nanmean())
    if price > 0.02:
        gain = (after - before).nan_to_num(-1.0)
        raised = [c for c in gain.argsort(descending=True)[:3].tolist() if gain[c] > 0]
        paid = f", paid for the classes {listed(raised)}" if raised else ""
        warnings.warn(
            f"Equal recalls cost {price:.3f} of mean recall on the hold-out{paid}. "
            'objective="fair" raises low recalls at a price of at most .01.',
            stacklevel=4,
        )
    return ClassDecision("equal-recall", offset, price=price)


def _recalls(logits: Tensor, targets: Tensor, offset: Tensor) -> Tensor:
    return recalls_of(logits.detach().cpu() + offset, targets.cpu().long())
