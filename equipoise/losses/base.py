"""What every loss shares: the protocol the Balancer relies on, and checks of arguments.

Numbers are computed, and answers given, in at least float32, as under torch's autocast: half
precision logits give float32 losses, also element by element. Only logits receive a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

REDUCTIONS = ("mean", "sum", "none")
ClassVector = Tensor | np.ndarray | Sequence[float]


class Loss(nn.Module):
    """Reduced loss of a batch, with class log-weights λ that can be changed between epochs.

    This is all that a `Balancer` needs of a loss. A subclass sets `multilabel`, implements
    `_loss(logits, targets, reduction)` and `counted(targets)`, and `correct` where there is
    something to undo; `ClassLoss` and `LabelLoss` give `multilabel` and `counted`. λ lies in the
    buffer `log_weight`: `None` until it is given, then a `(C,)` tensor that `set_log_weight`
    overwrites in place. `copy.deepcopy` gives an independent loss.

    Args:
        log_weight: λ, `(C,)`: natural logarithms of class weights, usually with mean zero.
            `None` is the same as zeros.
        reduction: `"mean"` over the elements that are counted, `"sum"` or `"none"`.

    Raises:
        ValueError: If `reduction` is unknown, or `log_weight` is not a finite vector.

    Example:
        >>> import torch
        >>> from equipoise.losses import WeightedCrossEntropy
        >>> loss = WeightedCrossEntropy()
        >>> loss.set_log_weight(torch.tensor([0.5, 0.0, -0.5]))
        >>> loss.correct(torch.zeros(1, 3))
        tensor([[-0.5000,  0.0000,  0.5000]])
    """

    multilabel: bool = False
    """Whether targets are `(B, C)` labels rather than class ids or class probabilities."""
    unknown: float | None = None
    """The value of multilabel targets that are not counted, if there is one."""
    ignore_index: int = -100
    """The class id that is not counted."""
    log_weight: Tensor | None
    _anchor: Tensor

    def __init__(self, *, log_weight: ClassVector | None = None, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = check_reduction(reduction)
        # Remembers the device a module without any other buffer was moved to.
        self.register_buffer("_anchor", torch.empty(0), persistent=False)
        self.register_buffer("log_weight", class_vector("log_weight", log_weight))

    def forward(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """Loss of the batch, reduced by `self.reduction`.

        Args:
            logits: `(B, C)`, or for class ids also `(B, C, d1, …)`, any floating dtype.
            targets: class ids `(B,)` or `(B, d1, …)`, or class probabilities of the logits' shape;
                for a multilabel loss `(B, C)` labels in [0, 1].
            weight: factors on the examples, `(B,)`, or on the elements that `unreduced` gives. They
                do not change what a mean divides by: the number of elements that are counted.
        """
        if weight is None:
            return self._loss(logits, targets, self.reduction)
        values = self.unreduced(logits, targets, weight)
        if self.reduction == "none":
            return values
        counted = self.counted(targets).sum().clamp_min(1) if self.reduction == "mean" else 1
        return values.sum() / counted

    def unreduced(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """Weighted loss of each element: `(B,)`, `(B, d1, …)`, or `(B, C)` for a multilabel loss.

        It is 0 where the target is not counted; `counted` tells which those are.
        """
        values = self._loss(logits, targets, "none")
        return values if weight is None else values * per_element(weight, values)

    def counted(self, targets: Tensor) -> Tensor:
        """Which elements of `unreduced` count: False where the target is ignored or unknown."""
        raise NotImplementedError

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def set_log_weight(self, log_weight: Tensor) -> None:
        """Overwrite λ, in place.

        Args:
            log_weight: shape `(C,)`. NaN and infinities are refused if it lies on the CPU; on
                another device the values are not looked at, as that would wait for the device.

        Raises:
            ValueError: If the shape differs from that of the class vectors already held, or a
                value is not finite.
        """
        if log_weight.device.type == "cpu" and not bool(torch.isfinite(log_weight).all()):
            raise ValueError(f"Expected log_weight to be finite, but got {log_weight}")
        known = next((b for b in self.buffers() if b.ndim == 1 and b.numel()), None)
        if log_weight.ndim != 1 or (known is not None and known.shape != log_weight.shape):
            size = "(C,)" if known is None else tuple(known.shape)
            raise ValueError(
                f"Expected log_weight to be of shape {size}, but got {tuple(log_weight.shape)}"
            )
        if self.log_weight is None:
            self.log_weight = torch.empty(
                log_weight.shape, dtype=torch.float32, device=self._anchor.device
            )
        self.log_weight.copy_(log_weight)

    def correct(self, logits: Tensor) -> Tensor:
        """Calibrated logits, given the logits of a net trained to this loss's optimum.

        They are log-posteriors up to a constant for class ids, and log-odds for multilabel
        targets. What λ, the class weights and the priors held by the loss did to the logits is
        undone. So `correct` of zeros at λ = 0 tells how the class counts held by a loss act on the
        logits, which a `Balancer` reads so that it counts nothing twice. Here, nothing is undone.
        """
        return logits

    def _scaled(self, weight: Tensor | None) -> Tensor | None:
        """`weight · exp(λ)`; `None` where both are absent."""
        if self.log_weight is None:
            return weight
        scale = self.log_weight.exp()
        return scale if weight is None else weight * scale

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        saved = state_dict.get(prefix + "log_weight")
        if saved is None:  # saved before λ was first set
            self.log_weight = None
        elif self.log_weight is None:
            self.log_weight = torch.empty_like(saved, device=self._anchor.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Loss:
        """Move buffers, but do not let `.half()` round them: counts may lie beyond float16."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = getattr(self, name)
            if moved.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, buffer.to(moved.device))
        return self

    def extra_repr(self) -> str:
        """Plain settings, for `repr`."""
        settings = {k: v for k, v in vars(self).items() if isinstance(v, str | float | int)}
        return ", ".join(f"{k}={v!r}" for k, v in settings.items() if k != "training")


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def upcast(logits: Tensor) -> Tensor:
    """Logits in the dtype to compute in."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def log_of(weight: Tensor) -> Tensor:
    """log(weight), finite also for a weight of zero."""
    return weight.clamp_min(torch.finfo(weight.dtype).tiny).log()


def fill_empty(counts: Tensor) -> Tensor:
    """Counts without zeros: an empty class counts as one example.

    If the smallest non-zero count is below one (fractions were given), that takes one's place.
    """
    floor = counts.masked_fill(counts <= 0, 1.0).min().clamp(max=1.0)
    return torch.where(counts > 0, counts, floor)


def class_vector(name: str, value: ClassVector | None, minimum: float | None = None) -> Any:
    """A checked, finite float32 tensor of shape `(C,)`, or `None`. For constructors only."""
    if value is None:
        return None
    vector = torch.as_tensor(value).detach()
    vector = vector.to(torch.float32, copy=True)
    if vector.ndim != 1 or vector.numel() == 0:
        raise ValueError(f"Expected {name} to be of shape (C,), but got {tuple(vector.shape)}")
    if not bool(torch.isfinite(vector).all()):
        raise ValueError(f"Expected {name} to be finite, but got {vector.tolist()}")
    if minimum is not None and bool((vector < minimum).any()):
        raise ValueError(f"Expected {name} to be at least {minimum}, but got {vector.tolist()}")
    return vector


def class_counts(name: str, value: ClassVector | None) -> Any:
    """Checked counts of shape `(C,)`, empty classes counted as one example; or `None`."""
    counts = class_vector(name, value, minimum=0.0)
    if counts is None:
        return None
    if not bool((counts > 0).any()):
        raise ValueError(
            f"Expected {name} to have a class with examples, but got {counts.tolist()}"
        )
    return fill_empty(counts)


def check_number(name: str, value: float, low: float, high: float = float("inf")) -> float:
    """`value` as a float, if `low <= value <= high`."""
    if not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"Expected {name} to be a number in [{low}, {high}], but got {value!r}")
    return float(value)


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """`value`, if it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Expected {name} to be one of {tuple(choices)}, but got {value!r}")
    return value


def check_reduction(value: str) -> str:
    """`value`, if it is a known reduction."""
    return check_choice("reduction", value, REDUCTIONS)


def check_logits(logits: Tensor) -> None:
    """Raise unless logits are floating point, `(B, C)` or `(B, C, d1, …)`. Looks at no values."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"Expected logits to be a floating-point tensor, but got {got}")
    if logits.ndim < 2:
        raise ValueError(f"Expected logits to be of shape (B, C), but got {tuple(logits.shape)}")


def per_class(name: str, value: ClassVector | None, logits: Tensor) -> Any:
    """`value` as a tensor of one number for each class, without a gradient; or `None`."""
    if value is None:
        return None
    dtype = at_least_float32(logits.dtype)
    vector = value
    if not isinstance(vector, Tensor) or vector.dtype != dtype or vector.device != logits.device:
        vector = torch.as_tensor(value, dtype=dtype, device=logits.device)
    vector = vector.detach() if vector.requires_grad else vector
    if vector.ndim != 1 or len(vector) != logits.shape[1]:
        raise ValueError(
            f"Expected {name} to be of shape ({logits.shape[1]},), but got {tuple(vector.shape)}"
        )
    return vector


def per_element(weight: Tensor, values: Tensor) -> Tensor:
    """Weights of examples, `(B,)`, or of elements, as the values, so that they broadcast."""
    weight = weight.detach().to(values.dtype)
    if weight.shape == values.shape:
        return weight
    if weight.shape != values.shape[:1]:
        raise ValueError(
            f"Expected weight to be of shape ({values.shape[0]},) or {tuple(values.shape)}, "
            f"but got {tuple(weight.shape)}"
        )
    return weight.view(-1, *[1] * (values.ndim - 1))


def along_classes(vector: Tensor, logits: Tensor) -> Tensor:
    """A `(C,)` vector that broadcasts over `(B, C)` or `(B, C, d1, …)` logits."""
    return vector if logits.ndim == 2 else vector.view(-1, *[1] * (logits.ndim - 2))


def less_log(logits: Tensor, weight: Tensor | None) -> Tensor:
    """`z − log w`, w `(C,)` and finite also for a weight of zero: class weights taken out."""
    return logits if weight is None else logits - along_classes(log_of(weight), logits)
