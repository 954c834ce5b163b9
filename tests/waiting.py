"""A watch for operations that would wait for a device, on the CPU where nothing does."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal.default")


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a device: reading a value, or a shape that depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).replace("count_nonzero", "count")  # which does not wait
        given = [i for a in args if isinstance(a, list | tuple) for i in a]
        masks = [getattr(i, "dtype", None) in (torch.bool, torch.uint8) for i in given]
        if any(word in name for word in WAITING) or ("index.Tensor" in name and any(masks)):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))
