"""The parts of a Balancer: made from their names or settings, or checked."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import numpy as np
import torch

from equipoise._ranks import rank_and_replicas
from equipoise.balancer.class_shares import ClassShares
from equipoise.losses import LOSSES, LogitAdjustedCrossEntropy, Loss
from equipoise.mining import MINERS, Miner
from equipoise.samplers import (
    ClassBalancedSampler,
    ExampleWeightedSampler,
    LabelBalancedSampler,
    OrderSampler,
)
from equipoise.targets import Targets
from equipoise.weighting import POLICIES, EqualRecall, Plain, Policy, TargetShares

_OWNERS: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()


def take_over(part: Any, argument: str, owner: Any) -> None:
    """Let a sampler or a miner belong to one Balancer, which changes it from then on."""
    holder = _OWNERS.get(part)
    if holder is not None and holder() not in (None, owner):
        raise ValueError(
            f"Expected {argument} to be one that no other Balancer holds, but got a "
            f"{type(part).__name__} that one does: both would change it. Make one for each."
        )
    _OWNERS[part] = weakref.ref(owner)


def make_policy(policy: str | dict[str, float] | Policy | None, targets: Targets) -> Policy:
    """A copy of the policy, or the one of that name; or the default.

    That is "fair", for labels "plain", and for elements "recall-loss". A label's recall, taken
    where as many are predicted as are true, follows neither its frequency nor the epoch so
    closely: for labels "equal-recall" starts at λ = 0, in larger steps.
    """
    if targets.multilabel and policy == "equal-recall":
        return EqualRecall(max_step=1.0, start=0.0)
    if isinstance(policy, dict):
        names = targets.names or [str(c) for c in range(targets.num_classes)]
        if policy.keys() != set(names):
            raise ValueError(
                f"Expected policy to give a share to each of {targets.listed(range(len(names)))}, "
                f"but got {policy}."
            )
        policy = TargetShares([policy[name] for name in names])
    if policy is None:
        policy = "plain" if targets.multilabel else "recall-loss" if targets.elements else "fair"
    if isinstance(policy, Policy):
        return copy.deepcopy(policy)
    return _named("policy", policy, POLICIES, "a Policy")()


def make_loss(loss: Any, targets: Targets, policy: Policy) -> Loss:
    """A copy of the loss, if it is for these targets; or the one of that name; or the default."""
    if loss is None and targets.elements:
        loss = "weighted-cross-entropy"  # logit shifts are gone once `correct` takes λ out
    elif loss is None:
        loss = "weighted-bce" if targets.multilabel else policy.default_loss
    if isinstance(loss, str):
        return _for_targets(_named("loss", loss, LOSSES, "a Loss")(targets), targets)
    if not isinstance(loss, Loss):
        raise TypeError(f"Expected loss to be a name or a Loss object, but got {loss!r}.")
    if loss.log_weight is not None:
        raise ValueError(
            "Expected loss to come without log_weight, which a Balancer sets by its policy, but "
            f"got {loss.log_weight.tolist()}. Leave log_weight out, or use the loss by itself."
        )
    return _for_targets(copy.deepcopy(loss), targets)


def _for_targets(loss: Loss, targets: Targets) -> Loss:
    if loss.multilabel != targets.multilabel:
        kind = "multilabel targets" if targets.multilabel else "class ids"
        raise ValueError(f"Expected loss to be one for {kind}, but got {loss!r}.")
    if loss.unknown is None:
        loss.unknown = targets.unknown
    return loss


def make_mining(miner: Any, targets: Targets) -> Miner | None:
    """The miner itself, if it is for these targets; or the one of that name; or none."""
    if isinstance(miner, str):
        miner = _named("mining", miner, MINERS, "a Miner")(targets)
    if miner is None:
        return None
    if not isinstance(miner, Miner):
        raise TypeError(f"Expected mining to be a name or a Miner object, but got {miner!r}.")
    if miner.multilabel and not targets.multilabel:
        raise ValueError(f"Expected mining to be one for class ids, but got {miner!r}.")
    return miner


def make_sampler(sampler: Any, targets: Targets, **settings: Any) -> OrderSampler:
    """The sampler itself, or the one of that name; `None` gives plain shuffling."""
    by_labels = targets.matrix is not None
    name = "label-balanced" if by_labels else "class-balanced"
    if isinstance(sampler, OrderSampler):
        given = {key: value for key, value in settings.items() if value not in (None, 0)}
        if given:
            raise ValueError(
                f"Expected {', '.join(given)} to be given to the sampler object, "
                f"but got {given} beside it."
            )
        if sampler.num_examples not in (None, targets.num_examples):
            raise ValueError(
                f"Expected sampler to draw from {targets.num_examples} examples, as targets, "
                f"but got one of {sampler.num_examples}."
            )
        return sampler
    if sampler not in (None, "auto", name):
        raise ValueError(
            f'Expected sampler to be "{name}", None or an OrderSampler object, but got {sampler!r}.'
        )
    rank, num_replicas = rank_and_replicas(settings.pop("rank"), settings.pop("num_replicas"))
    settings |= {"rank": rank, "num_replicas": num_replicas}
    if not targets.indexed:
        if targets.multilabel and sampler is not None:
            raise ValueError(
                f"Expected sampler to be None for {targets!r}, of which only the loss can carry λ, "
                f"but got {sampler!r}."
            )
        return ClassShares(targets, **settings)
    if not by_labels:
        return ClassBalancedSampler(targets, np.ones(targets.num_classes), **settings)
    if sampler is None:
        ones = np.ones(targets.num_examples)
        return ExampleWeightedSampler(ones, targets=targets, **settings)
    return LabelBalancedSampler(targets, log_weight=np.zeros(targets.num_classes), **settings)


def check_share(
    share: float | None, sampler: Any, loss: Loss, policy: Policy, grouped: bool
) -> float:
    """The sampler's share of λ: 0 where the sampler carries none; by default the policy's.

    The λ of cells is carried by the sampler alone, since no loss tells groups apart.
    """
    if grouped and (sampler not in ("auto", "class-balanced") or share not in (None, 1)):
        raise ValueError(
            'Expected sampler to be "class-balanced" with groups, and sampler_share 1, since only '
            f"the sampler tells groups apart, but got {sampler!r} and {share}."
        )
    takes = sampler is not None
    if isinstance(sampler, OrderSampler):  # plain's λ of zero would undo what it was made for
        takes = sampler.takes_log_weight and not (share is None and isinstance(policy, Plain))
    if not takes:
        if share not in (None, 0, 0.0):
            what = "a sampler" if sampler is None else f"{type(sampler).__name__}, which takes no λ"
            raise ValueError(
                f"Expected sampler_share to be 0 with{'out' if sampler is None else ''} {what}, "
                f"but got {share}."
            )
        return 0.0
    if share is None:
        shared = isinstance(loss, LogitAdjustedCrossEntropy)
        share = policy.default_sampler_share if shared and not grouped else 1.0
    if not 0 <= share <= 1:
        raise ValueError(f"Expected sampler_share to be in [0, 1], but got {share}.")
    return float(share)


def start(
    policy: Policy, loss: Loss, kept: OrderSampler | None, targets: Targets, cells: Targets
) -> np.ndarray:
    """λ of the first epoch, from the class counts n_c as sampler and loss leave them.

    A loss with the counts in it (balanced softmax, class weights) and a sampler that is kept as it
    was made balance a part of them already: what they add to the logits is b_c ≈ −f · log n_c, with
    f by least squares and in [0, 1]. The policy starts from n_c^(1 − f), so nothing is balanced
    twice. Of cells, each group of a class has the class's b_c.
    """
    counts = np.maximum(cells.counts, 1).astype(np.float64)
    balanced = -loss.correct(torch.zeros(1, targets.num_classes, dtype=torch.float64))[0].numpy()
    balanced = balanced.repeat(len(counts) // len(balanced))
    if kept is not None and kept.targets is not None:
        balanced = balanced + kept.logit_shift()
    uneven = np.log(counts) - np.log(counts).mean()
    if uneven @ uneven > 0 and np.ptp(balanced) > 1e-6:
        share = np.clip(-(uneven @ balanced) / (uneven @ uneven), 0.0, 1.0)
        left = counts ** (1 - round(float(share), 6))
        counts = left * (counts.sum() / left.sum())
    return policy.start(counts)


def _named(argument: str, name: str, known: dict[str, Any], other: str) -> Any:
    if name not in known:
        raise ValueError(
            f"Expected {argument} to be one of {', '.join(map(repr, known))} or {other} object, "
            f"but got {name!r}."
        )
    return known[name]
