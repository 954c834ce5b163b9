"""Transformers: same order and λ as the plain loop, through evaluation, checkpoints and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers import loops
from tests.trainers.loops import BATCH, HELD, RATE, TRAIN, Net, Points, Run, plain, start

loops.needed("transformers")

from transformers import TrainerCallback, TrainingArguments  # noqa: E402

from equipoise.trainers.transformers import BalancedTrainer  # noqa: E402

pytestmark = [
    # pin_memory is on by default, and there is no accelerator here
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator"),
]


class Notes(TrainerCallback):
    """Notes what is logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.rows.append(dict(logs))


class Noting(BalancedTrainer):
    """Notes the ids of the examples trained on."""

    run: Run

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            self.run.order += inputs["indices"].tolist()
        return super().compute_loss(model, inputs, *args, **kwargs)


def make(
    run: Run,
    folder: Path,
    epochs: int,
    train: Points = TRAIN,
    held: Any = HELD,
    callbacks: tuple[TrainerCallback, ...] = (),
    **settings: Any,
) -> Noting:
    defaults: dict[str, Any] = {
        "num_train_epochs": epochs,
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": 50,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "max_grad_norm": 0.0,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
    }
    arguments = TrainingArguments(str(folder), **defaults | settings)
    net = Net(run)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = Noting(
        net,
        arguments,
        balancer=run.balancer,
        train_dataset=train,
        eval_dataset=held,
        optimizers=(optimizer, constant),
        callbacks=list(callbacks),
    )
    trainer.run = run
    return trainer


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_log_weights_are_the_plain_loops(workers, accumulate, tmp_path):
    expected = plain(start(), 4, accumulate=accumulate, rest_by_its_own=True)
    run, notes = start(), Notes()
    settings = {"gradient_accumulation_steps": accumulate, "dataloader_num_workers": workers}
    make(run, tmp_path, 4, callbacks=(notes,), **settings).train()
    assert run.outcome == expected.outcome
    lowest = [row["eval_recall_lowest"] for row in notes.rows if "eval_recall_lowest" in row]
    assert lowest == [min(row["recalls"]) for row in run.balancer.history]


def test_order_and_log_weights_of_labels(tmp_path):
    run, train, held = loops.start_with_labels()
    make(run, tmp_path, 3, train, held).train()
    assert run.outcome == plain(loops.start_with_labels()[0], 3, train, held).outcome


def test_a_model_that_wants_labels_and_a_metric_of_ones_own(tmp_path):
    seen = []

    def metric(prediction: Any) -> dict[str, float]:
        seen.append((prediction.predictions.shape, prediction.label_ids.shape))
        return {"mine": 1.0}

    run = start()
    trainer = make(run, tmp_path, 2)
    trainer.compute_metrics = metric
    trainer.train()
    assert run.log_weights == plain(start(), 2).log_weights
    assert seen == [((60, 3), (60,))] * 2
    metrics = trainer.evaluate()  # after training nothing is counted
    assert metrics["eval_mine"] == 1.0
    assert "eval_recall_mean" not in metrics
    trainer.predict(HELD)
    assert run.balancer.rates.support.sum() == 0
    assert run.balancer.epoch == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"eval_steps": 3},
        {"eval_steps": 7},
        {"eval_steps": 3, "eval_delay": 6},
        {"eval_steps": 0.25},
    ],
)
def test_of_several_evaluations_the_last_in_an_epoch_counts(settings, tmp_path):
    run = start()
    make(run, tmp_path, 3, eval_strategy="steps", **settings).train()
    assert run.balancer.epoch == 3
    assert loops.counts_one_pass(run)
    if settings == {"eval_steps": 7}:  # as many as an epoch has
        assert run.log_weights == plain(start(), 3).log_weights


@pytest.mark.parametrize("stop", [3, 7, 7 + 5, 7 + 7])
def test_resume_goes_on_with_the_next_example(stop, tmp_path):
    expected = plain(start(), 4)
    first = start()
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": stop}
    if stop % 7 == 0:
        settings = {"save_strategy": "epoch"}
    make(first, tmp_path, 4, max_steps=stop, **settings).train()
    assert first.order == expected.order[: len(first.order)]
    run = start()
    make(run, tmp_path, 4).train(resume_from_checkpoint=True)
    assert first.order + run.order == expected.order
    assert run.log_weights == expected.log_weights
    assert sorted(p.name for p in (tmp_path / f"checkpoint-{stop}").glob("balancer*")) == [
        "balancer.pt"
    ]


def test_resume_behind_an_epoch_that_was_not_evaluated(tmp_path):
    expected = plain(start(), 4)
    first = start()
    make(first, tmp_path, 4, save_strategy="steps", save_steps=7).train()
    run = start()
    make(run, tmp_path, 4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-14"))
    assert run.order == expected.order[200:]
    assert run.log_weights == expected.log_weights


def test_a_second_training_goes_on_with_the_balancers_epoch(tmp_path):
    expected = plain(start(), 4)
    run = start()
    make(run, tmp_path, 2).train()
    make(run, tmp_path, 2).train()
    assert run.outcome == expected.outcome


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Expected train_dataset to have the 100 examples"):
        make(start(), tmp_path, 1, train=HELD)
    with pytest.raises(ValueError, match=r"Expected eval_dataset to be one hold-out.*got \['a'"):
        make(start(), tmp_path, 1, held={"a": HELD, "b": HELD})
    with pytest.raises(ValueError, match="got SelectiveBackprop, which needs a loop of your own"):
        make(start(mining="selective-backprop"), tmp_path, 1)
    with pytest.raises(ValueError, match="Expected dataloader_drop_last to be False"):
        make(start(), tmp_path, 1, dataloader_drop_last=True)
    with pytest.raises(ValueError, match="label_smoothing_factor to be 0, because"):
        make(start(), tmp_path, 1, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match=r"to be \"random\".*got 'group_by_length'"):
        make(start(), tmp_path, 1, train_sampling_strategy="group_by_length")
    (tmp_path / "checkpoint-7").mkdir()
    with pytest.raises(FileNotFoundError, match=r"balancer\.pt to resume from, but there is none"):
        make(start(), tmp_path, 1).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"eval_strategy": "no"},
        {"eval_strategy": "steps", "eval_steps": 8},  # an epoch has 7
        {"eval_strategy": "steps", "eval_steps": 0.5},
        {"eval_strategy": "steps", "eval_steps": 2, "gradient_accumulation_steps": 7},
        {"eval_strategy": "epoch", "eval_delay": 2},
        {"eval_strategy": "steps", "eval_steps": 3, "eval_delay": 7},
    ],
)
def test_an_epoch_without_an_evaluation_is_refused_at_the_start(settings, tmp_path):
    run = start()
    with pytest.raises(
        ValueError, match=r"Expected an evaluation in every|eval_strategy=\"epoch\""
    ):
        make(run, tmp_path, 3, **settings).train()
    assert not run.order
    run = start(policy="inverse-frequency")  # which needs none
    make(run, tmp_path, 2, **settings).train()
    assert run.order == plain(start(policy="inverse-frequency"), 2).order
