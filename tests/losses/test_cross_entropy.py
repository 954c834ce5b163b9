"""The engine under the losses for class ids: what plain torch operations give, it gives too."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor

from equipoise import losses
from equipoise.losses import class_ids, engine
from tests.losses.cases import COUNTS, LOG_WEIGHT, SINGLE, C, batch

ADJUSTED = [
    losses.LogitAdjustedCrossEntropy(COUNTS, log_weight=LOG_WEIGHT),
    losses.LDAM(COUNTS, log_weight=LOG_WEIGHT),
    losses.VectorScaling(COUNTS, log_weight=LOG_WEIGHT),
    losses.Seesaw(COUNTS, log_weight=LOG_WEIGHT),
]
each_loss = pytest.mark.parametrize("loss", ADJUSTED, ids=lambda loss: type(loss).__name__)


def gradient(loss: losses.Loss, logits: Tensor, targets: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    loss(logits, targets).backward()
    assert logits.grad is not None
    return logits.grad


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """The engine, whatever the size."""
    monkeypatch.setattr(engine, "LARGE", 0)


@pytest.fixture
def plain(monkeypatch):
    """Calls a function with the engine switched off."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(class_ids, "is_large", lambda logits: False)
            return function(*args)

    return call


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 2.0, 20.0, 200.0])
def test_is_what_plain_operations_give(loss, dtype, scale, plain, monkeypatch):
    monkeypatch.setattr(engine, "CHUNK", 6 * C)  # chunks of unequal length
    logits, targets = batch(SINGLE[0], 40, dtype, scale)
    rtol = 1e-5 if dtype == torch.float32 else 1e-10
    value, expected = loss.unreduced(logits, targets), plain(loss.unreduced, logits, targets)
    torch.testing.assert_close(value, expected, rtol=rtol, atol=1e-6)
    expected = plain(gradient, loss, logits, targets)
    found = gradient(loss, logits, targets)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-6)


@each_loss
def test_gradients_by_torch_func(loss):
    logits, targets = batch(SINGLE[0])
    expected = gradient(loss, logits, targets)
    torch.testing.assert_close(torch.func.grad(lambda z: loss(z, targets))(logits), expected)


@each_loss
def test_masked_classes(loss, plain):
    """A logit of −∞ takes a class out: it has no share in the value and no gradient."""
    logits, targets = batch(SINGLE[0])
    targets = targets.clamp_max(C - 2)
    logits[:, -1] = -torch.inf
    torch.testing.assert_close(
        loss.unreduced(logits, targets), plain(loss.unreduced, logits, targets)
    )
    found = gradient(loss, logits, targets)
    assert (found[:, -1] == 0).all()
    assert torch.isfinite(found).all()


@each_loss
def test_small_gradients_survive_half_precision(loss):
    """A GradScaler's factor comes before the rounding, not after it."""
    logits = torch.full((2, C), -9.0, dtype=torch.float16)
    logits[:, 0] = 9.0
    targets = torch.zeros(2, dtype=torch.int64)
    loss = type(loss)([1] * C)  # shares of e⁻¹⁸ or less, where float16 has nothing below 6e-8
    exact = gradient(loss, logits.double(), targets)
    scaled = logits.clone().requires_grad_()
    (2.0**16 * loss(scaled, targets)).backward()
    assert scaled.grad is not None
    expected = (2.0**16 * exact).half()
    torch.testing.assert_close(scaled.grad[:, 1:], expected[:, 1:])
    if not isinstance(loss, losses.LDAM):  # its scale makes them e⁻⁵⁴⁰
        assert (scaled.grad[:, 1:] > 0).all()


def test_denormal_shares_are_nothing():
    """They would take many times as long, and a share of 1e-30 changes no float32 sum."""
    logits = torch.tensor([[0.0, -60.0, -80.0, -95.0, -200.0]])
    found = gradient(losses.LogitAdjustedCrossEntropy(), logits, torch.tensor([0]))
    torch.testing.assert_close(found[0, 1], logits[0, 1].exp(), rtol=1e-4, atol=0)
    assert (found[0, 2:] == 0).all()


def test_logits_may_change_in_place_before_backward():
    """As with torch's own: a metric may work on them; second derivatives need them, and say so."""
    start = torch.randn(4, 3, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 0])
    (expected,) = torch.autograd.grad(losses.LogitAdjustedCrossEntropy()(start * 1, targets), start)
    logits = start * 1
    loss = losses.LogitAdjustedCrossEntropy()(logits, targets)
    with torch.no_grad():
        logits.sigmoid_()
    (found,) = torch.autograd.grad(loss, start, retain_graph=True)
    assert torch.allclose(found, expected)
    with pytest.raises(RuntimeError, match="Expected logits as the loss was given them"):
        torch.autograd.grad(loss, start, create_graph=True)


def test_many_gradients_at_once():
    logits = torch.randn(3, 4, requires_grad=True)
    loss = losses.LDAM([4, 3, 2, 1], reduction="none")(logits, torch.tensor([0, 1, 3]))
    rows = torch.autograd.grad(loss, logits, torch.eye(3), is_grads_batched=True, retain_graph=True)
    (all_at_once,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.allclose(rows[0].sum(0), all_at_once)


def test_another_default_device():
    logits, targets = torch.randn(3, 4), torch.tensor([0, 1, 3])
    with torch.device("meta"):
        assert losses.LogitAdjustedCrossEntropy()(logits, targets).device.type == "cpu"


def test_a_kept_loss_does_not_keep_the_logits():
    logits = torch.randn(3, 4, requires_grad=True) * 1
    gone = weakref.ref(logits)
    loss = losses.LogitAdjustedCrossEntropy()(logits, torch.tensor([0, 1, 3]))
    loss.backward(retain_graph=True)
    loss.backward()
    del logits
    assert gone() is None
    assert torch.isfinite(loss)
