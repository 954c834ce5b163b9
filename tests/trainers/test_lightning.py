"""Lightning: same order and λ as the plain loop, through validation, checkpoints and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.trainers import loops
from tests.trainers.loops import BATCH, HELD, RATE, TRAIN, Points, Run, plain, sides, start

loops.needed("lightning")

import lightning.pytorch as pl  # noqa: E402
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

from equipoise.trainers.lightning import BalancerCallback  # noqa: E402

pytestmark = [
    # Lightning 2.6 asks for LeafSpec, which torch 2.15 calls deprecated
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*is deprecated:FutureWarning"),
    # advice about speed and logging that a test of a few batches cannot follow
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:You requested to overfit but"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Module(pl.LightningModule):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self.net, self.run = run.model, run

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.run.order += batch["indices"].tolist()
        logits = self.net(batch["points"])
        return self.run.balancer.loss(logits, batch["labels"], batch["indices"])

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, torch.Tensor]:
        found = {"logits": self.net(batch["points"]), "targets": batch["labels"]}
        return found | self.groups(batch["points"])

    def groups(self, points: torch.Tensor) -> dict[str, torch.Tensor]:
        return {} if self.run.balancer.grouping is None else {"groups": sides(points)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=RATE)


def fit(
    run: Run,
    epochs: int,
    workers: int = 0,
    train: Points = TRAIN,
    held: Points | None = HELD,
    accumulate: int = 1,
    ckpt_path: Path | None = None,
    module: type[Module] = Module,
    sampler: Any = None,
    saver: ModelCheckpoint | None = None,
    **settings: Any,
) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": epochs,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": saver is not None,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accumulate_grad_batches": accumulate,
    }
    callbacks = [BalancerCallback(run.balancer), *([] if saver is None else [saver])]
    trainer = pl.Trainer(callbacks=callbacks, **defaults | settings)
    loader = DataLoader(train, BATCH, sampler=sampler or run.balancer.sampler, num_workers=workers)
    validation = None if held is None else DataLoader(held, 50)
    trainer.fit(module(run), loader, validation, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize(
    ("workers", "accumulate", "groups"),
    [(0, 1, None), (0, 3, None), (2, 1, None), (2, 3, None), (0, 1, sides(TRAIN.points))],
)
def test_order_and_log_weights_are_the_plain_loops(workers, accumulate, groups):
    expected = plain(start(groups=groups), 4, accumulate=accumulate)
    run = start(groups=groups)
    fit(run, 4, workers, accumulate=accumulate)
    assert run.outcome == expected.outcome
    assert run.balancer.history == expected.balancer.history
    assert len({str(row) for row in run.log_weights}) >= 3, "λ has to move, or nothing is shown"


def test_order_and_log_weights_of_labels():
    run, train, held = loops.start_with_labels()
    fit(run, 3, train=train, held=held)
    assert run.outcome == plain(loops.start_with_labels()[0], 3, train, held).outcome


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_of_several_validations_the_last_in_an_epoch_counts(share):
    run = start()
    trainer = fit(run, 3, val_check_interval=share)
    assert run.balancer.epoch == 3
    assert loops.counts_one_pass(run)
    assert trainer.callback_metrics["recall/lowest"] == min(run.balancer.history[-1]["recalls"])
    assert run.balancer.rates.support.sum() == 0
    trainer.validate(Module(run), DataLoader(HELD, 50), verbose=False)
    assert run.balancer.rates.support.sum() == 0
    assert run.balancer.epoch == 3


def test_a_function_may_say_where_logits_are():
    class Other(Module):
        def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
            return self.net(batch["points"])

    run = start()
    with pytest.raises(ValueError, match=r'Expected validation_step to return \{"logits"'):
        fit(run, 1, module=Other, num_sanity_val_steps=0)
    callback = BalancerCallback(run.balancer, lambda outputs, batch: (outputs, batch["labels"]))
    assert callback.logits_and_targets(1, {"labels": 2}) == (1, 2)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batches", [3, 7, 7 + 5, 7 + 7])  # an epoch has 7
def test_resume_goes_on_with_the_next_example(tmp_path, batches, workers):
    expected = plain(start(), 4)
    first = start()
    saver = ModelCheckpoint(tmp_path, filename="at", every_n_train_steps=batches)
    fit(first, 4, workers, max_steps=batches, saver=saver)
    run = start()
    fit(run, 4, workers, ckpt_path=tmp_path / "at.ckpt")
    assert first.order + run.order == expected.order
    assert run.log_weights == expected.log_weights


@pytest.mark.parametrize("at_validation", [True, False])
def test_resume_from_the_end_of_an_epoch(tmp_path, at_validation):
    expected = plain(start(), 4)
    first = start()
    saver = ModelCheckpoint(
        tmp_path,
        filename="{epoch}",
        monitor="recall/lowest",
        save_top_k=-1,
        save_on_train_epoch_end=not at_validation,
    )
    fit(first, 4, saver=saver)
    assert first.order == expected.order
    run = start()
    fit(run, 4, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert run.order == expected.order[2 * len(TRAIN) :]
    assert run.log_weights == expected.log_weights


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"Expected the training loader to draw from balancer\."):
        fit(start(), 1, sampler=start().balancer.sampler)
    run = start()
    fit(run, 2)
    with pytest.raises(ValueError, match="at epoch 0, as the trainer is, but got one at epoch 2"):
        fit(run, 2)
    with pytest.raises(ValueError, match=r"got SequentialSampler\. Trainer\(overfit_batches"):
        fit(start(), 1, overfit_batches=2)
    with pytest.raises(ValueError, match=r"got check_val_every_n_epoch=2"):
        fit(start(), 4, check_val_every_n_epoch=2)
    with pytest.raises(ValueError, match=r"Expected a validation in every epoch.*got none"):
        fit(start(), 1, limit_val_batches=0)
    with pytest.raises(ValueError, match="got val_check_interval=8 with 7 batches an epoch"):
        fit(run := start(), 4, val_check_interval=8, check_val_every_n_epoch=None)
    assert not run.order
    with pytest.raises(ValueError, match="got SelectiveBackprop, which needs a loop of your own"):
        BalancerCallback(start(mining="selective-backprop").balancer)


def test_a_policy_of_counts_needs_no_validation():
    run = start(policy="inverse-frequency")
    fit(run, 2, limit_val_batches=0)
    assert run.order == plain(start(policy="inverse-frequency"), 2).order
