"""The README's code runs as it stands, given a data set, a model and an optimizer."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

README = Path(__file__).parents[1] / "README.md"


def test_the_training_loop():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1200) % 3
    points = torch.randn(1200, 2, generator=generator) + 2.0 * torch.eye(3)[labels][:, :2]
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    names = {
        "torch": torch,
        "DataLoader": DataLoader,
        "Subset": Subset,
        "data": TensorDataset(points, labels),
        "labels": labels,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.2),
        "epochs": 3,
        "held_images": points[:300],
        "held_labels": labels[:300],
        "test_images": points,
    }
    exec(code, names)
    assert names["predicted"].shape == labels.shape
    assert (names["predicted"] == labels).float().mean() > 0.6
    assert len(names["balancer"].history) == 3


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert len(links) > 5
    for link in links:
        assert (README.parent / link).exists(), link
