"""The multilabel losses as one Triton kernel: value, slope and sum in one pass over the logits.

Every one of them is an asymmetric loss: a focusing exponent for negatives, one for positives, and a
margin. The plain reference is `equipoise.losses.pointwise`. Importing this file imports Triton.
"""

import triton
import triton.language as tl


@triton.jit
def power(x, EXPONENT: tl.constexpr):
    """`x ** EXPONENT` for x ≥ 0, by products where the exponent is small and whole."""
    if EXPONENT == 0.0:
        y = tl.full(x.shape, 1.0, tl.float32)
    elif EXPONENT == 1.0:
        y = x
    elif EXPONENT == 2.0:
        y = x * x
    elif EXPONENT == 3.0:
        y = x * x * x
    elif EXPONENT == 4.0:
        square = x * x
        y = square * square
    else:
        y = tl.exp2(EXPONENT * tl.log2(x))
    return y


@triton.jit
def log1p(x):
    """log(1 + x) for x > −1, exact also where 1 + x is rounded to 1."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / (u - 1.0)))


@triton.jit
def curve(z, GAMMA: tl.constexpr, MARGIN: tl.constexpr):
    """Value and slope of a negative: `−p^γ log(1−p)`, `p = max(σ(z) − m, 0)`."""
    e = tl.exp(-tl.abs(z))
    r = 1.0 / (1.0 + e)
    sigma = tl.where(z >= 0.0, r, e * r)
    rest = tl.where(z >= 0.0, e * r, r)
    if MARGIN == 0.0:
        value = tl.maximum(z, 0.0) + log1p(e)
        factor = power(sigma, GAMMA)
        slope = factor * (GAMMA * rest * value + sigma)
        value = factor * value
    else:
        nothing = sigma <= MARGIN  # false for NaN, which so comes through
        p = tl.where(nothing, 0.5, sigma - MARGIN)
        value = -log1p(-p)
        factor = power(p, GAMMA)
        slope = factor * (GAMMA * value / p + 1.0 / (1.0 - p)) * sigma * rest
        value = tl.where(nothing, 0.0, factor * value)
        slope = tl.where(nothing, 0.0, slope)
    return value, slope


@triton.jit
def mixed(negative, positive, y):
    """From one side to the other; exact at the ends, where the other side may be infinite."""
    between = negative + y * (positive - negative)
    return tl.where(y == 0.0, negative, tl.where(y == 1.0, positive, between))


@triton.jit
def loss_kernel(
    logits,
    targets,
    slopes,  # out, or None
    values,  # out, or None
    sums,  # out, one for each program; or None
    negative_weight,  # (C,) or None
    positive_weight,  # (C,) or None
    shift,  # (C,) or None
    by_example,  # (B,) or None, and
    by_label,  # (C,): the element's weight is floor + sigmoid(by_example · by_label − centre)
    floor,
    centre,
    value_scale,
    slope_scale,
    numel,
    num_classes,
    GAMMA_NEG: tl.constexpr,
    GAMMA_POS: tl.constexpr,
    MARGIN: tl.constexpr,
    NEGATIVE_SCALE: tl.constexpr,  # s: a negative costs curve(s·z)/s
    BLOCK: tl.constexpr,
):
    """Values, slopes and sums of one block of the flattened `(B, C)` elements."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    offset = tl.arange(0, BLOCK)
    mask = offset < numel - first
    label = (first % num_classes).to(tl.int32) + offset
    example = first // num_classes + label // num_classes
    label %= num_classes

    z = tl.load(logits + first + offset, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(targets + first + offset, mask=mask, other=0).to(tl.float32)
    y = tl.minimum(tl.maximum(y, 0.0), 1.0)
    if shift is not None:
        z -= tl.load(shift + label, mask=mask, other=0.0)
    n_value, n_slope = curve(z * NEGATIVE_SCALE, GAMMA_NEG, MARGIN)
    p_value, p_slope = curve(-z, GAMMA_POS, 0.0)
    n_value = n_value / NEGATIVE_SCALE
    if negative_weight is not None:
        weight = tl.load(negative_weight + label, mask=mask, other=0.0)
        n_value *= weight
        n_slope *= weight
    if positive_weight is not None:
        weight = tl.load(positive_weight + label, mask=mask, other=0.0)
        p_value *= weight
        p_slope *= weight
    value = mixed(n_value, p_value, y)
    slope = mixed(n_slope, -p_slope, y)
    if by_example is not None:
        share = tl.load(by_example + example, mask=mask, other=0.0)
        share = share * tl.load(by_label + label, mask=mask, other=0.0)
        weight = floor + tl.sigmoid(share - centre)
        value *= weight
        slope *= weight

    if slopes is not None:
        slope = (slope * slope_scale).to(slopes.dtype.element_ty)
        tl.store(slopes + first + offset, slope, mask=mask)
    if values is not None:
        tl.store(values + first + offset, value * value_scale, mask=mask)
    if sums is not None:
        total = tl.sum(tl.where(mask, value, 0.0), 0)
        tl.store(sums + tl.program_id(0), total * value_scale)


@triton.jit
def rescale_kernel(slopes, factor, numel, BLOCK: tl.constexpr):
    """Slopes times a number, in place; nothing is read where the number is 1."""
    scale = tl.load(factor).to(tl.float32)
    if scale != 1.0:
        step = tl.num_programs(0).to(tl.int64) * BLOCK
        for first in range(tl.program_id(0).to(tl.int64) * BLOCK, numel, step):
            offset = tl.arange(0, BLOCK)
            mask = offset < numel - first
            slope = tl.load(slopes + first + offset, mask=mask)
            slope = (slope.to(tl.float32) * scale).to(slopes.dtype.element_ty)
            tl.store(slopes + first + offset, slope, mask=mask)
