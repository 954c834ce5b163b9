"""Balancers after a training that was made up: real parts, logits drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise import Balancer
from equipoise.weighting import EqualRecall

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
    "日本語の名前",
    "a name that is a good deal longer than any column of a table or a picture has room for",
]


def recalled(recalls: Any, targets: Tensor, generator: torch.Generator) -> Tensor:
    """Logits under which a class is right with about its recall."""
    recalls, classes = torch.as_tensor(recalls), len(recalls)
    hit = torch.rand(len(targets), generator=generator) < recalls[targets]
    wrong = torch.randint(1, classes, (len(targets),), generator=generator)
    predicted = torch.where(hit, targets, (targets + wrong) % classes)
    return torch.eye(classes)[predicted] * 2


def of_classes(classes: int = 10, epochs: int = 6, support: int = 60, **parts: Any) -> Balancer:
    """Counts fall with the class id, recalls too; the loop closes half of the gap."""
    generator = torch.Generator().manual_seed(classes)
    counts = np.linspace(200, 20, classes).astype(int)
    balancer = Balancer(np.repeat(np.arange(classes), counts), seed=0, **parts)
    targets = torch.arange(classes).repeat_interleave(support)
    for epoch in range(epochs):
        recalls = np.linspace(0.95, 0.3 + 0.05 * min(epoch, 8), classes)
        balancer.observe(recalled(recalls, targets, generator), targets)
        if balancer.mining is not None:
            some = torch.arange(classes).repeat_interleave(4)
            balancer.loss(torch.randn(len(some), classes, generator=generator), some)
        balancer.step()
    return balancer


def evaluation_set(classes: int = 10, size: int = 40) -> tuple[Tensor, Tensor]:
    """Logits and class ids."""
    targets = torch.arange(classes).repeat_interleave(size)
    generator = torch.Generator().manual_seed(99)
    return recalled(np.linspace(0.9, 0.6, classes), targets, generator), targets


def label_data(labels: int, examples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits that know something of the targets, and the targets; the last labels are rare."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.linspace(0.5, 0.05, labels)
    targets = (torch.rand(examples, labels, generator=generator) < share).long()
    noise = torch.randn(examples, labels, generator=generator)
    return noise + 1.5 * targets + share.logit() + 0.5, targets


def of_labels(labels: int = 14, epochs: int = 5) -> Balancer:
    balancer = Balancer(label_data(labels, 400, 0)[1], EqualRecall(), seed=0)
    for epoch in range(epochs):
        balancer.observe(*label_data(labels, 300, 1 + epoch))
        balancer.step()
    return balancer
