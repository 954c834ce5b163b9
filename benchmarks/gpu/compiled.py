"""What the fused kernel compiles to for sm_90, without a GPU: instructions and bytes an element.

    python -m benchmarks.gpu.compiled

The last column divides what an H200 can issue by what it can load, both from its data sheet (132
multiprocessors of 4 × 32 lanes at 1.98 GHz; 4.8 TB/s): the share of the nominal bandwidth at which
issuing instructions becomes the limit. It is no measurement: above 1 a kernel may be bound by
memory, below 1 it cannot reach the whole bandwidth.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from equipoise.losses.fused import BLOCK
from equipoise.losses.kernels import loss_kernel

SIZE = {"fp32": 4, "fp16": 2, "bf16": 2, "u8": 1, "i1": 1, "i64": 8}
NUMBERS = ["negative_number", "positive_number", "floor", "centre", "value_scale", "slope_scale"]
THREADS = 128
ISSUED, LOADED = 132 * 4 * 32 * 1.98e9, 4.8e12  # lanes' instructions and bytes a second
ROWS: dict[str, tuple[tuple[float, float, float], tuple[str, ...]]] = {
    "weighted BCE": ((0.0, 0.0, 0.0), ()),
    "weighted BCE, λ": ((0.0, 0.0, 0.0), ("positive_weight",)),
    "focal": ((2.0, 2.0, 0.0), ()),
    "asymmetric": ((4.0, 1.0, 0.05), ()),
    "distribution-balanced": ((0.0, 0.0, 0.0), ("shift", "by_example", "by_label")),
}


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> Any:
    """For sm_90, up to machine code. Pointers and size are multiples of 16; the rest is None."""
    names = kernel.arg_names
    aligned = [n for n, of in types.items() if of.startswith("*") or n == "numel"]
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in names},
        {name: constants.get(name) for name in names if name not in types},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})


def compiled_loss(
    logits: str, targets: str, focusing: tuple[float, float, float], vectors: tuple[str, ...]
) -> Any:
    """The loss kernel with a gradient and sums, for rows that end up to twice in a block."""
    pointers = {"logits": logits, "targets": targets, "slopes": logits, "sums": "fp32"}
    pointers |= dict.fromkeys(vectors, "fp32")
    types = {name: "*" + of for name, of in pointers.items()} | dict.fromkeys(NUMBERS, "fp32")
    constants = dict(zip(("GAMMA_NEG", "GAMMA_POS", "MARGIN"), focusing, strict=True))
    scale = 2.0 if "shift" in vectors else 1.0
    return compiled(
        loss_kernel,
        types | {"numel": "i32", "num_classes": "i32"},
        {**constants, "NEGATIVE_SCALE": scale, "ROW_ENDS": 2, "BLOCK": BLOCK},
    )


def machine_code(made: Any) -> tuple[int, int]:
    """Instructions a thread, and its registers."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made.asm["cubin"])
        text, usage = (
            subprocess.run(
                [tools / tool, option, file.name], capture_output=True, text=True, check=True
            ).stdout
            for tool, option in (("nvdisasm", "-c"), ("cuobjdump", "--dump-resource-usage"))
        )
    code = re.findall(r"/\*[0-9a-f]{4}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][A-Z0-9_.]+)", text)
    # After the end there is only padding.
    return len(code) - code.count("NOP"), int(re.search(r"REG:(\d+)", usage)[1])


def main() -> None:
    print(
        f"Triton {triton.__version__}, sm_90, {BLOCK} elements and {THREADS} threads a program.\n"
    )
    print("| loss | logits | targets | bytes | instructions | registers | issue-bound from |")
    print("|" + "---|" * 7)
    for logits, targets in (("fp32", "u8"), ("fp32", "fp32"), ("bf16", "u8")):
        for name, (focusing, vectors) in ROWS.items():
            count, registers = machine_code(compiled_loss(logits, targets, focusing, vectors))
            each = count / (BLOCK / THREADS)
            size = 2 * SIZE[logits] + SIZE[targets]
            share = ISSUED / each * size / LOADED
            print(
                f"| {name} | {logits} | {targets} | {size} | {each:.0f} | {registers} | "
                f"{share:.2f} |"
            )


if __name__ == "__main__":
    main()
