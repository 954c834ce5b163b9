"""ClassRates: streaming recall and precision of each class, on the logits' own device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["ClassRates", "share_beyond_noise", "smoothed_recalls"]


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


class ClassRates:
    """Counts of hits, examples and predictions of each class, fed batch by batch.

    `update` stays on the logits' device and never waits for it. Examples whose logits hold a NaN,
    or whose target is no class id, are left out of every rate and counted in `num_nan` and
    `num_invalid`.

    Args:
        num_classes: C.

    Example:
        >>> rates = ClassRates(2)
        >>> rates.update(torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1, 1]))
        >>> rates.recalls().tolist()
        [1.0, 0.5]
    """

    ROWS = ("hits", "support", "predicted")

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._counts = torch.zeros(3, num_classes, dtype=torch.int64)
        self._ignored = torch.zeros(2, dtype=torch.int64)

    @torch.no_grad()
    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch: logits `(B, C)` of any floating dtype, targets `(B,)` class ids."""
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"Expected logits to have shape (B, {self.num_classes}), "
                f"but got {tuple(logits.shape)}."
            )
        if targets.shape != logits.shape[:1] or targets.dtype.is_floating_point:
            raise ValueError(
                f"Expected targets to be {len(logits)} class ids, "
                f"but got {targets.dtype} of shape {tuple(targets.shape)}."
            )
        targets = targets.to(logits.device).long()
        nan = torch.isnan(logits).any(1)
        invalid = (targets < 0) | (targets >= self.num_classes)
        used = ~(nan | invalid)
        targets = targets.clamp(0, self.num_classes - 1)
        predicted = logits.argmax(1)
        counts = torch.zeros(3, self.num_classes, dtype=torch.int64, device=logits.device)
        counts[0].scatter_add_(0, targets, (used & (predicted == targets)).long())
        counts[1].scatter_add_(0, targets, used.long())
        counts[2].scatter_add_(0, predicted, used.long())
        if self._counts.device != logits.device:
            self._counts = self._counts.to(logits.device)
            self._ignored = self._ignored.to(logits.device)
        self._counts += counts
        self._ignored += torch.stack([nan.sum(), (invalid & ~nan).sum()])

    def recalls(self, prior: float | None = 0.0) -> Tensor:
        """`(C,)` float64 recalls (true-positive rates) on the CPU, raw unless `prior` says otherwise.

        See `smoothed_recalls` for `prior`; `None` estimates it.
        """
        hits, support, _ = self._counts.cpu()
        return smoothed_recalls(hits, support, prior)

    def precisions(self) -> Tensor:
        """`(C,)` float64 hits over predictions on the CPU, 0 for a class never predicted."""
        hits, _, predicted = self._counts.cpu().double()
        return hits / predicted.clamp_min(1)

    @property
    def support(self) -> Tensor:
        """`(C,)` int64 examples of each class seen since the last reset."""
        return self._counts[1].cpu()

    @property
    def num_nan(self) -> int:
        """Examples left out because a logit was NaN."""
        return int(self._ignored[0])

    @property
    def num_invalid(self) -> int:
        """Examples left out because their target was no class id."""
        return int(self._ignored[1])

    def reset(self) -> None:
        """Forget everything counted."""
        self._counts.zero_()
        self._ignored.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self._counts.cpu().clone(), "ignored": self._ignored.cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["counts"].shape != self._counts.shape:
            raise ValueError(
                f"Expected state of {self.num_classes} classes, "
                f"but got {state['counts'].shape[1]}."
            )
        self._counts, self._ignored = state["counts"].clone(), state["ignored"].clone()
