"""Each trap in the reference implementations, and that it is not here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from equipoise import losses
from equipoise.targets import Targets
from tests.losses.cases import COUNTS, SINGLE, batch, gradient

ONE = torch.ones(1, 2)
COO = ONE.to_sparse_coo()
BOTH = {"counts": [1, 2], "log_prior": ONE[0]}


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_focal_gradient_is_finite_when_saturated(gamma: float, dtype: torch.dtype):
    logits = torch.tensor([[100.0, -100.0], [-100.0, 100.0]], dtype=dtype)
    ids, labels = torch.tensor([0, 0]), torch.tensor([[1, 0], [1, 0]])
    softmax = gradient(losses.FocalLoss(gamma), logits, ids)
    assert torch.isfinite(softmax).all()
    assert softmax[0].abs().max() < 1e-6
    torch.testing.assert_close(softmax[1].double(), torch.tensor([-0.5, 0.5]).double())
    sigmoid = gradient(losses.SigmoidFocalLoss(None, gamma, reduction="sum"), logits, labels)
    torch.testing.assert_close(sigmoid.double(), torch.tensor([[0.0, 0], [-1, 1]]).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_asymmetric_loss_does_not_die(dtype: torch.dtype):
    logits = torch.tensor([[-18.0, -19.0, -50.0, -100.0, -1000.0]], dtype=dtype)
    positive = torch.ones_like(logits)
    found = gradient(losses.AsymmetricLoss(reduction="sum"), logits, positive)
    torch.testing.assert_close(found, -positive)


def test_an_empty_class_counts_as_one_example_or_as_the_smallest_fraction():
    torch.testing.assert_close(losses.ldam_margins([10000, 625, 0]), torch.tensor([0.05, 0.1, 0.5]))
    fractions = losses.LogitAdjustedCrossEntropy([0.9, 0.1, 0.0]).log_prior
    assert fractions[2] == fractions[1]


def test_cosine_classifier():
    layer = losses.CosineClassifier(8, 3, scale=4.0)
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    expected = 4 * F.cosine_similarity(features[:, None], layer.weight[None], dim=-1)
    torch.testing.assert_close(layer(10 * features), expected)
    with torch.autocast("cpu", torch.bfloat16):  # cosines close to 1 need float32
        torch.testing.assert_close(layer(features), expected)
    assert layer(features.bfloat16()).dtype == torch.float32


def test_seesaw_needs_no_square_matrix():
    classes = 200_000  # C×C floats would be 160 GB
    loss = losses.Seesaw(torch.ones(classes))
    assert torch.isfinite(loss(torch.zeros(2, classes), torch.tensor([0, 1])))


def test_seesaw_gradient_holds_the_compensation():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    targets = torch.tensor([0, 3, 4, 1])
    loss = losses.Seesaw(COUNTS)
    log_counts = loss.counts.double().log()
    own = logits.gather(1, targets[:, None])
    fixed = 0.8 * (log_counts - log_counts[targets, None]).clamp_max(0)
    fixed = fixed + 2.0 * (logits - own).clamp_min(0)
    expected = ((logits + fixed).softmax(-1) - F.one_hot(targets, 5)) / 4
    torch.testing.assert_close(gradient(loss, logits, targets), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_two_way_mask_does_not_leak(dtype: torch.dtype):
    """All positives at +1e4, all negatives at −1e4: the loss is 0, not thousands."""
    targets = torch.tensor([[1, 0, 0], [0, 1, 0]])
    logits = (1e4 * (2.0 * targets - 1)).to(dtype)
    loss = losses.TwoWayLoss()
    assert loss(logits, targets) == 0
    assert (gradient(loss, logits, targets) == 0).all()
    value = loss(-logits, targets)  # all wrong: rows 2e4 (+ log 2), columns 2e4
    assert torch.isfinite(value)
    torch.testing.assert_close(value.double(), torch.tensor(4e4).double(), rtol=1e-2, atol=0)
    assert torch.isfinite(gradient(loss, -logits, targets)).all()


@pytest.mark.parametrize("label", [0, 1])
def test_two_way_bears_one_sided_batches(label: int):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.full((4, 3), label)
    loss = losses.TwoWayLoss()
    assert loss(logits, targets) == 0
    assert (gradient(loss, logits, targets) == 0).all()


def test_weights_of_a_batch_without_weight():
    loss = losses.WeightedCrossEntropy([0.0, 1.0], normalization="weight")
    assert loss(torch.zeros(2, 2), torch.tensor([0, 0])) == 0
    assert torch.isfinite(loss.correct(torch.zeros(2, 2))).all()


def test_weighted_cross_entropy_is_torchs():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 3, 3, 0])
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0])
    loss = losses.WeightedCrossEntropy(weight, "weight")
    expected = F.cross_entropy(logits, targets, weight)
    torch.testing.assert_close(loss(logits, targets), expected)
    for small in (torch.int32, torch.uint8):
        assert torch.equal(loss(logits, targets.to(small)), loss(logits, targets))


@pytest.mark.parametrize(
    "loss",
    [
        losses.SigmoidFocalLoss(),
        losses.SigmoidFocalLoss(None, 0.5),
        losses.AsymmetricLoss(margin=0.0),
        losses.DistributionBalancedLoss(COUNTS, 2000, beta=0.0),
        losses.FocalLoss(2.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverses_are_stable_and_rise(loss: losses.Loss, dtype: torch.dtype):
    z = torch.linspace(-30, 30, 601, dtype=dtype)
    logits = torch.zeros(601, 5, dtype=dtype)
    logits[:, 0] = z
    found = loss.correct(logits)
    exact = loss.correct(logits.double())
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)
    curve = found[:, 0] if loss.multilabel else found[:, 0] - found[:, 1]
    assert (curve.diff() > 0).all()


def test_asymmetric_inverse_is_finite_and_never_falls():
    z = torch.linspace(-30, 30, 601).unsqueeze(1)
    found = losses.AsymmetricLoss().correct(z)
    assert torch.isfinite(found).all()
    assert (found.diff(dim=0)[z[1:] > -2.9] > 0).all()
    assert found[z < -3.0].max() < -20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.WeightedCrossEntropy([1.0, -1.0]), "weight to be at least 0"),
        (lambda: losses.WeightedCrossEntropy([1.0, float("nan")]), "weight to be finite"),
        (lambda: losses.WeightedCrossEntropy([[1.0]]), r"weight to be of shape \(C,\)"),
        (lambda: losses.WeightedCrossEntropy(normalization="mean"), "normalization to be one of"),
        (lambda: losses.WeightedCrossEntropy(label_smoothing=2.0), "label_smoothing to be a num"),
        (lambda: losses.LogitAdjustedCrossEntropy([0, 0]), "counts to have a class with examples"),
        (lambda: losses.LogitAdjustedCrossEntropy([1, 2], tau=-1.0), "tau to be a number"),
        (lambda: losses.LDAM([1, -2]), "counts to be at least 0"),
        (lambda: losses.FocalLoss(alpha=0.25), r"alpha to be of shape \(C,\)"),
        (lambda: losses.FocalLoss(alpha=1.5, multilabel=True), "alpha to be a number"),
        (lambda: losses.SigmoidFocalLoss(alpha=[0.5, 2.0]), "alpha to be at most 1"),
        (lambda: losses.SigmoidFocalLoss(gamma=float("nan")), "gamma to be a number"),
        (lambda: losses.WeightedBCE([float("inf")]), "pos_weight to be finite"),
        (lambda: losses.AsymmetricLoss(margin=1.0), "margin to be a number"),
        (lambda: losses.DistributionBalancedLoss([5, 200], 100), "num_examples to be a number"),
        (lambda: losses.TwoWayLoss(0.0), "positive_temperature to be a number"),
        (lambda: losses.TwoWayLoss(reduction="none"), "reduction to be one of"),
        (lambda: losses.WeightedBCE(unknown=0.0), "unknown to be a number outside"),
        (lambda: losses.sigmoid_focal_loss(ONE, ONE, gamma=-1.0), "gamma to be a number"),
        (lambda: losses.asymmetric_loss(ONE, ONE, margin=5.0), "margin to be a number"),
        (lambda: losses.two_way_loss(ONE, ONE, 0.0), "positive_temperature to be a number"),
        (lambda: losses.weighted_bce(ONE, ONE, pos_weight=ONE), "pos_weight to be of shape"),
        (lambda: losses.weighted_bce(ONE, ONE, pos_weight=ONE[0, 0]), "pos_weight to be of shape"),
        (lambda: losses.weighted_bce(ONE, COO), "targets to be dense or sparse CSR"),
        (lambda: losses.two_way_loss(ONE, COO), "targets to be dense or sparse CSR"),
        (lambda: losses.pos_weight_from_counts([101], 100), "counts to be at most num_examples"),
        (lambda: losses.weighted_cross_entropy(ONE, ONE[0]), "targets to be integer class ids"),
        (lambda: losses.weighted_cross_entropy(ONE, ONE[0] > 0), "targets to be integer class ids"),
        (lambda: losses.WeightedBCE()(ONE, ONE, ONE[0]), r"weight to be of shape \(1,\)"),
        (lambda: losses.logit_adjusted_cross_entropy(ONE, ONE, **BOTH), "counts or log_prior"),
    ],
)
def test_modules_and_functions_refuse(make, message: str):
    with pytest.raises((ValueError, TypeError), match=f"Expected {message}.*, but got"):
        make()


def test_pos_weight_from_counts():
    found = losses.pos_weight_from_counts([50, 1, 0, 100], 100)
    assert found.tolist() == pytest.approx([1.0, 99.0, 100.0, 0.01])


def test_a_vector_given_is_not_shared():
    weight = torch.ones(5)
    loss = losses.WeightedCrossEntropy(weight, log_weight=weight)
    weight.zero_()
    assert loss.weight is not None
    assert loss.weight.sum() == 5
    loss.set_log_weight(torch.zeros(5))
    logits, targets = batch(SINGLE[0])
    torch.testing.assert_close(loss(logits, targets), F.cross_entropy(logits, targets))


def test_every_public_name_is_there_and_catalogued():
    catalogue = Path(__file__).parents[2] / "docs" / "catalogue-losses.md"
    text = catalogue.read_text(encoding="utf-8")
    for name in losses.__all__:
        assert hasattr(losses, name)
        assert f"`{name}`" in text, f"{name} is not in {catalogue.name}"


def test_a_balancer_makes_every_loss_by_name():
    kinds = {kind for kind in vars(losses).values() if isinstance(kind, type)}
    kinds = {kind for kind in kinds if issubclass(kind, losses.Loss)}
    made = {
        type(make(targets))
        for make in losses.LOSSES.values()
        for targets in (Targets([0, 1, 1]), Targets([[1, 0], [1, 1], [0, 1]]))
    }
    assert made == kinds - {losses.Loss, losses.ClassLoss, losses.LabelLoss}
