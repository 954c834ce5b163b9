"""What every multilabel sampler promises beyond tests/samplers/test_contract.py."""

from __future__ import annotations

import numpy as np
import pytest

from tests.samplers.cases import BY_LABELS, make


@pytest.mark.parametrize("name", BY_LABELS)
def test_an_epoch_draws_each_example_its_repeats_rounded_down_or_up(name):
    sampler = make(name)
    assert sampler.repeats.sum() == pytest.approx(sampler.num_samples)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        counts = np.bincount(sampler.indices(), minlength=len(sampler.repeats))
        assert (counts >= np.floor(sampler.repeats - 1e-9)).all()
        assert (counts <= np.ceil(sampler.repeats + 1e-9)).all()
