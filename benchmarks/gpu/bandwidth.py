"""Part of benchmarks.gpu: how near the multilabel losses come to the speed of a copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise import losses

SHAPES = [(256, 7_900), (4_096, 1_000), (32_768, 7_900)]
ROUNDS = 9
LOSSES: dict[str, Callable[..., losses.Loss]] = {
    "weighted BCE": lambda w, **k: losses.WeightedBCE(**k),
    "weighted BCE, λ": lambda w, **k: losses.WeightedBCE(w, log_weight=w, **k),
    "focal": lambda w, **k: losses.SigmoidFocalLoss(**k),
    "asymmetric": lambda w, **k: losses.AsymmetricLoss(**k),
    "distribution-balanced": lambda w, **k: losses.DistributionBalancedLoss(100 * w, 200, **k),
}
MODES = ("eager", "fused", "compiled")


def prepared(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """The call, on a GPU recorded as a graph: its kernels alone, without what Python costs."""
    if device != "cuda":
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def seconds(run: Callable[[], Any], repeats: int, device: str) -> float:
    """Of one run, over `repeats` of them."""
    if device != "cuda":
        began = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - began) / repeats
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(repeats):
        run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / repeats


def gradient_of(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor):
    def call() -> Any:
        return torch.autograd.grad(loss(logits, targets), logits)

    return call


def beside_a_copy(call: Callable[[], Any], floor: int, device: str) -> dict[str, Any]:
    """Seconds of forward + backward, alone and as Python calls it, and of the copy beside it.

    The copy reads `floor/2` bytes and writes as many; it takes turns with the loss.
    """
    source = torch.empty(max(1, floor // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    run, copy = prepared(call, device), prepared(lambda: target.copy_(source), device)
    once = seconds(run, 2, device) + seconds(copy, 2, device)
    repeats = int(min(200, max(1, 0.02 / once)))
    rounds = [[seconds(f, repeats, device) for f in (run, copy)] for _ in range(ROUNDS)]
    called = [seconds(call, max(1, repeats // 4), device) for _ in range(3)]
    of_loss, of_copy = np.array(rounds).T
    low, middle, high = np.quantile(of_copy / of_loss, [0.25, 0.5, 0.75])
    return {
        "seconds": float(np.median(of_loss)),
        "seconds_called": float(np.median(called)),
        "gb_per_s": floor / float(np.median(of_loss)) / 1e9,
        "copy_gb_per_s": floor / float(np.median(of_copy)) / 1e9,
        "share_of_copy": [float(low), float(middle), float(high)],
    }


def rows_of(shape: tuple[int, int], mode: str, device: str):
    """(name, logits' dtype, targets' dtype, loss)."""
    weight = torch.rand(shape[1], generator=torch.Generator().manual_seed(0)) + 0.5
    if mode != "fused":
        yield "torch's BCE", torch.float32, torch.float32, _torch_bce
    for dtype in (torch.float32, torch.bfloat16) if mode == "fused" else (torch.float32,):
        for name, make in LOSSES.items():
            loss = make(weight, fused=mode == "fused").to(device)
            for form in (torch.bool, torch.float32) if name == "weighted BCE" else (torch.bool,):
                yield name, dtype, form, loss


def _torch_bce(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets)


def bandwidth(device: str, mode: str, shapes: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """One row a loss and shape."""
    todo = [(shape, *row) for shape in shapes for row in rows_of(shape, mode, device)]
    for shape, name, dtype, form, loss in todo:
        row = {
            "loss": name,
            "shape": list(shape),
            "logits": str(dtype).removeprefix("torch."),
            "targets": str(form).removeprefix("torch."),
            "mode": mode,
        }
        generator = torch.Generator(device).manual_seed(0)
        try:
            logits = torch.randn(shape, generator=generator, device=device).mul_(3).sub_(3)
            share = torch.rand(shape, generator=generator, device=device)
            targets = (share < 130 / 7_900).to(form)
            del share
            logits = logits.to(dtype).requires_grad_()
            if mode == "compiled":
                torch._dynamo.reset()
                loss = torch.compile(loss, dynamic=False)
            # Read logits and targets, write the gradient.
            floor = logits.numel() * (2 * logits.element_size() + targets.element_size())
            row |= beside_a_copy(gradient_of(loss, logits, targets), floor, device)
        except (RuntimeError, ValueError) as error:  # no memory, no graph, no kernel
            row["left_out"] = str(error).splitlines()[0][:200]
        yield row


def table(rows: list[dict]) -> list[str]:
    """Markdown."""
    lines = [
        "| shape | loss | logits | targets | mode | GB/s | share of the copy (quartiles) | µs, "
        "kernels alone | µs, called |",
        "|" + "---|" * 9,
    ]
    for row in rows:
        shape = " × ".join(f"{n:,}" for n in row["shape"])
        head = f"| {shape} | {row['loss']} | {row['logits']} | {row['targets']} | {row['mode']} |"
        if "left_out" in row:
            lines.append(f"{head} left out: {row['left_out']} | | | |")
            continue
        low, middle, high = row["share_of_copy"]
        lines.append(
            f"{head} {row['gb_per_s']:,.0f} | {middle:.2f} ({low:.2f}–{high:.2f}) | "
            f"{row['seconds'] * 1e6:,.0f} | {row['seconds_called'] * 1e6:,.0f} |"
        )
    return lines
