"""Every benchmark that takes minutes, one after the other: what `make bench` runs.

    python benchmarks/run.py --data cifar10.npz

Without the data set, those that need it are left out, and named. What trains for an hour and more
(evidence on CIFAR-10, multilabel.methods) are commands of their own: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="an .npz with x_train, y_train, x_test, y_test")
    args = parser.parse_args()
    jobs = [["samplers.speed"], ["losses.speed"], ["mining.cost"], ["evidence", "--seeds", "10"]]
    with_data = [["ffcv.speed"]]
    jobs += [[*job, "--data", str(args.data.resolve())] for job in with_data] if args.data else []
    jobs.append(["gpu", *(["--data", str(args.data.resolve())] if args.data else [])])
    failed = []
    for name, *options in jobs:
        print(f"\n## {name}\n", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
    if not args.data:
        print(f"\nLeft out: {', '.join(job[0] for job in with_data)} (they need --data)")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
