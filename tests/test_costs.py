"""What a step costs, in counts that do not depend on the machine: waits, bytes, operations."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from equipoise import Balancer, ClassRates
from equipoise._order_sampler import FIRST_CHUNK
from equipoise.losses import LOSSES
from equipoise.mining import MINERS
from equipoise.rates import HoldoutRates, LabelRates
from equipoise.samplers import ClassBalancedSampler
from equipoise.targets import Targets

LABELS = np.arange(120) % 3
MULTI_HOT = np.eye(3, dtype=np.uint8)[LABELS]
MULTI_HOT[0] = [1, 1, 0]
FOR_LABELS = ("weighted-bce", "asymmetric", "distribution-balanced", "two-way")


def step_cases():
    for loss in LOSSES:
        for mining in [None, *MINERS]:
            apart = loss == "two-way" and mining not in (None, "selective-backprop")
            if not apart and (mining != "hard-negatives" or loss in FOR_LABELS):
                yield loss, mining


def on_meta(*shape, dtype=torch.int64):
    """On the meta device there are no values: whatever asks for one raises."""
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=dtype.is_floating_point)


def step(balancer, logits, targets, indices=None, groups=None):
    balancer.loss(logits, targets, indices).backward()
    balancer.observe(logits.detach(), targets, *([] if groups is None else [groups]))
    assert logits.grad is not None


@pytest.mark.parametrize(("loss", "mining"), list(step_cases()))
def test_a_step_never_waits_for_the_device(loss, mining):
    multilabel = loss in FOR_LABELS
    balancer = Balancer(MULTI_HOT if multilabel else LABELS, loss=loss, mining=mining)
    targets = on_meta(8, 3, dtype=torch.uint8) if multilabel else on_meta(8)
    step(balancer, on_meta(8, 3, dtype=torch.float32), targets, on_meta(8))


def test_a_step_of_pixels_groups_or_mixed_classes_never_waits_for_the_device():
    for mining in (None, "hardest-examples"):
        balancer = Balancer(Targets.from_counts([[9, 4, 3], [8, 8, 0]]), mining=mining)
        step(balancer, on_meta(2, 3, 4, 4, dtype=torch.float32), on_meta(2, 4, 4))
    logits = on_meta(8, 3, dtype=torch.float32)
    step(Balancer(LABELS, groups=np.arange(120) % 2), logits, on_meta(8), groups=on_meta(8))
    Balancer(LABELS).loss(logits, on_meta(8, 3, dtype=torch.float32).detach()).backward()


def test_asking_for_a_value_on_the_meta_device_raises():
    """What the tests above stand on."""
    with pytest.raises(RuntimeError, match="meta"):
        torch.empty(3, device="meta").sum().item()


class Operations(TorchDispatchMode):
    """Counts the operations that are dispatched, and the elements of the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor):
            self.most = max(self.most, found.numel())
        return found


def test_rates_of_class_ids_make_no_histograms():
    with Operations() as operations:
        HoldoutRates(10_000, multilabel=False)
    assert operations.most <= 10 * 10_000


@pytest.mark.parametrize(("make", "most"), [(ClassRates, 45), (LabelRates, 60)])
def test_rates_take_as_many_operations_for_any_batch_and_number_of_classes(make, most):
    counts = []
    for batch, classes in ((4, 3), (512, 3), (512, 300)):
        rates = make(classes)
        targets = torch.zeros(batch, dtype=torch.int64)
        if make is LabelRates:
            targets = torch.zeros(batch, classes, dtype=torch.uint8)
        with Operations() as operations:
            rates.update(torch.zeros(batch, classes), targets)
        counts.append(operations.count)
    assert counts[0] == counts[1] >= counts[2]  # many classes have no confusion matrix
    assert counts[0] <= most


def sampler_of(num_examples: int, classes: int = 10) -> ClassBalancedSampler:
    return ClassBalancedSampler(np.arange(num_examples) % classes, num_samples=num_examples)


def test_a_samplers_state_is_as_large_for_any_number_of_examples():
    small, large = (len(pickle.dumps(sampler_of(n).state_dict())) for n in (10**3, 10**6))
    assert abs(large - small) < 50  # longer numbers


def test_the_first_batch_draws_as_much_for_any_number_of_examples(monkeypatch):
    drawn = []
    draw = ClassBalancedSampler.draw

    def counted(self, positions):
        drawn.append(len(positions))
        return draw(self, positions)

    monkeypatch.setattr(ClassBalancedSampler, "draw", counted)
    for n in (10**4, 10**6):
        drawn.clear()
        next(iter(sampler_of(n)))
        assert drawn == [FIRST_CHUNK]


def test_a_step_of_the_balancer_needs_memory_for_classes_not_for_examples():
    peaks = []
    for n in (10**4, 10**6):
        balancer = Balancer(np.arange(n) % 10)
        logits, targets = torch.eye(10), torch.arange(10)
        for _ in range(2):  # the second time everything is imported and compiled
            balancer.observe(logits, targets)
            tracemalloc.start()
            balancer.step()
            next(iter(balancer.sampler))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[3] < 1.5 * peaks[1]
    assert peaks[3] < 200_000


def test_the_class_index_takes_five_bytes_an_example():
    targets = sampler_of(10**6).targets
    held = {id(value): value.nbytes for value in (targets.labels, targets.members)}
    assert sum(held.values()) == 5 * 10**6  # the class, one byte; the members by class, four
