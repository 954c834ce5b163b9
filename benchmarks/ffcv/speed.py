"""FFCV in a sampler's order against FFCV in its own random order: images a second, in one run.

Compared: whole epochs of one `.beton`, from the call of `iter` to the last batch, so that drawing
the order counts. `--pipeline bare` decodes images and makes tensors, nothing else; `augment` adds
FFCV's mirror image, shift and cut-out, and float16 planes. The loaders differ in their order alone,
and take turns epoch by epoch in a fresh random turn each round, because the machine's speed drifts.
The ratio of a round is that of its own epochs; given are the median over the rounds, its 95 %
bootstrap interval, and the quartiles. `own again` is FFCV's own order in a second loader: what the
comparison says where there is no difference. Last, what drawing an order took, within the same run.

    python -m benchmarks.ffcv.speed --data cifar10.npz --rounds 60
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import (
    Convert,
    Cutout,
    RandomHorizontalFlip,
    RandomTranslate,
    Squeeze,
    ToTensor,
    ToTorchImage,
)

from equipoise.ffcv import BalancedLoader, order, targets, write
from equipoise.samplers import ClassBalancedSampler


def make_loader(path: str, order, args: argparse.Namespace) -> Loader:
    images = [SimpleRGBImageDecoder(), ToTensor()]
    if args.pipeline == "augment":
        augment = [RandomHorizontalFlip(), RandomTranslate(padding=2), Cutout(4, (125, 123, 114))]
        images = [images[0], *augment, ToTensor(), ToTorchImage(), Convert(torch.float16)]
    return Loader(
        path,
        args.batch_size,
        num_workers=args.num_workers,
        os_cache=True,
        order=order,
        seed=0,
        # A fresh one each time: Loader takes the decoders out of it
        pipelines={
            "image": images,
            "label": [IntDecoder(), ToTensor(), Squeeze(1)],
        },
    )


def seconds(batches) -> float:
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="an .npz with x_train and y_train")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--pipeline", choices=["bare", "augment"], default="bare")
    args = parser.parse_args()

    with np.load(args.data) as data:
        images, labels = data["x_train"], data["y_train"]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "train.beton")
        fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
        write((images, labels), path, fields, progress=False)
        measure(path, args)


def measure(path: str, args: argparse.Namespace) -> None:
    labels = targets(path)
    # Uneven draws, as after some epochs of equal-recall balancing
    weight = np.exp(np.linspace(-0.7, 0.7, labels.num_classes))
    own = make_loader(path, OrderOption.RANDOM, args)
    loaders = {
        "own": own,
        "own again": make_loader(path, OrderOption.RANDOM, args),
        "sampler": make_loader(path, order(ClassBalancedSampler(labels, weight)), args),
        "sampler, BalancedLoader": BalancedLoader(
            make_loader(path, order(ClassBalancedSampler(labels, weight, seed=1)), args),
            with_indices=True,
        ),
    }
    count = len(own) * args.batch_size
    for batches in loaders.values():  # compile, and read the file into memory
        seconds(batches)
        seconds(batches)
    rng = np.random.default_rng(0)
    draws = {name: np.empty(args.rounds) for name in ("own", "sampler")}
    times = {name: np.empty(args.rounds) for name in loaders}
    for i in range(args.rounds):
        for name in rng.permutation(list(loaders)):
            times[str(name)][i] = seconds(loaders[str(name)])
        for name in ("own", "sampler"):
            start = time.perf_counter()
            loaders[name].next_traversal_order()
            draws[name][i] = time.perf_counter() - start

    print(
        f"{count:,} images an epoch, batches of {args.batch_size}, {args.num_workers} workers, "
        f"{args.pipeline}, {args.rounds} rounds; "
        f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    )
    print(f"{'order':25} {'images/s':>9} {'ratio to own':>13}  95 % interval   quartiles")
    for name, took in times.items():
        ratio = times["own"] / took
        medians = np.median(ratio[rng.integers(0, args.rounds, (2000, args.rounds))], axis=1)
        low, high = np.quantile(medians, [0.025, 0.975])
        first, third = np.quantile(ratio, [0.25, 0.75])
        print(
            f"{name:25} {count / np.median(took):9,.0f} {np.median(ratio):13.3f}  "
            f"{low:.3f} – {high:.3f}   "
            f"{first:.3f} – {third:.3f}"
        )
    for name, took in draws.items():
        print(f"drawing the order, {name}: {1e3 * np.median(took):.2f} ms an epoch")


if __name__ == "__main__":
    main()
