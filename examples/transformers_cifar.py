"""A Balancer in a Hugging Face Trainer: the hold-out's recalls made equal while it trains.

    python examples/transformers_cifar.py --data cifar10.npz --epochs 15
    torchrun --nproc-per-node 2 examples/transformers_cifar.py

`--data` is digits (scikit-learn's, nothing to download), or an .npz with x_train, y_train, x_test
and y_test. Run again with `--resume` it goes on from the last checkpoint, in mid-epoch too.
What is for equipoise: `balancer`, and `BalancedTrainer` in place of `Trainer`.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetForImageClassification, TrainingArguments

from equipoise import Balancer, holdout_split
from equipoise.trainers.transformers import BalancedTrainer


class Images(Dataset):
    """Items named as a Trainer wants them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2)
        self.labels = torch.as_tensor(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        pixels = self.images[index].float() / 255
        return {"pixel_values": pixels, "labels": self.labels[index]}


def load_data(name: str) -> tuple[Images, Images, Images]:
    """Training, hold-out and test."""
    if name == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = (x.reshape(-1, 8, 8, 1) * 16).clip(0, 255).astype(np.uint8)
        x = x.repeat(3, -1).repeat(4, 1).repeat(4, 2)
        rest, test = holdout_split(y, 600)
        x_train, y_train, x_test, y_test = x[rest], y[rest], x[test], y[test]
    else:
        arrays = np.load(name, allow_pickle=False)
        x_train, y_train, x_test, y_test = (
            arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")
        )
    train, held = holdout_split(y_train, 0.1)
    parts = Images(x_train[train], y_train[train]), Images(x_train[held], y_train[held])
    return *parts, Images(x_test, y_test)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--out", default="runs/transformers")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    torch.manual_seed(0)
    train, held, test = load_data(args.data)
    balancer = Balancer(train.labels.numpy())
    shape = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic",
        num_labels=balancer.targets.num_classes,
    )  # fmt: skip
    settings = TrainingArguments(
        args.out,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=500,
        learning_rate=2e-3,
        eval_strategy="epoch",  # whose recalls the balancer follows
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="epoch",
        report_to="none",
    )
    trainer = BalancedTrainer(
        ResNetForImageClassification(shape),
        settings,
        balancer=balancer,
        train_dataset=train,
        eval_dataset=held,
    )
    trainer.train(resume_from_checkpoint=args.resume)

    found = trainer.predict(test)
    hits = found.predictions.argmax(1) == found.label_ids
    recalls = np.array([hits[found.label_ids == c].mean() for c in np.unique(found.label_ids)])
    if trainer.is_world_process_zero():
        spread = f"sd {recalls.std():.3f}, lowest {recalls.min():.3f}"
        print(f"test recalls: mean {recalls.mean():.3f}, {spread}")


if __name__ == "__main__":
    main()
