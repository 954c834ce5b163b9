"""The same small training in the plain loop and in each trainer: what came, what λ became."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from equipoise import Balancer

BATCH, RATE = 16, 0.5


def needed(name: str) -> None:
    """Skip the module where an optional package is missing; fail where everything must be there."""
    if os.environ.get("EQUIPOISE_REQUIRE_FFCV", "") not in ("", "0"):
        importlib.import_module(name)
    else:
        pytest.importorskip(name)


class Points(Dataset):
    """Three classes of points, of which two overlap; rare ones too. Items are dicts."""

    def __init__(self, num: int, seed: int, multilabel: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.targets = (torch.arange(num) % 10 >= torch.tensor([[6], [9]])).sum(0)
        centres = torch.tensor([[0.0, 0.0], [1.0, 0.5], [-2.0, 1.0]])
        self.points = centres[self.targets] + torch.randn(num, 2, generator=generator)
        if multilabel:
            self.targets = torch.stack([self.points[:, 0] > 0, self.points[:, 1] > 1.5], 1).float()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"points": self.points[index], "labels": self.targets[index], "indices": index}


@dataclass
class Run:
    """What a training leaves behind."""

    balancer: Balancer
    model: nn.Module
    order: list[int] = field(default_factory=list)  # ids of the examples trained on

    @property
    def log_weights(self) -> list[list[float]]:
        history = [row["log_weight"] for row in self.balancer.history]
        return [*history, self.balancer.log_weight.tolist()]

    @property
    def outcome(self) -> tuple[list[int], list[list[float]]]:
        """What has to be the same as in the plain loop."""
        return self.order, self.log_weights


TRAIN, HELD = Points(100, 0), Points(60, 1)


def start(train: Points = TRAIN, **settings: Any) -> Run:
    torch.manual_seed(0)
    return Run(Balancer(train.targets, seed=3, **settings), nn.Linear(2, 3))


def start_with_labels() -> tuple[Run, Points, Points]:
    """The same with two labels; its examples and its hold-out."""
    train, held = Points(100, 0, multilabel=True), Points(60, 1, multilabel=True)
    run = start(train, policy="equal-recall")
    run.model = nn.Linear(2, 2, bias=False)
    nn.init.constant_(run.model.weight, 0.1)
    return run, train, held


def counts_one_pass(run: Run) -> bool:
    """Whether each epoch's recalls are of the hold-out's 36, 18 and 6 examples, each once."""
    recalls = torch.tensor([row["recalls"] for row in run.balancer.history], dtype=torch.float64)
    counts = recalls * torch.tensor([36, 18, 6])
    return torch.allclose(counts, counts.round(), rtol=0, atol=1e-9)


def sides(points: Tensor) -> Tensor:
    """Two groups, which have nothing to do with the class."""
    return (100 * points[:, 1]).long() % 2


class Net(nn.Module):
    """A linear model for trainers that give inputs by name; notes the ids it is given."""

    def __init__(self, run: Run, **kwargs: Any) -> None:
        super().__init__()
        self.linear, self.order = run.model, run.order

    def forward(self, points: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.linear(points)}


def plain(
    run: Run,
    epochs: int,
    train: Points = TRAIN,
    held: Points = HELD,
    batch_size: int = BATCH,
    accumulate: int = 1,
    rest_by_its_own: bool = False,
) -> Run:
    """The loop of the README.

    `rest_by_its_own`: the batches left over at the end of an epoch are averaged over their own
    number, as Transformers does, and not over `accumulate`, as Lightning does.
    """
    balancer, model = run.balancer, run.model
    loader = DataLoader(train, batch_size, sampler=balancer.sampler)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    while balancer.epoch < epochs:
        for batch, data in enumerate(loader, 1):
            loss = balancer.loss(model(data["points"]), data["labels"], data["indices"])
            left_over = len(loader) % accumulate
            is_rest = rest_by_its_own and batch > len(loader) - left_over
            (loss / (left_over if is_rest else accumulate)).backward()
            run.order += data["indices"].tolist()
            if batch % accumulate == 0 or batch == len(loader):
                optimizer.step()
                optimizer.zero_grad()
        with torch.no_grad():
            for data in DataLoader(held, 50):
                groups = () if balancer.grouping is None else (sides(data["points"]),)
                balancer.observe(model(data["points"]), data["labels"], *groups)
        balancer.step()
    return run
