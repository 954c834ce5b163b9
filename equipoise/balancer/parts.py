"""The parts of a Balancer: made from their names, or checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise import losses, mining, weighting
from equipoise.balancer.state import made_of
from equipoise.losses import LogitAdjustedCrossEntropy, Loss
from equipoise.mining import Miner
from equipoise._ranks import rank_and_replicas, require_same
from equipoise.samplers import (
    ClassBalancedSampler,
    ExampleWeightedSampler,
    LabelBalancedSampler,
    OrderSampler,
)
from equipoise.targets import Targets
from equipoise.weighting import EqualRecall, Policy

__all__ = [
    "check_logits",
    "check_observed",
    "check_ranks",
    "check_share",
    "fixed_classes",
    "history_row",
    "make_loss",
    "make_mining",
    "make_policy",
    "make_sampler",
    "observed",
    "start",
]

LOSSES: dict[str, Callable[[Targets], Loss]] = {
    "weighted-cross-entropy": lambda t: losses.WeightedCrossEntropy(),
    "logit-adjusted": lambda t: losses.LogitAdjustedCrossEntropy(),
    "balanced-softmax": lambda t: losses.BalancedSoftmax(t.counts.tolist()),
    "ldam": lambda t: losses.LDAM(t.counts.tolist()),
    "vector-scaling": lambda t: losses.VectorScaling(t.counts.tolist()),
    "seesaw": lambda t: losses.Seesaw(t.counts.tolist()),
    "focal": lambda t: losses.FocalLoss(multilabel=t.multilabel),
    "weighted-bce": lambda t: losses.WeightedBCE(
        losses.pos_weight_from_counts(t.counts.tolist(), t.num_examples).sqrt()
    ),
    "asymmetric": lambda t: losses.AsymmetricLoss(),
    "distribution-balanced": lambda t: losses.DistributionBalancedLoss(
        t.counts.tolist(), t.num_examples
    ),
    "two-way": lambda t: losses.TwoWayLoss(),
}

MINERS: dict[str, Callable[[Targets], Miner]] = {
    "hardest-examples": lambda t: mining.HardestExamples(
        per_class=not t.multilabel, num_classes=None if t.multilabel else t.num_classes
    ),
    "hard-negatives": lambda t: mining.HardNegatives(),
    "selective-backprop": lambda t: mining.SelectiveBackprop(keep=0.5, per_class=not t.multilabel),
    "loss-pruning": lambda t: mining.LossPruning(keep=0.5),
}


def check_logits(logits: Tensor, num_classes: int) -> None:
    """Raise unless logits are `(N, C)`."""
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise ValueError(
            f"Expected logits to have shape (N, {num_classes}), but got {tuple(logits.shape)}."
        )


def fixed_classes(targets: Targets) -> np.ndarray:
    """`(C,)` whether a label is carried by no example or by all: nothing can be balanced there."""
    if not targets.multilabel:
        targets.require_every_class("Balancer")
        return np.zeros(targets.num_classes, bool)
    fixed = (targets.counts == 0) | (targets.counts == targets.num_examples)
    if fixed.all():
        raise ValueError(
            "Expected targets of Balancer to have a label that some examples carry and some "
            f"do not, but got {targets!r} without."
        )
    return fixed


def make_policy(policy: str | Policy | None, targets: Targets) -> Policy:
    """The policy itself, or the one of that name; or the closed loop, for labels the plain one.

    A label's recall, taken where as many are predicted as are true, follows neither its frequency
    nor the epoch so closely: for labels the loop of that name starts at λ = 0, in larger steps.
    """
    if targets.multilabel and policy == "equal-recall":
        return EqualRecall(max_step=1.0, start=0.0)
    if policy is None:
        policy = "plain" if targets.multilabel else "equal-recall"
    return weighting.make_policy(policy)


def start(policy: Policy, loss: Loss, targets: Targets) -> np.ndarray:
    """λ of the first epoch.

    The closed loop begins with what the counts ask for; where the loss takes the counts out of the
    logits already, as balanced softmax does, it begins at 0, so that they count once.
    """
    counts = np.maximum(targets.counts, 1)
    if isinstance(policy, EqualRecall) and not targets.multilabel:
        prior = loss.cpu().correct(torch.zeros(1, targets.num_classes))
        if float(prior.max() - prior.min()) > 1e-6:
            counts = np.ones_like(counts)
    return policy.start(counts)


def check_share(share: float | None, sampler: Any, loss: Any, policy: Policy) -> float:
    """The sampler's share of λ: 0 without a sampler; by default 1, see `Balancer`."""
    if sampler is None:
        if share not in (None, 0, 0.0):
            raise ValueError(f"Expected sampler_share to be 0 without a sampler, but got {share}.")
        return 0.0
    if share is None:
        shared = isinstance(policy, EqualRecall) and isinstance(loss, LogitAdjustedCrossEntropy)
        share = 0.5 if shared else 1.0
    if not 0 <= share <= 1:
        raise ValueError(f"Expected sampler_share to be in [0, 1], but got {share}.")
    return float(share)


def check_ranks(balancer: Any) -> None:
    """Raise on all ranks where they differ; warn where they draw different numbers of examples."""
    require_same(made_of(balancer))
    draws, ranks = balancer.sampler.num_samples, balancer.sampler.num_replicas
    if draws % ranks:
        warnings.warn(
            f"Expected num_samples to be a multiple of num_replicas={ranks}, but got {draws}: the "
            "first ranks draw an example more, and where that makes a batch more, "
            "DistributedDataParallel waits for ever for the others (FFCV's order leaves those "
            f"examples out). Pass num_samples={draws // ranks * ranks or ranks}, or better a "
            "multiple of the global batch.",
            stacklevel=3,
        )


def make_sampler(
    sampler: Any,
    targets: Targets,
    num_samples: int | None,
    seed: int,
    rank: int | None,
    num_replicas: int | None,
) -> Any:
    """The sampler itself if it takes a λ, or the one of that name; `None` gives plain shuffling."""
    name = "label-balanced" if targets.multilabel else "class-balanced"
    wanted = "set_log_weight"
    if isinstance(sampler, OrderSampler) and sampler.takes_log_weight:
        beside = dict(
            num_samples=num_samples, seed=seed or None, rank=rank, num_replicas=num_replicas
        )
        given = {key: value for key, value in beside.items() if value is not None}
        if given:
            raise ValueError(
                f"Expected {', '.join(given)} to be given to the sampler object, "
                f"but got {given} beside it."
            )
        drawn_from = getattr(sampler, "targets", targets)
        if len(drawn_from) != len(targets):
            raise ValueError(
                f"Expected sampler to draw from {len(targets)} examples, as targets, "
                f"but got one of {len(drawn_from)}."
            )
        return sampler
    if sampler not in (None, "auto", name):
        raise ValueError(
            f'Expected sampler to be "{name}", None or a sampler with {wanted}, '
            f"but got {sampler!r}."
        )
    rank, num_replicas = rank_and_replicas(rank, num_replicas)
    settings: dict[str, Any] = dict(
        num_samples=num_samples, seed=seed, rank=rank, num_replicas=num_replicas
    )
    if not targets.multilabel:
        return ClassBalancedSampler(targets, np.ones(targets.num_classes), **settings)
    if sampler is None:
        return ExampleWeightedSampler(np.ones(targets.num_examples), targets=targets, **settings)
    return LabelBalancedSampler(targets, log_weight=np.zeros(targets.num_classes), **settings)


def make_loss(loss: Any, targets: Targets, policy: Policy) -> Loss:
    """The loss itself, if it is for these targets; or the one of that name; or the default."""
    if loss is None and targets.multilabel:
        loss = "weighted-bce"
    elif loss is None:
        loss = "logit-adjusted" if isinstance(policy, EqualRecall) else "weighted-cross-entropy"
    if isinstance(loss, str):
        loss = _named("loss", loss, LOSSES, "a Loss")(targets)
    if not isinstance(loss, Loss):
        raise TypeError(f"Expected loss to be an equipoise.losses.Loss, but got {loss!r}.")
    if loss.multilabel != targets.multilabel:
        kind = "multilabel targets" if targets.multilabel else "class ids"
        raise ValueError(f"Expected loss to be one for {kind}, but got {loss!r}.")
    return loss


def make_mining(miner: Any, targets: Targets) -> Any:
    """The miner itself, if it is for these targets; or the one of that name; or none."""
    if isinstance(miner, str):
        miner = _named("mining", miner, MINERS, "a Miner")(targets)
    if miner is None:
        return None
    if not isinstance(miner, Miner):
        raise TypeError(f"Expected mining to be an equipoise.mining.Miner, but got {miner!r}.")
    if miner.multilabel and not targets.multilabel:
        raise ValueError(f"Expected mining to be one for class ids, but got {miner!r}.")
    return miner


def observed(balancer: Any) -> tuple[dict[str, Any], np.ndarray | None]:
    """The epoch's row of the history, and the recalls a policy is to follow, both of all ranks.

    The latter are less what sampling noise explains, see `smoothed_recalls`; `None` if nothing was
    observed.
    """
    rates, mining = balancer.rates, balancer.mining
    rates.sum_over_ranks()
    seen = bool(rates.support.sum())
    row = {"epoch": balancer.epoch, "log_weight": balancer.log_weight.tolist()}
    row |= history_row(rates, rates.recalls().numpy() if seen else None)
    if mining is not None:
        mining.sum_over_ranks()
        row["mining"] = mining.tally.summary() | {"estimated_cost": mining.cost()}
    return row, rates.recalls(prior=None).numpy() if seen else None


def history_row(rates: Any, recalls: np.ndarray | None) -> dict[str, Any]:
    """What the hold-out showed, as plain numbers. Labels it has no positive of have recall NaN."""
    row: dict[str, Any] = {"num_nan": rates.num_nan, "num_invalid": rates.num_invalid}
    if hasattr(rates, "average_precisions"):
        row["mean_average_precision"] = float(rates.average_precisions().nanmean())
    if recalls is not None:
        seen = rates.support.numpy() > 0
        row |= {
            "recalls": np.where(seen, recalls, np.nan).tolist(),
            "support": rates.support.tolist(),
            "mean_recall": float(recalls[seen].mean()),
            "sd_recall": float(recalls[seen].std()),
            "lowest_recall": float(recalls[seen].min()),
        }
    return row


def check_observed(row: dict[str, Any], policy: Policy) -> None:
    """Raise if the policy needs recalls and there are none; warn of what was left out of them."""
    if policy.needs_recalls and "recalls" not in row:
        raise RuntimeError(
            f"Expected observe(logits, targets) on a hold-out before step(), because "
            f"{type(policy).__name__} follows recalls, but nothing usable came "
            f"({row['num_nan']} examples with NaN logits)."
        )
    if row["num_nan"] or row["num_invalid"]:
        warnings.warn(
            f"Left out of the recalls of epoch {row['epoch']}: {row['num_nan']} examples with "
            f"NaN logits, {row['num_invalid']} with targets that are no class id.",
            stacklevel=3,
        )


def _named(argument: str, name: str, known: dict[str, Any], other: str) -> Any:
    if name not in known:
        raise ValueError(
            f"Expected {argument} to be one of {', '.join(map(repr, known))} or {other}, "
            f"but got {name!r}."
        )
    return known[name]
