"""What a Balancer adds to a training step in each trainer: sampler, loss, observe and step.

    OMP_NUM_THREADS=1 python -m benchmarks.trainers.overhead --rounds 5

Each round trains one epoch with a Balancer (its sampler, its loss, the recalls of the hold-out, a
step of λ) and one without (shuffling, cross-entropy, the same hold-out passed through the network),
in alternating order, in the plain loop, in Lightning and in Transformers; processor time of the
process. Prints as Markdown, medians with quartiles over the rounds:

* the ratio of the two with ResNet-18 (torchvision's, 3×32×32, batch 128),
* what the Balancer adds to a step in milliseconds, measured with a network of almost no cost, where
  it is not lost in the noise of the convolutions, and as a share of a ResNet-18 step.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.utils import logging as transformers_logging

from equipoise import Balancer
from equipoise.trainers.lightning import BalancerCallback
from equipoise.trainers.transformers import BalancedTrainer

BATCH, CLASSES = 128, 10


class Images(Dataset):
    """Random images, fetched a batch at a time."""

    def __init__(self, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(size, 3, 32, 32, generator=generator)
        self.labels = torch.arange(size) % CLASSES

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"pixels": self.images[indices], "labels": self.labels[indices]}


def as_it_is(batch: Any) -> Any:
    return batch


def loaders(balancer: Balancer | None, train: Images, held: Images) -> tuple[DataLoader, ...]:
    how: dict[str, Any] = {"shuffle": True} if balancer is None else {"sampler": balancer.sampler}
    return (
        DataLoader(train, BATCH, collate_fn=as_it_is, **how),
        DataLoader(held, BATCH, collate_fn=as_it_is),
    )


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)


def plain_loop(net: nn.Module, balancer: Balancer | None, train: Images, held: Images) -> None:
    loader, validation = loaders(balancer, train, held)
    optimizer = sgd(net)
    net.train()
    for batch in loader:
        logits = net(batch["pixels"])
        loss = (balancer.loss if balancer else cross_entropy)(logits, batch["labels"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    net.eval()
    with torch.no_grad():
        for batch in validation:
            logits = net(batch["pixels"])
            if balancer:
                balancer.observe(logits, batch["labels"])
    if balancer:
        balancer.step()


class Module(pl.LightningModule):
    def __init__(self, net: nn.Module, balancer: Balancer | None) -> None:
        super().__init__()
        self.net, self.loss = net, balancer.loss if balancer else cross_entropy

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.loss(self.net(batch["pixels"]), batch["labels"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self.net(batch["pixels"]), "targets": batch["labels"]}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self.net)


def in_lightning(net: nn.Module, balancer: Balancer | None, train: Images, held: Images) -> None:
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[BalancerCallback(balancer)] if balancer else [],
    )
    trainer.fit(Module(net, balancer), *loaders(balancer, train, held))


class WithLoss(nn.Module):
    """Gives a Trainer its logits, and the loss where it is given labels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(pixels)
        loss = {} if labels is None else {"loss": cross_entropy(logits, labels)}
        return loss | {"logits": logits}


def in_transformers(net: nn.Module, balancer: Balancer | None, train: Images, held: Images) -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            eval_strategy="epoch",
            save_strategy="no",
            max_grad_norm=0.0,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        trainer = (BalancedTrainer if balancer else Trainer)(
            WithLoss(net),
            arguments,
            data_collator=as_it_is,
            train_dataset=train,
            eval_dataset=held,
            optimizers=(sgd(net), None),
            **({"balancer": balancer} if balancer else {}),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


TRAINERS: dict[str, Callable] = {
    "plain loop": plain_loop,
    "Lightning": in_lightning,
    "Transformers": in_transformers,
}


def seconds(train_one: Callable, net: nn.Module, balanced: bool, steps: int) -> float:
    """Processor time of an epoch with a new network and balancer, a tenth of it held out."""
    train, held = Images(steps * BATCH), Images(max(1, steps // 10) * BATCH)
    balancer = Balancer(train.labels.numpy()) if balanced else None
    began = time.process_time()
    train_one(net, balancer, train, held)
    return time.process_time() - began


def tiny_net() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES))


def big_net() -> nn.Module:
    return resnet18(num_classes=CLASSES)


def pairs(train_one: Callable, make_net: Callable, steps: int, rounds: int) -> np.ndarray:
    """`(rounds, 2)`: seconds a step without and with a balancer, after a round to warm up."""
    rows = []
    for i in range(rounds + 1):
        took = {}
        for balanced in (False, True) if i % 2 else (True, False):
            took[balanced] = seconds(train_one, make_net(), balanced, steps) / steps
        rows.append((took[False], took[True]))
    return np.array(rows[1:])


def told(values: np.ndarray, digits: int) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="an epoch of ResNet-18")
    parser.add_argument("--tiny-steps", type=int, default=50, help="an epoch of the tiny network")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    names = ("torch", "lightning", "transformers", "accelerate")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    print(f"Python {platform.python_version()}, {versions}, one thread, load {os.getloadavg()[0]}.")
    print(f"{args.rounds} rounds of {args.steps} and of {args.tiny_steps} steps.\n")
    print(
        "| trainer | ResNet-18 step, ms | with / without | added, ms a step | share of a step, % |"
    )
    print("|---|---|---|---|---|")
    for name, train_one in TRAINERS.items():
        big = pairs(train_one, big_net, args.steps, args.rounds)
        tiny = pairs(train_one, tiny_net, args.tiny_steps, 3 * args.rounds)
        step = 1000 * np.median(big[:, 0])
        added = 1000 * (tiny[:, 1] - tiny[:, 0])
        ratio = told(big[:, 1] / big[:, 0], 3)
        share = told(100 * added / step, 2)
        print(f"| {name} | {step:.0f} | {ratio} | {told(added, 3)} | {share} |", flush=True)


if __name__ == "__main__":
    main()
