"""For Lightning: a callback that counts the hold-out, steps the balancer and checkpoints it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise ImportError(
        "equipoise.trainers.lightning needs Lightning: pip install 'equipoise[lightning]'"
    ) from error

from equipoise.balancer import Balancer
from equipoise.trainers.counting import keep_on_first_rank, recall_summary, refuse_loader_mining

__all__ = ["BalancerCallback"]


def _from_outputs(outputs: Any, batch: Any) -> tuple[Any, ...]:
    """The default of `logits_and_targets`."""
    if isinstance(outputs, Mapping) and {"logits", "targets"} <= outputs.keys():
        return tuple(outputs[key] for key in ("logits", "targets", "groups") if key in outputs)
    got = f"a dict of {sorted(outputs)}" if isinstance(outputs, Mapping) else type(outputs).__name__
    raise ValueError(
        'Expected validation_step to return {"logits": logits, "targets": targets}, but got '
        f"{got}. Or give BalancerCallback a function logits_and_targets(outputs, batch)."
    )


class BalancerCallback(pl.Callback):
    """Runs a balancer within `Trainer.fit`: hold-out counts, `step`, checkpoints, logged recalls.

    The module's training loader draws from `balancer.sampler`, its `training_step` returns
    `balancer.loss(logits, targets)`, and its `validation_step` returns logits and targets, so
    that nothing is computed twice. The rest is done here:

    * `balancer.step()` at the end of each training epoch, on the counts of the last validation in
      it. The sanity check and `Trainer.validate` do not count.
    * The sampler takes its rank from the strategy, and an epoch from the balancer. Lightning must
      not wrap it: with several devices, `Trainer(use_distributed_sampler=False)`.
    * Each hold-out example is counted once over all ranks: where the validation loader is not
      split over them, only rank 0 counts. (`DistributedSampler` repeats up to ranks − 1 examples.)
    * Checkpoints hold the balancer. One saved in mid-epoch resumes with the next example, with the
      same number of ranks.
    * `recall/mean`, `recall/sd` and `recall/lowest` are logged with each validation, for
      `ModelCheckpoint(monitor="recall/lowest")`, say.

    Args:
        balancer: what `training_step` and the training loader use.
        logits_and_targets: from what `validation_step` returned and the batch, the logits `(B, C)`
            and the targets `(B,)` or `(B, C)` to count; by default the entries "logits" and
            "targets" of a returned dict, and "groups" for a balancer with groups. Of several
            validation loaders the first is the hold-out.

    Raises:
        ValueError: at the start of `fit`, if the training loader does not draw from
            `balancer.sampler`, the balancer is in a later epoch than the trainer, or the policy
            needs recalls and there is no validation each epoch (none at all, or
            `check_val_every_n_epoch` or `val_check_interval` beyond it).

    Example:
        >>> callback = BalancerCallback(Balancer([0, 0, 0, 1]))
        >>> trainer = pl.Trainer(callbacks=[callback], logger=False)  # doctest: +SKIP
    """

    def __init__(
        self,
        balancer: Balancer,
        logits_and_targets: Callable[[Any, Any], tuple[Any, ...]] = _from_outputs,
    ) -> None:
        refuse_loader_mining(balancer)
        self.balancer = balancer
        self.logits_and_targets = logits_and_targets
        self._counts_here = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        of = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        sampler = self.balancer.sampler
        if (sampler.rank, sampler.num_replicas) != (of["rank"], of["num_replicas"]):
            self.balancer.set_ranks(of["rank"], of["num_replicas"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _require_sampler(trainer, self.balancer.sampler)
        if self.balancer.epoch > trainer.current_epoch:  # Lightning tells samplers its own epoch
            raise ValueError(
                f"Expected a balancer at epoch {trainer.current_epoch}, as the trainer is, but got "
                f"one at epoch {self.balancer.epoch}. Go on with fit(ckpt_path=…), which resumes "
                "both, or begin with a new balancer."
            )
        got = _epoch_without_validation(trainer)
        if got and self.balancer.policy.needs_recalls:
            raise ValueError(
                f"Expected a validation in every epoch, because "
                f"{type(self.balancer.policy).__name__} follows recalls, but got {got}."
            )
        if trainer.current_epoch > self.balancer.epoch and self.balancer.position > 0:
            self._catch_up(trainer)

    def _catch_up(self, trainer: pl.Trainer) -> None:
        """Validate and step after an epoch that Lightning resumes behind without either.

        It does so from a checkpoint of `ModelCheckpoint(every_n_train_steps=…)` that was saved
        after the last batch of an epoch.
        """
        if trainer.enable_validation:
            validation = trainer.fit_loop.epoch_loop.val_loop
            validation.restarting = False  # from its first batch
            trainer.validating = True
            validation.run()
            trainer.training = True
        self.balancer.step()
        iter(trainer.fit_loop._data_fetcher)  # workers may have asked the old epoch for more

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has told the sampler its own epoch, which runs ahead where `step` was left out.
        self.balancer.ledger.go_to(self.balancer.epoch, 0)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if _in_fit(trainer):
            self.balancer.rates.reset()
            self._counts_here = trainer.global_rank == 0 or _is_split(trainer.val_dataloaders)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if _in_fit(trainer) and dataloader_idx == 0 and self._counts_here:
            self.balancer.observe(*self.logits_and_targets(outputs, batch))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not _in_fit(trainer):
            return
        self.balancer.rates.sum_over_ranks()
        for name, value in recall_summary(self.balancer).items():
            pl_module.log(f"recall/{name}", value, on_epoch=True, rank_zero_only=False)
        keep_on_first_rank(self.balancer, trainer.global_rank)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_last_batch:  # not where max_steps or max_time has cut the epoch short
            self.balancer.step()

    def state_dict(self) -> dict[str, Any]:
        return self.balancer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.balancer.load_state_dict(state_dict)
        keep_on_first_rank(self.balancer, self.balancer.sampler.rank)


def _in_fit(trainer: pl.Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def _loaders(found: Any) -> list[DataLoader]:
    """The DataLoaders in what a trainer calls its loaders: one, or a list or dict of them."""
    if isinstance(found, Mapping):
        found = list(found.values())
    if isinstance(found, list | tuple):
        return [loader for one in found for loader in _loaders(one)]
    return [found] if isinstance(found, DataLoader) else []


def _is_split(found: Any) -> bool:
    """Whether each rank has its own part of the first loader; others than DataLoaders have."""
    loaders = _loaders(found)
    return not loaders or not isinstance(loaders[0].sampler, RandomSampler | SequentialSampler)


def _epoch_without_validation(trainer: pl.Trainer) -> str | None:
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_batch
    batches = trainer.num_training_batches
    if not trainer.enable_validation:
        return "none"
    if every is None and interval > batches:
        return (
            f"val_check_interval={interval} with {batches} batches an epoch. Make the interval at "
            "most that, or the epoch longer by num_samples of the Balancer"
        )
    return None if every in (1, None) else f"check_val_every_n_epoch={every}"


def _require_sampler(trainer: pl.Trainer, wanted: Any) -> None:
    """Raise if there are DataLoaders, and none draws from the balancer's sampler."""
    loaders = _loaders(trainer.train_dataloader)
    samplers = [getattr(loader.batch_sampler, "sampler", loader.sampler) for loader in loaders]
    if not loaders or any(sampler is wanted for sampler in samplers):
        return
    got = type(samplers[0]).__name__
    mend = "Give it DataLoader(sampler=balancer.sampler)."
    if got.startswith("Distributed"):
        mend = (
            "Lightning has wrapped it, so its ranks would be split twice: give "
            "Trainer(use_distributed_sampler=False), and the validation loader a "
            "DistributedSampler(…, shuffle=False) of its own."
        )
    elif trainer.overfit_batches:
        mend = "Trainer(overfit_batches=…) replaces it: use limit_train_batches instead."
    raise ValueError(
        f"Expected the training loader to draw from balancer.sampler, but got {got}. {mend}"
    )
