"""Recalls of small hold-outs: how far their spread is more than sampling noise."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["share_beyond_noise", "smoothed_recalls"]


def smoothed_recalls(hits: Tensor, support: Tensor, prior: float | None = None) -> Tensor:
    """Recalls drawn towards their mean r̄, as far as sampling noise could have spread them.

    `(hits_c + k · r̄) / (support_c + k)`: the posterior mean under a Beta prior worth k examples.
    Without a given `prior`, k is estimated from the recalls (empirical Bayes, by moments): their
    variance beyond the binomial noise, v = var(r) − mean(r(1−r)/n), gives k = r̄(1−r̄)/v − 1. Where
    noise explains all of the spread, every class gets r̄, so that a loop fed with these recalls
    does not chase noise; where classes have thousands of examples, hardly anything changes. A
    class without examples gets r̄.

    Args:
        hits: `(C,)` correctly predicted examples of each class.
        support: `(C,)` examples of each class.
        prior: k in examples, at least 0; `None` to estimate it.

    Returns:
        `(C,)` float64 in [0, 1].

    Example:
        >>> hits, support = torch.tensor([90, 0, 0]), torch.tensor([100, 1, 0])
        >>> smoothed_recalls(hits, support, prior=2).tolist()
        [0.8911..., 0.3, 0.45]
        >>> smoothed_recalls(torch.tensor([5, 4, 6]), torch.tensor([10, 10, 10])).tolist()
        [0.5, 0.5, 0.5]
    """
    hits, support = hits.double(), support.double()
    seen = support > 0
    raw = hits / support.clamp_min(1)
    mean = raw.sum() / seen.sum().clamp_min(1)
    if prior is None:
        beyond, _ = _beyond_noise(raw[seen], support[seen])
        if beyond <= 0:
            return torch.full_like(raw, float(mean))
        prior = max(0.0, float(mean * (1 - mean) / beyond - 1))
    weight = torch.where(seen, support / (support + prior).clamp_min(1e-12), 0.0)
    return mean + weight * (raw - mean)


def share_beyond_noise(hits: Tensor, support: Tensor) -> float:
    """Which share of the variance of recalls is more than binomial noise: in [0, 1].

    Example:
        >>> share_beyond_noise(torch.tensor([90, 60]), torch.tensor([100, 100]))
        0.9583...
        >>> share_beyond_noise(torch.tensor([5, 4]), torch.tensor([10, 10]))
        0.0
    """
    seen = support > 0
    recalls = hits[seen].double() / support[seen]
    beyond, spread = _beyond_noise(recalls, support[seen].double())
    return max(0.0, float(beyond / spread)) if spread > 0 else 0.0


def _beyond_noise(recalls: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
    """Variance of the recalls less that of binomial draws of equal truth, and that variance."""
    mean = recalls.mean()
    noise = (mean * (1 - mean) / support).mean()
    spread = (recalls - mean).square().sum() / max(len(recalls) - 1, 1)
    return spread - noise, spread
