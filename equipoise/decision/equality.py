"""What equal recalls would cost: the least favourable prior of the hold-out's own probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equipoise.decision.soft_recalls import check_holdout, spread_of_logits

__all__ = ["price_of_equality"]

SHARP = 50.0  # exponent of the p-norm that stands in for a maximum


def price_of_equality(logits: Tensor, targets: Tensor) -> float:
    """How much mean recall the best decision with equal recalls would cost, predicted.

    With p(x | c) the density of class c, deciding for arg max_c w_c · p(x | c) has the mean recall

        V(w) = Σ_x max_c w_c · p(x | c)    (w ≥ 0, Σ w = 1).

    V at uniform w is the highest mean recall there is; its minimum over w, the least favourable
    prior, is the highest recall that all classes can have at once (minimax theorem; Ferguson 1967,
    "Mathematical Statistics", ch. 2). The answer is the difference of the two. The densities are
    the network's: logits are calibrated by a temperature and an offset of each class, all classes
    weighing the same. No decision is fitted and no test label is read, so it is known beforehand.

    Args:
        logits: `(N, C)` of a hold-out, finite.
        targets: `(N,)` class ids; classes without an example are left out.

    Returns:
        A difference of mean recalls, at least 0.

    Example:
        >>> targets = torch.arange(3000) % 3  # the first class is further from the others
        >>> centres = torch.tensor([[3.0, 0.0], [0.0, 0.7], [0.0, -0.7]])
        >>> points = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
        >>> points += centres[targets]
        >>> logits = -0.5 * (points[:, None] - centres).square().sum(2)
        >>> round(price_of_equality(logits, targets), 2)
        0.04
    """
    z, y = check_holdout(logits, targets)
    seen, y = y.unique(return_inverse=True)
    z = z[:, seen]
    if len(seen) < 2:
        return 0.0
    z = z / spread_of_logits(z)
    weight = (1.0 / torch.bincount(y).double())[y] / len(
        seen
    )  # of an example: classes weigh the same

    def log_posterior(parameters: Tensor) -> Tensor:
        return torch.log_softmax(z * parameters[-1].exp() + parameters[:-1], 1)

    def likelihood(parameters: Tensor) -> Tensor:
        loss = -(weight * log_posterior(parameters).gather(1, y[:, None])[:, 0]).sum()
        return loss + parameters[:-1].square().mean() / len(z)

    log_q = log_posterior(_minimise(likelihood, torch.zeros(len(seen) + 1, dtype=torch.float64)))

    def value(log_w: Tensor) -> Tensor:
        """V(w), its maximum smoothed into a p-norm."""
        scores = SHARP * (log_q + torch.log_softmax(log_w, 0))
        return len(seen) * (weight * (scores.logsumexp(1) / SHARP).exp()).sum()

    uniform = torch.zeros(len(seen), dtype=torch.float64)
    with torch.no_grad():
        return max(0.0, float(value(uniform) - value(_minimise(value, uniform))))


def _minimise(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    from scipy.optimize import minimize

    @torch.enable_grad()
    def with_gradient(x: Any) -> Any:
        at = torch.from_numpy(x).requires_grad_()
        value = function(at)
        (gradient,) = torch.autograd.grad(value, at)
        return float(value.detach()), gradient.numpy()

    options: Any = {"maxiter": 50, "ftol": 1e-7}
    found = minimize(with_gradient, start.numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x)
