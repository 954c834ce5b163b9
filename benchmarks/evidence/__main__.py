"""Does it balance? Methods × data sets × seeds, as trained and decided.

    python -m benchmarks.evidence                                   # digits: minutes, no download
    python -m benchmarks.evidence --set cifar10-lt --data cifar10.npz --seeds 3
    python -m benchmarks.evidence --set cifar10 --data cifar10.npz --net resnet9 --device cuda
    python -m benchmarks.evidence --set cifar10 --data cifar10.npz --table    # trains nothing

Trains every method with every seed, seeds outermost, so that a table made before the end is fair.
Each finished run leaves its logits on hold-out and test under `--out` and is not trained again, so
that the command can be stopped and given again. From these files the table is made:
evidence_SET.md, .json and .png in benchmarks/results. Rows which that .json has already, of the
same settings, stay in the table without their logits. `--decide-again` fits all decisions anew.

The methods are in methods.py; `--method Balancer:max_step=1,share=1` is a Balancer with other
settings of its default policy and another sampler_share. No setting is chosen on test images: with
`--pilot` a fifth of the *training* images stands in, and nothing else is read.

* digits: scikit-learn's, 9 a fifth as common as 0 in training; the hold-out is as thinned.
* cifar10: balanced; the hold-out is a tenth of the training images.
* cifar10-lt: class c keeps 100^(−c/9) of its training images, the first ones of the file. The
  hold-out is a tenth of the *balanced* training images, taken out before the thinning: 500 a
  class, where the rarest class has 45 to learn from. The usual benchmark has no hold-out at all.
* cifar10-lt-own: the same profile, and the hold-out is a fifth of the thinned images: 10 of the
  rarest class. What can be had without labels that somebody else paid for.
* cifar100: balanced, a fifth held out; some of its classes are near-synonyms.

The multilabel sets are in benchmarks/multilabel.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.evidence.methods import DEFAULT, METHODS, method_of
from benchmarks.evidence.training import NETS, SETS, finished, load, train_all


def _name(text: str) -> str:
    try:
        method_of(text)
    except (KeyError, TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--set", choices=SETS, default="digits")
    add("--data", default="cifar10", help="cifar10 (downloads it), or an .npz")
    add("--method", nargs="+", type=_name, default=list(METHODS))
    add("--seeds", type=int, default=3, help="how many")
    add("--epochs", type=int)
    add("--batch-size", type=int)
    add("--lr", type=float, default=0.1)
    add("--net", choices=NETS, default="small")
    add("--width", type=int, help="channels of the first convolution")
    add("--head", choices=["linear", "cosine"], default="linear", help="the last layer")
    add("--scale", type=float, default=16.0, help="of the cosines")
    add("--no-bf16", dest="bf16", action="store_false")
    add("--device", default="cpu")
    add("--pilot", action="store_true", help="test on training images instead")
    add("--jobs", type=int, default=1, help="processes at a time, one thread each")
    add("--table", action="store_true", help="only report what is finished")
    add("--decide-again", action="store_true", help="fit the decisions of finished runs anew")
    add("--out", type=Path, default=Path("runs/evidence"))
    add("--results", type=Path, default=Path(__file__).parents[1] / "results")
    args = parser.parse_args()
    given = ("set", "lr", "net", "bf16", "device", "pilot", "head", "scale")
    settings = SETS[args.set] | {name: getattr(args, name) for name in given}
    if args.net == "resnet9":
        settings |= {"width": 64, "epochs": 24, "batch_size": 512}
    settings |= {k: getattr(args, k) for k in ("epochs", "batch_size", "width") if getattr(args, k)}
    methods = list(dict.fromkeys(args.method))
    if any(method_of(m).needs_plain for m in methods) and "plain" not in methods:
        methods.insert(0, "plain")
    name = args.set + ("" if args.net == "small" else f"-{args.net}")
    name += "" if args.head == "linear" else f"-{args.head}{args.scale:g}"
    name += "-pilot" if args.pilot else ""
    data = load(args.set, args.data, args.pilot)
    support = {part: np.bincount(data[part][1]).tolist() for part in ("train", "holdout", "test")}
    print("\n".join(f"{part:8} {sum(n):,} images" for part, n in support.items()), flush=True)
    folder = args.out / name
    if not args.table:
        train_all(folder, methods, args.seeds, settings, args.data, args.jobs)

    from benchmarks.evidence.decisions import decide_all
    from benchmarks.evidence.report import write_report

    runs = finished(folder, methods, args.seeds, settings)
    decided = decide_all(folder, runs, args.jobs, args.decide_again)
    results = [
        run | {"cpu_seconds": runs[run["method"], run["seed"]]["cpu_seconds"]} for run in decided
    ]
    to = folder if args.pilot else args.results
    before = to / f"evidence_{name}.json"
    if before.exists() and (kept := json.loads(before.read_text()))["settings"] == settings:
        results += [run for run in kept["results"] if (run["method"], run["seed"]) not in runs]
    order = list(dict.fromkeys([*METHODS, *methods, *(run["method"] for run in results)]))
    results.sort(key=lambda run: (order.index(run["method"]), run["seed"]))
    record = {
        "settings": settings,
        "classes": data["classes"],
        "support": support,
        "methods": {run["method"]: method_of(run["method"]).what for run in results},
        "results": results,
    }
    write_report(record, name, to, DEFAULT)


if __name__ == "__main__":
    main()
