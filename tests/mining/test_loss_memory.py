"""LossMemory: what is remembered and in how many bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from equipoise.mining import LossMemory
from tests.waiting import NoWaiting

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
def test_remembers_the_last_loss(dtype):
    memory = LossMemory(5, dtype=dtype)
    assert memory.state_dict()["losses"].element_size() == (4 if dtype == torch.float32 else 2)
    memory.update(torch.tensor([4, 1]), torch.tensor([0.25, 8.0]))
    memory.update(torch.tensor([1, 2]), torch.tensor([2.0, 1e9]))
    got = memory.losses()
    assert np.isnan(got[[0, 3]]).all()
    assert got[[4, 1]].tolist() == [0.25, 2.0]
    assert math.isfinite(got[2])
    assert got[2] >= 65504
    assert memory.num_seen == 3


def test_nan_is_not_remembered():
    memory = LossMemory(3)
    memory.update(torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    memory.update(torch.tensor([0, 2]), torch.tensor([math.nan, math.inf]))
    assert memory.losses()[:2].tolist() == [1.0, 2.0]
    assert np.isnan(memory.losses()[2])
    memory.update(torch.tensor([2]), torch.tensor([3.0]))
    assert memory.losses()[2] == 3.0


def test_update_does_not_wait_and_ignores_indices_outside(monkeypatch):
    monkeypatch.setattr(LossMemory, "check_indices", lambda self, indices, shape=None: indices)
    memory = LossMemory(3)
    with NoWaiting():
        memory.update(torch.tensor([0, 3, -1]), torch.tensor([1.0, 2.0, 3.0]))
    assert memory.losses()[0] == 1.0
    assert memory.num_seen == 1


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        (torch.tensor([0, 3]), ValueError, r"Expected indices to be in \[0, 3\), but got 3"),
        (torch.tensor([0, -1]), ValueError, r"Expected indices to be in \[0, 3\), but got -1"),
        (torch.tensor([0.0, 1.0]), TypeError, "Expected indices to be an integer tensor"),
        (
            [0, 1],
            TypeError,
            "Expected indices to be an integer tensor of example ids, but got list",
        ),
        (None, TypeError, "The loader has to give each example's index"),
        (torch.tensor([0]), ValueError, r"Expected indices and losses of one shape \(B,\)"),
    ],
)
def test_bad_indices(indices, error, message):
    with pytest.raises(error, match=message):
        LossMemory(3).update(indices, torch.tensor([1.0, 2.0]))


def test_bad_settings():
    with pytest.raises(ValueError, match="Expected dtype to be one of"):
        LossMemory(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="Expected num_examples to be at least 1"):
        LossMemory(0)


def test_ffcv_gives_indices_as_a_column():
    memory = LossMemory(3)
    memory.update(torch.tensor([[2], [0]]), torch.tensor([1.0, 2.0]))
    assert memory.losses()[[2, 0]].tolist() == [1.0, 2.0]


def test_state_goes_into_another_dtype():
    memory = LossMemory(4)
    memory.update(torch.tensor([0, 2]), torch.tensor([0.1, 2.0]))
    other = LossMemory(4, dtype=torch.float32)
    other.load_state_dict(memory.state_dict())
    np.testing.assert_array_equal(other.losses(), memory.losses())
    with pytest.raises(ValueError, match="Expected state of 3 examples, but got 4"):
        LossMemory(3).load_state_dict(memory.state_dict())
