"""Distribution-balanced loss: weights for co-occurring labels, and tolerance for negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from equipoise.losses import base
from equipoise.losses.base import ClassVector
from equipoise.losses.multilabel import LabelLoss, LabelOptions, check_labels, label_loss
from equipoise.losses.pointwise import ElementWeight, Terms
from equipoise.losses.sigmoid_focal import log_focal_slope


def prior_log_odds(counts: Tensor, num_examples: float) -> Tensor:
    """`log(n/(N − n))`, with at least one negative."""
    return (counts / (num_examples - counts).clamp_min(1.0)).log()


def distribution_balanced_loss(
    logits: Tensor,
    targets: Tensor,
    counts: ClassVector,
    num_examples: float,
    *,
    alpha: float = 0.1,
    beta: float = 10.0,
    mu: float = 0.2,
    negative_scale: float = 2.0,
    kappa: float = 0.05,
    gamma: float = 0.0,
    pos_weight: Tensor | None = None,
    unknown: float | Tensor | None = None,
    reduction: str = "mean",
    fused: bool = False,
) -> Tensor:
    """Distribution-balanced loss of each label.

    Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets"
    (2020). With `u = z + κ b_c`, `b_c = log(n_c/(N − n_c))` and `s` the negative scale::

        w_ic ( y softplus(−u) + (1−y) softplus(s u)/s )
        w_ic = α + sigmoid(β (r_ic − μ)),   r_ic = (1/n_c) / Σ_{positives k of i} 1/n_k

    r undoes what class-balanced sampling does to labels that come along with others; the second
    term lets go of negatives once they are negative enough. The prior's log-odds are added with
    the sign that favours rare labels at prediction. With `gamma` > 0 both terms get the focal
    factor (DB-focal). An example without positives has r = ∞, so w = α + 1.

    The arguments are explained at `DistributionBalancedLoss` and `LabelLoss`; `pos_weight`,
    `(C,)`, multiplies positives.

    Example:
        >>> import torch
        >>> counts = torch.tensor([50.0, 5.0])
        >>> logits, targets = torch.zeros(1, 2), torch.tensor([[0, 1]])
        >>> distribution_balanced_loss(logits, targets, counts, 100, reduction="none")
        tensor([[0.1279, 0.8462]])
    """
    base.check_reduction(reduction)
    base.check_number("alpha", alpha, 0.0)
    base.check_number("beta", beta, 0.0)
    base.check_number("mu", mu, float("-inf"))
    base.check_number("negative_scale", negative_scale, 1e-6)
    base.check_number("kappa", kappa, 0.0)
    gamma = base.check_number("gamma", gamma, 0.0)
    check_labels(logits, targets)
    n = base.per_class("counts", counts, logits).clamp_min(1.0)
    pos_weight = base.per_class("pos_weight", pos_weight, logits)
    inverse, shift = n.reciprocal(), -kappa * prior_log_odds(n, num_examples)
    least = 1e-4 / num_examples  # stands for an example without positives: r then is 10⁴ or more

    def elements(z: Tensor, y: Tensor) -> Tensor:
        u = z - shift
        positive, negative = F.softplus(-u), F.softplus(negative_scale * u)
        if gamma > 0.0:
            positive = positive * torch.exp(-gamma * F.softplus(u))
            negative = negative * torch.exp(-gamma * F.softplus(-negative_scale * u))
        positives = y if pos_weight is None else y * pos_weight
        r = inverse / (y * inverse).sum(1, keepdim=True).clamp_min(least)
        weight = alpha + torch.sigmoid(beta * (r - mu))
        return weight * (positives * positive + (1 - y) / negative_scale * negative)

    def terms() -> Terms:
        weight = ElementWeight(inverse, rate=beta, centre=beta * mu, floor=alpha, least=least)
        return Terms(
            gamma,
            gamma,
            positive_weight=pos_weight,
            shift=shift,
            negative_scale=negative_scale,
            element_weight=weight,
        )

    return label_loss(
        logits,
        targets,
        elements,
        terms,
        unknown=unknown,
        reduction=reduction,
        fused=fused,
        sooner=2,
    )


class DistributionBalancedLoss(LabelLoss):
    """Distribution-balanced loss of each label; see the function, also for the arguments.

    Args:
        counts: n, `(C,)` numbers of positives. A label without positives counts as having one.
        num_examples: number of examples N, at least the largest count.
        alpha: floor of the weights.
        beta: β, steepness of the map; with 0 all weights are α + 1/2.
        mu: centre of the weights' map.
        negative_scale: s > 0; with 1 negatives are treated as positives are.
        kappa: κ ≥ 0, share of the prior taken out of the logits.
        gamma: focal γ ≥ 0; 2 is DB-focal.
        options: see `LabelLoss`.

    Example:
        >>> import torch
        >>> loss = DistributionBalancedLoss([50, 5], num_examples=100, reduction="none")
        >>> loss(torch.zeros(1, 2), torch.tensor([[0, 1]]))
        tensor([[0.1279, 0.8462]])
    """

    counts: Tensor

    def __init__(
        self,
        counts: ClassVector,
        num_examples: float,
        alpha: float = 0.1,
        beta: float = 10.0,
        mu: float = 0.2,
        negative_scale: float = 2.0,
        kappa: float = 0.05,
        gamma: float = 0.0,
        **options: Unpack[LabelOptions],
    ) -> None:
        super().__init__(**options)
        self.register_buffer("counts", base.class_counts("counts", counts))
        self.num_examples = base.check_number(
            "num_examples", num_examples, float(self.counts.max())
        )
        self.alpha = base.check_number("alpha", alpha, 0.0)
        self.beta = base.check_number("beta", beta, 0.0)
        self.mu = base.check_number("mu", mu, float("-inf"))
        self.negative_scale = base.check_number("negative_scale", negative_scale, 1e-6)
        self.kappa = base.check_number("kappa", kappa, 0.0)
        self.gamma = base.check_number("gamma", gamma, 0.0)

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return distribution_balanced_loss(
            logits,
            targets,
            self.counts,
            self.num_examples,
            alpha=self.alpha,
            beta=self.beta,
            mu=self.mu,
            negative_scale=self.negative_scale,
            kappa=self.kappa,
            gamma=self.gamma,
            pos_weight=self._scaled(None),
            **self._options(reduction),
        )

    def correct(self, logits: Tensor) -> Tensor:
        """Log-odds without shift, tolerance and λ: `log L'(s u) − log L'(−u) − λ`.

        L' is the slope of the focal curve; for γ = 0 it is sigmoid. The weights w cannot be
        undone: they depend on which labels come along. For β = 0 the answer is exact.
        """
        dtype = base.at_least_float32(logits.dtype)
        u = logits.to(dtype) + self.kappa * prior_log_odds(self.counts, self.num_examples)
        negative = log_focal_slope(self.negative_scale * u, self.gamma)
        log_odds = negative - log_focal_slope(-u, self.gamma)
        return log_odds if self.log_weight is None else log_odds - self.log_weight
