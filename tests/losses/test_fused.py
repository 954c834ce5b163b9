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
from equipoise.losses import fused
from tests.losses.cases import COUNTS, gradient

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
    assert re.search(r"^\d\d+ passed", done.stdout, re.MULTILINE), done.stdout[-500:]
    assert "skipped" not in done.stdout


@needs_triton
@pytest.mark.parametrize(
    ("logits", "targets", "focusing", "vectors"),
    [
        ("fp32", "i1", (0.0, 0.0, 0.0), ()),
        ("fp16", "i64", (2.5, 0.5, 0.1), ("negative_weight", "positive_weight")),
        ("bf16", "fp32", (2.0, 2.0, 0.0), ("shift", "by_example", "by_label")),
    ],
)
def test_it_compiles_for_a_gpu_without_atomics(
    logits, targets, focusing, vectors, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from equipoise.losses.kernels import loss_kernel

    pointers = {"logits": logits, "targets": targets, "slopes": logits, "sums": "fp32"}
    pointers |= dict.fromkeys(vectors, "fp32")
    types = {name: "*" + of for name, of in pointers.items()}
    types |= dict.fromkeys(("floor", "centre", "value_scale", "slope_scale"), "fp32")
    types |= {"numel": "i32", "num_classes": "i32"}
    constants = dict(zip(("GAMMA_NEG", "GAMMA_POS", "MARGIN"), focusing, strict=True))
    constants |= {"NEGATIVE_SCALE": 2.0, "BLOCK": 1024}
    names = loss_kernel.arg_names
    source = ASTSource(
        loss_kernel,
        {name: types.get(name, "constexpr") for name in names},
        {name: constants.get(name) for name in names if name not in types},
    )
    made = triton.compile(source, GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
    assert len(made.asm["cubin"]) > 1000
    assert not re.search(r"\b(atom|red)\.", made.asm["ptx"])


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
    monkeypatch.setattr(fused, "kernels", None)
    for make in (losses.WeightedBCE, losses.SigmoidFocalLoss, losses.AsymmetricLoss):
        with pytest.raises(ValueError, match="Expected fused to be False, as Triton is not"):
            make(fused=True)
        make()
    with pytest.raises(ValueError, match="Expected fused to be False, as Triton is not"):
        losses.weighted_bce(torch.zeros(1, 2), torch.zeros(1, 2), fused=True)


@needs_triton
@pytest.mark.filterwarnings("ignore")  # torch's own, about its compiler
def test_compilers_get_the_plain_path():
    logits, targets = torch.linspace(-3, 3, 10).view(2, 5), torch.arange(10).view(2, 5) % 3 == 0
    torch._dynamo.reset()
    compiled = torch.compile(losses.AsymmetricLoss(fused=True), fullgraph=True, backend="aot_eager")
    for of in (lambda loss: loss(logits, targets), lambda loss: gradient(loss, logits, targets)):
        torch.testing.assert_close(of(compiled), of(losses.AsymmetricLoss()))
