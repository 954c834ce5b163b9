"""Training of the runs: each leaves its logits on hold-out and test in the runs folder."""

from __future__ import annotations

import json
import math
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.evidence.methods import Task, method_of
from equipoise import Balancer, holdout_split
from examples import harness

SETS: dict[str, dict[str, Any]] = {
    "digits": dict(epochs=15, batch_size=32, width=8, holdout=0.35, flip=False),
    "cifar10": dict(epochs=12, batch_size=128, width=16, holdout=0.1, flip=True),
    "cifar10-lt": dict(epochs=15, batch_size=128, width=16, holdout=0.1, flip=True),
    "cifar10-lt-own": dict(epochs=15, batch_size=128, width=16, holdout=0.2, flip=True),
    "cifar100": dict(epochs=20, batch_size=128, width=32, holdout=0.2, flip=True),
}
NETS = {"small": harness.small_net, "resnet9": harness.resnet9}


@cache
def load(name: str, source: str, pilot: bool) -> dict[str, Any]:
    """Images (uint8) and labels for training, hold-out and test, and the classes' names."""
    data = harness.load_images("digits" if name == "digits" else source)
    images, labels = data["train"]
    test = data["test"]
    usable = np.arange(len(labels))
    if pilot:
        usable, tested = holdout_split(labels, 0.2, seed=1)
        test = images[tested], labels[tested]
    if name == "cifar10-lt-own":
        usable = harness.thin(usable, labels, rarest=0.01)
    kept, held = (usable[part] for part in holdout_split(labels[usable], SETS[name]["holdout"]))
    if name == "cifar10-lt":
        kept = harness.thin(kept, labels, rarest=0.01)
    return {
        "train": (images[kept], labels[kept]),
        "holdout": (images[held], labels[held]),
        "test": test,
        "classes": list(data["classes"]),
    }


def make_net(settings: dict[str, Any], classes: int, normed: bool) -> torch.nn.Sequential:
    """The network; `normed` for a loss that has a scale of its own."""
    head, scale = ("cosine", 1.0) if normed else (settings["head"], settings["scale"])
    return NETS[settings["net"]](classes, settings["width"], head, scale).to(settings["device"])


def train(
    method: str, seed: int, data: dict[str, Any], settings: dict[str, Any], plain: list | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """One run: float32 logits on hold-out and test with their labels; and what is told of it.

    "shift" `(C,)` is what `Balancer.correct` adds to logits, up to a constant.
    """
    began, worked = time.perf_counter(), time.process_time()
    torch.manual_seed(seed)
    device, epochs, batch_size = (settings[k] for k in ("device", "epochs", "batch_size"))
    images, held, tested = (
        torch.from_numpy(data[part][0]).to(device) for part in ("train", "holdout", "test")
    )
    (_, y), (_, held_y), (_, test_y) = (data[part] for part in ("train", "holdout", "test"))
    labels, held_labels = (torch.from_numpy(part).to(device) for part in (y, held_y))
    classes, steps = len(data["classes"]), math.ceil(len(labels) / batch_size)

    counts = np.bincount(y, minlength=classes)
    parts = method_of(method).balancer(Task(counts, steps, epochs, plain))
    balancer = Balancer(y, **parts, seed=seed)
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
            inputs = harness.to_input(harness.augment(images[index], generator, settings["flip"]))
            with harness.autocast(device, settings["bf16"]):
                logits = model(inputs)
            balancer.loss(logits.float(), labels[index]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            averaged.update_parameters(model)
        if balancer.policy.needs_recalls:  # the averaged weights settle sooner than the last ones
            balancer.observe(harness.predict(averaged, held, settings["bf16"]), held_labels)
        balancer.step()

    held_z, test_z = (harness.predict(averaged, x, settings["bf16"]) for x in (held, tested))
    arrays = {
        "held": held_z.cpu().numpy(),
        "test": test_z.cpu().numpy(),
        "held_y": held_y,
        "test_y": test_y,
        "shift": balancer.correct(torch.zeros(1, classes))[0].double().numpy(),
    }
    return arrays, {
        "method": method,
        "seed": seed,
        "recalls": harness.recalls_of(test_z.argmax(1), test_y, classes),
        "holdout_recalls": harness.recalls_of(held_z.argmax(1), held_y, classes),
        "log_weight": [row["log_weight"] for row in balancer.history],
        "sd_recall": [row.get("sd_recall") for row in balancer.history],
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - worked,
    }


def _job(settings: dict[str, Any], source: str, method: str, seed: int, plain: list | None):
    data = load(settings["set"], source, settings["pilot"])
    return train(method, seed, data, settings, plain)


def path_of(folder: Path, method: str, seed: int) -> Path:
    """Of a run's JSON; its logits lie beside it as .npz."""
    return folder / f"{method.replace(',', '').replace(' ', '-')}-{seed}.json"


def finished(
    folder: Path, methods: list[str], seeds: int, settings: dict[str, Any]
) -> dict[tuple[str, int], dict[str, Any]]:
    """What is told of the runs in the folder that were made with these settings."""
    found = {}
    for method, seed in [(m, s) for s in range(seeds) for m in methods]:
        path = path_of(folder, method, seed)
        if path.exists() and path.with_suffix(".npz").exists():
            run = json.loads(path.read_text())
            if run["settings"] == settings:
                found[method, seed] = run["result"]
    return found


def train_all(
    folder: Path, methods: list[str], seeds: int, settings: dict[str, Any], source: str, jobs: int
) -> None:
    """Train what is not finished yet, seeds outermost, and write each run as it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    done = finished(folder, methods, seeds, settings)
    todo = [(m, s) for s in range(seeds) for m in methods if (m, s) not in done]
    runs = harness.run_all(
        partial(_job, settings, source),
        todo,
        jobs=jobs,
        after_plain={m for m in methods if method_of(m).needs_plain},
        plain={s: run["holdout_recalls"] for (m, s), run in done.items() if m == "plain"},
    )
    for method, seed, (arrays, result) in runs:
        path = path_of(folder, method, seed)
        np.savez_compressed(path.with_suffix(".npz"), **arrays)
        path.write_text(json.dumps({"settings": settings, "result": result}))
        mean, sd, lowest = harness.figures(result["recalls"])
        print(
            f"seed {seed}  {method:28} {result['seconds']:6.0f} s   as trained: mean {mean:.3f}  "
            f"sd {sd:.3f}  lowest {lowest:.3f}",
            flush=True,
        )
