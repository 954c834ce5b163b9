"""Balancers after a training that was made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise import Balancer, Targets
from equipoise.decision import ClassDecision, LabelDecision

# What must be shown as it is: mark-up, quotes, mathematics, scripts, emoji, right to left.
NAMES = [
    "<img src=x onerror=alert(1)>",
    "cats & dogs",
    "\"quoted\" and 'quoted'",
    "$x^2$ {y} \\alpha",
    "</script><script>throw 1</script>",
    "שלום עולם",
    "🚀 rocket",
    "[bold]not markup[/]",
    "_日本語の名前",
    "a name that is a good deal longer than any column of a table or a picture has room for",
]


class MadeBalancer(Balancer):
    """Equal draws of every class; history, decision and the shift of the logits are made up."""

    history: Any = None  # no property here

    def __init__(
        self,
        held: Targets,
        shift: np.ndarray,
        decision: Any = None,
        history: Sequence[dict[str, Any]] = (),
        mining: str | None = None,
    ) -> None:
        sampler = None if held.multilabel else "auto"  # of counts alone
        super().__init__(held, "inverse-frequency", sampler, mining)
        self.shift, self.decision, self.history = shift, decision, list(history)
        self.log_weight, self.sampler_share = shift - shift.mean(), 0.5

    def correct(self, logits: Tensor) -> Tensor:
        return logits - torch.as_tensor(self.shift).float()


def made_logits(recalls: Any, targets: Tensor, seed: int) -> Tensor:
    """Logits under which a class is right with about its recall."""
    generator = torch.Generator().manual_seed(seed)
    recalls, classes = torch.as_tensor(recalls), len(recalls)
    hit = torch.rand(len(targets), generator=generator) < recalls[targets]
    wrong = torch.randint(1, classes, (len(targets),), generator=generator)
    predicted = torch.where(hit, targets, (targets + wrong) % classes)
    noise = torch.randn(len(targets), classes, generator=generator) * 0.3
    return torch.eye(classes)[predicted] * 2 + torch.eye(classes)[targets] + noise


def front(values: np.ndarray) -> list[dict[str, Any]]:
    """From the plain decision to equal recalls."""
    rows = []
    for i, alpha in enumerate([0.0, 1.0, 2.0, 4.0, 8.0, np.inf]):
        mean, lowest = 0.8 - 0.004 * i**2, 0.4 + 0.06 * i - 0.004 * i**2
        rows.append(
            {"alpha": alpha, "mean": mean, "sd": 0.15 - 0.02 * i, "lowest": lowest}
            | {"price": 0.8 - mean, "offset": values * i / 3}
            | {"mean_interval": (mean - 0.01, mean + 0.01)}
            | {"lowest_interval": (lowest - 0.04, lowest + 0.03)}
        )
    return rows


def of_classes(
    classes: int = 10,
    epochs: int = 6,
    support: int = 60,
    *,
    decided: bool = True,
    mining: bool = False,
    names: list[Any] | None = None,
) -> MadeBalancer:
    """Counts fall with the class id, recalls too; the training closes half of the gap."""
    rng = np.random.default_rng(classes)
    counts = np.geomspace(2000, 20, classes).astype(int)
    shift = np.linspace(-0.8, 0.8, classes)
    values = np.linspace(-0.4, 0.4, classes)
    prices = {"price": 0.008, "equality_price": 0.06, "alpha": 4.0}
    found = ClassDecision("fair", torch.from_numpy(values), front=front(values), **prices)
    held = Targets.from_class_counts(counts, names=names)
    balancer = MadeBalancer(
        held, shift, found if decided else None, mining="hardest-examples" if mining else None
    )
    n = np.full(classes, support)
    for epoch in range(epochs):
        level = np.linspace(0.95, 0.3 + 0.05 * min(epoch, 8), classes)
        recalls = rng.binomial(n, level) / n
        row: dict[str, Any] = {"epoch": epoch, "num_nan": 0, "num_invalid": 0}
        row |= {"log_weight": (balancer.log_weight * epoch / epochs).tolist()}
        row |= {"recalls": recalls.tolist(), "support": n.tolist(), "price": 0.01 * epoch / epochs}
        row |= {"mean_recall": recalls.mean(), "sd_recall": recalls.std()}
        row["lowest_recall"] = recalls.min()
        if mining:
            row["mining"] = {"num_seen": 100, "num_kept": 25, "num_nonfinite": 0}
            row["mining"] |= {"share_kept": 0.25, "mean_loss_kept": 1.5 / (epoch + 1)}
            row["mining"] |= {"mean_loss_dropped": 0.1, "estimated_cost": 0.6}
            row["mining"] |= {"seen_by_class": [10] * classes, "kept_by_class": [3] * classes}
        balancer.history.append(row)
    return balancer


def evaluation_set(classes: int = 10, size: int = 40) -> tuple[Tensor, Tensor]:
    """Logits and class ids."""
    targets = torch.arange(classes).repeat_interleave(size)
    return made_logits(np.linspace(0.95, 0.5, classes), targets, 99), targets


def label_data(labels: int, examples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits that know something of the targets, and the targets; the last labels are rare."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.linspace(0.5, 0.05, labels)
    targets = (torch.rand(examples, labels, generator=generator) < share).long()
    noise = torch.randn(examples, labels, generator=generator)
    return noise + 1.5 * targets + share.logit() + 0.5, targets


def of_labels(labels: int = 14, epochs: int = 5) -> MadeBalancer:
    _, targets = label_data(labels, 400, 0)
    held = Targets.from_class_counts(targets.sum(0), len(targets))
    balancer = of_classes(labels, epochs)
    fitted = LabelDecision("prevalence", torch.full((labels,), 0.3))
    made = MadeBalancer(held, np.full(labels, 0.5), fitted)
    made.history = [row | {"log_weight": [0.0] * labels} for row in balancer.history]
    return made
