"""Images a second through FFCV and through DataLoader, in their own order and in a Balancer's.

    python -m benchmarks.loader_speed --data cifar10.npz --rounds 8

Whole epochs, from `iter` to the last batch, so that drawing the order counts. FFCV flips, shifts
and cuts out, and makes float16 planes; DataLoader pads, crops, flips and makes float32 planes by
torchvision. So compare within a loader: the loaders differ in what they do to an image as well. The
runs take turns in a random order, a round each; given are images a second (median), and the median
ratio to the loader's own random order in the same round, with its quartiles.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.loader import OrderOption
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchvision.transforms import v2

from benchmarks.ffcv_speed import make_loader, seconds
from equipoise import Balancer
from equipoise.ffcv import BalancedLoader, write


class Images(Dataset):
    """uint8 images and labels, one at a time, as most data sets give them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = torch.from_numpy(images).permute(0, 3, 1, 2), labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[i]), int(self.labels[i])


def make_balancer(labels: np.ndarray) -> Balancer:
    """With uneven draws, as after some epochs."""
    balancer = Balancer(labels)
    balancer._set_log_weight(np.linspace(-0.7, 0.7, balancer.targets.num_classes))
    return balancer


def measure(path: str, images: np.ndarray, labels: np.ndarray, args: argparse.Namespace) -> None:
    data, balancer = Images(images, labels), make_balancer(labels)
    counts = np.bincount(labels)

    def torch_loader(**order) -> DataLoader:
        return DataLoader(
            data, args.batch_size, num_workers=args.num_workers, drop_last=True, **order
        )

    weighted = WeightedRandomSampler((1 / counts)[labels], len(labels))
    groups = {
        "FFCV": {
            "random": make_loader(path, OrderOption.RANDOM, args),
            "random, again": make_loader(path, OrderOption.RANDOM, args),
            "Balancer": make_loader(path, balancer.order, args),
            "Balancer, BalancedLoader": BalancedLoader(make_loader(path, balancer.order, args)),
        },
        "DataLoader": {
            "shuffle": torch_loader(shuffle=True),
            "shuffle, again": torch_loader(shuffle=True),
            "WeightedRandomSampler": torch_loader(sampler=weighted),
            "Balancer": torch_loader(sampler=balancer.sampler),
        },
    }
    runs = {(g, name): loader for g, group in groups.items() for name, loader in group.items()}
    count = len(labels) // args.batch_size * args.batch_size
    for loader in runs.values():  # compile, and read the file into memory
        seconds(loader)
    times = {run: np.empty(args.rounds) for run in runs}
    rng = np.random.default_rng(0)
    for i in range(args.rounds):
        for k in rng.permutation(len(runs)):
            run = list(runs)[k]
            times[run][i] = seconds(runs[run])
    print(
        f"{count:,} images an epoch, batches of {args.batch_size}, {args.num_workers} worker(s), "
        f"{args.rounds} rounds; torch {torch.__version__}, Python {platform.python_version()}\n"
    )
    print("| loader | order | images/s | ratio to its own random order |\n|-|-|-|-|")
    for (group, name), took in times.items():
        ratio = times[group, next(iter(groups[group]))] / took
        first, middle, third = np.quantile(ratio, [0.25, 0.5, 0.75])
        speed = f"{count / np.median(took):,.0f}"
        print(f"| {group} | {name} | {speed} | {middle:.3f} ({first:.3f}–{third:.3f}) |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="an .npz with x_train and y_train")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--num-workers", type=int, default=1)
    args = parser.parse_args()
    args.pipeline, args.process_cache = "augment", False
    torch.set_num_threads(1)
    with np.load(args.data) as data:
        images, labels = data["x_train"], data["y_train"]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "train.beton")
        fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
        write((images, labels), path, fields, progress=False)
        measure(path, images, labels, args)


if __name__ == "__main__":
    main()
