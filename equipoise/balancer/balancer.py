"""Balancer: one vector of class log-weights behind sampler, loss and decision."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.balancer.parts import check_share, make_loss, make_sampler
from equipoise.decision import equal_recall_offset, label_thresholds
from equipoise.losses import Loss
from equipoise.rates import ClassRates, LabelRates
from equipoise.samplers import OrderSampler
from equipoise.targets import Targets
from equipoise.weighting import Policy, make_policy

__all__ = ["Balancer"]


class Balancer:
    """Balances what a network learns of each class: which examples come, how much they count.

    A policy turns class counts and hold-out recalls into class log-weights λ. `sampler_share` of λ
    goes to the sampler, the rest to the loss, so nothing is counted twice; `correct` takes both
    out again, and `fit_decision` fits what is left.

    Multilabel targets: logits and targets are `(B, C)`. The recall of a label is the one at the
    threshold where as many are predicted as are true (`LabelRates`), so that predicting more is
    not rewarded. λ draws example i in proportion to exp((Yλ)_i) and weighs the loss of positives.
    Labels that no training example has, or all have, are left alone: their λ is 0.

    Args:
        targets: labels of the training set: `(N,)` class ids or `(N, C)` multi-hot, as a list,
            NumPy array, torch tensor, scipy sparse matrix or data set; see `Targets`.
        policy: a `Policy` or its name: "equal-recall" (closed loop, the default for class ids),
            "worst-class", "recall-power", "class-difficulty", "inverse-frequency",
            "effective-number", "repeat-factor" or "plain" (λ = 0, the default for labels: their
            recalls do not change when logits shift, so λ moves them little; see
            docs/over-predicted-labels.md).
        sampler: "class-balanced", or for multilabel targets "label-balanced" (which of them by
            default, "auto"); or a sampler with `set_log_weight`. `None` for plain shuffling, and
            then the loss carries all of λ.
        mining: a miner, or `None`.
        loss: an `equipoise.losses.Loss`; weighted cross-entropy by default. For multilabel
            targets binary cross-entropy, positives weighted by √(negatives / positives), which
            `correct` takes out again.
        seed: of the order.
        sampler_share: share of λ that the sampler carries, in [0, 1].
        num_samples, rank, num_replicas: see `OrderSampler`.

    Attributes:
        sampler: for `DataLoader(sampler=…)`.
        log_weight: λ `(C,)` of the running epoch, float64, mean zero.
        epoch: how often `step` was called.
        history: a dict for each `step`.

    Example:
        >>> balancer = Balancer([0, 0, 0, 1], policy="inverse-frequency", seed=0)
        >>> balancer.sampler.quotas.tolist()
        [2, 2]
        >>> logits = torch.zeros(2, 2, requires_grad=True)
        >>> balancer.loss(logits, torch.tensor([0, 1])).item()
        0.6931...
    """

    def __init__(
        self,
        targets: Any,
        policy: str | Policy | None = None,
        sampler: str | OrderSampler | None = "auto",
        mining: Any = None,
        loss: Loss | None = None,
        seed: int = 0,
        *,
        sampler_share: float | None = None,
        num_samples: int | None = None,
        rank: int = 0,
        num_replicas: int = 1,
    ) -> None:
        self.targets = Targets.of(targets)
        self.multilabel = self.targets.multilabel
        counts = self.targets.counts
        if not self.multilabel:
            self.targets.require_every_class("Balancer")
        self._fixed = (counts == 0) | (counts == self.targets.num_examples)
        if self.multilabel and self._fixed.all():
            raise ValueError(
                "Expected targets of Balancer to have a label that some examples carry and some "
                f"do not, but got {self.targets!r} without."
            )
        if mining is not None:
            raise ValueError(f"Expected mining to be None, but got {mining!r}.")
        default = "plain" if self.multilabel else "equal-recall"
        self.policy = make_policy(default if policy is None else policy)
        self.sampler_share = check_share(sampler_share, sampler)
        self.sampler = make_sampler(
            sampler,
            self.targets,
            dict(num_samples=num_samples, seed=seed, rank=rank, num_replicas=num_replicas),
        )
        self._loss = make_loss(loss, self.targets)
        self.rates: ClassRates | LabelRates = (LabelRates if self.multilabel else ClassRates)(
            self.targets.num_classes
        )
        self.decision: Tensor | None = None
        self.epoch = 0
        self.history: list[dict[str, Any]] = []
        self._set_log_weight(self.policy.start(np.maximum(counts, 1)))

    def _set_log_weight(self, log_weight: np.ndarray) -> None:
        self.log_weight = np.array(log_weight, np.float64)
        if self.multilabel and self._fixed.any():
            self.log_weight -= self.log_weight[~self._fixed].mean()
            self.log_weight[self._fixed] = 0.0
        if self.sampler_share > 0:
            self.sampler.set_log_weight(self.sampler_share * self.log_weight)
        self._loss.set_log_weight(
            torch.from_numpy((1 - self.sampler_share) * self.log_weight).float()
        )

    @property
    def order(self) -> Any:
        """For FFCV's `Loader(order=balancer.order)`: the sampler's order."""
        from equipoise.ffcv import order

        return order(self.sampler, follow_epoch=False)

    def attach(self, loader: Any) -> Any:
        """Give an existing FFCV loader this balancer's order; returns the loader."""
        from equipoise.ffcv import attach

        return attach(loader, self.sampler, follow_epoch=False)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The batch's weighted loss: a scalar to call `backward` on."""
        self._loss.to(logits.device)
        return self._loss(logits, targets)

    def observe(self, logits: Tensor, targets: Tensor) -> None:
        """Count a hold-out batch, like a metric's `update`; nothing waits for the device."""
        self.rates.update(logits, targets)

    def step(self) -> None:
        """End the epoch: from the recalls observed since the last step to λ for the next."""
        support = self.rates.support
        seen = bool(support.sum())
        ignored = {"num_nan": self.rates.num_nan, "num_invalid": self.rates.num_invalid}
        if self.policy.needs_recalls and not seen:
            raise RuntimeError(
                f"Expected observe(logits, targets) on a hold-out before step(), because "
                f"{type(self.policy).__name__} follows recalls, but nothing usable came"
                f" ({ignored['num_nan']} examples with NaN logits)."
            )
        if any(ignored.values()):
            warnings.warn(
                f"Left out of the recalls of epoch {self.epoch}: {ignored['num_nan']} examples "
                f"with NaN logits, {ignored['num_invalid']} with targets that are no class id.",
                stacklevel=2,
            )
        recalls = self.rates.recalls().numpy() if seen else None
        self.history.append(self._row(recalls, ignored))
        smoothed = self.rates.recalls(prior=None).numpy() if seen else None
        log_weight = self.policy.step(self.log_weight, smoothed)
        self.rates.reset()
        self.epoch += 1
        self.sampler.set_epoch(self.epoch)
        self._set_log_weight(log_weight)

    def _row(self, recalls: np.ndarray | None, ignored: dict[str, int]) -> dict[str, Any]:
        row: dict[str, Any] = {"epoch": self.epoch, "log_weight": self.log_weight.tolist()}
        if isinstance(self.rates, LabelRates):
            row["mean_average_precision"] = float(self.rates.average_precisions().nanmean())
            recalls = None if recalls is None else recalls[self.rates.support.numpy() > 0]
        if recalls is not None:
            row |= {
                "recalls": recalls.tolist(),
                "mean_recall": float(recalls.mean()),
                "sd_recall": float(recalls.std()),
                "lowest_recall": float(recalls.min()),
            }
        return row | ignored

    def correct(self, logits: Tensor) -> Tensor:
        """Logits with the sampler's and the loss's shifts taken out: those of plain training.

        For labels they are calibrated log-odds, as far as the network is: the loss's distortion is
        undone, and the change sampling makes to each label's log-odds.
        """
        self._loss.to(logits.device)
        shift = self.sampler_share * self.log_weight
        if self.multilabel:
            known = hasattr(self.sampler, "logit_shift")
            shift = self.sampler.logit_shift() if known else np.zeros_like(shift)
        return self._loss.correct(logits) - torch.from_numpy(shift).to(logits)

    def fit_decision(
        self,
        logits: Tensor,
        targets: Tensor,
        objective: str | None = None,
        *,
        at_least: float | None = None,
    ) -> Tensor:
        """Fit what `decide` uses, on hold-out logits as the network gives them.

        Args:
            logits: `(N, C)` of the hold-out.
            targets: `(N,)` class ids, or `(N, C)` of 0 and 1.
            objective: for class ids "equal-recall" (by default): the same recall for every class
                (`equal_recall_offset`); or "accuracy": the natural class frequencies' most likely
                class (`correct`). For labels "prevalence" (by default): as many predicted as true
                positives of every label; "f1", "recall", "precision" or "equal-recall": see
                `label_thresholds`.
            at_least: the recall or precision every label is to reach, for those two objectives.

        Returns:
            `(C,)`: offsets added to the logits, or for labels thresholds of the corrected logits.
        """
        if self.multilabel:
            corrected, objective = self.correct(logits.detach()), objective or "prevalence"
            self.decision = label_thresholds(corrected, targets, objective, at_least=at_least)
        elif objective in (None, "equal-recall") and at_least is None:
            self.decision = equal_recall_offset(logits, targets)
        elif objective == "accuracy" and at_least is None:
            self.decision = self.correct(torch.zeros(1, self.targets.num_classes))[0].double()
        else:
            raise ValueError(
                'Expected objective to be "equal-recall" or "accuracy", without at_least, '
                f"but got {objective!r} and {at_least}."
            )
        return self.decision

    def decide(self, logits: Tensor) -> Tensor:
        """Predicted class ids `(N,)`: argmax, with the fitted offsets if there are any.

        For labels `(N, C)` uint8, 1 where the corrected logit is above the label's fitted
        threshold, or above 0 (a probability of .5) before `fit_decision`.
        """
        if self.multilabel:
            cut = 0.0 if self.decision is None else self.decision.to(logits)
            return (self.correct(logits) > cut).to(torch.uint8)
        if self.decision is None:
            return logits.argmax(1)
        return (logits + self.decision.to(logits)).argmax(1)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit; safe to load with `weights_only=True`."""
        return {
            "epoch": self.epoch,
            "log_weight": torch.from_numpy(self.log_weight.copy()),
            "policy": self.policy.state_dict(),
            "sampler": self.sampler.state_dict(),
            "loss": self._loss.state_dict(),
            "rates": self.rates.state_dict(),
            "decision": self.decision,
            "history": [dict(row) for row in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over `state_dict` of a balancer made with the same arguments."""
        if len(state["log_weight"]) != self.targets.num_classes:
            raise ValueError(
                f"Expected state of {self.targets.num_classes} classes, "
                f"but got {len(state['log_weight'])}."
            )
        self.sampler.load_state_dict(state["sampler"])
        self._loss.load_state_dict(state["loss"])
        self.policy.load_state_dict(state["policy"])
        self.rates.load_state_dict(state["rates"])
        self.epoch, self.decision = state["epoch"], state["decision"]
        self.log_weight = state["log_weight"].double().numpy().copy()
        self.history = [dict(row) for row in state["history"]]
