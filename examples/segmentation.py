"""Pixels: plain training, what others do about rare classes, and a Balancer, side by side.

    python -m examples.segmentation --method plain balancer        # digits pasted on canvases
    python -m examples.segmentation --data camvid.npz --epochs 24 --seeds 3 --out runs/camvid

Trains a small U-Net once for each method and seed. Prints mean recall, mean IoU, lowest recall and
pixel accuracy on the test images: as trained; decided with offsets for mean IoU that were fitted on
the hold-out; and with offsets fitted on other test images of the same scenes (each half on the
other). Draws one scene. `load_scenes` in examples/harness.py says what --data may be. Runs in --out
are not trained again. Figures: benchmarks/README.md. equipoise is used above `UNTIL HERE` alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from equipoise import Balancer, ClassRates
from equipoise.decision import fit_class_decision
from equipoise.losses import FocalLoss, WeightedCrossEntropy
from equipoise.mining import HardestExamples
from equipoise.samplers import LabelBalancedSampler
from equipoise.targets import Targets
from equipoise.weighting import InverseFrequency
from examples import harness

METHODS = {
    "plain": "cross-entropy",
    "median-frequency": "weights median / frequency in the images that have the class (SegNet)",
    "inverse-root": "weights 1 / √pixels",
    "focal": "focal loss, γ = 2",
    "hardest-pixels": "the quarter of the pixels with the highest loss (OHEM)",
    "image-sampler": "images drawn so that their pixels' shares even out",
    "balancer": "the defaults of Balancer(counts): weights 1 − recall of the training pixels",
}
WAYS = ("as trained", "decided", "decided, same scenes")
FIGURES = ("mean recall", "mean IoU", "lowest recall", "accuracy")


def make_balancer(method: str, counts: Targets, seed: int) -> Balancer:
    """The one line that differs between the methods."""
    if method == "balancer":
        return Balancer(counts, seed=seed)
    if method == "inverse-root":
        return Balancer(counts, InverseFrequency(0.5), seed=seed)
    if method == "median-frequency":
        matrix = counts.matrix.toarray()
        frequency = counts.counts / ((matrix > 0) * matrix.sum(1, keepdims=True)).sum(0)
        loss = WeightedCrossEntropy(np.median(frequency) / frequency)
        return Balancer(counts, "plain", loss=loss, seed=seed)
    if method == "focal":
        return Balancer(counts, "plain", loss=FocalLoss(gamma=2.0), seed=seed)
    if method == "hardest-pixels":
        return Balancer(counts, "plain", mining=HardestExamples(0.25, per_class=False), seed=seed)
    if method == "image-sampler":
        return Balancer(counts, "plain", sampler=LabelBalancedSampler(counts, seed=seed))
    return Balancer(counts, "plain", seed=seed)


def train(args: argparse.Namespace, data: dict, method: str, seed: int) -> nn.Module:
    """Train once."""
    torch.manual_seed(seed)
    images, labels = data["train"]
    pixels = torch.stack([(labels == c).sum((1, 2)) for c in range(len(data["classes"]))], 1)
    balancer = make_balancer(method, Targets.from_counts(pixels), seed)
    loader = DataLoader(TensorDataset(images, labels), args.batch_size, sampler=balancer.sampler)
    model = new_model(args, data)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.epochs * len(loader)
    )
    mirror, often = torch.Generator().manual_seed(seed), 0.0 if args.data == "digits" else 0.5
    for _ in range(args.epochs):
        for inputs, targets in loader:
            flip = torch.rand(len(inputs), 1, 1, generator=mirror) < often
            inputs = inputs.flip(3).where(flip[:, None], inputs)
            targets = targets.flip(2).where(flip, targets).to(args.device)
            balancer.loss(forward(args, model, inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        balancer.step()  # needs no hold-out: λ follows the recalls of the training pixels
    return model.eval()


def judge(args: argparse.Namespace, data: dict, model: nn.Module) -> dict[str, list[float]]:
    """Figures on the test images, for each way to decide."""
    held, test = (predict(args, model, data[part][0]) for part in ("val", "test"))
    labels, half = data["test"][1], torch.arange(len(test)) // 10 % 2

    known = data["train"][1][data["train"][1] >= 0]
    pixels = torch.bincount(known, minlength=test.shape[1])

    def offset(logits: Tensor, targets: Tensor, prior: Tensor | None = None) -> Tensor:
        decision = fit_class_decision(logits, targets, "iou", prior=prior)
        return decision.values.float().view(-1, 1, 1)

    of_halves = torch.stack([offset(test[half != h], labels[half != h]) for h in (0, 1)])
    offsets = (torch.zeros(1), offset(held, data["val"][1], pixels), of_halves[half])
    found = {}
    for way, added in zip(WAYS, offsets, strict=True):
        rates = ClassRates(test.shape[1])
        rates.update(test + added, labels)
        r = rates.recalls()
        values = r.mean(), rates.ious().mean(), r.min(), rates.accuracy()
        found[way] = [float(value) for value in values]
    return found


# ----------------------------------------------------------------------------------- UNTIL HERE


def new_model(args: argparse.Namespace, data: dict) -> nn.Module:
    model = harness.UNet(len(data["classes"]), args.width)
    return model.to(args.device, memory_format=torch.channels_last)


def forward(args: argparse.Namespace, model: nn.Module, images: Tensor) -> Tensor:
    """Logits `(B, C, H, W)` of uint8 images `(B, 3, H, W)`."""
    inputs = images.to(args.device).float().div_(255).sub_(0.45)
    with harness.autocast(args.device, args.bf16):
        return model(inputs.to(memory_format=torch.channels_last)).float()


@torch.no_grad()
def predict(args: argparse.Namespace, model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([forward(args, model, part).cpu() for part in images.split(32)])


def print_table(runs: list[dict], console: Console) -> None:
    """Mean over the seeds ± their standard deviation."""
    table = Table("method", "", *FIGURES, title="test images")
    for method in dict.fromkeys(run["method"] for run in runs):
        for way in WAYS:
            rows = np.array([run[way] for run in runs if run["method"] == method])
            cells = [
                f"{m:.3f} ± {s:.3f}" if len(rows) > 1 else f"{m:.3f}"
                for m, s in zip(rows.mean(0), rows.std(0, ddof=len(rows) > 1), strict=True)
            ]
            table.add_row(method if way == WAYS[0] else "", way, *cells)
    console.print(table)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", default="digits", help="digits, or an .npz")
    add("--void", type=int, default=11, help="the class id that is left out")
    told = "; ".join(f"{name}: {what}" for name, what in METHODS.items())
    add("--method", nargs="+", choices=list(METHODS), default=list(METHODS), help=told)
    for name, value in (("seeds", 1), ("epochs", 12), ("batch-size", 8), ("width", 20)):
        add(f"--{name}", type=int, default=value)
    add("--lr", type=float, default=3e-3)
    add("--bf16", action="store_true", help="convolutions in bfloat16")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--out", type=Path, default=Path("runs/segmentation"), help="folder of runs and picture")
    return parser.parse_args()


def main() -> None:
    args, console = options(), Console() if sys.stdout.isatty() else Console(width=130)
    data, runs, models = harness.load_scenes(args.data, args.void), [], {}
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for method in args.method:
            path = args.out / f"{method}-{seed}.pt"
            if not path.exists():
                torch.save(train(args, data, method, seed).state_dict(), path)
            model = new_model(args, data).eval()
            model.load_state_dict(torch.load(path, map_location=args.device))
            figures = path.with_suffix(".json")
            if not figures.exists():
                figures.write_text(json.dumps(judge(args, data, model)))
            runs.append({"method": method, **json.loads(figures.read_text())})
            models.setdefault(method, model)
            console.print(f"{path}: mean IoU {runs[-1][WAYS[0]][1]:.3f}")
    print_table(sorted(runs, key=lambda run: args.method.index(run["method"])), console)
    images, labels = data["test"]
    chosen = max(range(len(labels)), key=lambda i: len(labels[i].unique()))  # the most classes
    shown = {"scene": images[chosen].permute(1, 2, 0), "truth": labels[chosen]}
    for name, model in models.items():
        shown[name] = predict(args, model, images[chosen, None]).argmax(1)[0]
    harness.draw_pixels(shown, args.out / "scene.png")
    console.print(f"Picture: {args.out / 'scene.png'}")


if __name__ == "__main__":
    main()
