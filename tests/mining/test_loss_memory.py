"""LossMemory: what is remembered and in how many bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from equipoise.mining import LossMemory


def test_remembers_the_last_finite_loss():
    memory = LossMemory(5)
    assert memory.state_dict()["losses"].element_size() == 2
    memory.update(torch.tensor([4, 1]), torch.tensor([0.25, 8.0]))
    memory.update(torch.tensor([[1], [2]]), torch.tensor([2.0, 1e9]))  # a column, as FFCV gives
    memory.update(torch.tensor([4, 3]), torch.tensor([math.nan, math.inf]))
    np.testing.assert_array_equal(memory.losses(), [np.nan, 2.0, 65504, np.nan, 0.25])
    assert memory.num_seen == 3
    memory.update(torch.tensor([3]), torch.tensor([3.0]))
    assert memory.losses()[3] == 3.0


def test_indices_outside_are_ignored_where_looking_at_them_would_wait(monkeypatch):
    monkeypatch.setattr(LossMemory, "check_indices", lambda self, indices, shape=None: indices)
    memory = LossMemory(3)
    memory.update(torch.tensor([0, 3, -1]), torch.tensor([1.0, 2.0, 3.0]))
    assert memory.losses()[0] == 1.0
    assert memory.num_seen == 1


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        (torch.tensor([0, 3]), ValueError, r"Expected indices to be in \[0, 3\), but got 3"),
        (torch.tensor([0, -1]), ValueError, r"Expected indices to be in \[0, 3\), but got -1"),
        (torch.tensor([0.0, 1.0]), TypeError, "Expected indices to be an integer tensor"),
        ([0, 1], TypeError, "an integer tensor of example ids, but got list"),
        (None, TypeError, "The loader has to give each example's index"),
        (torch.tensor([0]), ValueError, r"Expected indices and losses of one shape \(B,\)"),
    ],
)
def test_bad_indices(indices, error, message):
    with pytest.raises(error, match=message):
        LossMemory(3).update(indices, torch.tensor([1.0, 2.0]))


def test_bad_sizes():
    with pytest.raises(ValueError, match="Expected state of 3 examples, but got 4"):
        LossMemory(3).load_state_dict(LossMemory(4).state_dict())
    with pytest.raises(ValueError, match="Expected num_examples to be at least 1"):
        LossMemory(0)
