"""Recalls as a smooth function of class offsets: what the offsets are fitted on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equipoise.decision.elements import elements_of

TEMPERATURES = (0.25, 0.05)  # in units of the logits' spread: a smooth stand-in, then a sharper one
RIDGE = 0.01  # how much larger offsets have to gain, in the same units
DENSE = 64  # classes up to which every logit is looked at
NEAREST = 32  # beyond that, only an example's highest logits and its own class's
_AT_A_TIME = 1 << 16  # logits
_EXACT = 1 << 17  # logits up to which float64 is fast enough

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Recalls of the classes that have examples → the value to maximise, and its gradient in them."""


class SoftRecalls:
    """R_c(b) = the mean, over the examples of class c, of softmax((z + b) / t)_c.

    As t falls, R_c becomes the recall of class c under arg max(z + b). Beyond 64 classes the
    softmax runs over each example's 32 highest logits and its own class's: others have no part in
    it as long as the offsets are smaller than the distance from the first to the 32nd logit. They
    are looked for around the offsets `near`.
    """

    def __init__(self, z: Tensor, targets: Tensor, near: Tensor | None = None) -> None:
        self.targets, self.num_classes = targets, z.shape[1]
        self.support = torch.bincount(targets, minlength=self.num_classes)
        self.seen = self.support > 0
        self.columns: Tensor | None = None
        self.z, self.own = z if z.numel() <= _EXACT else z.float(), targets
        if self.num_classes > DENSE:
            around = self.z if near is None else self.z + near.to(self.z)
            around = around.scatter(1, targets[:, None], torch.inf)  # its own class comes first
            self.columns = around.topk(NEAREST + 1, 1, sorted=True).indices
            self.z, self.own = self.z.gather(1, self.columns), torch.zeros_like(targets)
        # Kept: fresh memory of this size costs more than the exponentials written into it.
        self._soft = torch.empty_like(self.z)
        self._shifted = torch.empty_like(self.z[: max(1, _AT_A_TIME // self.z.shape[1])])

    def maximise(
        self, objective: Objective, start: Tensor, temperature: float, steps: int = 60
    ) -> Tensor:
        """Offsets `(C,)` that maximise objective(R(b)) − .01 · mean(b²).

        Classes without an example keep the offset that they start with.
        """

        def loss(offset: Any) -> Any:
            value, slope = self._value(objective, torch.from_numpy(offset), temperature)
            penalty = RIDGE * float(offset @ offset) / len(offset)
            slope -= torch.from_numpy(2 * RIDGE / len(offset) * offset)
            return penalty - float(value), -(slope * self.seen).numpy()

        return minimise(loss, start, steps, 1e-7 if steps > 30 else 1e-6)

    def _value(self, objective: Objective, b: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        rows, b = len(self._shifted), b.to(self.z)
        columns = [None] * len(self.z) if self.columns is None else self.columns.split(rows)
        for z, soft, column in zip(
            self.z.split(rows), self._soft.split(rows), columns, strict=False
        ):
            shifted = torch.add(z, b if column is None else b[column], out=self._shifted[: len(z)])
            torch.softmax(shifted.div_(temperature), 1, out=soft)
        own = self._soft.gather(1, self.own[:, None])[:, 0]
        sums = torch.zeros_like(b).index_add_(0, self.targets, own)
        value, worth = objective((sums[self.seen] / self.support[self.seen]).double())
        slope = torch.zeros_like(b)
        slope[self.seen] = (worth / self.support[self.seen] / temperature).to(slope)
        pull = slope[self.targets] * own
        gradient = torch.zeros_like(b).index_add_(0, self.targets, pull)
        if self.columns is None:
            gradient -= pull @ self._soft
        else:
            pushed = (pull[:, None] * self._soft).flatten()
            gradient.index_add_(0, self.columns.flatten(), pushed, alpha=-1)
        return value, gradient.double()


def minimise(function: Callable[[Any], Any], start: Tensor, steps: int, precision: float) -> Tensor:
    """Where a function, which gives its value and gradient as arrays, is lowest, by L-BFGS."""
    from scipy.optimize import minimize

    options: Any = {"maxiter": steps, "ftol": precision}
    found = minimize(function, start.numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x)


def recalls_of(z: Tensor, y: Tensor) -> Tensor:
    """`(C,)` recalls of arg max z, NaN for a class without examples."""
    hits = torch.bincount(y[z.argmax(1) == y], minlength=z.shape[1])
    return hits / torch.bincount(y, minlength=z.shape[1])


def spread_of_logits(z: Tensor) -> float:
    """The logits' standard deviation around each example's mean: the unit of a temperature."""
    return float((z - z.mean(1, keepdim=True)).std(correction=0).clamp_min(1e-6))


def centred(offset: Tensor, seen: Tensor) -> Tensor:
    """Offsets with mean zero over the classes that have examples, and 0 for the others."""
    return torch.where(seen, offset - offset[seen].mean(), 0.0)


def check_holdout(
    logits: Tensor, targets: Tensor, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Logits in float64 and targets in int64 on the CPU, or an error that says what is wrong.

    Dense ones come as rows `(N, C)` of the elements that are counted.
    """
    logits, targets = torch.as_tensor(logits), torch.as_tensor(targets)
    if logits.ndim > 2:
        logits, targets, _ = elements_of(logits, targets, ignore_index)
    z, y = logits.detach().cpu().double(), targets.detach().cpu()
    if z.ndim != 2 or y.shape != z.shape[:1] or y.dtype.is_floating_point:
        raise ValueError(
            "Expected logits (N, C) and targets (N,) class ids, "
            f"but got {tuple(logits.shape)} and {targets.dtype} {tuple(targets.shape)}."
        )
    finite = torch.isfinite(z).all(1)
    if not finite.all():
        raise ValueError(
            f"Expected logits to be finite, but got {int((~finite).sum())} rows that are not."
        )
    y = y.long()
    if len(y) == 0:
        raise ValueError("Expected targets to be class ids, some of them counted, but got none.")
    if y.min() < 0 or y.max() >= z.shape[1]:
        raise ValueError(
            f"Expected targets to be class ids below the {z.shape[1]} columns of logits, "
            f"but got {y.unique().tolist()[:10]}."
        )
    return z, y


def warn_of_missing(y: Tensor, num_classes: int, listed: Callable[[list[int]], str] = str) -> None:
    """Say which classes the hold-out lacks."""
    missing = (torch.bincount(y, minlength=num_classes) == 0).nonzero()[:, 0].tolist()
    if missing:
        warnings.warn(
            f"Classes without an example in the hold-out get no offset: {listed(missing[:10])} "
            f"({len(missing)} of {num_classes}).",
            stacklevel=4,
        )
