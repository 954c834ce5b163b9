"""All that needs a GPU, in one command of at most ten minutes; without one it says so and ends.

    python -m benchmarks.gpu --data cifar10.npz

1. Bandwidth: forward + backward of the multilabel losses (fused, eager, compiled; torch's BCE),
   beside a copy that moves as many bytes as must be read and written once.
2. Steps: what a step of a Balancer and of each miner waits for (profiler, and torch's guard against
   synchronisation), and what it adds to a step of ResNet-18 (goal: 1%).
3. Correctness: every loss, the rates, the miners, on the GPU and on the CPU.
4. Evidence: benchmarks.evidence with ResNet-9 on CIFAR-10, plain and Balancer, with as many
   seeds as the time left allows. Needs --data.

What is finished is written at once to benchmarks/results/gpu.json and gpu.md, with the machine's
name. Each part is a process of its own, stopped when its time is up: the fused kernel has not run
on a GPU yet, and if it fails there, the rest is to be measured all the same. `--device cpu --small`
tries the script itself: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu import bandwidth, steps

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 10
MOST_SEEDS = 10
# Seconds at most, importing included. The evidence has what is left of the ten minutes.
SHARES = {"correctness": 50, "steps": 80, "eager": 50, "fused": 50, "compiled": 120}
RESERVE = 15  # for what is under way when the time is up
Left = Callable[[], float]


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


def left_of(seconds: float) -> Left:
    """Seconds until it is time to stop."""
    end = time.perf_counter() + seconds - RESERVE
    return lambda: end - time.perf_counter()


def part(name: str, device: str, small: bool, left: Left) -> Iterator[dict[str, Any]]:
    """Its rows, one at a time."""
    if name == "correctness":
        return steps.correctness(device, left)
    if name == "steps":
        batch, size = (16, 64) if small else (512, 50_000)
        return steps.added(device, left, tiny_net() if small else resnet18(), size, batch)
    if name not in bandwidth.MODES:
        raise ValueError(f"Expected name to be that of a part, but got {name!r}")
    shapes = [(4, 30)] if small else bandwidth.SHAPES
    return bandwidth.bandwidth(device, left, name, shapes)


def _job(name: str, device: str, small: bool, seconds: float, answer: Any) -> None:
    try:
        for row in part(name, device, small, left_of(seconds)):
            answer.send(row)
        answer.send("done")
    except Exception:
        answer.send(traceback.format_exc()[-2000:])


def in_a_process(
    name: str, device: str, small: bool, seconds: float
) -> tuple[list[dict[str, Any]], str]:
    """The part's rows, and "done" or why there are no more."""
    end = time.perf_counter() + seconds
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_job, args=(name, device, small, seconds, theirs))
    process.start()
    theirs.close()
    rows: list[dict[str, Any]] = []
    try:
        while ours.poll(max(0.0, end - time.perf_counter())):
            row = ours.recv()
            if isinstance(row, str):
                return rows, row
            rows.append(row)
        return rows, f"stopped after {seconds:.0f} s"
    except EOFError:
        process.join()
        return rows, f"ended with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()


def evidence(device: str, left: Left, data: Path | None, folder: Path, extra: list[str]) -> dict:
    """One seed after the other, as long as another one fits into the time left."""
    if data is None:
        return {"left_out": "no --data"}
    command = [sys.executable, "-m", "benchmarks.evidence", "--set", "cifar10", "--net", "resnet9"]
    command += ["--device", device, "--data", str(data), "--method", "plain", "Balancer"]
    command += ["--out", str(folder / "evidence"), "--results", str(folder), *extra]
    found: dict[str, Any] = {"seeds": 0, "seconds": []}
    while found["seeds"] < MOST_SEEDS and left() > 1.2 * max(found["seconds"], default=0):
        began = time.perf_counter()
        job = subprocess.Popen(
            [*command, "--seeds", str(found["seeds"] + 1)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = job.communicate(timeout=left())
        except subprocess.TimeoutExpired:
            found["stopped"] = "the time was up"
            break
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)  # our own session: it and its trainings
                job.communicate()
        if job.returncode:
            found["failed"] = output[-2000:]
            break
        found["seeds"] += 1
        found["seconds"].append(time.perf_counter() - began)
        found["tables"] = "evidence_cifar10-resnet9.md"
    return found


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
            if "left_out" in row:
                lines.append(f"| {row['step']} | left out: {row['left_out']} | | | | |")
                continue
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
    if "evidence" in record:
        lines += ["", "## Evidence", "", "```", json.dumps(record["evidence"], indent=1), "```"]
    for name, why in record["failed"].items():
        lines += ["", f"Failed: {name}.", "", "```", why, "```"]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="CIFAR-10 as .npz, for the evidence")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes that only try the script")
    parser.add_argument("--part", nargs="+", choices=[*SHARES, "evidence"])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: no CUDA device here, nothing was measured.")
        return
    args.results.mkdir(parents=True, exist_ok=True)
    given = sys.argv[1:] if argv is None else argv
    record: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.gpu", *(Path(a).name for a in given)]),
        "machine": machine(args.device),
        "failed": {},
    }

    for name in args.part or [*SHARES, "evidence"]:
        seconds = began + 60 * MINUTES - time.perf_counter()
        if name == "evidence":
            extra = ["--epochs", "1", "--width", "2", "--no-bf16"] if args.small else []
            data = args.data.resolve() if args.data else None
            record[name] = evidence(args.device, left_of(seconds), data, args.results, extra)
        else:
            seconds = min(seconds, SHARES[name])
            record[name], ended = in_a_process(name, args.device, args.small, seconds)
            if ended != "done":
                record["failed"][name] = ended
        (args.results / "gpu.json").write_text(json.dumps(record, indent=1) + "\n")
        (args.results / "gpu.md").write_text(markdown(record))
        print(f"{name}: done after {time.perf_counter() - began:.0f} s", flush=True)
    print(markdown(record))


if __name__ == "__main__":
    main()
