"""Does it balance? Methods × data sets × seeds, as trained and with the decision fitted.

    python -m benchmarks.evidence                                   # digits: minutes, no download
    python -m benchmarks.evidence --set cifar10-lt --data cifar10.npz --seeds 3
    python -m benchmarks.evidence --set cifar10 --data cifar10.npz --net resnet9 --device cuda

Trains every method with every seed, seeds outermost, so that a table made before the end is fair.
Each finished run is a file under `--out` and is read back, so that the command can be stopped and
given again. Writes evidence_SET.md, .json and .png to benchmarks/results.

The methods are in evidence_methods.py; `--method Balancer:max_step=1,start=0,share=1` is a Balancer
with other settings of its `EqualRecall` and another sampler_share. No setting is chosen on
test images: with `--pilot` a fifth of the *training* images stands in, and nothing else is read.

* digits: scikit-learn's, 9 a fifth as common as 0 in training; the hold-out is as thinned.
* cifar10: balanced; the hold-out is a tenth of the training images.
* cifar10-lt: class c keeps 100^(−c/9) of its training images, the first ones of the file. The
  hold-out is a tenth of the *balanced* training images, taken out before the thinning: 500 a
  class, where the rarest class has 45 to learn from. The usual benchmark has no hold-out at all.
* cifar10-lt-own: the same profile, and the hold-out is a fifth of the thinned images: 10 of the
  rarest class. What can be had without labels that somebody else paid for.

The multilabel sets are in benchmarks/multilabel_methods.py.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing as mp
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.evidence_methods import DEFAULT, METHODS, Task, method_of
from benchmarks.evidence_report import write_report
from equipoise import Balancer, holdout_split
from equipoise.losses import NormedLinear
from examples.cifar import load_data, recalls_of, small_net, thin

# ---------------------------------------------------------------------------------------- data

SETS: dict[str, dict[str, Any]] = {
    "digits": dict(epochs=15, batch_size=32, width=8, holdout=0.35, flip=False),
    "cifar10": dict(epochs=12, batch_size=128, width=16, holdout=0.1, flip=True),
    "cifar10-lt": dict(epochs=15, batch_size=128, width=16, holdout=0.1, flip=True),
    "cifar10-lt-own": dict(epochs=15, batch_size=128, width=16, holdout=0.2, flip=True),
}


def load(name: str, source: str, pilot: bool) -> dict[str, Any]:
    """Images (uint8) and labels for training, hold-out and test."""
    data = load_data("digits" if name == "digits" else source)
    images, labels = data["train"]
    test = data["test"]
    usable = np.arange(len(labels))
    if pilot:
        usable, tested = holdout_split(labels, 0.2, seed=1)
        test = images[tested], labels[tested]
    if name == "cifar10-lt-own":
        usable = thin(usable, labels, rarest=0.01)
    kept, held = (usable[part] for part in holdout_split(labels[usable], SETS[name]["holdout"]))
    if name == "cifar10-lt":
        kept = thin(kept, labels, rarest=0.01)
    return {
        "train": (images[kept], labels[kept]),
        "holdout": (images[held], labels[held]),
        "test": test,
        "classes": list(data["classes"]),
    }


def augment(images: torch.Tensor, generator: torch.Generator, flip: bool) -> torch.Tensor:
    """uint8 `(B, H, W, 3)` on the device, shifted by up to an eighth, half of them mirrored."""
    batch, size = len(images), images.shape[1]
    pad, device = size // 8, images.device
    padded = nn.functional.pad(images, (0, 0, pad, pad, pad, pad), value=128)
    places = torch.arange(size, device=device)
    shifts = torch.randint(2 * pad + 1, (2, batch, 1), generator=generator, device=device)
    rows, columns = shifts + places
    if flip:
        mirrored = torch.rand(batch, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    example = torch.arange(batch, device=device)[:, None, None]
    return padded[example, rows[:, :, None], columns[:, None, :]]


def to_input(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


# ---------------------------------------------------------------------------------------- nets


class Cosines(NormedLinear):
    """LDAM's last layer: cosines in float32, whatever the net runs in."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def resnet9(classes: int, width: int) -> nn.Sequential:
    """Page's ResNet-9 (DAWNBench 2018): about 94% on CIFAR-10 in 24 epochs with width 64."""

    def block(inputs: int, outputs: int) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def residual(channels: int) -> Residual:
        return Residual(nn.Sequential(block(channels, channels), block(channels, channels)))

    w = width
    layers = [block(3, w), block(w, 2 * w), nn.MaxPool2d(2), residual(2 * w)]
    layers += [block(2 * w, 4 * w), nn.MaxPool2d(2)]
    layers += [block(4 * w, 8 * w), nn.MaxPool2d(2), residual(8 * w)]
    layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8 * w, classes)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def make_net(settings: dict[str, Any], classes: int, normed: bool) -> nn.Sequential:
    net = {"small": small_net, "resnet9": resnet9}[settings["net"]](classes, settings["width"])
    if normed:
        net[-1] = Cosines(net[-1].in_features, classes)
    return net.to(settings["device"])


@torch.no_grad()
def predict(model: nn.Module, images: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
    model.eval()
    with autocast(settings):
        return torch.cat([model(to_input(part)).float() for part in images.split(1000)])


def autocast(settings: dict[str, Any]) -> torch.autocast:
    return torch.autocast(settings["device"], torch.bfloat16, enabled=settings["bf16"])


# ------------------------------------------------------------------------------------ training


def train(
    method: str, seed: int, data: dict[str, Any], settings: dict[str, Any], plain: list | None
) -> dict[str, Any]:
    """One run: recalls on hold-out and test, as trained and with the fitted decision."""
    began, worked = time.perf_counter(), time.process_time()
    torch.manual_seed(seed)
    device, epochs, batch_size = (settings[k] for k in ("device", "epochs", "batch_size"))
    images, held, tested = (
        torch.from_numpy(data[part][0]).to(device) for part in ("train", "holdout", "test")
    )
    labels = torch.from_numpy(data["train"][1]).to(device)
    held_labels = torch.from_numpy(data["holdout"][1]).to(device)
    classes, steps = len(data["classes"]), math.ceil(len(labels) / batch_size)

    counts = np.bincount(data["train"][1], minlength=classes)
    parts = method_of(method).balancer(Task(counts, steps, epochs, plain))
    balancer = Balancer(data["train"][1], **parts, seed=seed)
    model = make_net(settings, classes, method_of(method).normed)
    decay = min(0.99, max(0.0, 1 - 3 / steps))  # of averages over at most a third of an epoch
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    optimizer = torch.optim.SGD(
        model.parameters(), settings["lr"], momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings["lr"], total_steps=epochs * steps, pct_start=0.2
    )
    generator = torch.Generator(device).manual_seed(seed)
    for _ in range(epochs):
        model.train()
        for index in torch.from_numpy(balancer.sampler.indices()).to(device).split(batch_size):
            inputs = to_input(augment(images[index], generator, settings["flip"]))
            with autocast(settings):
                logits = model(inputs)
            balancer.loss(logits.float(), labels[index]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            averaged.update_parameters(model)
        if balancer.policy.needs_recalls:  # the averaged weights settle sooner than the last ones
            balancer.observe(predict(averaged, held, settings), held_labels)
        balancer.step()

    held_logits, logits = (predict(averaged, part, settings) for part in (held, tested))
    balancer.fit_decision(held_logits, held_labels, objective="equal-recall")
    truth = data["test"][1]
    return {
        "method": method,
        "seed": seed,
        "recalls": recalls_of(logits.argmax(1), truth, classes),
        "recalls_decided": recalls_of(balancer.decide(logits), truth, classes),
        "holdout_recalls": recalls_of(held_logits.argmax(1), data["holdout"][1], classes),
        "log_weight": [row["log_weight"] for row in balancer.history],
        "sd_recall": [row.get("sd_recall") for row in balancer.history],
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - worked,
    }


_DATA: dict[str, Any] = {}  # each process loads the data once


def _job(method: str, seed: int, settings: dict[str, Any], source: str, plain: list | None):
    torch.set_num_threads(1)
    if not _DATA:
        _DATA.update(load(settings["set"], source, settings["pilot"]))
    return train(method, seed, _DATA, settings, plain)


def run_all(
    methods: list[str],
    seeds: int,
    settings: dict[str, Any],
    source: str,
    folder: Path,
    jobs: int,
    only_read: bool = False,
) -> list[dict[str, Any]]:
    """Every method with every seed, seeds outermost; finished runs are read back."""
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[tuple[str, int], dict[str, Any]] = {}
    todo = []
    for method, seed in [(m, s) for s in range(seeds) for m in methods]:
        path = folder / f"{method.replace(',', '').replace(' ', '-')}-{seed}.json"
        done = json.loads(path.read_text()) if path.exists() else None
        if done and done["settings"] == settings:
            results[method, seed] = done["result"]
        else:
            todo.append((method, seed, path))
    todo = [] if only_read else todo
    with ProcessPoolExecutor(jobs, mp.get_context("spawn")) as pool:
        running: dict[Any, tuple[str, int, Path]] = {}
        while todo or running:
            for job in list(todo):
                method, seed, _ = job
                plain = results.get(("plain", seed))
                if len(running) >= jobs:
                    break
                if method_of(method).needs_plain and plain is None:
                    continue
                todo.remove(job)
                recalls = plain and plain["holdout_recalls"]
                running[pool.submit(_job, method, seed, settings, source, recalls)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                method, seed, path = running.pop(future)
                result = results[method, seed] = future.result()
                path.write_text(json.dumps({"settings": settings, "result": result}))
                recalls = np.array(result["recalls_decided"])
                print(
                    f"seed {seed}  {method:28} {result['seconds']:6.0f} s   decided: mean "
                    f"{recalls.mean():.3f}  sd {recalls.std():.3f}  lowest {recalls.min():.3f}",
                    flush=True,
                )
    return [results[m, s] for m in methods for s in range(seeds) if (m, s) in results]


def _name(text: str) -> str:
    try:
        method_of(text)
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", choices=SETS, default="digits")
    parser.add_argument("--data", default="cifar10", help="cifar10 (downloads it), or an .npz")
    parser.add_argument("--method", nargs="+", type=_name, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--net", choices=["small", "resnet9"], default="small")
    parser.add_argument("--width", type=int, help="channels of the first convolution")
    parser.add_argument("--no-bf16", dest="bf16", action="store_false")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pilot", action="store_true", help="test on training images instead")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--table", action="store_true", help="only report what is finished")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    settings = SETS[args.set] | {
        name: getattr(args, name) for name in ("set", "lr", "net", "bf16", "device", "pilot")
    }
    if args.net == "resnet9":
        settings |= {"width": 64, "epochs": 24, "batch_size": 512}
    settings |= {k: getattr(args, k) for k in ("epochs", "batch_size", "width") if getattr(args, k)}
    methods = list(dict.fromkeys(args.method))
    if any(method_of(m).needs_plain for m in methods) and "plain" not in methods:
        methods.insert(0, "plain")
    name = f"{args.set}{'' if args.net == 'small' else '-' + args.net}"
    data = load(args.set, args.data, args.pilot)
    support = {part: np.bincount(data[part][1]).tolist() for part in ("train", "holdout", "test")}
    print("\n".join(f"{part:8} {sum(n):,} images: {n}" for part, n in support.items()), flush=True)
    folder = args.out / (name + ("-pilot" if args.pilot else ""))
    results = run_all(methods, args.seeds, settings, args.data, folder, args.jobs, args.table)
    methods = [m for m in methods if any(r["method"] == m for r in results)]
    record = {
        "settings": settings,
        "classes": data["classes"],
        "support": support,
        "methods": {m: method_of(m).what for m in methods},
        "results": results,
    }
    write_report(record, folder.name, folder if args.pilot else args.results, DEFAULT)


if __name__ == "__main__":
    main()
