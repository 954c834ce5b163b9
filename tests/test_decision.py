from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from equipoise.decision import equal_recall_offset
from equipoise.rates import reliabilities


def sample(n, seed, shift):
    """Logits of a learner that favours class c by `shift[c]`, balanced classes."""
    generator = torch.Generator().manual_seed(seed)
    classes = len(shift)
    targets = torch.arange(n) % classes
    signal = 1.5 * torch.eye(classes)[targets]
    return torch.randn(n, classes, generator=generator) + signal + torch.tensor(shift), targets


def recalls(logits, targets):
    hit = logits.argmax(1) == targets
    return np.array([hit[targets == c].double().mean() for c in range(logits.shape[1])])


def test_recalls_become_equal_on_fresh_data():
    shift = [1.0, 0.0, -1.0, 0.3]
    offset = equal_recall_offset(*sample(8000, 0, shift))
    fresh, targets = sample(8000, 1, shift)
    before, after = recalls(fresh, targets), recalls(fresh + offset, targets)
    noise = np.sqrt(0.25 * 2 / 2000)
    assert before.std() > 0.2
    assert after.std() < 2 * noise
    assert offset.mean().abs() < 1e-9


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1e-3, 1e3))
def test_offsets_scale_with_the_logits(scale):
    logits, targets = sample(2000, 2, [1.0, 0.0, -0.5])
    offset = equal_recall_offset(logits, targets)
    assert torch.allclose(equal_recall_offset(logits * scale, targets) / scale, offset, atol=1e-3)


def plain_offset(logits, targets, temperature=0.25, ridge=0.01):
    """The docstring's objective on all examples at once, its gradient from autograd."""
    z, classes = logits.double(), logits.shape[1]
    scale = (z - z.mean(1, keepdim=True)).std(correction=0)
    hot = torch.nn.functional.one_hot(targets, classes).double()
    support = hot.sum(0)
    seen = support > 0

    def spread(offset, t):
        b = torch.from_numpy(offset).requires_grad_()
        soft = torch.softmax((z / scale + b) / t, 1)
        recalls = (soft * hot).sum(0)[seen] / support[seen]
        value = (recalls - recalls.mean()).square().sum() + ridge * b.square().mean()
        value.backward()
        return value.item(), (b.grad * seen).numpy()

    offset = np.zeros(classes)
    for t in (temperature, temperature / 5):
        options = {"maxiter": 60, "ftol": 1e-7}
        offset = minimize(spread, offset, (t,), "L-BFGS-B", jac=True, options=options).x
    hits = (hot[logits.argmax(1) == targets]).sum(0)
    shrunk = reliabilities(hits, support) * torch.from_numpy(offset)
    return (shrunk - shrunk.mean()) * scale


@pytest.mark.parametrize("classes", [3, 12])
@pytest.mark.filterwarnings("ignore:Classes without an example")
def test_blocks_change_nothing(classes, monkeypatch):
    monkeypatch.setattr("equipoise.decision.equal_recall._AT_A_TIME", 37 * classes)
    logits, targets = sample(1500, 5, np.linspace(-1, 1, classes).tolist())
    targets[targets == 2] = 1  # and a class without examples
    assert torch.allclose(
        equal_recall_offset(logits, targets), plain_offset(logits, targets), atol=1e-5
    )


def test_nothing_is_done_about_noise():
    """Recalls that differ by less than sampling explains are left alone, most of the time."""
    untouched = 0
    for seed in range(20):
        untouched += not equal_recall_offset(*sample(60, seed, [0.0, 0.0, 0.0])).any()
    assert untouched >= 8


@pytest.mark.parametrize(
    ("logits", "targets", "words"),
    [
        (torch.zeros(4, 2), torch.tensor([0, 1, 1]), "logits"),
        (torch.zeros(4), torch.tensor([0, 1, 1, 0]), "logits"),
        (torch.zeros(2, 2), torch.tensor([0.0, 1.0]), "logits"),
        (torch.tensor([[0.0, float("nan")], [0, 1]]), torch.tensor([0, 1]), "logits to be finite"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), "targets to be class ids"),
        (torch.zeros(2, 2), torch.tensor([0, -1]), "targets to be class ids"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), "targets to be class ids"),
    ],
)
def test_bad_input_is_named(logits, targets, words):
    with pytest.raises(ValueError, match=f"Expected {words}"):
        equal_recall_offset(logits, targets)


def test_a_class_without_an_example_gets_no_offset_and_a_warning():
    logits, targets = sample(3000, 0, [1.0, 0.0, -1.0])
    wide = torch.cat([logits, torch.full((3000, 1), -5.0)], 1)
    with pytest.warns(UserWarning, match=r"get no offset: \[3\] \(1 of 4\)"):
        offset = equal_recall_offset(wide, targets)
    expected = equal_recall_offset(logits, targets)
    assert torch.allclose(offset[:3] - offset[:3].mean(), expected, atol=0.05)
    assert recalls(logits + offset[:3], targets).std() < 0.03


def test_one_small_class_does_not_switch_the_others_off():
    """Supports of 500 and one of 1: the spread of the large classes is no noise."""
    shift = [1.0, 0.0, -1.0, 0.5]
    logits, targets = sample(2000, 0, shift)
    keep = (targets != 3) | (torch.arange(2000) == 3)
    offset = equal_recall_offset(logits[keep], targets[keep])
    fresh, fresh_targets = sample(8000, 1, shift)
    large = fresh_targets != 3
    before, after = (recalls(z[large], fresh_targets[large])[:3] for z in (fresh, fresh + offset))
    assert after.std() < before.std() / 4


def test_degenerate_hold_outs_are_survived():
    assert equal_recall_offset(torch.zeros(1, 1), torch.tensor([0])).tolist() == [0]
