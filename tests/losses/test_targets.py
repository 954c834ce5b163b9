"""What each loss takes: ids, probabilities, ignored, dense and unknown targets, and weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise import losses
from tests.losses.cases import LOG_WEIGHT, MULTI, SINGLE, C, Case, batch, gradient, minimise

each_single = pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.name)
# Those whose elements do not depend on each other
INDEPENDENT = [case for case in MULTI if case.elementwise and "distribution" not in case.name]
each_independent = pytest.mark.parametrize("case", INDEPENDENT, ids=lambda case: case.name)


def by_class(case: Case, logits: Tensor) -> Tensor:
    """`(B, C)`: each example's loss if its class were c, one id at a time."""
    loss = case.make(log_weight=LOG_WEIGHT)
    ids = [torch.full((len(logits),), c) for c in range(C)]
    return torch.stack([loss.unreduced(logits, y) for y in ids], 1)


def value_and_gradient(f, logits: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = f(logits)
    value.backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


def probabilities(shape: torch.Size) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator, dtype=torch.float64).softmax(1)


@each_single
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("form", ["ids", "ignored", "probabilities"])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_form_is_made_of_single_ids(case: Case, dense: bool, form: str, weighted: bool):
    """Value and gradient in float64, with every target written out."""
    logits, ids = batch(case, 12)
    q = probabilities(logits.shape)
    weight = torch.linspace(0.5, 2.0, 12, dtype=torch.float64)
    if form == "ignored":
        ids[::5] = -100
    counted = ids >= 0 if form == "ignored" else torch.ones(12, dtype=torch.bool)
    share = q if form == "probabilities" else F.one_hot(ids.clamp_min(0), C) * counted[:, None]

    def expected(z: Tensor) -> Tensor:
        values = (by_class(case, z) * share).sum(1) * (weight if weighted else 1.0)
        return values.sum() / counted.sum()

    def folded(x: Tensor) -> Tensor:
        """The twelve examples as two pictures of 3 × 2 pixels; classes come second."""
        x = x.view(2, 3, 2, *x.shape[1:])
        return x.movedim(-1, 1) if x.ndim == 4 else x

    def found(z: Tensor) -> Tensor:
        given = (z, q if form == "probabilities" else ids, weight if weighted else None)
        if dense:
            given = tuple(None if x is None else folded(x) for x in given)
        return case.make(log_weight=LOG_WEIGHT)(*given)

    one, other = value_and_gradient(found, logits), value_and_gradient(expected, logits)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@each_single
def test_nothing_counted_gives_zero(case: Case):
    logits, ids = batch(case)
    loss, none = case.make(ignore_index=255), torch.full((7,), 255)
    assert loss(logits, none) == 0
    assert (gradient(loss, logits, none) == 0).all()
    assert not loss.counted(none).any()
    ids[0] = 255
    assert loss.unreduced(logits, ids)[0] == 0
    assert loss.counted(ids).tolist() == [False] + [True] * 6


@each_independent
def test_unknown_entries_leave_no_trace(case: Case):
    logits, targets = batch(case)
    unknown = torch.zeros_like(targets, dtype=torch.bool)
    unknown[::2, 1] = unknown[3] = True
    marked = targets.double().masked_fill(unknown, -1)
    loss = case.make(unknown=-1.0, log_weight=LOG_WEIGHT)
    plain = case.make(log_weight=LOG_WEIGHT).unreduced(logits, targets)
    torch.testing.assert_close(loss(logits, marked), plain[~unknown].mean())
    assert (gradient(loss, logits, marked)[unknown] == 0).all()
    assert torch.equal(loss.counted(marked), ~unknown)
    by_mask = losses.sigmoid_focal_loss(logits, targets, unknown=unknown)
    torch.testing.assert_close(by_mask, losses.sigmoid_focal_loss(logits, marked, unknown=-1.0))


@pytest.mark.parametrize("make", [losses.TwoWayLoss, lambda **k: losses.DistributionBalancedLoss(
    [5, 4, 3, 2, 1], 20, **k)])  # fmt: skip
def test_an_unknown_label_is_as_if_absent(make):
    logits, targets = batch(MULTI[0])
    marked = targets.double()
    marked[:, 3] = -1
    loss = make(unknown=-1)
    assert torch.isfinite(loss(logits, marked))
    assert (gradient(loss, logits, marked)[:, 3] == 0).all()
    if make is losses.TwoWayLoss:
        left = [0, 1, 2, 4]
        without = make()(logits[:, left], targets[:, left])
        torch.testing.assert_close(loss(logits, marked), without)


@each_independent
def test_soft_labels_mix_both_sides(case: Case):
    logits, targets = batch(case)
    loss = case.make()
    zero, one = (loss.unreduced(logits, torch.full_like(logits, y)) for y in (0.0, 1.0))
    soft = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(loss.unreduced(logits, soft), soft * one + (1 - soft) * zero)
    beyond = torch.where(targets > 0, 3.0, -2.0)  # the nearer end
    torch.testing.assert_close(loss(logits, beyond), loss(logits, targets))


@pytest.mark.parametrize(
    "loss",
    [
        losses.WeightedCrossEntropy([1.0, 32.3], label_smoothing=0.1),
        losses.LogitAdjustedCrossEntropy([97, 3], 1.0, 0.1),
    ],
)
def test_label_smoothing_does_not_favour_the_rare(loss: losses.Loss):
    """Separable, 3% positives: at the optimum of common examples the common class wins."""
    targets = (torch.arange(100) < 3).long()
    logits = minimise(lambda z: loss(z, targets), 100, 2)
    assert torch.equal(logits.argmax(1), targets)


def test_signatures_of_peers():
    logits, targets = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 0.0]])
    torchvision = pytest.importorskip("torchvision")
    expected = torchvision.ops.sigmoid_focal_loss(logits, targets, 0.25, 2.0, "mean")
    torch.testing.assert_close(
        losses.sigmoid_focal_loss(logits, targets, 0.25, 2.0, "mean"), expected
    )
    torch.testing.assert_close(losses.FocalLoss(multilabel=True)(logits, targets), expected)
    weight = torch.tensor([2.0, 3.0])
    torch.testing.assert_close(
        losses.weighted_bce(logits, targets, weight),
        F.binary_cross_entropy_with_logits(logits, targets, weight),
    )


def test_example_weights_and_their_normalizations():
    logits = torch.tensor([[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]], dtype=torch.float64)
    targets = torch.tensor([[1, 0], [0, 1], [1, 1]])
    weight = torch.tensor([2.0, 0.0, 0.5])
    for normalization, divisor in (("batch", 6.0), ("weight", 5.0), ("nonzero", 4.0)):
        loss = losses.WeightedBCE(normalization=normalization)

        def expected(z: Tensor, divisor=divisor) -> Tensor:
            plain = F.binary_cross_entropy_with_logits(z, targets.double(), reduction="none")
            return (plain * weight[:, None]).sum() / divisor

        found = value_and_gradient(lambda z, f=loss: f(z, targets, weight), logits)
        torch.testing.assert_close(found, value_and_gradient(expected, logits))
        assert loss(logits, targets, torch.zeros(3)) == 0


def test_functions_take_counts_of_zero_and_numpy():
    z, y = torch.zeros(2, 2), torch.tensor([0, 1])
    assert torch.isfinite(losses.seesaw(z, y, torch.tensor([10.0, 0.0])))
    weight = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(
        losses.weighted_cross_entropy(z, y, weight.numpy()),
        losses.weighted_cross_entropy(z, y, weight),
    )


def test_seesaw_cap_and_detached_focusing():
    logits, y = torch.tensor([[9.0, -9.0]]), torch.tensor([1])
    plain, capped = (losses.seesaw(logits, y, [1, 1], eps=e) for e in (0.0, 0.01))
    assert capped < plain
    z = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    detached = partial(losses.asymmetric_loss, detach_focusing=True, reduction="sum")
    q = z[0].sigmoid()
    p = q[1] - 0.05
    expected = torch.stack([-((1 - q[0]) ** 2), p**4 / (1 - p) * q[1] * (1 - q[1])])
    torch.testing.assert_close(gradient(detached, z, torch.tensor([[1, 0]]))[0], expected)
