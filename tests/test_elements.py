"""Pixels and tokens: targets from counts, dense rates, the image sampler, mean IoU."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score
from torch.utils.data import DataLoader, TensorDataset

from equipoise import Balancer, ClassRates
from equipoise.decision import ElementSample, iou_offset, mean_iou
from equipoise.losses import WeightedCrossEntropy
from equipoise.samplers import LabelBalancedSampler
from equipoise.targets import Targets
from equipoise.weighting import RecallLoss


def scenes(images=12, classes=3, size=6, seed=0, ignored=-100):
    """Logits that know something of the labels, the last class being rare."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.tensor([0.7, 0.25, 0.05] if classes == 3 else [1 / classes] * classes)
    drawn = torch.multinomial(share, images * size * size, True, generator=generator)
    targets = drawn.view(images, size, size)
    logits = torch.randn(images, classes, size, size, generator=generator)
    logits += 1.5 * torch.nn.functional.one_hot(targets, classes).movedim(-1, 1) + share.log().view(
        -1, 1, 1
    )
    targets[torch.rand(targets.shape, generator=generator) < 0.1] = ignored
    return logits, targets


def counts_of(targets):
    return Targets.from_counts(torch.stack([(targets == c).sum((1, 2)) for c in range(3)], 1))


@pytest.mark.parametrize("classes", [3, 300])
def test_dense_rates_are_those_of_the_pixels(classes):
    logits, targets = scenes(classes=classes, ignored=255 if classes == 3 else -1)
    rates = ClassRates(classes, ignore_index=255 if classes == 3 else -1)
    for part in range(0, 12, 4):
        rates.update(logits[part : part + 4], targets[part : part + 4])
    used = targets != rates.ignore_index
    truth, predicted = targets[used], logits.argmax(1)[used]
    labels = range(classes)
    assert rates.support.sum() == used.sum()
    assert rates.num_invalid == 0
    assert torch.equal(
        rates.images, torch.stack([(targets == c).any(2).any(1) for c in labels], 1).sum(0)
    )
    assert rates.accuracy() == pytest.approx(float((truth == predicted).float().mean()))
    ious = jaccard_score(truth, predicted, labels=labels, average=None, zero_division=0)
    assert np.allclose(rates.ious(), ious)
    if classes == 3:
        assert np.array_equal(rates.confusion, confusion_matrix(truth, predicted, labels=labels))
        flat = ClassRates(3)
        flat.update(logits.movedim(1, -1)[used], truth)
        assert torch.allclose(flat.recalls(), rates.recalls())
        assert torch.equal(flat.confusion, rates.confusion)
    else:
        assert rates.confusion is None


def test_recall_errors_count_images_not_pixels():
    """Images of one mind: twenty of 900 pixels say no more than twenty pixels."""
    right = torch.arange(20) % 2
    logits = torch.stack([right, 1 - right], 1).float()[:, :, None, None].expand(-1, -1, 30, 30)
    dense, flat = ClassRates(2), ClassRates(2)
    dense.update(logits, torch.zeros(20, 30, 30, dtype=torch.long))
    flat.update(logits[:, :, 0, 0], torch.zeros(20, dtype=torch.long))
    assert torch.allclose(dense.recall_errors(), flat.recall_errors())
    assert flat.recall_errors()[0] == pytest.approx((0.25 / 20) ** 0.5)
    assert torch.allclose(dense.recalls(prior=5), flat.recalls(prior=5))


def test_balancer_of_counts_in_the_loop_of_the_readme():
    logits, targets = scenes(ignored=-100)
    images = torch.randn(12, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    balancer = Balancer(counts_of(targets))
    loader = DataLoader(TensorDataset(images, targets), 4, sampler=balancer.sampler)
    torch.manual_seed(0)
    model = torch.nn.Conv2d(4, 3, 1)
    for _ in range(2):
        for batch, labels in loader:
            balancer.loss(model(batch), labels).backward()
        assert balancer.position == 12  # images
        balancer.observe(logits, targets)
        saved = balancer.state_dict()
        balancer.step()
    row = balancer.history[-1]
    assert row["images"][0] == 12
    assert len(row["ious"]) == 3
    assert np.argmax(balancer.log_weight) == np.argmin(row["training_recalls"])
    weight = balancer.log_weight + balancer.loss_function.correct(torch.zeros(1, 3))[0].numpy()
    assert not np.allclose(weight, 0)  # until the next batch, `correct` undoes the λ before
    other = Balancer(counts_of(targets))
    other.load_state_dict(saved)
    other.step()
    assert np.array_equal(other.log_weight, balancer.log_weight)


def test_dense_logits_are_corrected_and_decided_as_their_pixels():
    logits, targets = scenes()
    balancer = Balancer(counts_of(targets), "inverse-frequency", sampler_share=0.5)
    rows = logits.movedim(1, -1).reshape(-1, 3)
    assert torch.equal(
        balancer.correct(logits).movedim(1, -1).reshape(-1, 3), balancer.correct(rows)
    )
    # What the sampler reaches, the loss does not carry again.
    carried = balancer.sampler.logit_shift() + balancer.loss_function.log_weight.numpy()
    assert np.allclose(carried - carried.mean(), balancer.log_weight, atol=1e-6)
    for objective in ("fair", "iou", "equal-recall", "accuracy"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the price of equal recalls
            balancer.fit_decision(logits, targets, objective)
        assert torch.equal(balancer.decide(logits).flatten(), balancer.decide(rows))


def test_training_recalls_want_class_ids():
    with pytest.raises(RuntimeError, match=r"Expected balancer\.loss"):
        Balancer([0, 1], "recall-loss").step()


def test_recall_loss_weighs_what_is_missed():
    policy = RecallLoss(momentum=0.5)
    first = policy.step(policy.start(np.ones(2)), np.array([0.9, 0.5]))
    assert np.allclose(np.diff(first), np.log(0.5 / 0.1))
    again = RecallLoss(momentum=0.5)
    again.load_state_dict(policy.state_dict())
    second = again.step(first, np.array([0.9, 0.9]))
    assert np.allclose(np.diff(second), np.log(0.3 / 0.1))


def test_hardest_pixels_leave_the_ignored_out():
    logits, targets = scenes()
    balancer = Balancer(counts_of(targets), "plain", mining="hardest-examples")
    losses = WeightedCrossEntropy().unreduced(logits, targets)
    every = losses[targets != -100]
    assert balancer.loss(logits, targets) > every.mean()
    assert balancer.mining.tally.num_nonfinite == (targets == -100).sum()


def test_drawing_images_moves_the_shares_of_their_pixels():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.3, 1.0, (400, 5)) * [1000, 300, 100, 30, 10])
    counts[:, 0] += 1
    targets = Targets.from_counts(counts)
    sampler = LabelBalancedSampler(targets, exponent=0, min_effective=0.4)
    balance = sampler.balance
    share = counts.sum(0) / counts.sum()
    assert np.allclose(balance.frequency_before, share)
    assert balance.effective_size == pytest.approx(0.4, abs=1e-3)
    assert balance.mean_ir < 0.6 * balance.mean_ir_before
    drawn = np.bincount(np.concatenate([list(sampler) for _ in range(20)]), minlength=400) / 20
    assert np.allclose(drawn @ counts, balance.frequency * counts.sum(), rtol=0.03)
    gained = np.log((drawn @ counts) / counts.sum(0))
    assert np.allclose(sampler.logit_shift(), gained - gained.mean(), atol=0.05)
    sampler.set_log_weight(np.zeros(5))
    sampler.set_epoch(sampler.epoch + 1)
    assert sorted(sampler) == list(range(400))


def iou_of(logits, targets, offset):
    rates = ClassRates(logits.shape[1])
    rates.update(logits + offset.view(-1, 1, 1), targets)
    return float(mean_iou(rates.confusion))


def test_two_classes_get_the_best_threshold_there_is():
    logits, targets = scenes(images=200, classes=2, size=4, ignored=-100)
    logits[:, 1] -= 1.0
    offset, gain = iou_offset(logits, targets)
    shifts = [torch.tensor([0.0, shift]) for shift in np.linspace(-1, 3, 200)]
    best = max(iou_of(logits, targets, shift) for shift in shifts)
    assert iou_of(logits, targets, offset) > best - 0.003
    assert gain > 0.02


def test_offsets_for_iou_beat_arg_max_on_other_images():
    gains = []
    for seed in range(6):
        logits, targets = scenes(images=60, size=8, seed=seed)
        offset, gain = iou_offset(logits[:30], targets[:30])
        after, before = (iou_of(logits[30:], targets[30:], b) for b in (offset, torch.zeros(3)))
        gains.append((gain, after - before))
    predicted, found = np.array(gains).T
    assert found.mean() > 0.01
    assert abs(predicted.mean() - found.mean()) < 0.03


def test_a_hold_out_with_other_frequencies_is_weighted_by_the_prior():
    """The rare class comes four times as often in the hold-out as where it counts."""
    logits, targets = scenes(images=160, size=8)
    chance = torch.rand(targets[:80].shape, generator=torch.Generator().manual_seed(1))
    common = (targets[:80] != 2) & (chance < 0.75)
    held = targets[:80].masked_fill(common, -100)
    prior = torch.bincount(targets[80:][targets[80:] >= 0], minlength=3)
    found = {}
    for name, given in (("none", None), ("prior", prior)):
        offset, _ = iou_offset(logits[:80], held, prior=given)
        found[name] = iou_of(logits[80:], targets[80:], offset)
    assert found["prior"] > found["none"] + 0.005


def test_offsets_for_iou_are_left_out_where_other_images_do_not_gain():
    """Each image has offsets of its own that help it and no other."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (10, 20, 20), generator=generator)
    logits = 3.0 * torch.nn.functional.one_hot(targets, 3).movedim(-1, 1)
    logits = logits + torch.randn(logits.shape, generator=generator)
    logits += 1.5 * torch.randn(10, 3, 1, 1, generator=generator)
    offset, gain = iou_offset(logits, targets)
    assert gain < 0.02
    assert offset.abs().max() < 0.5


def test_a_sample_of_pixels_is_uniform_and_its_own():
    logits = torch.arange(6000.0).view(10, 1, 20, 30)
    targets = torch.zeros(10, 20, 30, dtype=torch.long)
    targets[:, 0] = -100
    samples = []
    for state in (0, 1):
        torch.manual_seed(state)
        sample = ElementSample(500, seed=3)
        for part in range(0, 10, 2):
            sample.add(logits[part : part + 2], targets[part : part + 2])
        samples.append(sample)
    one, other = samples
    assert torch.equal(one.logits, other.logits)
    assert one.logits.shape == (500, 1)
    place = one.logits[:, 0].long()
    assert len(place.unique()) == 500
    assert bool((place % 600 >= 30).all())
    assert torch.equal(one.images, place // 600)
    seen = torch.bincount(one.images, minlength=10)
    assert ((seen - 50) ** 2 / 50).sum() < 33.7  # chi-square, 9 degrees of freedom, p = 1e-4


def test_a_fit_from_a_sample_is_close_to_that_from_all():
    logits, targets = scenes(images=60, size=10)
    balancer = Balancer(counts_of(targets))
    every = balancer.fit_decision(logits, targets, "iou")
    sample = ElementSample(3000)
    sample.add(logits, targets)
    some = balancer.fit_decision(sample.logits, sample.targets, "iou", images=sample.images)
    assert torch.allclose(every, some, atol=0.3)
    assert balancer.decision.gain > 0
