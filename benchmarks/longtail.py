"""The field's table: long-tailed CIFAR-10, imbalance 100, ResNet-32, 200 epochs, the last epoch.

    python -m benchmarks.longtail --data cifar10.npz --method balancer    # 2 hours on one core

The protocol of BagofTricks-LT (Zhang et al. 2021, github.com/zhangyongshun/BagofTricks-LT):
12,406 images, of which 5,000 are of class 0 and 50 of class 9, batches of 128, SGD with rate .1,
momentum .9 and decay 2e-4, five epochs of warm-up, the rate × .01 at epochs 160 and 180, crop and
flip; the test images are balanced. "balancer" holds out a fifth of each class, at most 50 images,
and so learns from 399 images fewer. The network runs in bfloat16.

Each epoch ends in a checkpoint in `--out`, from which the same command goes on. The row of a
finished run, error in % as trained and decided, goes to results/longtail.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from equipoise import Balancer, checkpoint
from equipoise.losses import LogitAdjustedCrossEntropy
from examples import harness

EPOCHS, BATCH = 200, 128
METHODS = ("cross-entropy", "balanced softmax", "balancer")


class Block(nn.Module):
    """Two convolutions beside a shortcut without weights (He et al. 2016, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.more = stride, (outputs - inputs) // 2
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.first(x))
        if self.more:
            strided = x[:, :, :: self.stride, :: self.stride]
            x = nn.functional.pad(strided, (0, 0, 0, 0, self.more, self.more))
        return torch.relu(x + y)


def resnet32(classes: int, head: str) -> nn.Sequential:
    """ResNet-32 for 32 × 32 images: 464,000 weights."""
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        layers += [Block(inputs, outputs, 1 if inputs == outputs else 2)]
        layers += [Block(outputs, outputs, 1) for _ in range(4)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), harness.last_layer(64, classes, head, 16)]
    for layer in layers:
        for part in layer.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(part.weight)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def rate(epoch: int) -> float:
    """Of SGD, epochs counted from 0."""
    return 0.1 * min(1.0, (epoch + 1) / 5) * 0.01 ** ((epoch >= 160) + (epoch >= 180))


def thinned(labels: np.ndarray, holdout: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the long tail, 5,000 · 100^(−c/9) of class c, and those of them that are held out."""
    kept, held = [], []
    for c in range(10):
        ids = np.flatnonzero(labels == c)[: int(5000 * 0.01 ** (c / 9))]
        out = min(50, len(ids) // 5) if holdout else 0
        kept.append(ids[out:])
        held.append(ids[:out])
    return np.concatenate(kept), np.concatenate(held)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", default="cifar10", help="cifar10 (downloads it), or an .npz")
    add("--method", choices=METHODS, default="balancer")
    add("--head", choices=["linear", "cosine"], default="linear", help="the last layer")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("runs/longtail"))
    add("--results", type=Path, default=Path(__file__).parent / "results" / "longtail.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    data = harness.load_images(args.data)
    (images, labels), (tested, test_labels) = data["train"], data["test"]
    kept, held = thinned(labels, args.method == "balancer")
    x, y, held_x, held_y, test_x = (
        torch.from_numpy(part)
        for part in (images[kept], labels[kept], images[held], labels[held], tested)
    )
    if args.method == "balancer":
        balancer = Balancer(y, seed=args.seed)
    else:
        counts = np.bincount(labels[kept]).tolist() if args.method == "balanced softmax" else None
        balancer = Balancer(y, "plain", loss=LogitAdjustedCrossEntropy(counts), seed=args.seed)
    model = resnet32(10, args.head)
    optimizer = torch.optim.SGD(model.parameters(), rate(0), momentum=0.9, weight_decay=2e-4)
    generator = torch.Generator().manual_seed(args.seed)

    name = f"{args.method.replace(' ', '-')}-{args.head}-{args.seed}"
    args.out.mkdir(parents=True, exist_ok=True)
    saved, first, seconds = args.out / f"{name}.pt", 0, 0.0
    parts = {"model": model, "optimizer": optimizer, "balancer": balancer}
    if saved.exists():
        state = checkpoint.load(saved)
        [part.load_state_dict(state[key]) for key, part in parts.items()]
        generator.set_state(state["generator"])
        first, seconds = state["epoch"], state["seconds"]
    for epoch in range(first, EPOCHS):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate(epoch)
        model.train()
        for index in torch.from_numpy(balancer.sampler.indices()).split(BATCH):
            inputs = harness.to_input(harness.augment(x[index], generator, flip=True))
            with harness.autocast("cpu"):
                logits = model(inputs.contiguous(memory_format=torch.channels_last))
            balancer.loss(logits.float(), y[index]).backward()
            optimizer.step()
            optimizer.zero_grad()
        if len(held):
            balancer.observe(harness.predict(model, held_x), held_y)
        balancer.step()
        seconds += time.perf_counter() - began
        more = {"generator": generator.get_state(), "epoch": epoch + 1, "seconds": seconds}
        checkpoint.save(saved, **parts, **more)
        print(f"epoch {epoch + 1:3}  {seconds:6.0f} s  {balancer.history[-1]}", flush=True)

    logits = harness.predict(model, test_x)
    decisions = {"as trained": logits.argmax(1), "λ removed": balancer.correct(logits).argmax(1)}
    if len(held):
        balancer.fit_decision(harness.predict(model, held_x), held_y)
        decisions["decided"] = balancer.decide(logits)
    row = {"seconds": round(seconds), "images": len(kept)}
    for how, decision in decisions.items():
        recalls = harness.recalls_of(decision, test_labels, 10)
        row[how] = {"error": 100 * (1 - math.fsum(recalls) / 10), "recalls": recalls}
        print(f"{name}  {how}: error {row[how]['error']:.2f}%, lowest recall {min(recalls):.3f}")
    table = json.loads(args.results.read_text()) if args.results.exists() else {}
    args.results.write_text(json.dumps(table | {name: row}, indent=1) + "\n")


if __name__ == "__main__":
    main()
