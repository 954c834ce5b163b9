"""`fused=True`: interpreted on the CPU, compiled for a GPU that is not there, refused elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from equipoise import losses
from equipoise.losses import base
from tests.losses.cases import COUNTS

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
ROOT = Path(__file__).resolve().parents[2]


@needs_triton
def test_in_the_interpreter_it_equals_the_plain_path():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"]
    done = subprocess.run(
        [*command, "tests/losses/interpreted_fused.py"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"^\d\d\d passed", done.stdout, re.MULTILINE), done.stdout[-500:]
    assert "skipped" not in done.stdout


def accesses(ptx: str, kind: str) -> dict[int, int]:
    """How many accesses of how many bytes a thread makes to the device's memory."""
    counts: dict[int, int] = {}
    for many, bits in re.findall(rf"\b{kind}\.global(?:\.v(\d))?\.b(\d+)", ptx):
        width = int(many or 1) * int(bits) // 8
        counts[width] = counts.get(width, 0) + 1
    return counts


@needs_triton
@pytest.mark.parametrize(
    ("logits", "targets", "focusing", "vectors"),
    [
        ("fp32", "u8", (0.0, 0.0, 0.0), ()),
        ("fp32", "i1", (4.0, 1.0, 0.05), ("positive_weight",)),
        ("fp32", "fp32", (2.0, 2.0, 0.0), ("negative_weight", "positive_weight")),
        ("fp16", "i64", (2.5, 0.5, 0.1), ("example_weight",)),
        ("bf16", "u8", (0.0, 0.0, 0.0), ("shift", "by_example", "by_label")),
        ("bf16", "fp16", (4.0, 1.0, 0.05), ()),
    ],
)
def test_compiled_it_reads_and_writes_every_byte_once(
    logits, targets, focusing, vectors, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from benchmarks.gpu.compiled import BLOCK, SIZE, THREADS, compiled_loss

    made = compiled_loss(logits, targets, focusing, vectors)
    assert len(made.asm["cubin"]) > 1000
    ptx = made.asm["ptx"]
    each = BLOCK // THREADS
    loaded, stored = accesses(ptx, "ld"), accesses(ptx, "st")
    by_label = {4: each * len(vectors)} if vectors else {}
    wide = {width: number for width, number in loaded.items() if width > 4}
    assert sum(width * number for width, number in wide.items()) == each * (
        SIZE[logits] + SIZE[targets]
    )
    assert {w: n for w, n in loaded.items() if w <= 4} == by_label
    assert max(loaded) == 16  # 128 bits at a time
    assert stored == {16: each * SIZE[logits] // 16, 4: 1}  # the gradient; the block's sum
    assert not re.search(r"\b(atom|red)\.", ptx)


@needs_triton
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_gradient_is_rescaled_behind_a_branch(dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from benchmarks.gpu.compiled import compiled
    from equipoise.losses.kernels import rescale_kernel

    types = {"slopes": "*" + dtype, "factor": "*fp32", "numel": "i32"}
    ptx = compiled(rescale_kernel, types, {"BLOCK": 1024}).asm["ptx"]
    before, branch, after = ptx.partition("bra")
    assert branch
    assert accesses(before, "ld") == {4: 1}  # the factor alone
    assert set(accesses(after, "ld")) == set(accesses(after, "st")) == {16}


def test_without_a_gpu_it_is_refused():
    logits, targets = torch.zeros(2, 5), torch.zeros(2, 5, dtype=torch.bool)
    for loss in (
        losses.WeightedBCE(fused=True),
        losses.SigmoidFocalLoss(fused=True),
        losses.FocalLoss(multilabel=True, fused=True),
        losses.AsymmetricLoss(fused=True),
        losses.DistributionBalancedLoss(COUNTS, 2000, fused=True),
    ):
        with pytest.raises(ValueError, match="Expected fused to be False for logits on cpu"):
            loss(logits, targets)


def test_without_triton_it_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "_has_triton", lambda: False)
    for make in (losses.WeightedBCE, losses.SigmoidFocalLoss, losses.AsymmetricLoss):
        with pytest.raises(ValueError, match="Expected fused to be False, as Triton is not"):
            make(fused=True)
        make()
    with pytest.raises(ValueError, match="Expected fused to be False, as Triton is not"):
        losses.weighted_bce(torch.zeros(1, 2), torch.zeros(1, 2), fused=True)


def test_class_ids_have_no_kernel():
    with pytest.raises(ValueError, match="Expected fused to be False, as targets are class ids"):
        losses.FocalLoss(fused=True)


@needs_triton
@pytest.mark.filterwarnings("ignore")  # torch's own, about its compiler
def test_compilers_get_the_plain_path():
    logits, targets = torch.linspace(-3, 3, 10).view(2, 5), torch.arange(10).view(2, 5) % 3 == 0
    torch._dynamo.reset()
    compiled = torch.compile(losses.AsymmetricLoss(fused=True), fullgraph=True, backend="aot_eager")
    z = logits.clone().requires_grad_()
    value = compiled(z, targets)
    value.backward()
    plain = logits.clone().requires_grad_()
    expected = losses.AsymmetricLoss()(plain, targets)
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(z.grad, plain.grad)
