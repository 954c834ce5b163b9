"""Plain training and Balancers side by side: on digits, CIFAR-10, any .npz or folder of images.

    python -m examples.cifar --data cifar10.npz --method plain balancer --seeds 3
    python -m examples.cifar --data FOLDER --out runs/mine     # a folder of images for each class

Trains a small convolutional network once for each method and seed. Prints mean, standard deviation
and lowest of the classes' recalls on the test images, as trained and with the decision fitted on
the hold-out, and draws them. `load_images` in examples/harness.py says what --data may be; what it
takes and reaches is in benchmarks/README.md. The lines that use equipoise are all in `train`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from equipoise import Balancer, holdout_split
from equipoise.weighting import ClassDifficulty, RecallPower
from examples import harness

METHODS = {
    "plain": "plain shuffling and cross-entropy",
    "balancer": "the defaults of Balancer(labels)",
    "equal-recall": "closed loop until the recalls are equal, whatever it costs",
    "recall-power": "classes drawn by (r̄ / r)^4, from the recalls of the plain run",
    "class-difficulty": "loss weights from 1 − recall, each epoch (CDB)",
}


def make_balancer(method: str, labels: np.ndarray, plain_recalls: list | None, **options):
    """The one line that differs between the methods."""
    if method == "balancer":
        return Balancer(labels, **options)
    if method == "recall-power":
        return Balancer(labels, RecallPower(4, recalls=plain_recalls), **options)
    if method == "class-difficulty":
        return Balancer(labels, ClassDifficulty(), sampler=None, **options)
    return Balancer(labels, policy=method, **options)


def make_loader(args: argparse.Namespace, images, labels, balancer: Balancer):
    """Batches of uint8 images, labels and indices in the balancer's order: torch's, or FFCV's."""
    if args.loader == "torch":
        data = harness.Arrays(torch.from_numpy(images), torch.from_numpy(labels))
        return DataLoader(data, args.batch_size, sampler=balancer.sampler, collate_fn=lambda b: b)
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader
    from ffcv.transforms import Squeeze, ToTensor

    from equipoise.ffcv import BalancedLoader

    pipelines = {
        "image": [SimpleRGBImageDecoder(), ToTensor()],
        "label": [IntDecoder(), ToTensor(), Squeeze(1)],
    }
    loader = Loader(
        args.beton, args.batch_size, num_workers=1, os_cache=True, order=balancer.order,
        pipelines=pipelines,
    )  # fmt: skip
    return BalancedLoader(loader, with_indices=True)


def train(args: argparse.Namespace, method: str, seed: int, plain_recalls: list | None) -> dict:
    """Train once; recalls on hold-out and test, as trained and with the fitted decision."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    data = harness.load_images(args.data, args.size)
    (images, labels), (test_images, test_labels) = data["train"], data["test"]
    classes = len(data["classes"])
    kept, held = holdout_split(labels, args.holdout)
    held_images, test_images = (
        torch.from_numpy(part).to(args.device) for part in (images[held], test_images)
    )
    held_labels = torch.from_numpy(labels[held]).to(args.device)

    balancer = make_balancer(method, labels[kept], plain_recalls, mining=args.mining, seed=seed)
    loader = make_loader(args, images[kept], labels[kept], balancer)
    model = harness.small_net(classes, args.width, args.head, args.scale).to(args.device)
    decay = min(0.99, max(0.0, 1 - 3 / len(loader)))  # of averages over a third of an epoch
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = len(loader)
    if args.mining == "selective-backprop":
        steps = math.ceil(steps * balancer.mining.keep) + 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.epochs * steps, pct_start=0.2
    )
    batches = harness.Prepared(loader, seed, args.device, args.flip)
    for _ in range(args.epochs):
        model.train()
        for inputs, targets, indices in balancer.mine(batches, model):
            with harness.autocast(args.device):
                logits = model(inputs)
            balancer.loss(logits.float(), targets, indices).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            averaged.update_parameters(model)
        # The averaged weights settle sooner than the last ones, so they give the feedback.
        balancer.observe(harness.predict(averaged, held_images), held_labels)
        balancer.step()
        harness.tick()

    held_logits, logits = (harness.predict(averaged, part) for part in (held_images, test_images))
    found = {
        "holdout_recalls": harness.recalls_of(held_logits.argmax(1), labels[held], classes),
        "recalls": harness.recalls_of(balancer.decide(logits), test_labels, classes),
    }
    balancer.fit_decision(held_logits, held_labels)
    found["recalls_decided"] = harness.recalls_of(balancer.decide(logits), test_labels, classes)
    found |= {"history": balancer.history, "seconds": time.perf_counter() - began}
    return {"method": method, "seed": seed, **found}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", default="digits", help="digits, cifar10, an .npz, or a folder of images")
    add("--loader", choices=["torch", "ffcv"], default="torch")
    told = "; ".join(f"{name}: {what}" for name, what in METHODS.items())
    add("--method", nargs="+", choices=list(METHODS), default=list(METHODS), help=told)
    add("--seeds", type=int, default=1, help="how many")
    add("--epochs", type=int, default=15)
    add("--mining", choices=["hardest-examples", "selective-backprop", "loss-pruning"])
    add("--head", choices=["linear", "cosine"], default="linear", help="the last layer")
    add("--scale", type=float, default=16, help="of the cosines")
    add("--holdout", type=float, help="share of the training images (.1; of few images .35)")
    add("--size", type=int, default=32, help="to which images of a folder are scaled")
    add("--flip", action=argparse.BooleanOptionalAction, help="mirror half (CIFAR: yes; else no)")
    add("--batch-size", type=int)
    add("--lr", type=float, default=0.1)
    add("--width", type=int, help="channels of the first convolution (24; of few images 8)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--jobs", type=int, default=2, help="trainings at a time")
    add("--threads", type=int, default=1, help="of each training")
    add("--out", type=Path, default=Path("runs/cifar"), help="folder for picture and JSON")
    return parser.parse_args()


def main() -> None:
    args, console = options(), Console() if sys.stdout.isatty() else Console(width=130)
    methods = list(dict.fromkeys(args.method))
    if "recall-power" in methods and "plain" not in methods:
        methods.insert(0, "plain")
    data = harness.load_images(args.data, args.size)
    images, labels = data["train"]
    few, name = len(labels) < 5000, Path(args.data).stem
    # Few images want a small net to have something to balance, and a hold-out that can tell.
    args.batch_size = args.batch_size or (32 if few else 128)
    args.width = args.width or (8 if few else 24)
    args.holdout = args.holdout or (0.35 if few else 0.1)
    args.flip = "cifar" in name if args.flip is None else args.flip
    args.out.mkdir(parents=True, exist_ok=True)
    kept, held = holdout_split(labels, args.holdout)
    console.print(
        f"{name}: {len(kept):,} training, {len(held):,} hold-out and {len(data['test'][1]):,} test "
        f"images of {len(data['classes'])} classes, through {args.loader} on {args.device}"
    )
    if args.loader == "ffcv":
        from equipoise.ffcv import write

        args.beton = str(args.out / f"{name}.beton")
        write((images[kept], labels[kept]), args.beton)
    todo = [(method, seed) for seed in range(args.seeds) for method in methods]
    runs = harness.run_all(
        partial(train, args), todo, jobs=min(args.jobs, len(todo)), threads=args.threads,
        after_plain={"recall-power"}, epochs=args.epochs, console=console,
    )  # fmt: skip
    results = sorted((r for _, _, r in runs), key=lambda r: (methods.index(r["method"]), r["seed"]))
    harness.print_recalls(results, console)
    decided = float(np.nanmean([r["recalls_decided"] for r in results]))
    floor = harness.noise_floor(decided, np.bincount(labels[held]), np.bincount(data["test"][1]))
    console.print(f"Sampling noise alone leaves an sd of {floor:.3f} (hold-out and test).")
    record = {"settings": vars(args), "classes": data["classes"], "results": results}
    (args.out / "results.json").write_text(json.dumps(record, indent=1, default=str))
    harness.draw_recalls(results, data["classes"], args.out / "recalls.png")
    console.print(f"Picture: {args.out / 'recalls.png'}   Figures: {args.out / 'results.json'}")


if __name__ == "__main__":
    main()
