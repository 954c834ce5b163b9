"""Batches drawn just in time against an epoch drawn at once, and FFCV's own order: images a second.

Compared: whole epochs of one `.beton` through `BalancedLoader`, from the call of `iter` to the last
batch, so that drawing counts. "just in time, λ moves" sets new class weights every `--every`
batches; "pruned" keeps half of the draws by remembered losses, and remembers each batch's, both
with the choice at the epoch's start and batch by batch (its rate counts the images it yields; a
loss stands in for the training). One loader serves all orders, which take turns epoch by epoch, in
a fresh random turn each round. The ratio of a round is that of its own epochs' times an image;
given are the median over rounds, its 95 % bootstrap interval, and the quartiles. Last, what drawing
one batch takes of the thread that trains.

    python -m benchmarks.ffcv_just_in_time --data cifar10.npz --rounds 40 --pipeline augment
    python -m benchmarks.ffcv_just_in_time --synthetic 50000 --rounds 40
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.loader import OrderOption
from ffcv.traversal_order.base import TraversalOrder

from benchmarks.ffcv_speed import make_loader
from equipoise.ffcv import BalancedLoader, attach, targets, write
from equipoise.mining import LossPruning
from equipoise.samplers import ClassBalancedSampler


def seconds_an_image(inner, drawn, just_in_time, each) -> float:
    if isinstance(drawn, TraversalOrder):  # FFCV's own
        inner.traversal_order, inner.first_traversal_order = drawn, drawn.sample_order(0)
    else:
        attach(inner, drawn)
        inner.next_epoch += 1  # `attach` has drawn this one already
    batches = BalancedLoader(inner, with_indices=True, just_in_time=just_in_time)
    count, start = 0, time.perf_counter()
    for k, batch in enumerate(batches):
        each(k, batch)
        count += len(batch[1])
    return (time.perf_counter() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", help="an .npz with x_train and y_train")
    data.add_argument("--synthetic", type=int, help="so many random 32×32 images of 10 classes")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--every", type=int, default=10, help="batches from one λ to the next")
    parser.add_argument("--pipeline", choices=["bare", "augment"], default="bare")
    parser.add_argument("--out", help="write the figures here, as JSON")
    args = parser.parse_args()
    args.process_cache = False

    if args.data:
        with np.load(args.data) as arrays:
            images, labels = arrays["x_train"], arrays["y_train"]
    else:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (args.synthetic, 32, 32, 3), np.uint8)
        labels = rng.integers(0, 10, args.synthetic)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "train.beton")
        fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
        write((images, labels), path, fields, progress=False)
        measure(path, args)


def measure(path: str, args: argparse.Namespace) -> None:
    labels = targets(path)
    # Uneven draws, as after some epochs of equal-recall balancing
    log_weight = np.linspace(-0.7, 0.7, labels.num_classes)
    rng = np.random.default_rng(0)
    losses = torch.from_numpy(rng.exponential(size=labels.num_examples)).float()

    def sampler(seed: int) -> ClassBalancedSampler:
        return ClassBalancedSampler(labels, np.exp(log_weight), seed=seed)

    def nothing(k, batch) -> None: ...

    moving = sampler(3)

    def move(k, batch) -> None:
        if k % args.every == 0:
            moving.set_log_weight(log_weight * np.cos(k))

    miners = LossPruning(0.5), LossPruning(0.5)

    def remember(miner):
        return lambda k, batch: miner(losses[batch[-1]], batch[1], batch[-1])

    inner = make_loader(path, OrderOption.RANDOM, args)
    own = inner.traversal_order
    runs = {
        "own": (own, False, nothing),
        "own again": (own, False, nothing),
        "epoch at once": (sampler(1), False, nothing),
        "just in time": (sampler(2), True, nothing),
        "just in time, λ moves": (moving, True, move),
        "pruned, epoch at once": (miners[0].over(sampler(4)), False, remember(miners[0])),
        "pruned, just in time": (miners[1].over(sampler(5)), True, remember(miners[1])),
    }
    for run in runs.values():  # compile, and read the file into memory
        seconds_an_image(inner, *run)
        seconds_an_image(inner, *run)
    times = {name: np.empty(args.rounds) for name in runs}
    for i in range(args.rounds):
        for name in rng.permutation(list(runs)):
            times[str(name)][i] = seconds_an_image(inner, *runs[str(name)])

    print(
        f"{labels.num_examples:,} images, batches of {args.batch_size}, {args.num_workers} "
        f"workers, raw, {args.pipeline}, os_cache=True, {args.rounds} rounds; "
        f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    )
    figures = {}
    print(f"{'order':24} {'images/s':>9} {'ratio to own':>13}  95 % interval   quartiles")
    for name, took in times.items():
        ratio = times["own"] / took
        medians = np.median(ratio[rng.integers(0, args.rounds, (2000, args.rounds))], axis=1)
        low, high = np.quantile(medians, [0.025, 0.975])
        first, third = np.quantile(ratio, [0.25, 0.75])
        speed, middle = 1 / np.median(took), np.median(ratio)
        figures[name] = {"images_per_s": speed, "ratio": middle, "interval": [low, high]}
        print(
            f"{name:24} {speed:9,.0f} {middle:13.3f}  {low:.3f} – {high:.3f}   "
            f"{first:.3f} – {third:.3f}"
        )
    figures["take_us"] = draw_alone(sampler(6), miners[1].sampler, args.batch_size)
    if args.out:
        Path(args.out).write_text(json.dumps(figures, indent=1))


def draw_alone(plain, pruned, batch_size: int) -> dict[str, float]:
    """Microseconds a batch, over epochs drawn batch by batch with nothing else running."""
    found = {}
    for name, drawn in (("class-balanced", plain), ("pruned", pruned)):
        took = []
        for _ in range(20):
            start = time.perf_counter()
            for first in range(0, drawn.num_samples - batch_size, batch_size):
                drawn.take(first, first + batch_size)
            took.append((time.perf_counter() - start) / (drawn.num_samples // batch_size))
        found[name] = 1e6 * float(np.median(took))
        print(f"drawing a batch of {batch_size}, {name}: {found[name]:.0f} µs")
    return found


if __name__ == "__main__":
    main()
