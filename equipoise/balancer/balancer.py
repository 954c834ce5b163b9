"""Balancer: one vector of class log-weights behind sampler, loss and decision."""

from __future__ import annotations

import warnings
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise._ranks import rank_and_replicas, require_same, several
from equipoise.balancer.by_name import (
    check_share,
    make_loss,
    make_mining,
    make_policy,
    make_sampler,
    start,
    take_over,
)
from equipoise.balancer.class_shares import ClassShares
from equipoise.balancer.grouping import Grouping, group_figures, require_no_groups
from equipoise.balancer.ledger import Ledger, WarnOnce
from equipoise.decision import (
    ClassDecision,
    LabelDecision,
    fit_class_decision,
    fit_label_decision,
)
from equipoise.losses import Loss
from equipoise.mining import BatchMiner, LoaderMiner, Miner, SamplerMiner
from equipoise.rates import ClassRates, HoldoutRates
from equipoise.samplers import OrderSampler
from equipoise.targets import Targets
from equipoise.weighting import Policy

__all__ = ["Balancer"]

VERSION = 6  # of the states that `state_dict` gives


class Balancer:
    """Balances what a network learns of each class: which examples come, how much they count.

    A policy turns class counts and hold-out recalls into class log-weights λ: λ_c is the natural
    logarithm of how much class c counts beyond its share of the data. `sampler_share` of λ goes to
    the sampler and the rest to the loss, so nothing counts twice. `correct` removes both from the
    logits again, and `fit_decision` raises at prediction time what recalls are still low.

    Multilabel targets: logits and targets are `(B, C)`. The recall of a label is the one at the
    threshold where as many are predicted as are true (`LabelRates`), so that predicting more is
    not rewarded. λ draws example i in proportion to exp((Yλ)_i) and weighs the loss of positives.

    Pixels, tokens or boxes: with `Targets.from_counts` the sampler draws images, loss and rates
    count pixels, and `position` counts images. By default all of λ is in the loss, as weights. Of
    what the sampler is asked for the loss carries the part that drawing images did not reach.

    Classes and labels that no training example has, and labels that all have, are left alone:
    their λ is 0.

    Args:
        targets: labels of the training set: `(N,)` class ids or `(N, C)` multi-hot, as a list,
            NumPy array, torch tensor, scipy sparse matrix or data set; see `Targets`.
        policy: a `Policy` or its name: "fair" (closed loop that raises low recalls, the default
            for class ids), "recall-loss" (follows the recalls in training, the default for
            `Targets.from_counts`), "equal-recall" (closed loop to equal recalls at any price),
            "worst-class", "recall-power", "class-difficulty", "inverse-frequency",
            "effective-number", "repeat-factor", … or "plain" (λ = 0, the default for labels: λ
            moves their recalls little; see docs/over-predicted-labels.md); or the share of the
            draws that each class is to have, by its name. A policy object is copied.
        sampler: "class-balanced", for multilabel targets "label-balanced" ("auto" is the one or the
            other; for `Targets.from_counts` it is plain shuffling, or with a `sampler_share`
            "label-balanced"); or a sampler of `equipoise.samplers`, also a subclass of your own,
            which then belongs to this balancer. `None` for plain shuffling. A sampler that takes no
            λ, and any with `sampler_share=0` or the policy "plain", draws as it was made, and the
            loss carries all of λ.
        mining: a `Miner` or its name: "hardest-examples", "hard-negatives", "selective-backprop"
            (iterate `mine(loader, model)`) or "loss-pruning" (give `loss` the examples' ids).
        loss: a `Loss` or its name: "logit-adjusted" (the default of "fair" and "equal-recall"),
            "weighted-cross-entropy" (of the other policies and of `Targets.from_counts`), …; for
            multilabel targets "weighted-bce" (positives weighted by √(negatives / positives),
            which `correct` removes again), "asymmetric", … A loss object is copied.
        seed: of the order.
        sampler_share: share of λ that the sampler carries, in [0, 1]; the loss carries the rest. By
            default 1, or .5 for "fair" and "equal-recall" with a `LogitAdjustedCrossEntropy`, as by
            itself. Pass 1 if you train with another loss than `balancer.loss`.
        num_samples: see `OrderSampler`.
        rank, num_replicas: by default those of torch.distributed, (0, 1) where it is not used.
            Every rank makes a balancer and calls `step`, which adds up what each has observed, of
            a part of the hold-out each, say; so λ is the same on all.
        groups: `(N,)` ids or names of the examples' groups (site, background, writer, …): λ is then
            of the cells class × group, or with `targets=None` of the groups, so that none of them
            is left behind. The sampler carries all of it, the loss is plain, and `observe` asks
            for the groups of its examples. See docs/groups.md.
        names: of the classes, for warnings and the report; by default those that `targets` has.

    Attributes:
        sampler: for `DataLoader(sampler=…)`; `sampler.batches(size)` for `batch_sampler=`.
        loss_function: the `Loss` that `loss` calls.
        log_weight: λ `(C,)` of the running epoch, float64, mean zero; `(C, G)` with groups.
        cells: `Targets` of what λ is of: with groups their cells, else `targets` itself.
        epoch: how often `step` was called.
        rates: what was observed since the last `step`, a `HoldoutRates`.
        decision: what `fit_decision` found, a `ClassDecision` or `LabelDecision`; `None` before.

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
        policy: str | dict[str, float] | Policy | None = None,
        sampler: str | OrderSampler | None = "auto",
        mining: str | Miner | None = None,
        loss: str | Loss | None = None,
        seed: int = 0,
        *,
        sampler_share: float | None = None,
        num_samples: int | None = None,
        rank: int | None = None,
        num_replicas: int | None = None,
        names: list[str] | None = None,
        groups: Any = None,
    ) -> None:
        classes = None if targets is None else Targets.of(targets, names=names)
        self.grouping = None if groups is None else Grouping(classes, groups)
        self.targets = Targets.of(groups if classes is None else classes)
        self.cells = self.targets if self.grouping is None else self.grouping.cells
        self.multilabel = self.targets.multilabel
        self._shape = (self.cells.num_classes,) if self.grouping is None else self.grouping.shape
        self._fixed = _fixed_classes(self.cells)
        self.policy = make_policy(policy, self.cells)
        self.loss_function = make_loss(loss, self.targets, self.policy)
        if self.targets.elements and sampler == "auto" and not sampler_share:
            sampler = None
        self.sampler_share = check_share(
            sampler_share, sampler, self.loss_function, self.policy, grouped=groups is not None
        )
        self.sampler: OrderSampler = make_sampler(
            sampler,
            self.cells,
            num_samples=num_samples,
            seed=seed,
            rank=rank,
            num_replicas=num_replicas,
        )
        self.mining = make_mining(mining, self.targets)
        take_over(self.sampler, "sampler", self)
        if self.mining is not None:
            take_over(self.mining, "mining", self)
        kept = self.sampler if self.sampler_share == 0 else None
        first = start(self.policy, self.loss_function, kept, self.targets, self.cells)
        self._num_samples = self.sampler.num_samples  # pruning changes it from epoch to epoch
        if isinstance(self.mining, SamplerMiner):
            self.sampler = self.mining.over(self.sampler, self.targets)
        self.sampler.auto_advance = False  # `step` begins the epochs
        if self.policy.needs_training_recalls and (self.multilabel or self.grouping is not None):
            kind = "labels" if self.multilabel else "groups"
            raise ValueError(
                f"Expected policy to be one for {kind}, but got {type(self.policy).__name__}, "
                "which follows the recalls of class ids in training."
            )
        self.rates = HoldoutRates(
            self.cells.num_classes,
            self.multilabel,
            self.loss_function.ignore_index,
            in_training=self.policy.needs_training_recalls,
        )
        self.decision: ClassDecision | LabelDecision | None = None
        self.epoch = 0
        self._rows: list[dict[str, Any]] = []
        self._warn_once = WarnOnce()
        self._ranks_given, self._loaded = rank is not None, 0
        self.ledger = Ledger(self.sampler, self.targets, self._warn_once)
        self._set_log_weight(first)
        self._first_log_weight = self.log_weight.copy()
        self._learn()
        require_same(self._made_of())

    def _set_log_weight(self, log_weight: np.ndarray) -> None:
        values = np.array(log_weight, np.float64)
        if self._fixed.any():
            values -= values[~self._fixed].mean()
            values[self._fixed] = 0.0
        if self.sampler_share > 0:
            self.sampler.set_log_weight(self.sampler_share * values)
        self.log_weight = values.reshape(self._shape)
        self._learnt = False

    def _learn(self) -> None:
        """Put λ into the loss and the correction: from now on the network learns under it.

        Until the next epoch is trained on, `correct` has to undo the λ before.
        """
        rest = (1 - self.sampler_share) * self.log_weight
        one_label = not (self.multilabel or self.targets.elements)
        if self.grouping is not None:
            shift = self.grouping.class_shift(self.log_weight)
        elif self.sampler_share > 0 and one_label:
            shift = self.sampler_share * self.log_weight  # what is asked for, not a whole number
        elif self.sampler.targets is not None:
            shift = self.sampler.logit_shift()
        else:
            shift = np.zeros_like(self.log_weight)
        if self.sampler_share > 0 and self.targets.elements:
            rest = self.log_weight - shift  # drawing images moves their pixels only so far
        if self.grouping is None:
            self.loss_function.set_log_weight(torch.from_numpy(rest).float())
        self._shift = torch.from_numpy(np.array(shift, np.float64))
        self._learnt = self._by_loss = True

    @property
    def order(self) -> Any:
        """For FFCV's `Loader(order=balancer.order)`: the sampler's order."""
        from equipoise.ffcv import order

        return order(self.sampler)

    def attach(self, loader: Any) -> Any:
        """Give an existing FFCV loader this balancer's order; returns the loader."""
        from equipoise.ffcv import attach

        return attach(loader, self.sampler)

    def stream(self, source: Any, label: Any = None, **options: Any) -> Any:
        """Examples of a source without an index, in the class shares that λ asks for.

        For a Balancer of `Targets.from_class_counts`. λ reaches a running stream, also in worker
        processes, with the next chunk after `step`. See docs/streams.md.

        Args:
            source: an iterable of examples, of which this rank and worker get their part; or a
                dict of one for each class (of a domain, say), which are mixed.
            label: of an example: its key or position, or a function that gives a class id. Leave
                it out for a dict.
            options: of `equipoise.streams.BalancedStream` or `MixedStream`, such as `decode=`,
                `repeat=True`, `buffer=` and `max_repeats=`.

        Returns:
            An `IterableDataset` for `DataLoader(stream, batch_size)`.

        Example:
            >>> counts = Targets.from_class_counts([900, 100])
            >>> balancer = Balancer(counts, policy="inverse-frequency")
            >>> stream = balancer.stream([(i, int(i % 10 == 0)) for i in range(1000)], label=1)
            >>> sum(label for _, label in stream)
            501
        """
        from equipoise.streams import make_stream

        if not isinstance(self.sampler, ClassShares) or self.multilabel:
            raise ValueError(
                "Expected targets of a Balancer that streams to be class counts, as of "
                f"Targets.from_class_counts(counts), but got {self.targets!r}."
            )
        options = {
            "seed": self.sampler.seed,
            "rank": self.sampler.rank,
            "num_replicas": self.sampler.num_replicas,
        } | options
        return make_stream(source, label, self.sampler.shares, self.targets.names, options)

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        indices: Tensor | None = None,
        *,
        weight: Tensor | None = None,
        new_batch: bool = True,
    ) -> Tensor:
        """The batch's weighted, mined loss: a scalar to call `backward` on.

        It may be called several times for a batch (mixup, SAM, several heads): a batch whose
        classes came before, in whatever order, counts once in `position`.

        Args:
            logits: `(B, C)`, or for pixels and tokens `(B, C, d1, …)`.
            targets: class ids `(B,)` or `(B, d1, …)`, or `(B, C)` of 0 and 1, or of class
                probabilities (mixup, CutMix, distillation), of which mining and `position` look at
                the likeliest.
            indices: `(B,)` ids of the examples, which mining by remembered losses asks for.
            weight: `(B,)` factors on the examples.
            new_batch: `False` says that these examples were given before. It is needed for pixels
                and tokens, which may have been cropped, and otherwise only where
                their classes are others than before, or a batch has one or two examples.
        """
        self._check_logits(logits)
        if not (self._learnt and self._by_loss):
            self._learn()
        self.loss_function.to(logits.device)
        targets = self.targets.as_tensor(targets)
        mixed = targets.shape == logits.shape and not self.multilabel
        classes = targets.argmax(1) if mixed else targets
        if isinstance(self.mining, BatchMiner):
            losses, groups = self.loss_function.unreduced(logits, targets, weight), classes
            if losses.ndim > 1 and not self.multilabel:  # of pixels or tokens
                known = self.loss_function.counted(targets)
                losses = losses.where(known, torch.nan).flatten()  # never chosen
                groups = classes.where(known, 0).flatten()
            elif self.targets.unknown is not None:
                known = self.loss_function.counted(targets)
                if self.mining.multilabel:
                    losses = losses.where(known, torch.nan)  # never chosen
                else:
                    losses = losses.sum(1) / known.sum(1).clamp_min(1)
            value = self.mining(losses, groups, indices)
        else:
            value = self.loss_function(logits, targets, weight)
        if self.rates.training is not None and new_batch and torch.is_grad_enabled():
            self.rates.training.update(logits.detach(), classes)
        alone = self.grouping is not None and self.grouping.num_classes is None
        if new_batch and not alone and not isinstance(self.mining, LoaderMiner):
            if not self.ledger.came:
                self._check_ranks()
            self.ledger.add(classes, mixed)
        return value

    def mine(self, loader: Any, model: torch.nn.Module) -> Any:
        """Iterates full batches of the loader's examples that are worth a backward pass.

        Without a miner that acts before the backward pass (a `LoaderMiner`) it is the loader.
        """
        if not isinstance(self.mining, LoaderMiner):
            return loader
        if not (self._learnt and self._by_loss):
            self._learn()
        self._check_ranks()
        return self.mining(self.ledger.over(loader), model, self.loss_function.unreduced)

    @property
    def position(self) -> int:
        """Examples of the running epoch trained on so far, over all ranks; a state resumes there.

        Those that `loss` was called for under enabled gradients, or that `mine` took from its
        loader, each once; what a `DataLoader` has prefetched does not count. For whoever never
        calls `loss` it is how far the sampler has been iterated. Asking waits for the device.
        """
        return self.ledger.position

    def set_ranks(self, rank: int | None = None, num_replicas: int | None = None) -> None:
        """Draw as this rank of so many from the next iteration on; by default torch.distributed's.

        For a balancer made before `torch.distributed.init_process_group`. Every rank calls it.
        """
        self.sampler.set_ranks(*rank_and_replicas(rank, num_replicas))
        self._ranks_given = True
        require_same(self._made_of())

    def _check_ranks(self) -> None:
        """Say that all ranks draw the same, where torch.distributed was started too late."""
        if several() and self.sampler.num_replicas == 1 and not self._ranks_given:
            self._warn_once(
                "All ranks draw the same examples: the balancer was made before torch.distributed "
                "was initialised. Call balancer.set_ranks(), or make the balancer after it. See "
                "docs/is-it-wired-right.md."
            )

    def observe(self, logits: Tensor, targets: Tensor, groups: Any = None) -> None:
        """Count a hold-out batch, like a metric's `update`; nothing waits for the device.

        Args:
            logits: `(B, C)`.
            targets: `(B,)` class ids, or `(B, C)` of 0 and 1.
            groups: `(B,)` ids or names of the groups, of a balancer made with groups.
        """
        logits, targets = torch.as_tensor(logits), self.targets.as_tensor(targets)
        self._settle()
        corrected = logits if self.multilabel else self.correct(logits)
        if self.grouping is None:
            require_no_groups(groups)
            self.rates.update(logits, targets, corrected)
            return
        found = [z.argmax(1) for z in (logits, corrected)]
        targets = targets.to(logits.device)
        cells, guess, plain = self.grouping.cells_of(groups, targets, *found)
        ignored = self.loss_function.ignore_index
        cells = torch.where(targets == ignored, ignored, cells)
        self.rates.count(torch.isnan(logits).any(1), guess, plain, cells)

    def observe_rates(self, rates: Any, support: Any = None) -> None:
        """Let `step` move λ by a rate of your own for each class: success, AP, excess loss.

        Several calls, and those of several ranks, are averaged by their support. What `observe`
        has counted is then in `history` alone.

        Args:
            rates: `(C,)`, NaN for a class of which nothing is known: its λ stays. In [0, 1], the
                higher the better learnt, but for a policy that follows losses (`DoReMi`).
            support: `(C,)` examples that each rate is the mean of. Rates are then less what
                sampling noise explains, as recalls are; without, they are taken as they are.
        """
        self.rates.given.update(rates, support, losses=self.policy.follows_losses)

    def step(self) -> None:
        """End the epoch: from the recalls observed since the last step to λ for the next.

        The policy is given them less what sampling noise explains: see `smoothed_recalls`. The λ of
        a class that the hold-out lacks stays as it is. With several ranks every one calls it, and
        what each has observed is added up.

        What the epoch shows to be wired wrong is said once: see docs/is-it-wired-right.md.

        Raises:
            RuntimeError: nothing was observed, and the policy follows recalls.
            ValueError: the ranks are in different epochs, or have loaded different states.
        """
        states = {"epoch": self.epoch, "number of loaded states": self._loaded}
        require_same(states | {"checksum of log_weight": zlib.crc32(self.log_weight.data)})
        self._check_ranks()
        self._settle()
        self.ledger.check(self.epoch)
        self.rates.sum_over_ranks()
        row: dict[str, Any] = {
            "epoch": self.epoch,
            "log_weight": self.log_weight,
        } | self.rates.summary()
        if self.mining is not None:
            self.mining.sum_over_ranks()
            row["mining"] = self.mining.tally.summary() | {"estimated_cost": self.mining.cost()}
        recalls = self._usable_recalls(row)
        if self.grouping is not None:
            lists = "recalls", "support", "rates"
            cells = {key: np.reshape(row[key], self._shape) for key in lists if key in row}
            if "recalls" in row and len(self._shape) == 2:
                row |= group_figures(cells["recalls"], cells["support"])
            row |= cells
        self._rows.append(_packed(row))
        if not self._learnt:  # trained with another loss than ours
            by_loss = self._by_loss
            self._learn()
            self._by_loss = by_loss
        before = self.log_weight.reshape(-1)
        log_weight = self.policy.step(before, recalls)
        if recalls is not None and self.policy.needs_recalls:
            lacking = self.rates.followed.support.numpy() == 0
            log_weight = np.where(lacking, before, log_weight)
            log_weight = log_weight - log_weight.mean()
        self.rates.reset()
        self.epoch += 1
        self.ledger.go_to(self.epoch, 0)
        if self.mining is not None:
            self.mining.tally.reset()
            self.mining.set_epoch(self.epoch)
        self._set_log_weight(log_weight)
        self._warn_of_unresponsive()
        self._warn_of_price()

    def _settle(self) -> None:
        """Where `loss` is never called, though the sampler is used, its λ is not in the network."""
        if self.ledger.counts or not (self.sampler.handed_out and self._by_loss):
            return
        self._by_loss = False
        carried = np.abs((1 - self.sampler_share) * self.log_weight).max()
        if carried > 1e-6 and self.sampler.position == self.sampler.num_samples:
            self._warn_once(
                "balancer.loss was not called, but carries a part of the class weights, which "
                "correct therefore leaves out. Train with balancer.loss, or make the Balancer with "
                "sampler_share=1. See docs/is-it-wired-right.md."
            )

    @property
    def history(self) -> list[dict[str, Any]]:
        """A dict for each `step`, with λ, the recalls and their `price`.

        The price is the mean recall that the same network has when λ is removed, less the one it
        has as trained. A negative price is a gain; it is `None` where nothing was observed, and for
        labels. The dicts are made anew at each look, from what is kept as tensors.
        """
        return [_unpacked(row) for row in self._rows]

    def _usable_recalls(self, row: dict[str, Any]) -> np.ndarray | None:
        """What the policy is to follow, `(C,)`, or `None`; says what is missing or left out."""
        follows, rates = self.policy.needs_recalls, self.rates.followed
        seen, training = rates.support.numpy() > 0, rates is self.rates.training
        losses = self.policy.follows_losses
        if (follows and not seen.any()) or (losses and "rates" not in row):
            asked, what = "observe(logits, targets) on a hold-out", "recalls"
            if losses:
                asked, what = "observe_rates(losses)", "losses"
            elif training:
                asked = "balancer.loss(logits, targets) on the training batches"
            raise RuntimeError(
                f"Expected {asked} before step(), because {type(self.policy).__name__} follows "
                f"{what}, but nothing usable came ({row['num_nan']} examples with NaN logits)."
            )
        if row["num_nan"] or (row["num_invalid"] and self.targets.unknown is None):
            warnings.warn(
                f"Left out of the recalls of epoch {row['epoch']}: {row['num_nan']} examples with "
                f"NaN logits, {row['num_invalid']} with targets that are no class id.",
                stacklevel=3,
            )
        if not seen.any():
            return None
        lacking = np.flatnonzero(~seen & ~self._fixed)
        told = training or self.multilabel or "rates" in row
        if follows and len(lacking) and not told:
            self._warn_once(
                f"The hold-out has no example of {self.cells.listed(lacking)}: their λ stays as "
                "it is. equipoise.holdout_split takes some of every class."
            )
        if self.grouping is not None and isinstance(rates, ClassRates):
            return self.grouping.recalls(rates).numpy()
        return rates.recalls(prior=None).numpy()

    def _warn_of_unresponsive(self) -> None:
        if self.policy.unresponsive is None:
            return
        for c in np.flatnonzero(self.policy.unresponsive & ~self._fixed).tolist():
            row = self._rows[-1]
            recalls = row["rates" if "rates" in row else "recalls"].view(-1)
            self._warn_once(
                f"The recall of class {self.cells.listed([c])} does not rise with its weight, "
                "which therefore goes back. Look at its examples: are they mislabelled, is it the "
                "same as another class, or is there nothing to tell it by?",
                f"(recall {recalls[c]:.2f} in epoch {self.epoch - 1})",
            )

    def _warn_of_price(self) -> None:
        """Say once for whom much mean recall is paid, if it is in three epochs on end."""
        prices = [row["price"] for row in self._rows[-3:] if row["price"] is not None]
        if len(prices) < 3 or min(prices) <= 0.05:
            return
        raised = (self.log_weight - self._first_log_weight).reshape(-1)
        paid_for = [c for c in np.argsort(-raised)[:3] if raised[c] > 0.5]
        self._warn_once(
            "Balance costs much mean recall as trained, above all for the classes "
            f"{self.cells.listed(paid_for)}. Look at their examples: can they be told from the "
            "others? fit_decision keeps the price below .01; a smaller kappa of Fair moves less.",
            f"({prices[-1]:.2f} of mean recall in epoch {self.epoch - 1})",
        )

    def correct(self, logits: Tensor) -> Tensor:
        """Logits with the sampler's and the loss's shifts removed: those of plain training.

        For labels they are calibrated log-odds, as far as the network is: the loss's distortion is
        undone, and the change sampling makes to each label's log-odds.

        Where `loss` was never called, though the sampler was used, the loss's part is left out.
        Mining is not undone: under it the corrected logits are not calibrated (.10 to .16 off the
        true probability in measurements), because hard examples count for more than their share.
        """
        self._check_logits(logits)
        if self._by_loss:
            logits = self.loss_function.to(logits.device).correct(logits)
        shift = self._shift.to(logits)
        return logits - shift.view(-1, *[1] * (logits.ndim - 2))

    def _check_logits(self, logits: Tensor) -> None:
        dense, classes = logits.ndim > 2 and not self.multilabel, self.targets.num_classes
        if self.grouping is not None and self.grouping.num_classes is None:
            classes = logits.shape[-1]  # of groups alone, no number of classes is known
        if not (logits.ndim == 2 or dense) or logits.shape[1] != classes:
            one = "For one logit of two classes give the Balancer targets (N, 1) of 0 and 1."
            raise ValueError(
                f"Expected logits to have shape (N, {classes}), a column for each "
                f"class of the training targets, but got {tuple(logits.shape)}. "
                f"{one if logits.shape[1:] == (1,) and classes == 2 else ''}".rstrip()
            )

    def fit_decision(
        self,
        logits: Tensor,
        targets: Tensor,
        objective: str | None = None,
        *,
        max_price: float | None = 0.01,
        alpha: float | None = None,
        at_least: float | None = None,
        images: Tensor | None = None,
        k: int | None = None,
    ) -> Tensor:
        """Fit what `decide` uses, on hold-out logits as the network gives them.

        Args:
            logits: `(N, C)` of the hold-out, or dense, `(N, C, d1, …)`; or the `logits` of an
                `ElementSample`, so that those of all pixels need not be held.
            targets: class ids, `(N,)` or `(N, d1, …)`, or `(N, C)` of 0 and 1.
            objective: for class ids "fair" (by default), "equal-recall", "iou" (mean IoU, for
                pixels) or "accuracy": see `fit_class_decision`. For labels "prevalence" (by
                default), "f1", "recall", "precision", "equal-recall" or "top-k": see
                `fit_label_decision`.
            max_price: what "fair" may cost in mean recall, on examples it was not fitted on, and
                "top-k" in precision at k; `None` for no limit.
            alpha: see `fit_class_decision`. Classes that the policy found not to respond are left
                out of the fit: their hold-out labels cannot be trusted.
            at_least: see `fit_label_decision`.
            images: see `fit_class_decision`.
            k: see `fit_label_decision`.

        Returns:
            `(C,)`: offsets added to the logits (for "accuracy", zeros added to the corrected ones),
            or for labels thresholds of the corrected logits. `decision` holds more.
        """
        logits, targets = torch.as_tensor(logits).detach(), self.targets.as_tensor(targets)
        self._check_logits(logits)
        if self.multilabel:
            corrected = self.correct(logits)
            self.decision = fit_label_decision(
                corrected,
                targets,
                objective,
                at_least=at_least,
                k=k,
                max_price=max_price,
                unknown=self.targets.unknown,
            )
        else:
            if at_least is not None or k is not None:
                raise ValueError(
                    f"Expected at_least and k for labels only, but got {at_least} and {k} for "
                    "class ids."
                )
            self.decision = fit_class_decision(
                logits,
                targets,
                objective,
                max_price=max_price,
                alpha=alpha,
                start=self.correct(torch.zeros(1, logits.shape[1], device=logits.device))[0],
                leave_out=None if self.grouping else self.policy.unresponsive,
                listed=self.targets.listed,
                images=images,
                ignore_index=self.loss_function.ignore_index,
                prior=self.targets.counts,
            )
        return self.decision.values

    def decide(self, logits: Tensor) -> Tensor:
        """Predicted class ids: argmax, with the fitted offsets if there are any.

        `(N,)`, or `(N, d1, …)` of dense logits.

        For labels `(N, C)` uint8, 1 where the corrected logit is above the label's fitted
        threshold, or above 0 (a probability of .5) before `fit_decision`.
        """
        logits = torch.as_tensor(logits)
        self._check_logits(logits)
        if self.decision is None:
            return (
                (self.correct(logits) > 0).to(torch.uint8) if self.multilabel else logits.argmax(1)
            )
        return self.decision(self.correct(logits) if self.decision.corrected else logits)

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

    def _made_of(self) -> dict[str, Any]:
        """What a state, and every rank, must agree with."""
        return {
            "num_classes": self.targets.num_classes,
            "num_examples": self.targets.num_examples,
            "checksum of targets": self.targets.checksum,
            "checksum of cells": self.cells.checksum,
            "policy": type(self.policy).__name__,
            "sampler_share": self.sampler_share,
            "sampler": type(self.sampler).__name__,
            "num_samples": self._num_samples,
            "seed": self.sampler.seed,
            "loss": type(self.loss_function).__name__,
            "mining": type(self.mining).__name__,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit; safe to load with `weights_only=True`."""
        return {
            "version": VERSION,
            "made_of": self._made_of(),
            "epoch": self.epoch,
            "ledger": self.ledger.state_dict(),
            "log_weight": torch.from_numpy(self.log_weight.copy()),
            "policy": self.policy.state_dict(),
            "sampler": self.sampler.state_dict(),
            "loss": self.loss_function.state_dict(),
            "learnt": self._learnt,
            "by_loss": self._by_loss,
            "shift": self._shift.clone(),
            "mining": None if self.mining is None else self.mining.state_dict(),
            "rates": self.rates.state_dict(),
            "decision": None if self.decision is None else self.decision.state_dict(),
            "history": list(self._rows),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over `state_dict` of a balancer made with the same arguments and targets.

        The number of ranks may differ. In mid-epoch the sampler goes on after `position`.

        Raises:
            ValueError: a state of another version, of other targets or parts; nothing is changed
                then.
        """
        self._check_state(state)
        self.sampler.load_state_dict(state["sampler"])
        self.loss_function.load_state_dict(state["loss"])
        self.policy.load_state_dict(state["policy"])
        self.rates.load_state_dict(state["rates"])
        if self.mining is not None:
            self.mining.load_state_dict(state["mining"])
        made = LabelDecision if self.multilabel else ClassDecision
        self.decision = None if state["decision"] is None else made(**state["decision"])
        self._learnt, self._shift = state["learnt"], state["shift"].cpu().clone()
        self.epoch = state["epoch"]
        self.log_weight = state["log_weight"].cpu().double().numpy().copy()
        self._by_loss, self._loaded = state["by_loss"], self._loaded + 1
        self._rows = [dict(row) for row in state["history"]]
        self.ledger.load_state_dict(state["ledger"], self.epoch)

    def _check_state(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or "made_of" not in state:
            raise ValueError(
                "Expected state of a Balancer, as state_dict() gives it, but got another."
            )
        version = state.get("version", 1)
        if version != VERSION:
            raise ValueError(
                f"Expected state of version {VERSION}, but got version {version}: it was saved by "
                f"{'a later' if version > VERSION else 'an earlier'} equipoise."
            )
        for name, mine in self._made_of().items():
            theirs = state["made_of"].get(name)
            if theirs != mine:
                raise ValueError(
                    f"Expected state of a Balancer with {name} {mine!r}, but got {theirs!r}."
                )
        missing = [name for name in self.state_dict() if name not in state]
        if missing:
            raise ValueError(f"Expected state of a Balancer, but got one without {missing}.")


def _packed(value: Any) -> Any:
    """Lists in a row of `history` as tensors, which a hundred times as many classes fit."""
    if isinstance(value, dict):
        return {name: _packed(each) for name, each in value.items()}
    return torch.tensor(np.asarray(value)) if isinstance(value, np.ndarray | list) else value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _unpacked(each) for name, each in value.items()}
    return value.tolist() if isinstance(value, Tensor) else value


def _fixed_classes(targets: Targets) -> np.ndarray:
    """`(C,)` whether a class is carried by no example, or a label by all: λ has no say there."""
    fixed = targets.counts == 0
    if targets.multilabel:
        fixed = fixed | (targets.counts == targets.num_examples)
    if fixed.all():
        raise ValueError(
            "Expected targets of Balancer to have a class that some examples carry, and for labels "
            f"some do not, but got {targets!r} without."
        )
    return fixed
