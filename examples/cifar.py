"""Equal recalls on CIFAR-10 (or digits, or any .npz): plain training and Balancers side by side.

    python examples/cifar.py --data cifar10.npz --method plain equal-recall --seeds 3

Trains a small convolutional net once for each method and seed, then prints mean, standard deviation
and minimum of the per-class recalls (true-positive rates) on the test images, as trained and with
the decision fitted on the hold-out, and draws a bar for each class and method.

What it takes and reaches is in benchmarks/README.md. One file, to copy from: the lines that use
equipoise are in `train`.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing as mp
import sys
import time
from collections import defaultdict
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from equipoise import Balancer, holdout_split
from equipoise.weighting import ClassDifficulty, RecallPower

METHODS = {
    "plain": "plain shuffling and cross-entropy",
    "recall-power-loss": "loss weights (r̄ / r)^4 from the recalls of the plain run",
    "recall-power-sampling": "the same weights on the sampler",
    "class-difficulty": "loss weights from 1 − recall, each epoch (CDB)",
    "equal-recall": "closed loop, each epoch: half of the weights draw, half shift logits",
}


def make_balancer(method: str, labels: np.ndarray, plain_recalls: list | None, **options):
    """The one line that differs between the methods."""
    if method == "plain":
        return Balancer(labels, policy="plain", **options)
    if method == "recall-power-loss":
        return Balancer(labels, RecallPower(4, recalls=plain_recalls), sampler=None, **options)
    if method == "recall-power-sampling":
        return Balancer(labels, RecallPower(4, recalls=plain_recalls), **options)
    if method == "class-difficulty":
        return Balancer(labels, ClassDifficulty(), sampler=None, **options)
    return Balancer(labels, **options)


# ---------------------------------------------------------------------------------------- data


def load_data(name: str) -> dict:
    """Images `(N, H, W, 3)` uint8 and labels `(N,)` for training and test.

    Of the digits, the higher ones are made rare in training: 9 comes a fifth as often as 0.
    """
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = (digits.images * (255 / 16)).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
        images = np.repeat(grey[..., None], 3, axis=-1)
        train, test = holdout_split(digits.target, 600)
        train = thin(train, digits.target, rarest=0.2)
        arrays = [images[train], digits.target[train], images[test], digits.target[test]]
        names = [str(i) for i in range(10)]
    elif name == "cifar10":
        from torchvision.datasets import CIFAR10

        sets = [CIFAR10("data", train=train, download=True) for train in (True, False)]
        arrays = [part for s in sets for part in (s.data, np.array(s.targets))]
        names = sets[0].classes
    else:
        z = np.load(name, allow_pickle=False)
        arrays = [z[key] for key in ("x_train", "y_train", "x_test", "y_test")]
        names = z["class_names"].tolist() if "class_names" in z else None
    x_train, y_train, x_test, y_test = arrays
    if x_train.ndim == 3:
        x_train, x_test = (np.repeat(x[..., None], 3, axis=-1) for x in (x_train, x_test))
    y_train, y_test = y_train.reshape(-1).astype(np.int64), y_test.reshape(-1).astype(np.int64)
    return {
        "train": (x_train, y_train),
        "test": (x_test, y_test),
        "classes": names or [str(i) for i in range(int(y_train.max()) + 1)],
    }


def thin(indices: np.ndarray, labels: np.ndarray, rarest: float) -> np.ndarray:
    """Class 0 whole, the last class a share `rarest` of itself, those between on a geometric scale.

    The digits are too easy to be learnt unequally: this makes some of them rare.
    """
    classes = labels[indices]
    place = np.zeros(len(indices))
    for c, count in enumerate(np.bincount(classes)):
        place[classes == c] = np.arange(count) / count
    return indices[place < rarest ** (classes / classes.max())]


class Images(Dataset):
    """Arrays as a data set that hands out whole batches (`__getitems__`)."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.images[index], self.labels[index], index

    def __getitems__(self, indices: list[int]):
        index = torch.tensor(indices)
        return self.images[index], self.labels[index], index


def make_loader(kind: str, images, labels, balancer: Balancer, batch_size: int, cache: Path):
    """A training loader in the balancer's order: FFCV's, or torch's."""
    if kind == "torch":
        return DataLoader(
            Images(images, labels), batch_size, sampler=balancer.sampler, collate_fn=lambda b: b
        )
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader
    from ffcv.transforms import Squeeze, ToTensor

    from equipoise.ffcv import BalancedLoader

    loader = Loader(
        str(cache),
        batch_size,
        num_workers=1,
        os_cache=True,
        order=balancer.order,
        pipelines={
            "image": [SimpleRGBImageDecoder(), ToTensor()],
            "label": [IntDecoder(), ToTensor(), Squeeze(1)],
        },
    )
    return BalancedLoader(loader, with_indices=True)


class Prepared:
    """A loader's batches as the model takes them: augmented, on the device, with their indices."""

    def __init__(self, loader, seed: int, settings: dict) -> None:
        self.loader, self.settings = loader, settings
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        device, flip = self.settings["device"], self.settings["flip"]
        for images, labels, indices in self.loader:
            inputs = augment(to_input(images, "cpu"), self.generator, flip)
            yield inputs.to(device), labels.to(device), indices.to(device)


# --------------------------------------------------------------------------------------- model


def small_net(classes: int, width: int) -> nn.Module:
    """Four 3×3 convolutions with batch norm, the mean over the image, and one linear layer."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(3, width, 1),
        *block(width, 2 * width, 2),
        *block(2 * width, 4 * width, 2),
        *block(4 * width, 4 * width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    ).to(memory_format=torch.channels_last)


def to_input(images: torch.Tensor, device: str) -> torch.Tensor:
    return images.to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def augment(images: torch.Tensor, generator: torch.Generator, flip: bool) -> torch.Tensor:
    """A random shift by up to an eighth for the batch's images, and a mirror image of half."""
    size = images.shape[-1]
    pad = size // 8
    padded = nn.functional.pad(images, (pad,) * 4)
    shifts = torch.randint(0, 2 * pad + 1, (2, len(images)), generator=generator)
    steps = torch.arange(size)
    rows = (shifts[0][:, None] + steps)[:, :, None]
    columns = shifts[1][:, None] + steps
    if flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    batch = torch.arange(len(images))[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[batch, rows, columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


@torch.no_grad()
def predict(model: nn.Module, images: np.ndarray, settings: dict) -> torch.Tensor:
    model.eval()
    parts = torch.from_numpy(images).split(1000)
    with autocast(settings):
        return torch.cat([model(to_input(p, settings["device"])).float() for p in parts])


def autocast(settings: dict):
    return torch.autocast(settings["device"], torch.bfloat16, enabled=settings["bf16"])


def recalls_of(predicted: torch.Tensor, labels: np.ndarray, classes: int) -> list[float]:
    from sklearn.metrics import recall_score

    return recall_score(
        labels, predicted.cpu().numpy(), labels=range(classes), average=None, zero_division=0
    ).tolist()


# ------------------------------------------------------------------------------------ training


def train(method: str, seed: int, data: dict, settings: dict, plain_recalls: list | None, tick):
    """Train once; recalls on hold-out and test, as trained and with the fitted decision."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    images, labels = data["train"]
    kept, held = holdout_split(labels, settings["holdout"], seed=0)
    held_images, held_labels = images[held], torch.from_numpy(labels[held])
    classes, device = len(data["classes"]), settings["device"]

    balancer = make_balancer(
        method, labels[kept], plain_recalls, mining=settings["mining"], seed=seed
    )
    cache = Path(settings["out"]) / f"train-{settings['data_key']}.beton"
    loader = make_loader(
        settings["loader"], images[kept], labels[kept], balancer, settings["batch_size"], cache
    )
    model = small_net(classes, settings["width"]).to(device)
    decay = min(0.99, 1 - 3 / len(loader))  # of averages over at most a third of an epoch
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings["lr"], momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = len(loader)
    if settings["mining"] == "selective-backprop":
        steps = math.ceil(steps * balancer.mining.keep) + 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings["lr"], total_steps=settings["epochs"] * steps, pct_start=0.2
    )
    batches = Prepared(loader, seed, settings)
    for _ in range(settings["epochs"]):
        model.train()
        for inputs, targets, indices in balancer.mine(batches, model):
            with autocast(settings):
                logits = model(inputs)
            loss = balancer.loss(logits.float(), targets, indices)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            averaged.update_parameters(model)
        # The averaged weights settle sooner than the last ones, so they give the feedback.
        balancer.observe(predict(averaged, held_images, settings), held_labels)
        balancer.step()
        tick()

    held_logits = predict(averaged, held_images, settings)
    test_logits = predict(averaged, data["test"][0], settings)
    held_recalls = recalls_of(held_logits.argmax(1), labels[held], classes)
    as_trained = recalls_of(balancer.decide(test_logits), data["test"][1], classes)
    balancer.fit_decision(held_logits, held_labels, objective="equal-recall")
    decided = recalls_of(balancer.decide(test_logits), data["test"][1], classes)
    return {
        "method": method,
        "seed": seed,
        "recalls": as_trained,
        "recalls_decided": decided,
        "holdout_recalls": held_recalls,
        "holdout_support": np.bincount(labels[held]).tolist(),
        "test_support": np.bincount(data["test"][1]).tolist(),
        "history": balancer.history,
        "seconds": time.perf_counter() - began,
    }


_DATA: dict = {}  # each worker process loads the data once


def _start_worker(settings: dict, counter) -> None:
    torch.set_num_threads(settings["threads"])
    _DATA.update(data=load_data(settings["data"]), counter=counter)


def _tick() -> None:
    with _DATA["counter"].get_lock():
        _DATA["counter"].value += 1


def _job(method: str, seed: int, settings: dict, plain_recalls: list | None) -> dict:
    return train(method, seed, _DATA["data"], settings, plain_recalls, _tick)


def run_all(methods: list[str], settings: dict, console: Console) -> list[dict]:
    """Every method with every seed; methods that need the plain run's recalls wait for it."""
    context = mp.get_context("spawn")
    counter = context.Value("i", 0)
    todo = [(m, s) for s in range(settings["seeds"]) for m in methods]
    results: list[dict] = []
    columns = ("[bold]{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        ProcessPoolExecutor(settings["jobs"], context, _start_worker, (settings, counter)) as pool,
        Progress(*columns, console=console) as progress,
    ):
        bar = progress.add_task("epochs", total=len(todo) * settings["epochs"])
        running = set()
        plain: dict[int, list] = {}
        while todo or running:
            for method, seed in list(todo):
                if len(running) >= settings["jobs"]:
                    break
                if "recall-power" in method and seed not in plain:
                    continue
                todo.remove((method, seed))
                running.add(pool.submit(_job, method, seed, settings, plain.get(seed)))
            done, running = wait(running, timeout=0.3, return_when=FIRST_COMPLETED)
            progress.update(bar, completed=counter.value)
            for future in done:
                result = future.result()
                results.append(result)
                if result["method"] == "plain":
                    plain[result["seed"]] = result["holdout_recalls"]
        progress.update(bar, completed=counter.value)
    return sorted(results, key=lambda r: (methods.index(r["method"]), r["seed"]))


# ------------------------------------------------------------------------------------- results


def noise_floor(results: list[dict]) -> float:
    """Standard deviation of recalls that sampling noise alone leaves, √mean r(1−r)(1/n + 1/m)."""
    decided = np.array([r["recalls_decided"] for r in results if r["method"] != "plain"] or [0.5])
    mean = decided.mean()
    n, m = (np.array(results[0][k]) for k in ("holdout_support", "test_support"))
    return float(np.sqrt(mean * (1 - mean) * np.mean(1 / n + 1 / m)))


def summary(results: list[dict], key: str) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean over the seeds, and their standard deviation, of each figure and method."""
    rows = defaultdict(list)
    for result in results:
        recalls = np.array(result[key])
        rows[result["method"]].append((recalls.mean(), recalls.std(), recalls.min()))
    figures = {}
    for method, values in rows.items():
        array = np.array(values)
        spread = array.std(0, ddof=1) if len(array) > 1 else np.full(3, np.nan)
        names = ("mean", "sd", "lowest")
        figures[method] = dict(zip(names, zip(array.mean(0), spread, strict=True), strict=True))
    return figures


def plus_minus(spread: float) -> str:
    return "" if np.isnan(spread) else f" ±{spread:.3f}"


def print_table(results: list[dict], console: Console) -> None:
    trained, decided = summary(results, "recalls"), summary(results, "recalls_decided")
    seconds = defaultdict(list)
    for result in results:
        seconds[result["method"]].append(result["seconds"])
    table = Table(title="Recalls on the test images (± sd over the seeds)")
    table.add_column("method", no_wrap=True)
    for part in ("", "decided\n"):
        for name in ("mean", "sd", "lowest"):
            table.add_column(f"{part}{name}", justify="right", vertical="bottom")
    table.add_column("seconds\na run", justify="right")
    for method in trained:
        cells = [
            f"{figures[method][name][0]:.3f}{plus_minus(figures[method][name][1])}"
            for figures in (trained, decided)
            for name in ("mean", "sd", "lowest")
        ]
        table.add_row(method, *cells, f"{np.mean(seconds[method]):.0f}")
    console.print(table)
    console.print(
        "decided: with the decision fitted on the hold-out. "
        f"Sampling noise alone leaves an sd of {noise_floor(results):.3f} (hold-out and test)."
    )


def draw(results: list[dict], classes: list[str], path: Path) -> None:
    """A group of bars for each class: plain as trained, then each method with its decision."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    series = {}
    for method in dict.fromkeys(r["method"] for r in results):
        mine = [r for r in results if r["method"] == method]
        key = "recalls" if method == "plain" else "recalls_decided"
        name = method if method == "plain" else f"{method} + decision"
        series[name] = np.mean([r[key] for r in mine], axis=0)
    order = np.argsort(next(iter(series.values())))
    figure, axes = plt.subplots(figsize=(max(7, 0.9 * len(classes) + 1), 4), layout="constrained")
    width = 0.8 / len(series)
    colours = ["#9aa3ad", "#e0a458", "#c2703d", "#7a9e7e", "#2f6f9f"]
    if len(series) == 2:
        colours = [colours[0], colours[-1]]
    for i, (name, values) in enumerate(series.items()):
        at = np.arange(len(classes)) + (i - (len(series) - 1) / 2) * width
        label = f"{name}  (mean {values.mean():.3f}, sd {values.std():.3f})"
        axes.bar(at, values[order], width, label=label, color=colours[i % len(colours)])
    axes.set_xticks(range(len(classes)), [classes[i] for i in order])
    axes.set_ylabel("recall on test images")
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=min(2, len(series)), frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="digits", help="digits, cifar10, or a path to an .npz")
    parser.add_argument("--loader", choices=["torch", "ffcv"], default="torch")
    parser.add_argument(
        "--method", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD",
        help="; ".join(f"{name}: {what}" for name, what in METHODS.items()),
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--mining",
        choices=["hardest-examples", "selective-backprop", "loss-pruning"],
        help="learn from the hard half of each batch, or of what is drawn",
    )
    parser.add_argument(
        "--holdout", type=float, help="share of the training images (.1; digits: .35)"
    )
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument(
        "--width", type=int, help="channels of the first convolution (24; digits: 8)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--out", default="runs/cifar", help="folder for table, picture and JSON")
    args = parser.parse_args()

    console = Console() if sys.stdout.isatty() else Console(width=130)
    methods = list(dict.fromkeys(args.method))
    if any("recall-power" in m for m in methods) and "plain" not in methods:
        methods.insert(0, "plain")
    data = load_data(args.data)
    images, labels = data["train"]
    key = args.data if args.data in ("digits", "cifar10") else Path(args.data).stem
    small = len(labels) < 5000
    settings = vars(args) | {
        "data_key": key,
        # Small data wants a small net to have something to balance, and a hold-out that can tell.
        "batch_size": args.batch_size or (32 if small else 128),
        "width": args.width or (8 if small else 24),
        "holdout": args.holdout or (0.35 if small else 0.1),
        "bf16": True,
        "flip": args.data != "digits",
        "jobs": min(args.jobs, args.seeds * len(methods)),
    }
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    kept, held = holdout_split(labels, settings["holdout"], seed=0)
    if args.data == "digits":
        console.print("Digits with rare classes: in training, 9 comes a fifth as often as 0.")
    console.print(
        f"{key}: {len(kept):,} training, {len(held):,} hold-out and {len(data['test'][1]):,} test "
        f"images of {len(data['classes'])} classes, through {args.loader} on {args.device}"
    )
    if args.loader == "ffcv":
        from equipoise.ffcv import write

        write((images[kept], labels[kept]), out / f"train-{key}.beton")
    results = run_all(methods, settings, console)
    print_table(results, console)
    record = {"settings": settings, "classes": data["classes"], "results": results}
    (out / "results.json").write_text(json.dumps(record, indent=1))
    draw(results, data["classes"], out / "recalls.png")
    console.print(f"Picture: {out / 'recalls.png'}   Figures: {out / 'results.json'}")


if __name__ == "__main__":
    main()
