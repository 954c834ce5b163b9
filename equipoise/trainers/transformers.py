"""For Hugging Face Transformers: a Trainer that draws, weighs and checkpoints by a balancer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

try:
    from transformers import (
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
    from transformers.trainer_utils import get_last_checkpoint
except ImportError as error:
    raise ImportError(
        "equipoise.trainers.transformers needs Transformers and accelerate: "
        "pip install 'equipoise[transformers]'"
    ) from error

from equipoise import checkpoint
from equipoise.balancer import Balancer
from equipoise.trainers.counting import keep_on_first_rank, recall_summary, refuse_loader_mining
from equipoise.trainers.global_order import GlobalOrder

__all__ = ["BalancedTrainer", "BalancerCallback"]

FILE = "balancer.pt"  # beside the model in each checkpoint


class BalancerCallback(TrainerCallback):
    """Steps a balancer after each epoch's evaluation, and saves it into each checkpoint.

    `BalancedTrainer` has one; a `Trainer` of your own that overrides the same methods can use it.

    Args:
        balancer: the one that is stepped.
        evaluate: called when training resumes from a checkpoint that was saved after the last
            batch of an epoch, but before its evaluation, which Trainer then leaves out.

    Example:
        >>> BalancerCallback(Balancer([0, 0, 0, 1])).balancer.epoch
        0
    """

    def __init__(self, balancer: Balancer, evaluate: Callable[[], Any] | None = None) -> None:
        self.balancer, self.evaluate = balancer, evaluate
        self._awaits_evaluation = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._awaits_evaluation = False
        if self.balancer.policy.needs_recalls and args.eval_strategy == "no":
            raise ValueError(
                'Expected TrainingArguments(eval_strategy="epoch"), because '
                f"{type(self.balancer.policy).__name__} follows recalls, but got "
                f"{args.eval_strategy.value!r}."
            )
        if self.balancer.policy.needs_recalls:
            _require_evaluation(args, state, kwargs.get("train_dataloader"))
        behind = state.epoch is not None and self.balancer.epoch < int(state.epoch)
        if behind and self.balancer.position > 0:
            if self.evaluate is not None and args.eval_strategy != "no":
                self.evaluate()
            self.balancer.step()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.epoch != round(state.epoch):  # max_steps has cut the epoch short
            return
        if control.should_evaluate:
            self._awaits_evaluation = True
        else:
            self.balancer.step()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._awaits_evaluation:
            self._awaits_evaluation = False
            self.balancer.step()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            path = Path(args.output_dir, f"checkpoint-{state.global_step}", FILE)
            checkpoint.save(path, balancer=self.balancer)

    def load(self, folder: str | os.PathLike[str]) -> None:
        """Take over the balancer's state from a checkpoint's folder, on every rank."""
        path = Path(folder, FILE)
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected {path} to resume from, but there is none: was the checkpoint saved "
                "without a BalancerCallback?"
            )
        self.balancer.load_state_dict(checkpoint.load(path)["balancer"])
        keep_on_first_rank(self.balancer, self.balancer.sampler.rank)


def _require_evaluation(args: TrainingArguments, state: TrainerState, loader: Any) -> None:
    """Raise if an epoch may end without an evaluation in it."""
    if loader is None:
        return
    steps = max(-(-len(loader) // args.gradient_accumulation_steps), 1)
    delay, every = args.eval_delay or 0, steps
    if args.eval_strategy == "steps":
        every = state.eval_steps
    else:
        delay = delay * steps
    if state.max_steps >= steps and (every > steps or steps // every * every < delay):
        raise ValueError(
            "Expected an evaluation in every epoch, because the balancer's policy follows recalls, "
            f"but got eval_strategy={args.eval_strategy.value!r} every {every} steps and "
            f"eval_delay={args.eval_delay} with {steps} steps an epoch. Take "
            'eval_strategy="epoch", or eval_steps of at most an epoch.'
        )


class BalancedTrainer(Trainer):
    """A `Trainer` that trains by a balancer: its order, its loss, its epochs.

    * Training draws from the balancer and minimises `balancer.loss` of the model's logits and
      `inputs["labels"]`, which the model itself does not get. `inputs["indices"]`, if there is
      one, goes to the loss.
    * accelerate splits loaders over the processes itself, by whole batches, by parts of each
      (`split_batches`) or from rank 0 (`dispatch_batches`): so it is given the `GlobalOrder`, and
      each example comes once. To make the last batch of an epoch even over several processes,
      accelerate repeats some of the first; a `num_samples` of the balancer that the batches of
      all processes divide avoids that.
    * `eval_dataset` is the hold-out. Evaluations during training count its recalls, each example
      once, from the logits they compute anyway, and report `eval_recall_mean`, `eval_recall_sd`
      and `eval_recall_lowest`; the last one in an epoch is for `balancer.step()`. `eval_loss` is
      plain cross-entropy, so that it can be compared between epochs.
    * `train(resume_from_checkpoint=…)` resumes the balancer too.

    Args:
        model: a module whose output is logits `(B, C)`, or has them under "logits".
        args: `TrainingArguments`, with `eval_strategy="epoch"` for policies that follow recalls.
        balancer: made of the labels of `train_dataset`, in its order.
        kwargs: the others of `Trainer`.

    Raises:
        ValueError: a balancer of another number of examples than `train_dataset`, or whose mining
            needs a loop of its own; several evaluation sets; `dataloader_drop_last`, which would
            leave out the end of the hold-out too; `label_smoothing_factor`, `compute_loss_func`
            or another `train_sampling_strategy`, which would be ignored. At the start of `train`,
            for policies that follow recalls: an epoch without an evaluation.
    """

    loss_is_scaled_for_ga = False  # a mean over the batch, which Trainer divides by accumulation

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        *,
        balancer: Balancer,
        **kwargs: Any,
    ) -> None:
        refuse_loader_mining(balancer)
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError(
                "Expected no compute_loss_func beside a balancer, whose loss is used, but got "
                f"{kwargs['compute_loss_func']!r}."
            )
        if args is not None and args.train_sampling_strategy != "random":
            raise ValueError(
                'Expected train_sampling_strategy to be "random", because the balancer draws, but '
                f"got {args.train_sampling_strategy!r}."
            )
        if args is not None and args.label_smoothing_factor:
            raise ValueError(
                "Expected label_smoothing_factor to be 0, because balancer.loss has no label "
                f"smoothing, but got {args.label_smoothing_factor}."
            )
        super().__init__(model, args, **kwargs)
        self.balancer = balancer
        self.model_accepts_loss_kwargs = False
        self.label_names: list[str] = getattr(self, "label_names", None) or ["labels"]
        if self.train_dataset is not None and len(self.train_dataset) != len(balancer.targets):
            raise ValueError(
                f"Expected train_dataset to have the {len(balancer.targets)} examples of the "
                f"balancer's targets, but got {len(self.train_dataset)}."
            )
        if isinstance(self.eval_dataset, dict):
            raise ValueError(
                "Expected eval_dataset to be one hold-out, whose recalls the balancer follows, "
                f"but got {sorted(self.eval_dataset)}."
            )
        if self.args.dataloader_drop_last:
            raise ValueError(
                "Expected dataloader_drop_last to be False, because Trainer then leaves out the "
                "end of the hold-out too, but got True. Give the balancer a num_samples that is a "
                "multiple of the batch instead."
            )
        processes = self.accelerator.process_index, self.accelerator.num_processes
        if (balancer.sampler.rank, balancer.sampler.num_replicas) != processes:
            balancer.set_ranks(*processes)
        self._balancing = BalancerCallback(balancer, self.evaluate)
        self.add_callback(self._balancing)
        self._observes = False

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As `Trainer.train`; a checkpoint's balancer is resumed with it."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)
        if folder:
            self._balancing.load(folder)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> GlobalOrder:
        return GlobalOrder(self.balancer)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """`balancer.loss` in training, plain cross-entropy in evaluation."""
        inputs = dict(inputs)
        labels, indices = inputs.pop("labels"), inputs.pop("indices", None)
        outputs = model(**inputs)
        if isinstance(outputs, Tensor):
            outputs = {"logits": outputs}
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        if torch.is_grad_enabled():
            loss = self.balancer.loss(logits, labels, indices)
        elif self.balancer.multilabel:
            loss = binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        else:
            loss = cross_entropy(logits, labels)
        return (loss, {"logits": logits}) if return_outputs else loss

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """As `Trainer.prediction_step`; during training the balancer observes the logits."""
        only_loss = prediction_loss_only and not self._observes
        loss, logits, labels = super().prediction_step(model, inputs, only_loss, ignore_keys)
        if self._observes:
            # of all ranks, without the examples repeated to make the last batch even
            self.balancer.observe(*self.accelerator.gather_for_metrics((logits, labels)))
        return (loss, None, None) if prediction_loss_only else (loss, logits, labels)

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.evaluation_loop`, with the recalls among the metrics of an evaluation."""
        self._observes = self.is_in_train and description == "Evaluation"
        if not self._observes:
            return super().evaluation_loop(dataloader, description, *args, **kwargs)
        self.balancer.rates.reset()
        try:
            result = super().evaluation_loop(dataloader, description, *args, **kwargs)
        finally:
            self._observes = False
        prefix = kwargs.get("metric_key_prefix", "eval")
        for name, value in recall_summary(self.balancer).items():
            result.metrics[f"{prefix}_recall_{name}"] = value
        keep_on_first_rank(self.balancer, self.accelerator.process_index)
        return result
