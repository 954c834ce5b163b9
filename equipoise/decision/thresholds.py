"""Thresholds of labels: fitted on a hold-out, or to a known prevalence from scores alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from equipoise.decision.calibration import LabelCalibration, calibrate_labels

__all__ = ["OBJECTIVES", "label_thresholds", "thresholds_at_prevalence"]

OBJECTIVES = ("prevalence", "f1", "recall", "precision", "equal-recall")
_AT_A_TIME = 1 << 22  # elements sorted at once
_LEVELS = 201  # of recall, at which "equal-recall" looks


def label_thresholds(
    logits: Tensor,
    targets: Tensor,
    objective: str = "prevalence",
    *,
    at_least: float | None = None,
    prior: float = 20.0,
    unknown: float | None = None,
) -> Tensor:
    """`(C,)` thresholds: label c is predicted where its logit is above them.

    * `"prevalence"`: as many predicted as true positives, for every label;
    * `"f1"`: the highest F1 of every label;
    * `"recall"`: the fewest predictions with a recall of `at_least`;
    * `"precision"`: the most predictions with a precision of `at_least`; +∞, so none at all, for
      a label that does not reach it anywhere;
    * `"equal-recall"`: one and the same recall for every label, such that over all labels there
      are as many predictions as true positives.

    Each is computed on a label's examples in the order of their scores, with targets
    ỹ = w y + (1 − w) p: p are calibrated probabilities (`calibrate_labels`), w = n / (n + `prior`)
    for n positives. So a label with many positives gets the threshold its hold-out shows; one with
    few gets what calibrated probabilities expect, which for F1 is the rule to predict above half
    of the F1 that can be reached (Lipton et al. 2014, "Optimal thresholding of classifiers to
    maximize F1 measure"). Sums over the hold-out, not draws: nothing is random. No threshold falls
    among equal scores: only cuts that exist are looked at. 20,000 × 7,900 take 3 to 6 s of one
    core, without a sign of progress.

    Args:
        logits: `(N, C)` of a hold-out the network was not trained on, any floating dtype; best
            corrected for sampling and loss. Shifting a label's logits shifts its threshold.
        targets: `(N, C)` of 0 and 1, dense or sparse.
        objective: see above.
        at_least: in (0, 1), of "recall" and "precision" only. It holds on the hold-out (of ỹ),
            on other data on average.
        prior: how many positives the calibrated probabilities count for; 0 to use the targets
            alone.
        unknown: a value (−1 or NaN, say) that marks entries of which nobody knows whether they
            hold. They count with their calibrated probability.

    Returns:
        `(C,)` float32 on the CPU.

    Raises:
        ValueError: shapes that do not match, logits that are not finite, targets other than 0/1,
            an unknown objective, `at_least` missing, out of range or not asked for.

    Example:
        >>> logits = torch.linspace(-3, 1, 200)[:, None] + torch.tensor([[0.0, 1.0]])
        >>> targets = logits > torch.tensor([[0.0, -1.0]])
        >>> cut = label_thresholds(logits, targets)
        >>> (logits > cut).sum(0).tolist(), targets.sum(0).tolist()
        ([50, 150], [50, 150])
    """
    known = None
    if unknown is not None:
        targets = targets.to_dense() if targets.layout != torch.strided else targets
        known = ~(torch.isnan(targets) if unknown != unknown else targets == unknown).cpu()
        targets = torch.where(known, targets.cpu(), 0)
    z, y = _checked(logits, targets)
    _check_objective(objective, at_least)
    calibration = calibrate_labels(z, y, known)
    parts = []
    for first in range(0, z.shape[1], step := max(1, _AT_A_TIME // len(z))):
        part = slice(first, first + step)
        own = LabelCalibration(calibration.slope, calibration.intercept[part, None])
        scores, truth = (x[:, part].T.contiguous() for x in (z, y))
        n = truth.sum(1, keepdim=True).double()
        weight = n / (n + prior) if prior > 0 else torch.ones_like(n)
        if known is not None:
            truth = torch.where(known[:, part].T, truth, own(scores))
        if objective == "prevalence":
            parts.append(_at_prevalence(scores, truth, own, weight))
        else:
            scores, truth = _by_score(scores, truth, own, weight)
            parts.append(_thresholds(scores, truth, objective, at_least or 0.0))
    if objective != "equal-recall":
        return torch.cat([cut for cut, _ in parts])[:, 0].float()
    cuts, counts = (torch.cat(columns) for columns in zip(*parts, strict=True))
    total = float(y.sum() if known is None else calibration(z)[~known].sum() + y.sum())
    return _at_equal_recall(cuts, counts, total).float()


def _at_prevalence(
    z: Tensor, y: Tensor, own: LabelCalibration, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Thresholds `(C, 1)` with Σ ỹ examples above them, and that sum: no need for ỹ by score."""
    count = weight * y.sum(1, keepdim=True).double() + (1 - weight) * own(z).sum(
        1, keepdim=True, dtype=torch.float64
    )
    scores = torch.from_numpy(np.sort(z.numpy(), axis=1)).flip(1)
    count = _between_ties(scores, count)
    return _score_at(scores, count), count


def _by_score(z: Tensor, y: Tensor, own: LabelCalibration, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of labels `(C, N)` in descending order, and Σ ỹ of the first 1 … N examples."""
    order = _descending(z)
    scores, y = z.gather(1, order), y.gather(1, order)
    expected = own(scores).double().mul_(1 - weight)
    return scores, expected.add_(y * weight).cumsum_(1)


def _descending(z: Tensor) -> Tensor:
    """`z.argsort(1, descending=True, stable=True)` of float32, in a tenth of its time.

    NumPy sorts whole numbers with vector instructions, torch pairs one by one. So the order of a
    float's bits, which is that of the floats once those of negative ones are turned round, goes
    above the position in one number. 0.0 is added to make −0 a 0.
    """
    bits = (z + 0.0).view(torch.int32)
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = ((~rising).long() << 32) | torch.arange(z.shape[1])
    keys.numpy().sort(axis=1)
    return keys & 0xFFFFFFFF


def _thresholds(
    scores: Tensor, truth: Tensor, objective: str, at_least: float
) -> tuple[Tensor, Tensor]:
    """Thresholds `(C, K)`, and how many examples lie above them; K = 1 but for "equal-recall"."""
    total = truth[:, -1:].contiguous()
    ranks = torch.arange(1, scores.shape[1] + 1, dtype=torch.float64)
    exists = torch.ones_like(scores, dtype=torch.bool)  # whether a cut after each score does
    exists[:, :-1] = scores[:, :-1] > scores[:, 1:]
    if objective == "f1":
        reached_f1 = torch.where(exists, truth / (ranks + total), -1.0)
        count = 1 + reached_f1.argmax(1, keepdim=True).double()
    elif objective == "precision":
        reached = (truth >= at_least * ranks) & exists
        count = (reached * ranks).amax(1, keepdim=True)
        cut = _score_at(scores, count)
        return torch.where(count > 0, cut, torch.inf), count
    else:
        wanted = torch.linspace(0, 1, _LEVELS) if objective == "equal-recall" else [at_least]
        levels = torch.as_tensor(wanted, dtype=torch.float64)
        below = torch.searchsorted(truth, levels * total * (1 - 1e-12))
        count = 1 + below.clamp_max(scores.shape[1] - 1).double()
        after_ties = torch.where(exists, ranks, torch.inf).flip(1).cummin(1).values.flip(1)
        count = after_ties.gather(1, count.long() - 1)
        count = torch.where(total > 0, count, 0.0) * (levels > 0)
    return _score_at(scores, count), count


def _between_ties(scores: Tensor, count: Tensor) -> Tensor:
    """`count` `(C, 1)`, moved to the nearest cut that exists where it falls among equal scores."""
    last = scores.shape[1] - 1
    low = (count.ceil().long() - 1).clamp(0, last)  # the last score taken
    value = scores.gather(1, low)
    following = scores.gather(1, (low + 1).clamp_max(last))
    before_it = scores.gather(1, (low - 1).clamp_min(0))
    split = (value == following) & (low < last)
    split |= (value == before_it) & (low > 0) & (count % 1 != 0)
    tied = split[:, 0]
    if not tied.any():
        return count
    rows, value, wanted = scores[tied], value[tied], count[tied]
    before, through = (tail.sum(1, keepdim=True).double() for tail in (rows > value, rows >= value))
    count = count.clone()
    count[tied] = torch.where(wanted - before < through - wanted, before, through)
    return count


def _score_at(scores: Tensor, count: Tensor) -> Tensor:
    """The threshold with `count` of the descending scores above it.

    Halfway between neighbours for whole numbers, linear in between. Below half an example it lies
    above the highest score by a nat for each factor of e; at all N, one below the lowest.
    """
    n = scores.shape[1]
    place = (count - 0.5).clamp(0, n - 1)
    low = place.floor().long()
    high = (low + 1).clamp_max(n - 1)
    near, far = scores.gather(1, low).double(), scores.gather(1, high).double()
    between = torch.lerp(near, far, place - low)
    rounds_up = (between.float() >= near.float()) & (place > low)  # float32 has nothing in between
    between = torch.where(rounds_up, far, between)
    above = (0.5 / count.clamp(1e-9, 0.5)).log()
    below = 2 * (count - (n - 0.5)).clamp_min(0)
    return between + above - below


def _at_equal_recall(cuts: Tensor, counts: Tensor, positives: float) -> Tensor:
    """Thresholds `(C,)` at the recall where all labels' counts add up to `positives`."""
    sums = counts.sum(0).contiguous()
    high = int(torch.searchsorted(sums, positives).clamp(1, len(sums) - 1))
    step = (sums[high] - sums[high - 1]).clamp_min(1e-12)
    share = ((positives - sums[high - 1]) / step).clamp(0, 1)
    return torch.lerp(cuts[:, high - 1], cuts[:, high], share)


def _checked(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if logits.ndim != 2 or targets.shape != logits.shape:
        raise ValueError(
            "Expected logits (N, C) and targets (N, C) of 0 and 1, "
            f"but got {tuple(logits.shape)} and {tuple(targets.shape)}."
        )
    if not logits.numel():
        raise ValueError(f"Expected logits of at least one example, but got {tuple(logits.shape)}.")
    z = logits.detach().cpu().float()
    if not torch.isfinite(torch.stack(z.aminmax())).all():
        rows = int((~torch.isfinite(z).all(1)).sum())
        raise ValueError(f"Expected logits to be finite, but got {rows} rows that are not.")
    values = targets.detach().cpu()
    if values.layout != torch.strided:
        sparse = values.to_sparse_coo().coalesce()
        at, values = sparse.indices(), sparse.values()
    y = values == 1
    if torch.count_nonzero(values) != torch.count_nonzero(y):
        wrong = values[(values != 0) & ~y]
        raise ValueError(
            f"Expected targets to be 0 or 1, but got {wrong[0].item()} ({len(wrong)} of them)."
        )
    if targets.layout != torch.strided:
        y = torch.zeros(z.shape, dtype=torch.bool).index_put_(tuple(at), y)
    return z, y


def _check_objective(objective: str, at_least: float | None) -> None:
    if objective not in OBJECTIVES:
        raise ValueError(
            f"Expected objective to be one of {', '.join(map(repr, OBJECTIVES))}, "
            f"but got {objective!r}."
        )
    if objective in ("recall", "precision"):
        if at_least is None or not 0 < at_least < 1:
            raise ValueError(
                f"Expected at_least to be the {objective} to reach, in (0, 1), but got {at_least}."
            )
    elif at_least is not None:
        raise ValueError(
            f'Expected at_least for objective="recall" or "precision" only, but got {at_least} '
            f"for {objective!r}."
        )


def thresholds_at_prevalence(logits: Tensor, prevalence: Tensor) -> Tensor:
    """`(C,)` thresholds with ⌊prevalence · N + ½⌋ of each label's logits above them.

    No targets are looked at: the logits are those to be decided on, the prevalence is known from
    elsewhere, for instance from training. Use it where examples come in large batches and labels
    are as frequent there as they were in training, but scores may have drifted since the hold-out;
    where frequencies may change, use `label_thresholds`. The threshold lies halfway between
    neighbouring logits; equal logits fall on one side together.

    Args:
        logits: `(N, C)`, finite, any floating dtype; corrected or not, the predictions are the
            same.
        prevalence: `(C,)` shares of positives, in [0, 1].

    Returns:
        `(C,)` float32 on the CPU; +∞ for a label of which none is to be predicted, −∞ for all.

    Raises:
        ValueError: shapes that do not match, logits that are not finite, shares outside [0, 1].

    Example:
        >>> logits = torch.linspace(-3, 1, 200)[:, None] + torch.tensor([[0.0, 1.0]])
        >>> cut = thresholds_at_prevalence(logits, torch.tensor([0.1, 0.25]))
        >>> (logits > cut).sum(0).tolist()
        [20, 50]
    """
    z, share = logits.detach().cpu().float(), torch.as_tensor(prevalence).cpu().double()
    if z.ndim != 2 or not len(z) or share.shape != z.shape[1:]:
        raise ValueError(
            "Expected logits to be (N, C) with N above 0 and prevalence (C,), "
            f"but got {tuple(z.shape)} and {tuple(share.shape)}."
        )
    if not torch.isfinite(z).all():
        raise ValueError(f"Expected logits to be finite, but got {z[~torch.isfinite(z)][0]}.")
    if not ((share >= 0) & (share <= 1)).all():
        wrong = share[~((share >= 0) & (share <= 1))][0]
        raise ValueError(f"Expected prevalence to be shares in [0, 1], but got {wrong}.")
    count = (share * len(z) + 0.5).floor().long()
    cuts = []
    for first in range(0, z.shape[1], step := max(1, _AT_A_TIME // len(z))):
        part = slice(first, first + step)
        descending = z[:, part].sort(0, descending=True).values
        ends = torch.full((1, descending.shape[1]), torch.inf)
        bordered = torch.cat([ends, descending, -ends])
        above, below = (bordered.gather(0, count[part][None] + i)[0] for i in (0, 1))
        cuts.append((above + below) / 2)
    return torch.cat(cuts)
