"""Distribution-balanced loss: weights for co-occurring labels, and tolerance for negatives."""

from __future__ import annotations

from torch import Tensor

from equipoise.losses.base import (
    ClassVector,
    Loss,
    at_least_float32,
    check_fused,
    check_multilabel,
    check_number,
    check_per_class,
    check_reduction,
    class_counts,
    fill_empty,
)
from equipoise.losses.curves import mirrored
from equipoise.losses.pointwise import ElementWeight, Terms, pointwise
from equipoise.losses.positives import find_positives, positive_sums
from equipoise.losses.sigmoid_focal import focal_curve, log_focal_slope


def prior_log_odds(counts: Tensor, num_examples: float) -> Tensor:
    """``log(n/(N − n))``, with at least one negative."""
    return (counts / (num_examples - counts).clamp_min(1.0)).log()


def distribution_balanced_loss(
    logits: Tensor,
    targets: Tensor,
    counts: Tensor,
    num_examples: float,
    *,
    alpha: float = 0.1,
    beta: float = 10.0,
    mu: float = 0.2,
    negative_scale: float = 2.0,
    kappa: float = 0.05,
    gamma: float = 0.0,
    pos_weight: Tensor | None = None,
    reduction: str = "mean",
    fused: bool = False,
) -> Tensor:
    """Distribution-balanced loss of each label.

    Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets"
    (2020). With ``u = z + κ b_c``, ``b_c = log(n_c/(N − n_c))`` and ``s`` the negative scale::

        w_ic ( y softplus(−u) + (1−y) softplus(s u)/s )
        w_ic = α + sigmoid(β (r_ic − μ)),   r_ic = (1/n_c) / Σ_{positives k of i} 1/n_k

    r undoes what class-balanced sampling does to labels that come along with others; the second
    term lets go of negatives once they are negative enough. The prior's log-odds are added with
    the sign that favours rare labels at prediction. With ``gamma`` > 0 both terms get the focal
    factor (DB-focal). An example without positives has r = ∞, so w = α + 1.

    Args:
        logits: ``(B, C)``, any floating dtype. They are not changed in place.
        targets: ``(B, C)``, 0/1 of any dtype; dense or sparse CSR.
        counts: n, ``(C,)`` numbers of positives. A label without positives counts as having one.
        num_examples: N.
        alpha: α ≥ 0, the floor of the weights.
        beta: β, steepness of the map; with 0 all weights are α + 1/2.
        mu: μ, centre of the map.
        negative_scale: s > 0; with 1 negatives are treated as positives are.
        kappa: κ ≥ 0, share of the prior taken out of the logits.
        gamma: focal γ ≥ 0.
        pos_weight: ``(C,)``, on positives.
        reduction: ``"mean"`` over B·C elements, ``"sum"`` or ``"none"``.
        fused: use one Triton kernel (r's sums apart), on CUDA; not yet run on a GPU: see
            ``equipoise.losses.fused``.

    Returns:
        A scalar, or ``(B, C)`` for ``"none"``. dtypes: see ``equipoise.losses.base``. Only logits
        receive a gradient, and it can be differentiated once.

    Raises:
        TypeError: If logits are not floating point, or targets are sparse but not CSR.
        ValueError: If shapes do not agree, ``reduction`` is unknown, or ``fused`` cannot be had.

    Example:
        >>> import torch
        >>> counts = torch.tensor([50.0, 5.0])
        >>> logits, targets = torch.zeros(1, 2), torch.tensor([[0, 1]])
        >>> distribution_balanced_loss(logits, targets, counts, 100, reduction="none")
        tensor([[0.1279, 0.8462]])
    """
    check_reduction(reduction)
    check_multilabel(logits, targets)
    check_per_class("counts", counts, logits)
    dtype = at_least_float32(logits.dtype)
    counts = fill_empty(counts.detach().to(dtype))
    inverse = counts.reciprocal()
    # The bound stands for an example without positives: r then is 10⁴ or more.
    found = find_positives(targets, dtype)
    sums = positive_sums(targets, found, inverse).clamp_min(1e-4 * inverse.min())

    curve = focal_curve(gamma)
    terms = Terms(
        curve,
        mirrored(curve),
        positive_weight=pos_weight,
        shift=-kappa * prior_log_odds(counts, num_examples),
        negative_scale=negative_scale,
        element_weight=ElementWeight(beta / sums, inverse, floor=alpha, centre=beta * mu),
        focusing=(float(gamma), float(gamma), 0.0) if fused else None,
    )
    return pointwise(logits, targets, terms, reduction, found)


class DistributionBalancedLoss(Loss):
    """Distribution-balanced loss of each label; see the function, also for the arguments.

    Args:
        counts: ``(C,)`` numbers of positives. A label without positives counts as having one.
        num_examples: number of examples N, at least the largest count.
        alpha: floor of the weights.
        beta: steepness of the weights' map.
        mu: centre of the weights' map.
        negative_scale: s > 0.
        kappa: κ ≥ 0.
        gamma: focal γ ≥ 0; 2 is DB-focal.
        log_weight: λ, ``(C,)``: positives are weighted by ``exp(λ)``.
        reduction: the mean is over the B·C elements.
        fused: one Triton kernel on CUDA, opt-in: see the function.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> loss = DistributionBalancedLoss([50, 5], num_examples=100, reduction="none")
        >>> loss(torch.zeros(1, 2), torch.tensor([[0, 1]]))
        tensor([[0.1279, 0.8462]])
    """

    multilabel = True
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
        *,
        log_weight: ClassVector | None = None,
        reduction: str = "mean",
        fused: bool = False,
    ) -> None:
        super().__init__(log_weight=log_weight, reduction=reduction)
        self.fused = check_fused(fused)
        self.register_buffer("counts", class_counts("counts", counts))
        self.num_examples = check_number("num_examples", num_examples, float(self.counts.max()))
        self.alpha = check_number("alpha", alpha, 0.0)
        self.beta = check_number("beta", beta, 0.0)
        self.mu = check_number("mu", mu, float("-inf"))
        self.negative_scale = check_number("negative_scale", negative_scale, 1e-6)
        self.kappa = check_number("kappa", kappa, 0.0)
        self.gamma = check_number("gamma", gamma, 0.0)

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
            reduction=reduction,
            fused=self.fused,
        )

    def correct(self, logits: Tensor) -> Tensor:
        """Log-odds without shift, tolerance and λ: ``log L'(s u) − log L'(−u) − λ``.

        L' is the slope of the focal curve; for γ = 0 it is sigmoid. The weights w cannot be
        undone: they depend on which labels come along. For β = 0 the answer is exact.
        """
        dtype = at_least_float32(logits.dtype)
        u = logits.to(dtype) + self.kappa * prior_log_odds(self.counts, self.num_examples)
        negative = log_focal_slope(self.negative_scale * u, self.gamma)
        log_odds = negative - log_focal_slope(-u, self.gamma)
        return log_odds if self.log_weight is None else log_odds - self.log_weight
