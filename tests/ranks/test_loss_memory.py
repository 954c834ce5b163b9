"""LossMemory.merge_ranks against a dictionary that does it by hand, in real processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.ranks import programs
from tests.ranks.worlds import run_world

ROUNDS = 4


def by_hand(size: int, dtype: np.dtype) -> list[list[float]]:
    """After each merge, what all ranks remember: the mean over those that wrote an example."""
    agreed, after = {}, []
    for round_ in range(ROUNDS):
        found: dict[int, list[float]] = {}
        for rank in range(size):
            mine = dict(agreed)
            for ids, losses in programs.losses_of(rank, round_):
                for i, new in zip(ids.tolist(), losses, strict=True):
                    mine[i] = dtype(new)
            for i in {i for ids, _ in programs.losses_of(rank, round_) for i in ids.tolist()}:
                found.setdefault(i, []).append(np.float32(mine[i]))
        agreed |= {i: dtype(np.mean(values)) for i, values in found.items()}
        after.append([float(agreed.get(i, np.nan)) for i in range(programs.REMEMBERED)])
    return after


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("size", [2, 3])
def test_merged_memories_are_the_mean_of_what_was_written(size, dtype, tmp_path):
    ranks = run_world(size, programs.remember, ROUNDS, dtype, folder=tmp_path)
    numpy_type = np.float16 if dtype == torch.float16 else np.float32
    expected = by_hand(size, numpy_type)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-3  # the mean's last digit
    for found in ranks:
        np.testing.assert_array_equal(found, ranks[0])
        np.testing.assert_allclose(found, expected, rtol=tolerance)
    # some have been seen by all, by one and by none
    assert np.isnan(expected[0]).any()
    assert np.isnan(expected[-1]).sum() < np.isnan(expected[0]).sum()
