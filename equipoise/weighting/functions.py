"""Class weights as pure functions of counts or recalls."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "class_difficulty",
    "effective_number",
    "inverse_frequency",
    "log_weight_of",
    "recall_power",
    "repeat_factor",
]


def inverse_frequency(counts: Any, exponent: float = 1.0) -> np.ndarray:
    """Weights n_c^(−exponent), scaled to mean 1. Exponent .5 is the square-root rule.

    Args:
        counts: `(C,)` examples of each class, each at least 1.
        exponent: 0 leaves the classes as they are, 1 balances them.

    Raises:
        ValueError: a class without examples, or counts that are not finite.

    Example:
        >>> inverse_frequency([300, 100]).tolist()
        [0.5, 1.5]
    """
    counts = _positive_counts(counts)
    return _mean_one(counts**-exponent)


def effective_number(counts: Any, beta: float = 0.999) -> np.ndarray:
    """Weights (1 − β) / (1 − β^n_c), scaled to sum to C.

    Cui et al. 2019, "Class-balanced loss based on effective number of samples", eq. 3.

    Args:
        counts: `(C,)` examples of each class, each at least 1.
        beta: in [0, 1): 0 gives equal weights, towards 1 inverse frequency.

    Example:
        >>> effective_number([300, 100], beta=0.99).round(4).tolist()
        [0.8, 1.2]
    """
    if not 0 <= beta < 1:
        raise ValueError(f"Expected beta to be in [0, 1), but got {beta}.")
    counts = _positive_counts(counts)
    if beta == 0:
        return np.ones_like(counts)
    # expm1 keeps the digits where β^n is next to 1
    return _mean_one(-1.0 / np.expm1(counts * np.log(beta)))


def repeat_factor(counts: Any, threshold: float | None = None, total: int | None = None) -> Any:
    """Repeats max(1, √(t / f_c)), f_c the share of examples that carry class c.

    Gupta et al. 2019, "LVIS", §4.2. Not scaled: a repeat of 1 means "as often as it comes".

    Args:
        counts: `(C,)` examples of each class, each at least 1.
        threshold: t; classes more frequent than this stay as they are. 1 / C by default.
        total: number of examples, the sum of the counts by default.

    Example:
        >>> repeat_factor([96, 4], threshold=0.16).tolist()
        [1.0, 2.0]
    """
    counts = _positive_counts(counts)
    threshold = 1 / len(counts) if threshold is None else threshold
    if not 0 < threshold <= 1:
        raise ValueError(f"Expected threshold to be in (0, 1], but got {threshold}.")
    return np.maximum(1.0, np.sqrt(threshold * (total or counts.sum()) / counts))


def recall_power(recalls: Any, gamma: float = 4.0) -> np.ndarray:
    """Weights (1 − (r_c − r̄) / r_c)^γ, which is (r̄ / r_c)^γ, r̄ the mean recall. Not scaled.

    The founding formula of this project. A recall of 0 is taken as 1 / 1000, so that the weight
    stays finite.

    Args:
        recalls: `(C,)` in [0, 1].
        gamma: 0 gives equal weights; 4 is the founding setting. (The founding text's printed
            weights, those of the example, are this formula's at γ = 2.)

    Example:
        >>> recalls = [0.9560878243512974, 0.7365384615384616, 0.7807933194154488]
        >>> recall_power(recalls, gamma=2).tolist()
        [0.743631046434835, 1.2530321887900169, 1.1150155156144919]
    """
    recalls = np.maximum(_rates(recalls), 1e-3)
    return (1 - (recalls - recalls.mean()) / recalls) ** gamma


def class_difficulty(recalls: Any, tau: float | str = "dynamic") -> np.ndarray:
    """Weights d_c^τ · C / Σ d^τ with d_c = 1 − r_c, the difficulty of class c.

    Sinha et al. 2020, "Class-wise difficulty-balanced loss", eqs. 2–4. The dynamic exponent is
    the paper's τ = sigmoid((1 − d_min) / (1 − d_max + .01)) of the bias. A class without errors
    would get weight 0 and never be learnt from again, so no difficulty is taken below 1 / 1000.

    Args:
        recalls: `(C,)` in [0, 1].
        tau: exponent, or "dynamic".

    Example:
        >>> class_difficulty([0.9, 0.7], tau=1.0).round(4).tolist()
        [0.5, 1.5]
        >>> class_difficulty([1.0, 1.0]).tolist()
        [1.0, 1.0]
    """
    difficulty = np.maximum(1 - _rates(recalls), 1e-3)
    if isinstance(tau, str):
        if tau != "dynamic":
            raise ValueError(f'Expected tau to be a number or "dynamic", but got {tau!r}.')
        tau = 1 / (1 + np.exp(-(1 - difficulty.min()) / (1 - difficulty.max() + 0.01)))
    return _mean_one(difficulty**tau)


def log_weight_of(weight: Any) -> np.ndarray:
    """λ of class weights: their logarithms, re-centred to mean zero.

    Example:
        >>> log_weight_of([1.0, 1.0]).tolist()
        [0.0, 0.0]
    """
    log_weight = np.log(np.asarray(weight, np.float64))
    return log_weight - log_weight.mean()


def _mean_one(weight: np.ndarray) -> np.ndarray:
    return weight * (len(weight) / weight.sum())


def _positive_counts(counts: Any) -> np.ndarray:
    values = np.asarray(counts, np.float64)
    if values.ndim != 1 or not len(values) or not ((values > 0) & np.isfinite(values)).all():
        raise ValueError(
            f"Expected counts to be (C,) numbers above 0, one a class, but got {counts!r}."
        )
    return values


def _rates(recalls: Any) -> np.ndarray:
    values = np.asarray(recalls, np.float64)
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"Expected recalls to be (C,) numbers in [0, 1], but got {recalls!r}.")
    return values
