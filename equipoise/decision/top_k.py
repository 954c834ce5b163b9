"""The k best labels of an example, where rare ones may count for more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from equipoise.decision.calibration import calibrate_labels

__all__ = ["log_worth", "top_k", "top_k_front"]

RATES = (0.0, *(2 ** (i / 2) for i in range(-6, 13)), torch.inf)
PRIOR = 20.0  # positives that calibrated probabilities count for, as in `label_thresholds`


def top_k(logits: Tensor, k: int, prior: Tensor | None = None, rate: float = torch.inf) -> Tensor:
    """`(N, k)` label ids, the best first, where macro recall is worth `rate` times precision.

    Those with the largest η_c (1 + rate · k / (C π_c)), of probabilities η = σ(z) and shares π.
    They have the highest expected value of (precision at k) + rate · (macro recall at k), because
    a hit of label c raises the first by 1 / (N k), and the second by 1 / (C N π_c). A rate of 0
    gives the k most probable, ∞ the k largest η / π. Source of macro measures under a budget of k:
    Schultheis et al. (2023), "Generalized test utilities for long-tail performance in extreme
    multi-label classification".

    Args:
        logits: `(N, C)`, best corrected for sampling and loss.
        k: from 1 to C.
        prior: `(C,)` π, frequencies above 0; `None` for the k most probable.
        rate: the exchange rate, at least 0.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0, -1.0]])
        >>> prior = torch.tensor([0.5, 0.3, 0.01])
        >>> top_k(logits, 2), top_k(logits, 2, prior)
        (tensor([[0, 1]]), tensor([[2, 1]]))
    """
    z = torch.as_tensor(logits)
    if z.ndim != 2 or not isinstance(k, int) or not 1 <= k <= z.shape[1]:
        raise ValueError(
            f"Expected logits (N, C) and k from 1 to C, but got {tuple(z.shape)} and {k!r}."
        )
    worth = logsigmoid(z.float())
    if prior is not None:
        prior = torch.as_tensor(prior, dtype=torch.float32)
        if prior.shape != z.shape[1:] or not bool((prior > 0).all()) or not rate >= 0:
            raise ValueError(
                f"Expected prior to be {z.shape[1]} frequencies above 0, and rate at least 0, but "
                f"got shape {tuple(prior.shape)}, lowest {float(prior.min()):g}, and rate {rate}."
            )
        worth = worth + log_worth(prior, k, rate).to(z.device)
    return worth.topk(k, 1).indices


def log_worth(prior: Tensor, k: int, rate: float) -> Tensor:
    """`(C,)` what is added to log η: log(1 + rate · k / (C π)), or −log π where rate = ∞."""
    if rate == torch.inf:
        return -prior.log()
    return torch.log1p(rate * k / (len(prior) * prior))


def top_k_front(logits: Tensor, targets: Tensor, k: int) -> tuple[Tensor, list[dict[str, Any]]]:
    """π from a hold-out, and what each exchange rate reaches there.

    π_c is the share of positives, drawn towards the mean calibrated probability where there are
    few (`label_thresholds`).

    Args:
        logits: `(N, C)` of a hold-out that the network was not trained on.
        targets: `(N, C)` of 0 and 1.
        k: labels an example.

    Returns:
        `(C,)` float32 priors, and for each rate from 0 to ∞ a dict with `rate`; `precision` at k;
        `macro_recall` at k, over the labels with positives; `price`, how much lower the precision
        is than at rate 0.
    """
    z, y = torch.as_tensor(logits).cpu().float(), torch.as_tensor(targets).cpu() == 1
    positives = y.sum(0)
    weight = positives / (positives + PRIOR)
    expected = calibrate_labels(z, y)(z).mean(0)
    prior = (weight * positives / len(z) + (1 - weight) * expected).clamp_min(1e-9)
    rows: list[dict[str, Any]] = []
    for rate in RATES:
        chosen = top_k(z, k, prior, rate)
        hit = y.gather(1, chosen)
        hits = torch.zeros(z.shape[1]).index_add_(0, chosen.flatten(), hit.flatten().float())
        precision = float(hit.double().mean())
        row = {"rate": rate, "precision": precision}
        row["macro_recall"] = float((hits / positives)[positives > 0].mean())
        row["price"] = rows[0]["precision"] - precision if rows else 0.0
        rows.append(row)
    return prior, rows
