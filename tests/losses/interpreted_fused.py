"""The fused kernel against the plain path, on the CPU, in Triton's interpreter.

Run by tests/losses/test_fused.py in a process of its own, with TRITON_INTERPRET=1, because Triton
decides when a kernel is defined whether it is interpreted. The plain path computes in float64 here:
in float32 it is itself only as exact as the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from equipoise import losses
from tests.losses.cases import gradient
from tests.waiting import NoWaiting

pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning"),
]


def vector(size: int, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) + 0.1


# Of the number of labels, as `fused` says.
LOSSES: dict[str, Callable[..., losses.Loss]] = {
    "bce": lambda c, **k: losses.WeightedBCE(**k),
    "bce, pos_weight": lambda c, **k: losses.WeightedBCE(vector(c), **k),
    "bce, weight": lambda c, **k: losses.WeightedBCE(None, vector(c), **k),
    "bce, λ": lambda c, **k: losses.WeightedBCE(vector(c), vector(c, 1), log_weight=vector(c), **k),
    "focal": lambda c, **k: losses.SigmoidFocalLoss(**k),
    "focal, α 1": lambda c, **k: losses.SigmoidFocalLoss(1.0, 1.0, **k),
    "focal, α by label": lambda c, **k: losses.SigmoidFocalLoss(vector(c) / 2, 1.5, **k),
    "focal, λ": lambda c, **k: losses.SigmoidFocalLoss(None, 3.0, log_weight=vector(c), **k),
    "asymmetric": lambda c, **k: losses.AsymmetricLoss(**k),
    "asymmetric, no margin": lambda c, **k: losses.AsymmetricLoss(4.0, 0.0, 0.0, vector(c), **k),
    "asymmetric, γ 0": lambda c, **k: losses.AsymmetricLoss(0.0, 0.0, 0.2, **k),
    "asymmetric, odd γ": lambda c, **k: losses.AsymmetricLoss(2.5, 0.5, 0.1, **k),
    "distribution-balanced": lambda c, **k: losses.DistributionBalancedLoss(
        (100 * vector(c)).round(), 200, **k
    ),
    "db focal": lambda c, **k: losses.DistributionBalancedLoss(
        (100 * vector(c)).round(), 200, negative_scale=1.5, gamma=2.0, log_weight=vector(c), **k
    ),
}
each_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
# Smaller than a block of 1,024, as large, larger; rows shorter and longer than a block.
SHAPES = [(1, 1), (3, 5), (1, 1024), (5, 205), (2, 1025), (5, 333)]
FORMS = [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16, torch.bfloat16]


def batch(shape: tuple[int, int], dtype=torch.float32, scale=4.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(shape[0] * 10_007 + shape[1])
    logits = scale * torch.randn(shape, generator=generator)
    return logits.to(dtype), torch.rand(shape, generator=generator) < 0.15


def outcome(loss: losses.Loss, logits: Tensor, targets: Tensor, factor: float = 1.0):
    """Elements, sum and gradient, in float64."""
    logits = logits.clone().requires_grad_()
    value = loss(logits, targets)
    (factor * value).backward()
    assert logits.grad is not None
    return [t.detach().double() for t in (loss.unreduced(logits, targets), value, logits.grad)]


# Of a value, and of the largest value there is. Gradients of half precision are rounded twice.
CLOSE = {
    torch.float32: (4e-6, 3e-7),
    torch.float16: (1.5e-3, 1e-6),
    torch.bfloat16: (1.2e-2, 1e-6),
}


def assert_close(found, expected, dtype=torch.float32) -> None:
    for one, other, of in zip(found, expected, (dtype, torch.float32, dtype), strict=True):
        rtol, share = CLOSE[of]
        torch.testing.assert_close(one, other, rtol=rtol, atol=share * float(other.abs().max()))


@each_loss
def test_every_shape_and_soft_labels(make):
    soft = torch.rand(3, 401, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    for logits, targets in (*map(batch, SHAPES), (batch((3, 401))[0], soft)):
        plain, fused = make(logits.shape[1]), make(logits.shape[1], fused=True)
        expected = outcome(plain, logits.double(), targets)
        assert_close(outcome(fused, logits, targets), expected)


@each_loss
@pytest.mark.parametrize("dtype", CLOSE)
def test_every_dtype(make, dtype: torch.dtype):
    logits, targets = batch((4, 301), dtype)
    expected = outcome(make(301), logits.double(), targets, 2.0**16)  # as a gradient scaler does
    for form in FORMS if make is LOSSES["bce"] else FORMS[:1]:
        found = outcome(make(301, fused=True), logits, targets.to(form), 2.0**16)
        assert_close(found, expected, dtype)


@each_loss
@pytest.mark.parametrize("form", [torch.bool, torch.float32])
def test_extreme_logits_and_nan(make, form: torch.dtype):
    sizes = [0.0, 1e-30, 1e-6, 15.0, 16.7, 50.0, 87.0, 88.5, 104.0, 1e3, 1e4, 3e38]
    row = torch.tensor([*sizes, *(-s for s in sizes)])
    logits = torch.stack([row, row])
    targets = torch.tensor([[0], [1]]).expand_as(logits).to(form)
    plain, fused = make(len(row)), make(len(row), fused=True)
    expected = plain.unreduced(logits.double(), targets)
    found = fused.unreduced(logits, targets)
    within = logits.abs() <= 1e4
    torch.testing.assert_close(found.double()[within], expected[within], rtol=4e-6, atol=3e-7)
    assert not found.isnan().any()
    logits = logits.clamp(-1e4, 1e4)
    assert_close(outcome(fused, logits, targets), outcome(plain, logits.double(), targets))
    logits[1, 3] = math.nan
    elements, value, gradient = outcome(fused, logits, targets)
    assert value.isnan()
    for found in (elements, gradient):
        assert found.isnan().nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize("form", [torch.bool, torch.float32])
def test_infinite_logits_that_are_right_cost_nothing(form: torch.dtype):
    """Labels that do not apply are often given −∞."""
    logits = torch.tensor([[-math.inf, 0.0, math.inf]])
    targets = torch.tensor([[0, 1, 1]]).to(form)
    for name in ("bce", "focal", "asymmetric"):
        elements, value, gradient = outcome(LOSSES[name](3, fused=True), logits, targets)
        assert value.isfinite()
        assert elements[0, 0] == elements[0, 2] == 0
        assert gradient[0, 0] == gradient[0, 2] == 0


@pytest.mark.parametrize("dtype", CLOSE)
def test_backward_again_and_in_place(dtype: torch.dtype):
    logits, targets = batch((3, 900), dtype)
    logits.requires_grad_()
    loss = losses.WeightedBCE(fused=True)
    once = gradient(loss, logits, targets).float()
    value = 3 * loss(logits, targets)
    for keep in (True, True, False):
        (found,) = torch.autograd.grad(value, logits, retain_graph=keep)
        torch.testing.assert_close(found.float(), 3 * once, rtol=CLOSE[dtype][0], atol=1e-6)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()
    with pytest.raises(RuntimeError, match="differentiated once, but got create_graph=True"):
        torch.autograd.grad(loss(logits, targets), logits, create_graph=True)


def test_float16_keeps_small_gradients():
    """1/(B·C) is below float16's smallest number; the gradients themselves are not."""
    logits, loss = torch.zeros(512, 256, dtype=torch.float16), losses.WeightedBCE(fused=True)
    found = gradient(lambda z, y: 2.0**16 * loss(z, y), logits, logits > 0)
    assert (found == 0.5 * 2.0**16 / 2**17).all()


def test_other_layouts_and_an_empty_batch():
    logits, targets = batch((40, 30))
    for z, y in ((logits.t(), targets.t()), (logits[::2, 1:], targets[::2, 1:])):
        plain, fused = (losses.AsymmetricLoss(fused=f) for f in (False, True))
        assert_close(outcome(fused, z, y), outcome(plain, z.double(), y))
    assert losses.WeightedBCE(fused=True, reduction="sum")(logits[:0], targets[:0]) == 0


@each_loss
def test_only_the_gradient_is_kept_nothing_waits_and_the_sum_is_repeatable(make):
    logits, targets = batch((6, 800))
    logits.requires_grad_()
    loss = make(800, fused=True)
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with NoWaiting(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(logits, targets)
    assert kept == [logits.numel() * logits.element_size()]
    assert all(torch.equal(value, loss(logits, targets)) for _ in range(2))


def test_what_there_is_no_kernel_for_is_refused():
    logits, targets = batch((3, 4))
    loss = losses.WeightedBCE(fused=True)
    for z, y, error, message in (
        (logits.double(), targets, ValueError, "fused to be False for torch.float64 logits"),
        (logits, targets.cfloat(), ValueError, "fused to be False for torch.complex64 targets"),
        (logits, targets[:2], ValueError, r"targets to be of shape \(3, 4\)"),
        (logits, targets.float().to_sparse_coo(), TypeError, "targets to be dense or sparse CSR"),
    ):
        with pytest.raises(error, match=f"Expected {message}"):
            loss(z, y)
