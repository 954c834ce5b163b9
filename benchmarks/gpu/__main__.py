"""All that needs a GPU, in one command of at most ten minutes; without one it says so and ends.

    python -m benchmarks.gpu --data cifar10.npz

1. Bandwidth: forward + backward of the multilabel losses (fused, eager, compiled; torch's BCE),
   beside a copy that moves as many bytes as must be read and written once.
2. Steps: what a step of a Balancer and of each miner waits for (profiler, and torch's guard against
   synchronisation), and what it adds to a step of ResNet-18 (goal: 1%).
3. Correctness: every loss, the rates, the miners, on the GPU and on the CPU.
4. Evidence: benchmarks.evidence with ResNet-9 on --data, three seeds as far as there is time.

What is finished is written at once to benchmarks/results/gpu.json and gpu.md, with the machine's
name. Each part is a process of its own (`--part`), which prints its rows as JSON and is killed when
its time is up: the fused kernel has not run on a GPU yet, and if it fails there, the rest is to be
measured all the same. `--device cpu --small` tries the script itself: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu import bandwidth, steps

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 10
# Seconds at most, importing included. The evidence has what is left of the ten minutes.
SHARES = {"correctness": 50, "steps": 80, "eager": 50, "fused": 50, "compiled": 120}


def output_of(*command: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def machine(device: str) -> dict[str, Any]:
    """Where this runs."""
    found: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": output_of("git", "rev-parse", "--short", "HEAD"),
        "date": time.strftime("%Y-%m-%d"),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        found |= {
            "device": properties.name,
            "gib": round(properties.total_memory / 2**30),
            "driver": output_of(*query).split("\n")[0],
            "cuda": torch.version.cuda,
            "triton": importlib.metadata.version("triton"),
        }
    return found


def resnet18() -> nn.Module:
    from torchvision.models import resnet18

    net = resnet18(num_classes=steps.CLASSES)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return net


def tiny_net() -> nn.Module:
    conv = nn.Conv2d(3, 4, 4, stride=4)
    return nn.Sequential(conv, nn.Flatten(), nn.Linear(256, steps.CLASSES))


def part(name: str, device: str, small: bool) -> Iterator[dict[str, Any]]:
    """Its rows, one at a time."""
    if name == "correctness":
        return steps.correctness(device)
    if name == "steps":
        batch, size = (16, 64) if small else (512, 50_000)
        return steps.added(device, tiny_net() if small else resnet18(), size, batch)
    return bandwidth.bandwidth(device, name, [(4, 30)] if small else bandwidth.SHAPES)


def run(seconds: float, *module: str) -> tuple[str, str]:
    """What `python -m …` printed within so many seconds, and why it ended before its end, or ""."""
    limit = ["timeout", "-s", "KILL", f"{max(seconds, 1):.0f}"]  # its own processes too
    done = subprocess.run(
        [*limit, sys.executable, "-m", *module], cwd=ROOT, capture_output=True, text=True
    )
    if not done.returncode:
        return done.stdout, ""
    stopped = done.returncode in (124, 137, -9)
    return done.stdout, f"stopped after {seconds:.0f} s" if stopped else done.stderr[-2000:]


def markdown(record: dict[str, Any]) -> str:
    """The parts that are finished."""
    where = record["machine"]
    lines = [
        "# On a GPU",
        "",
        f"`{record['command']}`: " + ", ".join(f"{k} {v}" for k, v in where.items()) + ".",
    ]
    rows = [row for mode in bandwidth.MODES for row in record.get(mode, [])]
    if rows:
        lines += ["", "## Bandwidth", "", *bandwidth.table(rows)]
    if record.get("steps"):
        net, *rows = record["steps"]
        lines += ["", "## Steps", ""]
        lines += [
            f"A step of the net, batch {net['batch']}: {net['net_step_ms']:.2f} ms.",
            "",
            "| step | waits | values asked for | guard | added, ms (quartiles) | of a step, % |",
            "|" + "---|" * 6,
        ]
        for row in rows:
            low, middle, high = row["added_ms"]
            lines.append(
                f"| {row['step']} | {row['waits']} in {row['steps']} | {row['asks']} | "
                f"{row.get('guard', '')} | {middle:.3f} ({low:.3f}–{high:.3f}) | "
                f"{100 * row['share']:.2f} |"
            )
    if record.get("correctness"):
        lines += ["", "## Against the CPU", "", "| what | largest difference | equal |"]
        lines += ["|---|---|---|"]
        for row in record["correctness"]:
            figures = row.get("left_out") or f"{row['largest_difference']:.1e}"
            lines.append(f"| {row['what']} | {figures} | {row.get('equal', '')} |")
    if record.get("evidence"):
        lines += ["", "## Evidence", "", "```", record["evidence"], "```"]
    for name, why in record["failed"].items():
        lines += ["", f"Failed: {name}.", "", "```", why, "```"]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="CIFAR-10 as .npz, for the evidence")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes that only try the script")
    parser.add_argument("--part", choices=[*SHARES], help="print the rows of this one alone")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: no CUDA device here, nothing was measured.")
        return
    if args.part:
        for row in part(args.part, args.device, args.small):
            print(json.dumps(row), flush=True)
        return
    args.results.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "command": "python -m benchmarks.gpu" + " --small" * args.small,
        "machine": machine(args.device),
        "failed": {},
    }
    small = ["--small"] if args.small else []
    for name in [*SHARES, *(["evidence"] if args.data else [])]:
        left = began + 60 * MINUTES - time.perf_counter()
        if name == "evidence":
            command = ["--set", "cifar10", "--net", "resnet9", "--method", "plain", "Balancer"]
            command += ["--data", str(args.data.resolve()), "--results", str(args.results)]
            command += ["--out", str(args.results / "evidence"), "--device", args.device]
            command += ["--epochs", "1", "--width", "2", "--no-bf16"] if args.small else []
            printed, why = run(left - 30, "benchmarks.evidence", *command)
            if why:  # the table of what is finished
                printed += run(30, "benchmarks.evidence", *command, "--table")[0]
            record[name] = printed
        else:
            given = ["--part", name, "--device", args.device, *small]
            printed, why = run(min(left, SHARES[name]), "benchmarks.gpu", *given)
            record[name] = [json.loads(line) for line in printed.splitlines() if line[:1] == "{"]
        if why:
            record["failed"][name] = why
        (args.results / "gpu.json").write_text(json.dumps(record, indent=1) + "\n")
        (args.results / "gpu.md").write_text(markdown(record))
        print(f"{name}: done after {time.perf_counter() - began:.0f} s", flush=True)
    print(markdown(record))


if __name__ == "__main__":
    main()
