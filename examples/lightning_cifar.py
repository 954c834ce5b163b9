"""A Balancer in a Lightning module: the hold-out's recalls made equal while it trains.

    python examples/lightning_cifar.py --data cifar10.npz --epochs 15 --devices 1

`--data` is digits (scikit-learn's, nothing to download), or an .npz with x_train, y_train, x_test
and y_test. Run again with `--resume` it goes on from the last checkpoint, in mid-epoch too.
What is for equipoise: `balancer`, the sampler, the loss, what `validation_step` returns, and the
callback.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from equipoise import Balancer, holdout_split
from equipoise.trainers.lightning import BalancerCallback


def load_data(name: str) -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Training, hold-out and test images `(N, 3, H, W)` with their labels."""
    if name == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = (x.reshape(-1, 8, 8, 1) * 16).clip(0, 255).repeat(3, -1)
        rest, test = holdout_split(y, 600)
        x_train, y_train, x_test, y_test = x[rest], y[rest], x[test], y[test]
    else:
        arrays = np.load(name, allow_pickle=False)
        x_train, y_train, x_test, y_test = (
            arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")
        )

    def as_set(images: np.ndarray, labels: np.ndarray) -> TensorDataset:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
        return TensorDataset(pixels, torch.as_tensor(labels))

    train, held = holdout_split(y_train, 0.1)
    parts = as_set(x_train[train], y_train[train]), as_set(x_train[held], y_train[held])
    return *parts, as_set(x_test, y_test)


def small_net(num_classes: int) -> nn.Module:
    def block(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()]

    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes)]
    return nn.Sequential(*block(3, 32), nn.MaxPool2d(2), *block(32, 64), *pooled)


class Module(pl.LightningModule):
    def __init__(self, balancer: Balancer) -> None:
        super().__init__()
        self.balancer = balancer
        self.net = small_net(balancer.targets.num_classes)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, targets = batch
        return self.balancer.loss(self.net(images), targets)

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> dict:
        images, targets = batch
        return {"logits": self.net(images), "targets": targets}  # counted by the callback

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("runs/lightning"))
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    pl.seed_everything(0)
    train, held, test = load_data(args.data)
    balancer = Balancer(train.tensors[1].numpy())
    module = Module(balancer)
    saver = ModelCheckpoint(args.out, save_last=True, every_n_train_steps=50)
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        devices=args.devices,
        use_distributed_sampler=False,  # balancer.sampler gives each device its part
        callbacks=[BalancerCallback(balancer), saver],
        default_root_dir=args.out,
    )
    loader = DataLoader(train, args.batch_size, sampler=balancer.sampler)
    resume = args.out / "last.ckpt" if args.resume else None
    trainer.fit(module, loader, DataLoader(held, 500), ckpt_path=resume)

    module.eval()
    with torch.no_grad():
        logits = torch.cat([module.net(images) for images, _ in DataLoader(test, 500)])
    hits = (logits.argmax(1) == test.tensors[1]).float()
    recalls = torch.stack([hits[test.tensors[1] == c].mean() for c in test.tensors[1].unique()])
    spread = f"sd {recalls.std(correction=0):.3f}, lowest {recalls.min():.3f}"
    if trainer.is_global_zero:
        print(f"test recalls: mean {recalls.mean():.3f}, {spread}")


if __name__ == "__main__":
    main()
