"""Part of benchmarks.gpu: what a step waits for and costs; a GPU gives the CPU's answers.

SelectiveBackprop is not here: to fill its batches it waits for the device once a candidate batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from equipoise import Balancer, ClassRates, Targets, losses
from equipoise.losses import LOSSES
from equipoise.mining import HardestExamples, HardNegatives, LossMemory
from equipoise.rates import LabelRates

CLASSES = 10
FOR_LABELS = ("weighted-bce", "asymmetric", "distribution-balanced", "two-way")
# What the profiler calls a host that waits for the device, or asks it for a value.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
ASKS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero")

Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def labels_of(size: int) -> np.ndarray:
    return np.arange(size) % CLASSES


def multi_hot(size: int) -> np.ndarray:
    dense = np.random.default_rng(0).random((size, CLASSES)) < 0.2
    dense[np.arange(size), labels_of(size)] = True
    return dense


def balancers(size: int, device: str) -> dict[str, tuple[Balancer, bool]]:
    """Each with whether its targets are multi-hot."""
    one, many = labels_of(size), multi_hot(size)
    found = {
        "class ids": (Balancer(one), False),
        "class ids, all by sampling": (Balancer(one, loss="weighted-cross-entropy"), False),
        "hardest examples": (Balancer(one, mining="hardest-examples"), False),
        "loss pruning": (Balancer(one, mining="loss-pruning"), False),
        "labels": (Balancer(many), True),
        "labels, hard negatives": (Balancer(many, mining="hard-negatives"), True),
        "labels, asymmetric": (Balancer(many, loss="asymmetric"), True),
    }
    if device == "cuda":  # last: no GPU has run it before
        fused = losses.AsymmetricLoss(fused=True)
        found["labels, asymmetric, fused"] = (Balancer(many, loss=fused), True)
    return found


def steps(size: int, device: str) -> Iterator[tuple[str, bool, Step]]:
    """What is done with the logits of a batch: the loss, and counting them as a hold-out's."""
    memory = LossMemory(size)

    def remember(logits: Tensor, targets: Tensor, indices: Tensor):
        each = F.cross_entropy(logits, targets, reduction="none")
        memory.update(indices, each.detach())
        return each.mean()

    yield "loss memory", False, remember
    for name, (balancer, many) in balancers(size, device).items():

        def step(logits: Tensor, targets: Tensor, indices: Tensor, b: Balancer = balancer):
            b.observe(logits.detach(), targets)
            return b.loss(logits, targets, indices)

        yield name, many, step


def batches(size: int, batch: int, many: bool, device: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, CLASSES, generator=generator)
    indices = torch.randperm(size, generator=generator)[:batch]
    targets = torch.from_numpy(multi_hot(size) if many else labels_of(size))[indices]
    return logits.to(device).requires_grad_(), targets.to(device), indices.to(device)


def waits_of(call: Callable[[], Any], device: str, repeats: int) -> dict[str, Any]:
    """How often a step waited for the device, or asked it for a value, by the profiler.

    On a GPU also torch's own guard, which raises at the first operation that waits.
    """
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities) as trace:
        for _ in range(repeats):
            with record_function("one step"):
                call()
    events = list(trace.events())
    spans = [e.time_range for e in events if e.name == "one step" and not _on_device(e)]
    inside = [
        event.name
        for event in events
        if event.name in WAITS + ASKS
        and any(span.start <= event.time_range.start <= span.end for span in spans)
    ]
    row: dict[str, Any] = {
        "steps": len(spans),
        "waits": sum(name in WAITS for name in inside),
        "asks": sum(name in ASKS for name in inside),
    }
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
            row["guard"] = "silent"
        except RuntimeError as error:
            row["guard"] = str(error).splitlines()[0][:200]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return row


def _on_device(event: Any) -> bool:
    return "CUDA" in str(getattr(event, "device_type", "CPU"))


def clock(call: Callable[[], Any], repeats: int, device: str) -> float:
    """Seconds of one call by the wall-clock, the device's work included."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def training_step(net: nn.Module, batch: int, device: str) -> Callable[[], None]:
    """A plain step of the net on 32 × 32 images, in bfloat16."""
    net = net.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, 32, 32, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % CLASSES

    def call() -> None:
        with torch.autocast(device, torch.bfloat16):
            logits = net(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


def added(
    device: str, net: nn.Module, size: int, batch: int, rounds: int = 9
) -> Iterator[dict[str, Any]]:
    """What a step of the net takes; of each kind of step, what it waits for and what it adds."""
    train = training_step(net, batch, device)
    for _ in range(3):
        train()
    of_net = float(np.median([clock(train, 5, device) for _ in range(rounds)]))
    yield {"net_step_ms": of_net * 1e3, "batch": batch}
    for name, many, step in steps(size, device):
        logits, targets, indices = batches(size, batch, many, device)

        def ours(step=step, logits=logits, targets=targets, indices=indices) -> None:
            torch.autograd.grad(step(logits, targets, indices), logits)

        def plain(logits=logits, targets=targets, many=many) -> None:
            if many:
                loss = F.binary_cross_entropy_with_logits(logits, targets.float())
            else:
                loss = F.cross_entropy(logits, targets)
            torch.autograd.grad(loss, logits)

        for call in (ours, plain) * 3:  # compiles kernels, moves tables to the device
            call()
        pairs = [[clock(f, 20, device) for f in (ours, plain)] for _ in range(rounds)]
        more = np.array(pairs) @ [1, -1]
        yield {
            "step": name,
            **waits_of(ours, device, 5),
            "added_ms": [float(q) * 1e3 for q in np.quantile(more, [0.25, 0.5, 0.75])],
            "share": float(np.median(more)) / of_net,
        }


def differentiated(device: str, loss: losses.Loss, labels: bool) -> list[Tensor]:
    """Value and gradient, for float32 logits and then for bfloat16 ones."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        logits, targets, _ = batches(240, 200, labels, device)
        z = (3 * logits.detach()).to(dtype).requires_grad_()
        value = loss.to(device)(z, targets)
        (gradient,) = torch.autograd.grad(value * 1024, z)
        found += [value.detach(), gradient.float()]
    return found


def checks() -> Iterator[tuple[str, Callable[[str], list[Tensor]]]]:
    """What to compute on a device: losses with gradients, counts, choices, memories."""
    one, many = Targets.of(labels_of(240)), Targets.of(multi_hot(240))
    makers: dict[str, tuple[Callable[[], losses.Loss], bool]] = {
        name: ((lambda m=make, t=many if name in FOR_LABELS else one: m(t)), name in FOR_LABELS)
        for name, make in LOSSES.items()
    }
    weight = torch.linspace(0.2, 3, CLASSES)
    for name, (make, labels) in makers.items():
        yield name, lambda on, make=make, labels=labels: differentiated(on, make(), labels)

    def rates(on: str, labels: bool) -> list[Tensor]:
        counted = (LabelRates if labels else ClassRates)(CLASSES)
        logits, targets, _ = batches(240, 200, labels, on)
        counted.update(logits.detach(), targets)
        return [counted.recalls().cpu(), counted.support.cpu()]

    yield "recalls of classes", lambda on: rates(on, False)
    yield "recalls of labels", lambda on: rates(on, True)

    def chosen(on: str, labels: bool) -> list[Tensor]:
        logits, targets, _ = batches(240, 200, labels, on)
        logits = logits.detach()
        if labels:
            each = losses.WeightedBCE().unreduced(logits, targets)
            return [HardNegatives().select(each, targets).float()]
        each = F.cross_entropy(logits, targets, reduction="none")
        return [HardestExamples(0.5, num_classes=CLASSES).select(each, targets).float()]

    yield "hardest examples", lambda on: chosen(on, False)
    yield "hard negatives", lambda on: chosen(on, True)

    def memory(on: str) -> list[Tensor]:
        remembered = LossMemory(240)
        logits, targets, indices = batches(240, 200, False, on)
        each = F.cross_entropy(logits.detach(), targets, reduction="none")
        for factor in (1, 2):
            remembered.update(indices, factor * each)
        return [torch.from_numpy(remembered.losses())]

    yield "loss memory", memory

    fusable: dict[str, Callable[[bool], losses.Loss]] = {
        "weighted BCE": lambda f: losses.WeightedBCE(weight, weight, log_weight=weight, fused=f),
        "focal": lambda f: losses.SigmoidFocalLoss(gamma=1.5, alpha=weight / 4, fused=f),
        "asymmetric": lambda f: losses.AsymmetricLoss(fused=f),
        "distribution-balanced": lambda f: losses.DistributionBalancedLoss(
            50 * weight, 240, fused=f
        ),
    }
    for name, of in fusable.items():
        yield f"{name}, fused", lambda on, of=of: differentiated(on, of(on == "cuda"), True)


def correctness(device: str) -> Iterator[dict[str, Any]]:
    """Each on the device and on the CPU: the largest difference, and whether it is rounding.

    float32 to 1e-5, bfloat16 to 2e-2, of the largest value of the tensor.
    """
    for name, compute in checks():
        worst, equal = 0.0, True
        try:
            found, expected = ([t.double().cpu() for t in compute(on)] for on in (device, "cpu"))
        except (RuntimeError, ValueError) as error:
            yield {"what": name, "left_out": str(error).splitlines()[0][:200]}
            continue
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            close = 1e-5 if number < 2 else 2e-2  # first float32's, then bfloat16's
            size = float(other.nan_to_num().abs().max())
            difference = float((one - other).nan_to_num().abs().max())
            same = torch.equal(one.isnan(), other.isnan()) and difference <= close * max(size, 1e-9)
            worst, equal = max(worst, difference / max(size, 1e-9)), equal and same
        yield {"what": name, "largest_difference": worst, "equal": equal}
