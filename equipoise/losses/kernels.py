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
def polynomial(x, a, b, c, d, e, f, g, h):
    """`a x + b x² + … + h x⁸`."""
    return x * (a + x * (b + x * (c + x * (d + x * (e + x * (f + x * (g + x * h)))))))


@triton.jit
def log1p(x):
    """log(1 + x) for x in [0, 1]. Relative error 4e-7, at a third of the cost of `tl.log`."""
    return polynomial(
        x, 0.9999998, -0.49997404, 0.3327548, -0.24495463, 0.17745242, -0.107681714, 0.04408963,
        -0.008539208,
    )  # fmt: skip


@triton.jit
def log(x):
    """Natural logarithm of 1e-30 to 1e30, to about 1e-7 near 1, at a third less than `tl.log`."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F2AAAAB) & -0x800000  # x = 2^k · (1 + rest), rest in [−1/3, 1/3]
    rest = (bits - exponent).to(tl.float32, bitcast=True) - 1.0
    return exponent.to(tl.float32) * 8.262958e-8 + polynomial(
        rest, 0.9999998, -0.4999994, 0.3333799, -0.2500762, 0.19795038, -0.16420086, 0.17111182,
        -0.15365696,
    )  # fmt: skip


@triton.jit
def curve(z, GAMMA: tl.constexpr, MARGIN: tl.constexpr):
    """Value and slope of a negative: `−p^γ log(1−p)`, `p = max(σ(z) − m, 0)`."""
    e = tl.exp(-tl.abs(z))
    r = 1.0 / (1.0 + e)
    sigma = tl.where(z >= 0.0, r, e * r)
    rest = tl.where(z >= 0.0, e * r, r)
    if MARGIN == 0.0:
        value = tl.maximum(z, 0.0) + log1p(e)
        slope = sigma
        if GAMMA != 0.0:
            factor = power(sigma, GAMMA)
            slope = factor * (GAMMA * rest * value + sigma)
            value = factor * value
    else:
        nothing = sigma <= MARGIN  # false for NaN, which so comes through
        p = tl.where(nothing, 0.5, sigma - MARGIN)
        value = -log(1.0 - p)
        slope = 1.0 / (1.0 - p)
        if GAMMA == 0.0:
            value = tl.where(p == p, value, p)  # `log` makes a number of NaN
        else:
            lower = power(p, GAMMA - 1.0)
            slope = lower * (GAMMA * value + p * slope)
            value = lower * p * value
        value = tl.where(nothing, 0.0, value)
        slope = tl.where(nothing, 0.0, slope * sigma * rest)
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
    negative_weight,  # (C,), or None for one number
    positive_weight,
    example_weight,  # (B,) or None
    shift,  # (C,) or None
    by_example,  # (B,) or None, and
    by_label,  # (C,): the element's weight is floor + sigmoid(by_example · by_label − centre)
    negative_number,
    positive_number,
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
    ROW_ENDS: tl.constexpr,  # the most that one block can meet
    BLOCK: tl.constexpr,
):
    """Values, slopes and sums of one block of the flattened `(B, C)` elements."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    offset = tl.arange(0, BLOCK)
    mask = offset < numel - first
    label = (first % num_classes).to(tl.int32) + offset
    example = first // num_classes
    if ROW_ENDS <= 4:  # cheaper than a division for each element
        for _ in tl.static_range(ROW_ENDS):
            example += label >= num_classes
            label = tl.where(label >= num_classes, label - num_classes, label)
    else:
        example += label // num_classes
        label %= num_classes

    z = tl.load(logits + first + offset, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(targets + first + offset, mask=mask, other=0)
    if shift is not None:
        z -= tl.load(shift + label, mask=mask, other=0.0)
    n_weight = negative_number
    p_weight = positive_number
    if negative_weight is not None:
        n_weight = tl.load(negative_weight + label, mask=mask, other=0.0)
    if positive_weight is not None:
        p_weight = tl.load(positive_weight + label, mask=mask, other=0.0)

    if y.dtype.is_floating():  # may lie between 0 and 1
        y = y.to(tl.float32)
        n_value, n_slope = curve(z * NEGATIVE_SCALE, GAMMA_NEG, MARGIN)
        n_value = n_value * (1.0 / NEGATIVE_SCALE) * n_weight
        n_slope = n_slope * n_weight
        p_value, p_slope = curve(-z, GAMMA_POS, 0.0)
        p_value = p_value * p_weight
        p_slope = -p_slope * p_weight
        value = mixed(n_value, p_value, y)
        slope = mixed(n_slope, p_slope, y)
    else:
        positive = y != 0
        z = tl.where(positive, -z, z * NEGATIVE_SCALE)
        value, slope = curve(z, GAMMA_NEG, MARGIN)
        if GAMMA_POS != GAMMA_NEG or MARGIN != 0.0:
            p_value, p_slope = curve(z, GAMMA_POS, 0.0)
            value = tl.where(positive, p_value, value)
            slope = tl.where(positive, p_slope, slope)
        slope = tl.where(positive, -p_weight, n_weight) * slope
        value = tl.where(positive, p_weight, n_weight * (1.0 / NEGATIVE_SCALE)) * value

    if by_example is not None:
        share = tl.load(by_example + example, mask=mask, other=0.0)
        share = share * tl.load(by_label + label, mask=mask, other=0.0)
        weight = floor + tl.sigmoid(share - centre)
        value *= weight
        slope *= weight
    if example_weight is not None:
        weight = tl.load(example_weight + example, mask=mask, other=0.0)
        value *= weight
        slope *= weight

    if slopes is not None:
        slope = (slope * slope_scale).to(slopes.dtype.element_ty)
        tl.store(slopes + first + offset, slope, mask=mask)
    if values is not None:
        value = (value * value_scale).to(values.dtype.element_ty)
        tl.store(values + first + offset, value, mask=mask)
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
