"""Training from long-tailed tar shards, of which no index is made, and from the indexed images.

    python -m examples.streaming                              # scikit-learn's digits
    python -m examples.streaming --data cifar10.npz --epochs 15 --batch-size 128 --width 16 --flip

Writes the training images, class c thinned to `rarest`^(c/(C−1)) of its own, as tar shards, and
trains a small convolutional network on them through WebDataset: `balancer.stream` reads the labels
and yields the classes in the shares that λ asks for, within the running stream. Beside it the same
with the indexed Balancer, and without balance. Prints the mean and the lowest recall on the test
images, as trained and decided. The lines that use equipoise are in `batches` and `train`.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import webdataset
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from equipoise import Balancer, Targets, holdout_split
from examples import harness

METHODS = ("plain", "indexed", "stream")


def write_shards(
    images: np.ndarray, labels: np.ndarray, folder: Path, shards: int = 8
) -> list[str]:
    """The images as .npy files and their labels, in random order, in tar files of equal length."""
    order = np.random.default_rng(0).permutation(len(labels))
    paths = [str(folder / f"train-{i:03}.tar") for i in range(shards)]
    for path, part in zip(paths, np.array_split(order, shards), strict=True):
        with webdataset.TarWriter(path) as tar:
            for i in part.tolist():
                held = io.BytesIO()
                np.save(held, images[i])
                tar.write({"__key__": f"{i:08}", "npy": held.getvalue(), "cls": str(labels[i])})
    return paths


def decode(example: dict) -> tuple[torch.Tensor, int, int]:
    """Image, label and number; only of the examples that the stream yields."""
    image = torch.from_numpy(np.load(io.BytesIO(example["npy"])))
    return image, int(example["cls"]), int(example["__key__"])


def make_batches(args: argparse.Namespace, method: str, seed: int, data: tuple, shards: list[str]):
    """A balancer, and a loader of its examples."""
    images, labels = data
    if method != "stream":
        balancer = Balancer(labels, policy="plain" if method == "plain" else None, seed=seed)
        arrays = harness.Arrays(torch.from_numpy(images), torch.from_numpy(labels))
        return balancer, DataLoader(
            arrays, args.batch_size, sampler=balancer.sampler, collate_fn=lambda batch: batch
        )
    balancer = Balancer(Targets.from_class_counts(np.bincount(labels)), seed=seed)
    source = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=seed, empty_check=False)
    stream = balancer.stream(source, label="cls", decode=decode, repeat=True, buffer=args.buffer)
    return balancer, DataLoader(stream, args.batch_size, num_workers=args.workers)


def train(args: argparse.Namespace, method: str, seed: int, data: dict, shards: list[str]) -> dict:
    torch.manual_seed(seed)
    classes, (test_images, test_labels) = len(data["classes"]), data["test"]
    held_images, held_labels = (torch.from_numpy(part) for part in data["holdout"])
    balancer, loader = make_batches(args, method, seed, data["train"], shards)
    steps = -(-len(data["train"][1]) // args.batch_size)  # an epoch, also of an endless stream
    model = harness.small_net(classes, args.width)
    decay = min(0.99, max(0.0, 1 - 3 / steps))  # of averages over a third of an epoch
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.epochs * steps, pct_start=0.2
    )
    prepared = harness.Prepared(loader, seed, "cpu", args.flip)
    batches = iter(prepared)
    for epoch in range(args.epochs):
        model.train()
        if method != "stream" and epoch:
            batches = iter(prepared)
        for _ in range(steps):
            inputs, targets, _ = next(batches)  # the stream runs on, and λ moves in it
            with harness.autocast("cpu"):
                logits = model(inputs)
            balancer.loss(logits.float(), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            averaged.update_parameters(model)
        balancer.observe(harness.predict(averaged, held_images), held_labels)
        balancer.step()
    held_logits, logits = (
        harness.predict(averaged, part) for part in (held_images, torch.from_numpy(test_images))
    )
    trained = harness.recalls_of(balancer.decide(logits), test_labels, classes)
    balancer.fit_decision(held_logits, held_labels)
    decided = harness.recalls_of(balancer.decide(logits), test_labels, classes)
    price = loader.dataset.price if method == "stream" else None
    return {"method": method, "seed": seed, "recalls": trained, "decided": decided, "price": price}


def load(args: argparse.Namespace) -> dict:
    """Long-tailed training images, and an even hold-out and test."""
    data = harness.load_images(args.data)
    images, labels = data["train"]
    kept, held = holdout_split(labels, args.holdout)
    kept = harness.thin(kept, labels, rarest=args.rarest)
    return data | {
        "train": (images[kept], labels[kept]),
        "holdout": (images[held], labels[held]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", default="digits", help="digits, cifar10, an .npz, or a folder of images")
    add("--method", nargs="+", choices=METHODS, default=list(METHODS))
    add("--seeds", type=int, default=3, help="how many")
    add("--epochs", type=int, default=15)
    add("--batch-size", type=int, default=32)
    add("--lr", type=float, default=0.1)
    add("--width", type=int, default=8, help="channels of the first convolution")
    add("--flip", action="store_true", help="mirror half of the images")
    add("--holdout", type=float, help="share of the training images (.1; of few images .35)")
    add("--rarest", type=float, help="of the last class, what is kept (.01; of few images .5)")
    add("--buffer", type=int, default=64, help="examples kept of each class")
    add("--workers", type=int, default=1, help="of the stream")
    add("--out", type=Path, help="file for the figures, JSON")
    args = parser.parse_args()
    few = len(harness.load_images(args.data)["train"][1]) < 5000
    args.holdout = args.holdout or (0.35 if few else 0.1)
    args.rarest = args.rarest or (0.5 if few else 0.01)
    data, results = load(args), []
    print(
        f"{len(data['train'][1]):,} training images, of the classes {np.bincount(data['train'][1])}"
    )
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(*data["train"], Path(folder))
        for seed in range(args.seeds):
            for method in args.method:
                results.append(train(args, method, seed, data, shards))
                figures = [harness.figures(results[-1][key]) for key in ("recalls", "decided")]
                print(f"seed {seed}  {method:8}", *(f"{f[0]:.3f}/{f[2]:.3f}" for f in figures))
                if args.out:
                    args.out.write_text(json.dumps(results))
    print(f"\nmean/lowest recall    as trained{'':10}decided")
    for method in args.method:
        mine = [r for r in results if r["method"] == method]
        cells = []
        for key in ("recalls", "decided"):
            rows = harness.figures([r[key] for r in mine])[:, [0, 2]]
            spread = rows.std(0, ddof=1) if len(rows) > 1 else np.zeros(2)
            cells.append(
                "{:.3f} ±{:.3f} / {:.3f} ±{:.3f}".format(*np.stack([rows.mean(0), spread], 1).flat)
            )
        print(f"{method:12}{cells[0]:>30}{cells[1]:>32}", mine[0]["price"] or "")


if __name__ == "__main__":
    main()
