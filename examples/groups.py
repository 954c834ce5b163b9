"""Two classes whose images stand on the "wrong" ground in one case of twenty: who is left behind?

    python examples/groups.py                                # scikit-learn's digits, even and odd
    python examples/groups.py --data cifar10.npz             # cats and dogs in coloured frames
    python examples/groups.py --tune                         # settings by the hold-out alone

As in Waterbirds (Sagawa et al. 2020), .95 of each class's training images have the ground of their
class. In the test set both grounds are equally common; a method is judged by the recalls of the
four cells class × ground: the lowest, their mean, and the largest difference within a class.

Methods: plain; the cells drawn equally often ("inverse frequency"); group DRO (Sagawa et al. 2020,
algorithm 1, on cells drawn equally often, as published); JTT (Liu et al. 2021: train, upweight the
errors, train again; it is told no grounds in training); and `Balancer(labels, groups=grounds)`.
The hold-out is a stratified quarter of the training set, and no setting was chosen on the test set.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise import Balancer, ClassRates, holdout_split
from equipoise.weighting import Fair

SPURIOUS = 0.95
COLOURS = np.array([[0.9, 0.6, 0.2], [0.2, 0.6, 0.9]])
# What the hold-out chose for the digits (--tune)
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "inverse frequency": {},
    "group DRO": {"rate": 0.1},
    "JTT": {"first": 2, "times": 50},
    "Balancer": {"kappa": 2},
}
GRID: dict[str, list[dict[str, Any]]] = {
    "plain": [{}],
    "inverse frequency": [{}],
    "group DRO": [{"rate": rate} for rate in (0.01, 0.1)],
    "JTT": [{"first": 2, "times": times} for times in (20, 50)],
    "Balancer": [{"kappa": 2}, {"kappa": 4}, {"kappa": 2, "start": 1.3}],
}


def load(data: str, seed: int) -> dict[str, Any]:
    """Images, classes and grounds of "train", "held" and "test"; no picture is in two of them."""
    rng = np.random.default_rng(seed)
    if data == "digits":  # each three times, at random places of a larger ground
        found = load_digits()
        pictures, kinds = found.images[:, None].repeat(3, 1) / 16, found.target
        train, test = holdout_split(kinds, 600, seed=seed)
        ids = np.concatenate([train.repeat(3), test.repeat(3)])
        is_test, labels = np.isin(ids, test), kinds[ids] % 2
        images = np.zeros((len(ids), 3, 12, 12))
        for i, (top, left) in enumerate(rng.integers(0, 5, (len(ids), 2))):
            images[i, :, top : top + 8, left : left + 8] = pictures[ids[i]]
        shown = images
    else:  # cats and dogs of CIFAR-10, in frames
        z = np.load(data)
        kinds = np.concatenate([z["y_train"].reshape(-1), z["y_test"].reshape(-1)])
        ids = np.flatnonzero((kinds == 3) | (kinds == 5))
        is_test, labels = ids >= len(z["y_train"]), (kinds[ids] == 5).astype(np.int64)
        pictures = np.concatenate([z["x_train"], z["x_test"]])[ids].transpose(0, 3, 1, 2) / 255
        pictures = F.avg_pool2d(torch.from_numpy(pictures), 2).numpy()
        frame = (0, 0), (0, 0), (2, 2), (2, 2)
        images, shown = np.pad(pictures, frame), np.pad(np.ones_like(pictures), frame)
    usual = rng.random(len(ids)) < np.where(is_test, 0.5, SPURIOUS)
    grounds = np.where(usual, labels, 1 - labels)
    colours = COLOURS[grounds] * rng.uniform(0.7, 1, (len(ids), 1))
    images = images + (1 - shown) * colours[:, :, None, None]
    train, cells = np.flatnonzero(~is_test), 2 * labels + grounds
    parts = holdout_split(cells[train], 0.25, groups=ids[train], seed=seed)
    tensors = [torch.from_numpy(x) for x in (images.astype(np.float32), labels, grounds)]
    where = {"train": train[parts[0]], "held": train[parts[1]], "test": np.flatnonzero(is_test)}
    return {name: [x[i] for x in tensors] for name, i in where.items()}


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(3)),
        *(nn.Flatten(), nn.Linear(288, 2)),
    )


def fit(part: Any, order: Any, loss: Any, epochs: int, seed: int, after: Any = None) -> nn.Module:
    """Train on the batches of ids that `order()` gives; `after(model)` ends an epoch."""
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.02, epochs)
    for _ in range(epochs):
        for ids in order():
            images, labels, grounds = (each[ids] for each in part)
            optimizer.zero_grad()
            loss(model(images), labels, grounds).backward()
            optimizer.step()
        schedule.step()
        if after is not None:
            after(model)
    return model


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(some) for some in images.split(1000)])


def cell_recalls(model: nn.Module, images: Tensor, labels: Tensor, grounds: Tensor) -> np.ndarray:
    rates = ClassRates(4)
    predicted = 2 * outputs(model, images).argmax(1) + grounds
    rates.update(F.one_hot(predicted, 4).float(), 2 * labels + grounds)
    return rates.recalls().numpy().reshape(2, 2)


def plain_loss(logits: Tensor, labels: Tensor, grounds: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def shuffled(ids: Tensor, batch: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda: ids[torch.randperm(len(ids), generator=generator)].split(batch)


class GroupDRO:
    """Σ_g q_g ℓ_g, with q_g ← q_g exp(rate · ℓ_g) at each batch."""

    def __init__(self, rate: float) -> None:
        self.rate, self.q = rate, torch.full((4,), 0.25)

    def __call__(self, logits: Tensor, labels: Tensor, grounds: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none")
        cells = F.one_hot(2 * labels + grounds, 4).float()
        means = (losses @ cells) / cells.sum(0).clamp_min(1)
        self.q = self.q * torch.exp(self.rate * means.detach())
        self.q = self.q / self.q.sum()
        return self.q @ means


def train(method: str, seed: int, parts: Any, epochs: int, batch: int, settings: Any) -> nn.Module:
    part, (images, labels, grounds) = parts["train"], parts["train"]
    ids = torch.arange(len(labels))
    if method == "plain":
        return fit(part, shuffled(ids, batch, seed), plain_loss, epochs, seed)
    if method == "JTT":
        order = shuffled(ids, batch, seed)
        first = fit(part, order, plain_loss, settings["first"], seed)
        wrong = outputs(first, images).argmax(1) != labels
        again = ids.repeat_interleave(1 + (settings["times"] - 1) * wrong.long())
        passes = round(epochs * len(ids) / len(again))  # as many batches as the others have
        return fit(part, shuffled(again, batch, seed), plain_loss, passes, seed)
    policy = Fair(**settings) if method == "Balancer" else "inverse-frequency"
    balancer = Balancer(labels, policy, groups=grounds, seed=seed)

    def ours(logits: Tensor, labels: Tensor, grounds: Tensor) -> Tensor:
        return balancer.loss(logits, labels)

    def after(model: nn.Module) -> None:
        images, labels, grounds = parts["held"]
        balancer.observe(outputs(model, images), labels, grounds)
        balancer.step()

    loss = GroupDRO(**settings) if method == "group DRO" else ours
    return fit(part, lambda: balancer.sampler.batches(batch), loss, epochs, seed, after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", default="digits", help="digits, or an .npz of CIFAR-10")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", nargs="+", choices=SETTINGS, default=[*SETTINGS])
    parser.add_argument("--tune", action="store_true", help="judge the grid by the hold-out")
    args = parser.parse_args()
    part = "held" if args.tune else "test"
    print(f"{'method':42} worst cell     mean     gap  seconds   ({part}, ± sd of the seeds)")
    for method in args.method:
        for settings in GRID[method] if args.tune else [SETTINGS[method]]:
            rows, start = [], time.perf_counter()
            for seed in range(args.seeds):
                parts = load(args.data, seed)
                model = train(method, seed, parts, args.epochs, args.batch, settings)
                recalls = cell_recalls(model, *parts[part])
                rows.append([recalls.min(), recalls.mean(), np.ptp(recalls, axis=1).max()])
            mean, sd = np.mean(rows, 0), np.std(rows, 0, ddof=min(1, args.seeds - 1))
            shown = "  ".join(f"{m:.3f} ±{s:.3f}" for m, s in zip(mean, sd, strict=True))
            seconds = (time.perf_counter() - start) / args.seeds
            print(f"{method + ' ' + str(settings or ''):42} {shown}  {seconds:.0f}", flush=True)


if __name__ == "__main__":
    main()
