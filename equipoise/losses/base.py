"""What every loss shares: the protocol the Balancer relies on, and checks of arguments.

dtypes, for all losses: half-precision logits are computed in float32. With ``reduction="none"``
(and from ``unreduced``) the answer has the logits' dtype, as in torch; ``"mean"`` and ``"sum"``
of half-precision logits are float32, because a sum over a batch overflows float16.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

REDUCTIONS = ("mean", "sum", "none")
ClassVector = Tensor | Sequence[float]


class Loss(nn.Module):
    """Reduced loss of a batch, with class log-weights λ that can be changed between epochs.

    A subclass implements ``_loss(logits, targets, reduction)``, and ``correct`` where there is
    something to undo. The log-weights are kept in the buffer ``log_weight``: ``None`` until given,
    then a ``(C,)`` tensor that ``set_log_weight`` overwrites in place.

    Args:
        log_weight: λ, shape ``(C,)``, natural-log weights, usually with mean zero. ``None`` is
            the same as zeros.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: If ``reduction`` is unknown, or ``log_weight`` is not a finite vector.

    Example:
        >>> import torch
        >>> from equipoise.losses import WeightedCrossEntropy
        >>> loss = WeightedCrossEntropy()
        >>> loss.set_log_weight(torch.tensor([0.5, 0.0, -0.5]))
        >>> loss.correct(torch.zeros(1, 3))
        tensor([[-0.5000,  0.0000,  0.5000]])
    """

    multilabel: bool = False  # targets are (B, C) 0/1, not (B,) class ids
    log_weight: Tensor | None
    _anchor: Tensor

    def __init__(self, *, log_weight: ClassVector | None = None, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = check_reduction(reduction)
        # Remembers the device a module without any other buffer was moved to.
        self.register_buffer("_anchor", torch.empty(0), persistent=False)
        self.register_buffer("log_weight", class_vector("log_weight", log_weight))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of the batch, reduced by ``self.reduction``."""
        return self._loss(logits, targets, self.reduction)

    def unreduced(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Weighted loss per example ``(B,)``, or per example and label ``(B, C)``."""
        return self._loss(logits, targets, "none")

    def _loss(self, logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def set_log_weight(self, log_weight: Tensor) -> None:
        """Overwrite λ, in place.

        Args:
            log_weight: shape ``(C,)``. NaN and infinities are refused if it lies on the CPU; on
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
        targets. Here, nothing is undone.
        """
        return logits

    def _scaled(self, weight: Tensor | None) -> Tensor | None:
        """``weight · exp(λ)``; ``None`` where both are absent."""
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
        """Move buffers, but do not let ``.half()`` round them: counts may lie beyond float16."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = getattr(self, name)
            if moved.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, buffer.to(moved.device))
        return self

    def extra_repr(self) -> str:
        """Plain settings, for ``repr``."""
        settings = {k: v for k, v in vars(self).items() if isinstance(v, str | float | int)}
        return ", ".join(f"{k}={v!r}" for k, v in settings.items() if k != "training")


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def weighted(per_example: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    """Each example's value, ``(B,)``, times the weight of its class."""
    if weight is None:
        return per_example
    return per_example * weight.detach().to(per_example.dtype)[targets]


def reduce(per_example: Tensor, reduction: str, dtype: torch.dtype) -> Tensor:
    """Mean or sum over all elements; or the elements themselves, in ``dtype``."""
    if reduction == "mean":
        return per_example.mean()
    if reduction == "sum":
        return per_example.sum()
    return per_example.to(dtype)


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
    """A checked, finite float32 tensor of shape ``(C,)``, or ``None``. For constructors only."""
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
    """Checked counts of shape ``(C,)``, empty classes counted as one example; or ``None``."""
    counts = class_vector(name, value, minimum=0.0)
    if counts is None:
        return None
    if not bool((counts > 0).any()):
        raise ValueError(
            f"Expected {name} to have a class with examples, but got {counts.tolist()}"
        )
    return fill_empty(counts)


def check_number(name: str, value: float, low: float, high: float = float("inf")) -> float:
    """``value`` as a float, if ``low <= value <= high``."""
    if not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"Expected {name} to be a number in [{low}, {high}], but got {value!r}")
    return float(value)


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """``value``, if it is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"Expected {name} to be one of {tuple(choices)}, but got {value!r}")
    return value


def check_reduction(value: str) -> str:
    """``value``, if it is a known reduction."""
    return check_choice("reduction", value, REDUCTIONS)


def check_fused(value: bool) -> bool:
    """``value``, if it is false or Triton is installed."""
    if value and not _has_triton():
        raise ValueError("Expected fused to be False, as Triton is not installed, but got True")
    return bool(value)


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def check_logits(logits: Tensor) -> None:
    """Raise unless logits are a floating-point matrix. Looks at no values."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"Expected logits to be a floating-point tensor, but got {got}")
    if logits.ndim != 2:
        raise ValueError(f"Expected logits to be of shape (B, C), but got {tuple(logits.shape)}")


def check_single_label(logits: Tensor, targets: Tensor) -> Tensor:
    """``targets`` as int64, if they are ``(B,)`` integers for ``(B, C)`` logits."""
    check_logits(logits)
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise TypeError(f"Expected targets to be integer class ids, but got {targets.dtype}")
    if targets.shape != logits.shape[:1]:
        raise ValueError(
            f"Expected targets to be of shape ({logits.shape[0]},), but got {tuple(targets.shape)}"
        )
    return targets.long()


def check_multilabel(logits: Tensor, targets: Tensor) -> None:
    """Raise unless targets are of the logits' shape ``(B, C)``. Looks at no values."""
    check_logits(logits)
    if targets.shape != logits.shape:
        raise ValueError(
            f"Expected targets to be of shape {tuple(logits.shape)}, as the logits, "
            f"but got {tuple(targets.shape)}"
        )


def check_per_class(name: str, vector: Tensor | None, logits: Tensor) -> None:
    """Raise unless ``vector`` is ``None`` or holds one value for each class."""
    if vector is not None and vector.shape != logits.shape[1:]:
        raise ValueError(
            f"Expected {name} to be of shape ({logits.shape[1]},), but got {tuple(vector.shape)}"
        )
