"""Every benchmark that takes minutes, one after the other: what `make bench` runs.

    python benchmarks/run.py --data cifar10.npz --multilabel DIR

Without a data set, those that need it are left out, and named. The evidence runs (an hour and more)
are commands of their own: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="an .npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--multilabel", help="a folder of multilabel .npz files")
    args = parser.parse_args()
    jobs = [["sampler_speed.py"], ["loss_speed.py"]]
    jobs += [["ffcv_speed.py", "--data", args.data]] if args.data else []
    jobs += [["multilabel_balance.py", "--data", args.multilabel]] if args.multilabel else []
    failed = []
    for job in jobs:
        print(f"\n## {job[0]}\n", flush=True)
        if subprocess.run([sys.executable, str(HERE / job[0]), *job[1:]], check=False).returncode:
            failed.append(job[0])
    if not args.data:
        print("\nLeft out: ffcv_speed.py (it needs --data)")
    if not args.multilabel:
        print("Left out: multilabel_balance.py (it needs --multilabel)")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
