"""The engine of `equipoise.losses.pointwise` as one Triton kernel: what `fused=True` asks for.

Logits and targets are read once and the gradient is written once, in the logits' dtype. It is all
that is kept for backward, which leaves it as it is where the loss is not scaled (a float16 gradient
always is). Everything is computed in float32. Each block of elements is summed by itself, then the
blocks' sums, in a fixed order: no atomics, the same answer every time. The device is never waited
for.

Opt-in, because it was checked in Triton's interpreter on the CPU and compiled for sm_90, but has
not run on a GPU yet: nothing is known of its speed. Under `torch.compile` the plain path is taken,
which the compiler fuses.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from equipoise.losses.engine import keeps_graph, scaled_slopes
from equipoise.losses.multilabel import as_labels
from equipoise.losses.pointwise import Terms, Weight

try:
    from equipoise.losses import kernels
except ImportError:
    kernels = None  # type: ignore[assignment]

BLOCK = 1024  # elements a program: 8 for each of 128 threads
MOST_PROGRAMS = 2048  # of what goes over the gradient again
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_triton() -> None:
    """Raise where Triton is missing."""
    if kernels is None:
        raise ValueError("Expected fused to be False, as Triton is not installed, but got True")


def fused_pointwise(logits: Tensor, targets: Tensor, terms: Terms, reduction: str) -> Tensor:
    """What `pointwise` gives; `terms.scale` is on everything, the mean's 1/(B·C) included.

    Raises:
        ValueError: If logits and targets are not dense and on one CUDA device, logits are float64,
            or Triton is missing. On the CPU, Triton's interpreter (`TRITON_INTERPRET=1`) will do.
    """
    check_triton()
    why = None
    if logits.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        why = f"logits on {logits.device}"
    elif targets.layout != torch.strided:
        why = f"{targets.layout} targets"
    elif targets.device != logits.device:
        why = f"targets on {targets.device} and logits on {logits.device}"
    elif logits.dtype not in DTYPES:
        why = f"{logits.dtype} logits"
    elif targets.is_complex():
        why = f"{targets.dtype} targets"
    if why is not None:
        raise ValueError(f"Expected fused to be False for {why}, but got True")
    keep = torch.is_grad_enabled() and logits.requires_grad
    value: Tensor = _Fused.apply(logits, targets, terms, reduction == "none", keep)
    return value


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, terms: Terms, elements: bool, keep: bool
    ) -> Tensor:
        logits, targets = logits.contiguous(), targets.contiguous()
        size, programs = logits.numel(), -(-logits.numel() // BLOCK)
        slopes = torch.empty_like(logits) if keep else None
        values = torch.empty_like(logits, dtype=torch.float32) if elements else None
        sums = None if elements else logits.new_empty(programs, dtype=torch.float32)
        # A mean's 1/(B·C) does not fit into float16: there backward applies it.
        early = 1.0 if logits.dtype == torch.float16 else terms.scale
        weight, by_example = terms.element_weight, None
        if weight is not None:
            by_example = weight.by_example(
                (as_labels(targets, torch.float32) * weight.by_label).sum(1)
            )
        with torch.cuda.device_of(logits):
            kernels.loss_kernel[(programs,)](
                logits,
                targets,
                slopes,
                values,
                sums,
                _vector(terms.negative_weight, logits),
                _vector(terms.positive_weight, logits),
                _vector(terms.shift, logits),
                by_example,
                None if weight is None else _vector(weight.by_label, logits),
                0.0 if weight is None else weight.floor,
                0.0 if weight is None else weight.centre,
                terms.scale,
                early,
                size,
                logits.shape[1],
                GAMMA_NEG=terms.gamma_neg,
                GAMMA_POS=terms.gamma_pos,
                MARGIN=terms.margin,
                NEGATIVE_SCALE=terms.negative_scale,
                BLOCK=BLOCK,
                enable_fp_fusion=True,
            )
        if slopes is not None:
            ctx.save_for_backward(slopes)
            ctx.scale = 1.0 if early == terms.scale else terms.scale
        return values if sums is None else sums.sum()  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # without this the second derivative would silently be zero
            raise RuntimeError(
                "Expected a fused loss to be differentiated once, but got create_graph=True; "
                "for second derivatives use fused=False"
            )
        if ctx.scale != 1.0:
            grad = grad.float() * ctx.scale
        if grad.ndim or keeps_graph():
            return scaled_slopes(slopes, grad), None, None, None, None
        programs = min(MOST_PROGRAMS, -(-slopes.numel() // BLOCK))
        with torch.cuda.device_of(slopes):
            kernels.rescale_kernel[(programs,)](
                slopes, grad, slopes.numel(), BLOCK=BLOCK, enable_fp_fusion=True
            )
        return slopes, None, None, None, None


def _vector(weight: Weight, logits: Tensor) -> Tensor | None:
    """`(C,)`, or nothing where there is nothing to multiply or add."""
    if isinstance(weight, float | int):
        return logits.new_full(logits.shape[1:], weight, dtype=torch.float32)
    return None if weight is None else weight.contiguous()
