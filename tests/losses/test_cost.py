"""The engine at large sizes: what it keeps, and that what it keeps becomes the gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise import losses
from equipoise.losses import engine
from equipoise.losses.engine import softplus

ROWS, CLASSES = 96, 5000
SIZE = ROWS * CLASSES
COUNTS = torch.arange(1.0, CLASSES + 1)
MULTILABEL = [
    losses.WeightedBCE(),
    losses.SigmoidFocalLoss(),
    losses.AsymmetricLoss(),
    losses.TwoWayLoss(),
]
SINGLE = [
    losses.WeightedCrossEntropy(COUNTS),
    losses.LogitAdjustedCrossEntropy(COUNTS),
    losses.LDAM(COUNTS),
    losses.VectorScaling(COUNTS),
    losses.FocalLoss(),
    losses.Seesaw(COUNTS),
]
BOTH = [*MULTILABEL, losses.DistributionBalancedLoss(COUNTS, 10_000), *SINGLE]


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """The engine, whatever the size."""
    monkeypatch.setattr(engine, "LARGE", 0)


@pytest.mark.parametrize("loss", BOTH, ids=lambda loss: type(loss).__name__)
def test_one_tensor_of_the_logits_size_is_kept(loss: losses.Loss):
    logits = torch.zeros(ROWS, CLASSES, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() != logits.data_ptr():
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    targets = F.one_hot(torch.arange(ROWS), CLASSES) if loss.multilabel else torch.arange(ROWS)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(logits, targets)
    assert sum(kept.values()) <= 1.02 * SIZE * logits.element_size()


def gradient(loss: Callable[[Tensor], Tensor], logits: Tensor, **options: bool) -> Tensor:
    (found,) = torch.autograd.grad(loss(logits), logits, **options)
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_gradient_in_place_of_what_was_kept_is_right(dtype: torch.dtype):
    """Whatever the factor on the loss, and also where the graph is kept for another backward."""
    logits = torch.linspace(-4, 4, 60).view(3, 20).to(dtype).requires_grad_()
    targets = (torch.arange(60) % 11 == 0).view(3, 20)
    for loss in MULTILABEL[:3]:
        once = gradient(lambda z, f=loss: f(z, targets), logits).float()
        thrice = gradient(lambda z, f=loss: 3 * f(z, targets), logits).float()
        torch.testing.assert_close(thrice, 3 * once, rtol=1e-3, atol=1e-6)
        value = 3 * loss(logits, targets)
        for keep in (True, True, False):
            (found,) = torch.autograd.grad(value, logits, retain_graph=keep)
            torch.testing.assert_close(found.float(), thrice)
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            value.backward()


@pytest.mark.parametrize("size", [1.0, 30.0, 60.0, 90.0, 200.0])
def test_two_way_leaves_the_plain_sums_in_time(size: float):
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(40, 30, generator=generator) < 0.05
    logits = size * (torch.rand(40, 30, generator=generator) - 0.5).double()
    exact = logits.clone().requires_grad_()
    losses.two_way_loss(exact, targets.double() * 1.0).backward()
    single = logits.float().requires_grad_()
    value = losses.two_way_loss(single, targets)
    value.backward()
    torch.testing.assert_close(single.grad.double(), exact.grad, rtol=2e-5, atol=1e-7)


def test_transposed_logits_with_few_positives():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, 40, generator=generator)
    targets = torch.rand(40, 30, generator=generator) < 0.05
    for loss in MULTILABEL:
        z = logits.clone().requires_grad_()
        loss(z.t(), targets).backward()
        straight = logits.t().contiguous().requires_grad_()
        loss(straight, targets).backward()
        torch.testing.assert_close(z.grad.t(), straight.grad)
    expected = F.binary_cross_entropy_with_logits(logits.t(), targets.float())
    torch.testing.assert_close(losses.weighted_bce(logits.t(), targets), expected)


def test_softplus_beyond_its_fast_range():
    z = torch.tensor([-200.0, -80.0, -20.0, 0.0, 20.0, 80.0, 200.0, float("inf")])
    for part in (z, z[:6]):
        expected = F.softplus(part.double(), threshold=50.0)
        torch.testing.assert_close(softplus(part).double(), expected, rtol=5e-6, atol=1e-37)
    assert softplus(torch.tensor([float("nan")])).isnan()
