"""States: as a file gives them back, and those of the global random generators."""

from __future__ import annotations

import io
import random

import numpy as np
import torch


def saved(state):
    """The state as a file would give it back, with nothing but safe types."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def global_random_state():
    """What torch, numpy and Python draw from where no generator is given."""
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
