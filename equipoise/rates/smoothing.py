"""Recalls of small hold-outs: how far their spread is more than sampling noise."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["reliabilities", "smoothed_recalls"]


def reliabilities(hits: Tensor, support: Tensor, prior: float | None = None) -> Tensor:
    """How much of each recall's distance from their mean r̄ is more than sampling noise: [0, 1].

    `n_c / (n_c + k)`, the weight of class c's own examples under a Beta prior worth k examples.
    Without a given `prior`, k = r̄(1−r̄)/v − 1, where v is the variance of the true recalls: the
    estimate of DerSimonian and Laird (1986), which weighs each class by its support, so that a
    class of a single example says little about v. Where noise explains all of the spread, all are
    0; a class without examples always has 0.

    Args:
        hits: `(C,)` correctly predicted examples of each class.
        support: `(C,)` examples of each class.
        prior: k in examples, at least 0; `None` to estimate it.

    Returns:
        `(C,)` float64.

    Example:
        >>> reliabilities(torch.tensor([90, 60, 1]), torch.tensor([100, 100, 1])).tolist()
        [0.96..., 0.96..., 0.22...]
        >>> reliabilities(torch.tensor([5, 4]), torch.tensor([10, 10])).tolist()
        [0.0, 0.0]
    """
    hits, support = hits.double(), support.double()
    if prior is None:
        prior = _estimated_prior(hits, support)
    return torch.where(support > 0, support / (support + prior).clamp_min(1e-12), 0.0)


def smoothed_recalls(hits: Tensor, support: Tensor, prior: float | None = None) -> Tensor:
    """Recalls drawn towards their mean r̄ by what sampling noise explains.

    `r̄ + reliability_c · (r_c − r̄)`, see `reliabilities`: the posterior mean under a Beta prior. A
    loop fed with these recalls does not chase noise; where classes have thousands of examples
    hardly anything changes. A class without examples gets r̄.

    Args:
        hits: `(C,)` correctly predicted examples of each class.
        support: `(C,)` examples of each class.
        prior: its strength in examples, at least 0; `None` to estimate it.

    Returns:
        `(C,)` float64 in [0, 1].

    Example:
        >>> hits, support = torch.tensor([90, 0, 0]), torch.tensor([100, 1, 0])
        >>> smoothed_recalls(hits, support, prior=2).tolist()
        [0.8911..., 0.3, 0.45]
        >>> smoothed_recalls(torch.tensor([5, 4, 6]), torch.tensor([10, 10, 10])).tolist()
        [0.5, 0.5, 0.5]
    """
    seen = support > 0
    raw = hits.double() / support.clamp_min(1)
    mean = raw.sum() / seen.sum().clamp_min(1)
    return mean + reliabilities(hits, support, prior) * (raw - mean)


def _estimated_prior(hits: Tensor, support: Tensor) -> float:
    """k of `reliabilities`; infinite where noise explains all."""
    seen = support > 0
    n, recalls = support[seen], hits[seen] / support[seen]
    pooled = (n * recalls).sum() / n.sum().clamp_min(1)
    variance = pooled * (1 - pooled)  # of a single draw
    if len(n) < 2 or variance == 0:
        return torch.inf
    excess = (n * (recalls - pooled).square()).sum() - (len(n) - 1) * variance
    between = excess / (n.sum() - n.square().sum() / n.sum())
    return max(0.0, float(variance / between - 1)) if between > 0 else torch.inf
