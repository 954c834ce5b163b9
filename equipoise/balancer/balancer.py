"""Balancer: one vector of class log-weights behind sampler, loss and decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.balancer import parts
from equipoise.balancer.deciding import Decision
from equipoise.balancer.progress import Progress
from equipoise.balancer.state import restore, state_of
from equipoise.losses import Loss
from equipoise.mining import BatchMiner, LoaderMiner, Miner, SamplerMiner
from equipoise._ranks import rank_and_replicas
from equipoise.rates import ClassRates, LabelRates
from equipoise.samplers import OrderSampler
from equipoise.targets import Targets
from equipoise.weighting import Policy

__all__ = ["Balancer"]


class Balancer:
    """Balances what a network learns of each class: which examples come, how much they count.

    A policy turns class counts and hold-out recalls into class log-weights λ. `sampler_share` of λ
    goes to the sampler, the rest to the loss, so nothing counts twice; `correct` takes both out
    again, and `fit_decision` fits what is left.

    Multilabel targets: logits and targets are `(B, C)`. The recall of a label is the one at the
    threshold where as many are predicted as are true (`LabelRates`), so that predicting more is
    not rewarded. λ draws example i in proportion to exp((Yλ)_i) and weighs the loss of positives.
    Labels that no training example has, or all have, are left alone: their λ is 0.

    Args:
        targets: labels of the training set: `(N,)` class ids or `(N, C)` multi-hot, as a list,
            NumPy array, torch tensor, scipy sparse matrix or data set; see `Targets`.
        policy: a `Policy` or its name: "equal-recall" (closed loop, the default for class ids),
            "worst-class", "recall-power", "class-difficulty", "inverse-frequency",
            "effective-number", "repeat-factor" or "plain" (λ = 0, the default for labels: λ moves
            their recalls little; see docs/over-predicted-labels.md).
        sampler: "class-balanced", for multilabel targets "label-balanced" ("auto" is the one or the
            other); or a sampler with `set_log_weight`. `None` for plain shuffling: the loss then
            carries all of λ.
        mining: a `Miner` or its name: "hardest-examples", "hard-negatives", "selective-backprop"
            (iterate `mine(loader, model)`) or "loss-pruning" (give `loss` the examples' ids).
        loss: a `Loss` or its name: "logit-adjusted" (the default of "equal-recall"),
            "weighted-cross-entropy" (of the other policies), …; for multilabel targets
            "weighted-bce" (positives weighted by √(negatives / positives), which `correct` takes
            out again), "asymmetric", …
        seed: of the order.
        sampler_share: share of λ that the sampler carries, in [0, 1]; the loss carries the rest. By
            default 1, or .5 for "equal-recall" with a `LogitAdjustedCrossEntropy`, as by itself.
            Pass 1 if you train with another loss than `balancer.loss`.
        num_samples: see `OrderSampler`.
        rank, num_replicas: by default those of torch.distributed, (0, 1) where it is not used.
            Every rank makes a balancer and calls `step`, which adds up what each has observed, of
            a part of the hold-out each, say; so λ is the same on all.

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
        mining: str | Miner | None = None,
        loss: str | Loss | None = None,
        seed: int = 0,
        *,
        sampler_share: float | None = None,
        num_samples: int | None = None,
        rank: int | None = None,
        num_replicas: int | None = None,
    ) -> None:
        self.targets = Targets.of(targets)
        self.multilabel = self.targets.multilabel
        self._fixed = parts.fixed_classes(self.targets)
        self.policy = parts.make_policy(policy, self.targets)
        self._loss = parts.make_loss(loss, self.targets, self.policy)
        self.sampler_share = parts.check_share(sampler_share, sampler, self._loss, self.policy)
        self.sampler = parts.make_sampler(
            sampler, self.targets, num_samples, seed, rank, num_replicas
        )
        self.mining: Any = parts.make_mining(mining, self.targets)
        if isinstance(self.mining, SamplerMiner):
            self.sampler = self.mining.over(self.sampler, self.targets)
        self.rates: ClassRates | LabelRates = (LabelRates if self.multilabel else ClassRates)(
            self.targets.num_classes
        )
        self.sampler.auto_advance = False
        self.decision = Decision(self.multilabel)
        self.epoch = 0
        self.history: list[dict[str, Any]] = []
        self.progress = Progress(self.sampler)
        self._set_log_weight(parts.start(self.policy, self._loss, self.targets))
        self._learn()
        parts.check_ranks(self)

    def _set_log_weight(self, log_weight: np.ndarray) -> None:
        self.log_weight = np.array(log_weight, np.float64)
        if self.multilabel and self._fixed.any():
            self.log_weight -= self.log_weight[~self._fixed].mean()
            self.log_weight[self._fixed] = 0.0
        if self.sampler.takes_log_weight:
            self.sampler.set_log_weight(self.sampler_share * self.log_weight)
        self._learnt = False

    def _learn(self) -> None:
        """Put λ into the loss and the correction: from now on the network learns under it.

        Until the next epoch is trained on, `correct` has to undo the λ before.
        """
        rest = (1 - self.sampler_share) * self.log_weight
        self._loss.set_log_weight(torch.from_numpy(rest).float())
        shift = self.sampler_share * self.log_weight
        if self.multilabel:
            shift = self.sampler.logit_shift()
        self._shift = torch.from_numpy(np.array(shift, np.float64))
        self._learnt = True

    @property
    def order(self) -> Any:
        """For FFCV's `Loader(order=balancer.order)`: the sampler's order."""
        from equipoise.ffcv import order

        return order(self.sampler, follow_epoch=False)

    def attach(self, loader: Any) -> Any:
        """Give an existing FFCV loader this balancer's order; returns the loader."""
        from equipoise.ffcv import attach

        return attach(loader, self.sampler, follow_epoch=False)

    def loss(self, logits: Tensor, targets: Tensor, indices: Tensor | None = None) -> Tensor:
        """The batch's weighted, mined loss: a scalar to call `backward` on.

        Args:
            logits: `(B, C)`.
            targets: `(B,)` class ids, or `(B, C)` of 0 and 1.
            indices: `(B,)` ids of the examples, which mining by remembered losses asks for.
        """
        if not self._learnt:
            self._learn()
        self._loss.to(logits.device)
        targets = torch.as_tensor(targets)
        if not isinstance(self.mining, LoaderMiner):
            self.progress.add(targets)
        if not isinstance(self.mining, BatchMiner):
            return self._loss(logits, targets)
        return self.mining(self._loss.unreduced(logits, targets), targets, indices)

    def mine(self, loader: Any, model: torch.nn.Module) -> Any:
        """Iterates full batches of the loader's examples that are worth a backward pass.

        Without a miner that acts before the backward pass (`SelectiveBackprop`) it is the loader.
        """
        if not isinstance(self.mining, LoaderMiner):
            return loader
        if not self._learnt:
            self._learn()
        return self.mining(self.progress.over(loader), model, self._loss.unreduced)

    @property
    def position(self) -> int:
        """Examples of the running epoch trained on so far, over all ranks; a state resumes there.

        Those that `loss` was called for under enabled gradients, or that `mine` took from its
        loader; what a `DataLoader` has prefetched does not count. For whoever never calls `loss`
        it is how far the sampler has been iterated.
        """
        return self.progress.position

    def set_ranks(self, rank: int | None = None, num_replicas: int | None = None) -> None:
        """Draw as this rank of so many from the next iteration on; by default torch.distributed's.

        For a balancer made before `torch.distributed.init_process_group`. Every rank calls it.
        """
        self.sampler.set_ranks(*rank_and_replicas(rank, num_replicas))
        parts.check_ranks(self)

    def observe(self, logits: Tensor, targets: Tensor) -> None:
        """Count a hold-out batch, like a metric's `update`; nothing waits for the device."""
        self.rates.update(logits, torch.as_tensor(targets))

    def step(self) -> None:
        """End the epoch: from the recalls observed since the last step to λ for the next.

        The policy is given them less what sampling noise explains: see `smoothed_recalls`. With
        several ranks every one calls it, and what each has observed is added up.
        """
        row, smoothed = parts.observed(self)
        parts.check_observed(row, self.policy)
        self.history.append(row)
        if not self._learnt:  # trained with another loss than ours
            self._learn()
        log_weight = self.policy.step(self.log_weight, smoothed)
        self.rates.reset()
        self.epoch += 1
        self.progress.go_to(self.epoch, 0)
        if self.mining is not None:
            self.mining.tally.reset()
            self.mining.set_epoch(self.epoch)
        self._set_log_weight(log_weight)

    def correct(self, logits: Tensor) -> Tensor:
        """Logits with the sampler's and the loss's shifts taken out: those of plain training.

        For labels they are calibrated log-odds, as far as the network is: the loss's distortion is
        undone, and the change sampling makes to each label's log-odds.
        """
        parts.check_logits(logits, self.targets.num_classes)
        self._loss.to(logits.device)
        return self._loss.correct(logits) - self._shift.to(logits)

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
            `(C,)`: offsets added to the logits (for "accuracy", zeros added to the corrected ones),
            or for labels thresholds of the corrected logits.
        """
        parts.check_logits(logits, self.targets.num_classes)
        targets = torch.as_tensor(targets)
        return self.decision.fit(logits.detach(), targets, self.correct, objective, at_least)

    def decide(self, logits: Tensor) -> Tensor:
        """Predicted class ids `(N,)`: argmax, with the fitted offsets if there are any.

        For labels `(N, C)` uint8, 1 where the corrected logit is above the label's fitted
        threshold, or above 0 (a probability of .5) before `fit_decision`.
        """
        parts.check_logits(logits, self.targets.num_classes)
        return self.decision(logits, self.correct)

    def report(
        self, logits: Tensor | None = None, targets: Tensor | None = None, **options: Any
    ) -> Any:
        """What was unbalanced, what was done, what it changed and what it cost.

        Args:
            logits: `(N, C)` of a hold-out or test set, as the network gives them; optional.
            targets: of the same examples.
            options: see `equipoise.report.make_report`.

        Returns:
            A `Report`: `show()`, `save_html(path)`, `save_pictures(folder)`, `log_to(writer)`.
        """
        from equipoise.report import make_report

        return make_report(self, logits, targets, **options)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit; safe to load with `weights_only=True`."""
        return state_of(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over `state_dict` of a balancer made with the same arguments and targets.

        The number of ranks may differ. In mid-epoch the sampler goes on after `position`.

        Raises:
            ValueError: a state of another version, of other targets or parts; nothing is changed
                then.
        """
        restore(self, state)
