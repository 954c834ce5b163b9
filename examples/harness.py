"""What the examples and benchmarks on images share: data, networks, processes, tables, pictures.

Nothing here is about equipoise, which is why it does not stand in the examples.
"""

from __future__ import annotations

import csv
import multiprocessing as mp
import warnings
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table
from torch import nn
from torch.utils.data import Dataset

from equipoise import holdout_split

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
FIGURES = ("mean", "sd", "lowest")
COLOURS = ("#9aa3ad", "#2f6f9f", "#c2703d", "#7a9e7e", "#e0a458", "#8c6bb1", "#444444")

# ---------------------------------------------------------------------------------------- data


@cache
def load_images(source: str, size: int = 64) -> dict[str, Any]:
    """Images `(N, H, W, 3)` uint8 and labels `(N,)`: "train", "test", and names of the "classes".

    `source` is one of

    * digits: scikit-learn's, made uneven: in training, 9 comes a fifth as often as 0;
    * cifar10: downloaded by torchvision;
    * an `.npz` with x_train, y_train and, if there is a test set, x_test, y_test; names in
      class_names or classes;
    * a folder of images: a folder for each class, or train and test (or val) with such folders, or
      a labels.csv with a file name and a class in each row. Images are scaled and cut to `size`.

    Where there is no test set, a stratified fifth is taken.
    """
    if source == "digits":
        return _digits()
    if source == "cifar10":
        from torchvision.datasets import CIFAR10

        sets = [CIFAR10("data", train=train, download=True) for train in (True, False)]
        x, y = [s.data for s in sets], [np.array(s.targets) for s in sets]
        names = sets[0].classes
    elif Path(source).is_dir():
        x, y, names = _folder(Path(source), size)
    else:
        z = np.load(source, allow_pickle=False)
        parts = [part for part in ("train", "test") if f"x_{part}" in z]
        x = [_as_images(z[f"x_{part}"]) for part in parts]
        y = [z[f"y_{part}"].reshape(-1) for part in parts]
        names = next((z[key].tolist() for key in ("class_names", "classes") if key in z), None)
    if y[0].dtype.kind == "U":
        names, ids = np.unique(np.concatenate(y), return_inverse=True)
        names, y = names.tolist(), np.split(ids, [len(y[0])])
    if len(x) == 1:
        train, test = holdout_split(y[0], 0.2, seed=1)
        x, y = [x[0][train], x[0][test]], [y[0][train], y[0][test]]
    names = names or [str(c) for c in range(int(max(part.max() for part in y)) + 1)]
    train, test = zip(x, (part.astype(np.int64) for part in y), strict=True)
    return {"train": train, "test": test, "classes": names}


def _digits() -> dict[str, Any]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = (digits.images * (255 / 16)).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    images, labels = _as_images(grey), digits.target.astype(np.int64)
    train, test = holdout_split(labels, 600)
    train = thin(train, labels, rarest=0.2)  # too easy to be learnt unequally as they are
    names = [str(c) for c in range(10)]
    pairs = {"train": (images[train], labels[train]), "test": (images[test], labels[test])}
    return pairs | {"classes": names}


@cache
def load_scenes(source: str, void: int) -> dict[str, Any]:
    """Images `(N, 3, H, W)` uint8 and class ids of their pixels: "train", "val", "test"; "classes".

    `source` is digits, pasted on noisy canvases, or an `.npz` with x_train `(N, H, W, 3)` and
    y_train `(N, H, W)`, x_val, …, and names in classes. The class id `void` becomes −100.
    """
    if source == "digits":
        return _pasted_digits()
    z, data = np.load(source, allow_pickle=False), {}
    for part in ("train", "val", "test"):
        labels = torch.from_numpy(z[f"y_{part}"].astype(np.int64))
        labels[labels == void] = -100
        data[part] = (torch.from_numpy(z[f"x_{part}"]).permute(0, 3, 1, 2).contiguous(), labels)
    number = int(max(labels.max() for _, labels in data.values())) + 1
    return data | {"classes": z["classes"].tolist() if "classes" in z else list(range(number))}


def _pasted_digits(size: int = 64) -> dict[str, Any]:
    """Class 0 is the ground; 0 is pasted often and 9 rarely, each part with digits of its own."""
    from sklearn.datasets import load_digits

    digits, data = load_digits(), {}
    share = 0.65 ** np.arange(10)
    for part, number, first, last in (("train", 300, 0, 900), ("val", 100, 900, 1300),
                                      ("test", 200, 1300, 1797)):  # fmt: skip
        rng = np.random.default_rng(first)
        ids = [first + np.flatnonzero(digits.target[first:last] == d) for d in range(10)]
        images = rng.integers(0, 90, (number, size, size))
        labels = np.zeros((number, size, size), np.int64)
        for image, label in zip(images, labels, strict=True):
            for d in rng.choice(10, 6, p=share / share.sum()):
                ink = digits.images[rng.choice(ids[d])].repeat(2, 0).repeat(2, 1)
                row, column = rng.integers(0, size - 16, 2)
                where = np.s_[row : row + 16, column : column + 16]
                image[where] = np.maximum(image[where], ink * rng.uniform(6, 14))
                label[where] = np.where(ink > 4, d + 1, label[where])
        grey = torch.from_numpy(images.astype(np.uint8))[:, None].expand(-1, 3, -1, -1)
        data[part] = (grey.contiguous(), torch.from_numpy(labels))
    return data | {"classes": ["ground", *map(str, range(10))]}


def thin(indices: np.ndarray, labels: np.ndarray, rarest: float) -> np.ndarray:
    """Class 0 whole, the last class a share `rarest` of itself, those between on a geometric scale.

    Of each class the first ones are kept.
    """
    classes = labels[indices]
    place = np.zeros(len(indices))
    for c, count in enumerate(np.bincount(classes)):
        place[classes == c] = np.arange(count) / count
    return indices[place < rarest ** (classes / classes.max())]


def _as_images(x: np.ndarray) -> np.ndarray:
    """Images as uint8 in colour: from grey ones, from channels first, from floats."""
    if x.ndim == 3:
        x = x[..., None]
    if x.shape[-1] not in (1, 3) and x.shape[1] in (1, 3):
        x = x.transpose(0, 2, 3, 1)
    if x.dtype != np.uint8:
        x = (x * (255 if x.max() <= 1 else 1)).astype(np.uint8)
    return np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x


def _folder(folder: Path, size: int) -> tuple[list[np.ndarray], list[np.ndarray], list[str] | None]:
    if (folder / "labels.csv").is_file():
        with (folder / "labels.csv").open(newline="", encoding="utf-8-sig") as file:
            rows = [(folder / row[0], row[1]) for row in csv.reader(file) if row][1:]
        parts = [rows]
    else:
        roots = [folder / part for part in ("train", "test", "val") if (folder / part).is_dir()]
        parts = [
            [(path, path.relative_to(root).parts[0]) for path in sorted(root.glob("*/**/*"))]
            for root in (roots or [folder])[:2]
        ]
    x, y, broken = [], [], []
    for rows in parts:
        images = []
        for path, label in rows:
            if path.is_dir() or path.suffix.lower() not in (*ENDINGS, ""):
                continue
            try:
                images.append((_decode(path, size), label))
            except OSError:
                broken.append(str(path.relative_to(folder)))
        if not images:
            raise ValueError(f"Expected {folder} to hold a folder of images for each class.")
        x.append(np.stack([image for image, _ in images]))
        y.append(np.array([label for _, label in images]))
    if broken:
        warnings.warn(f"{len(broken)} images were left out: {', '.join(broken)}", stacklevel=2)
    return x, y, None


def _decode(path: Path, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    if not path.suffix:  # an id
        path = next((found for e in ENDINGS if (found := path.with_suffix(e)).is_file()), path)
    with Image.open(path) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size)))


class Arrays(Dataset):
    """Inputs and labels as a data set that hands out whole batches, with their indices."""

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, ...]:
        index = torch.tensor(indices)
        return self.inputs[index], self.labels[index], index


def augment(images: torch.Tensor, generator: torch.Generator, flip: bool) -> torch.Tensor:
    """uint8 `(B, H, W, 3)`, shifted by up to an eighth; `flip` mirrors half of them."""
    batch, size, device = len(images), images.shape[1:3], images.device
    pad = min(size) // 8
    padded = nn.functional.pad(images, (0, 0, pad, pad, pad, pad), value=128)
    shifts = torch.randint(2 * pad + 1, (2, batch, 1), generator=generator, device=device)
    rows, columns = (
        shift + torch.arange(n, device=device) for shift, n in zip(shifts, size, strict=True)
    )
    if flip:
        mirrored = torch.rand(batch, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    example = torch.arange(batch, device=device)[:, None, None]
    return padded[example, rows[:, :, None], columns[:, None, :]]


def to_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 `(B, H, W, 3)` as float32 planes from −1 to 1."""
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class Prepared:
    """A loader's batches as the network takes them: on the device, augmented, from −1 to 1."""

    def __init__(self, loader: Any, seed: int, device: str, flip: bool) -> None:
        self.loader, self.device, self.flip = loader, device, flip
        self.generator = torch.Generator(device).manual_seed(seed)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        for images, labels, indices in self.loader:
            images = augment(images.to(self.device), self.generator, self.flip)
            yield to_input(images), labels.to(self.device), indices


# ---------------------------------------------------------------------------------------- nets


def small_net(classes: int, width: int, head: str = "linear", scale: float = 16) -> nn.Sequential:
    """Four 3×3 convolutions with batch norm, the mean over the image, and a last layer."""
    w = width
    layers = [*_block(3, w), *_block(w, 2 * w, 2), *_block(2 * w, 4 * w, 2), *_block(4 * w, 4 * w)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), last_layer(4 * w, classes, head, scale)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def resnet9(classes: int, width: int, head: str = "linear", scale: float = 16) -> nn.Sequential:
    """Page's ResNet-9 (DAWNBench 2018): about 94% on CIFAR-10 in 24 epochs with width 64."""
    w = width
    layers = [*_block(3, w), *_block(w, 2 * w), nn.MaxPool2d(2), Residual(2 * w)]
    layers += [*_block(2 * w, 4 * w), nn.MaxPool2d(2)]
    layers += [*_block(4 * w, 8 * w), nn.MaxPool2d(2), Residual(8 * w)]
    layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten(), last_layer(8 * w, classes, head, scale)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def _block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


class Residual(nn.Module):
    """x plus what two convolutions make of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*_block(channels, channels), *_block(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class UNet(nn.Module):
    """Logits of every pixel, from four levels below full size. Width 20: 359,000 weights."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        widths = [width * k for k in (1, 2, 3, 4)]
        pairs = list(pairwise(widths))
        self.stem = nn.Sequential(nn.Conv2d(3, width, 5, 2, 2), nn.BatchNorm2d(width), nn.ReLU())
        first = nn.Sequential(*_block(width, width, 1), *_block(width, width, 1))
        steps = (nn.Sequential(*_block(a, b, 2), *_block(b, b, 1)) for a, b in pairs)
        self.down = nn.ModuleList([first, *steps])
        self.up = nn.ModuleList(
            nn.Sequential(*_block(a + b, a, 1), *_block(a, a, 1)) for a, b in pairs
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels, size = [self.stem(x)], x.shape[2:]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in reversed(self.up):
            beside = levels.pop()
            x = up(torch.cat([beside, nn.functional.interpolate(x, size=beside.shape[2:])], 1))
        return nn.functional.interpolate(self.head(x), size=size, mode="bilinear")


def last_layer(features: int, classes: int, head: str, scale: float) -> nn.Module:
    """ "linear", or "cosine": features and class vectors are normalised, logits are scale · cos."""
    if head == "linear":
        return nn.Linear(features, classes)
    from equipoise.losses import CosineClassifier

    return CosineClassifier(features, classes, scale=scale)


def autocast(device: str, bf16: bool = True) -> torch.autocast:
    """bfloat16 for the network, where it is asked for."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16)


@torch.no_grad()
def predict(model: nn.Module, images: torch.Tensor, bf16: bool = True) -> torch.Tensor:
    """Logits of uint8 images, which lie on the model's device."""
    model.eval()
    with autocast(images.device.type, bf16):
        return torch.cat([model(to_input(part)).float() for part in images.split(1000)])


# --------------------------------------------------------------------------------------- figures


def recalls_of(predicted: torch.Tensor, labels: np.ndarray, classes: int) -> list[float]:
    """Of each class; NaN for a class without an example."""
    hit = predicted.cpu().numpy() == labels
    support = np.bincount(labels, minlength=classes)
    with np.errstate(invalid="ignore"):
        return (np.bincount(labels[hit], minlength=classes) / support).tolist()


def figures(recalls: Any) -> np.ndarray:
    """Mean, standard deviation and lowest of the classes' recalls, on the last axis."""
    r = np.asarray(recalls, float)
    return np.stack([np.nanmean(r, -1), np.nanstd(r, -1), np.nanmin(r, -1)], -1)


def noise_floor(recall: float, *supports: Any) -> float:
    """Sd of equal recalls that sampling noise leaves, √mean r(1−r)(1/n_holdout + 1/n_test)."""
    variance = recall * (1 - recall) * sum(1 / np.maximum(np.asarray(n), 1) for n in supports)
    return float(np.sqrt(np.mean(variance)))


# -------------------------------------------------------------------------------------- processes

_COUNTER: Any = None


def _start(counter: Any, threads: int) -> None:
    global _COUNTER
    _COUNTER = counter
    torch.set_num_threads(threads)


def tick() -> None:
    """To be called at the end of an epoch, for the progress bar."""
    if _COUNTER is not None:
        with _COUNTER.get_lock():
            _COUNTER.value += 1


def run_all(
    train: Callable[[str, int, Any], Any],
    todo: list[tuple[str, int]],
    *,
    jobs: int = 1,
    threads: int = 1,
    after_plain: Collection[str] = (),
    plain: dict[int, Any] | None = None,
    epochs: int = 1,
    console: Console | None = None,
) -> Iterator[tuple[str, int, Any]]:
    """What `train(method, seed, recalls)` returns for each (method, seed), as they end.

    Each runs in one of `jobs` processes. `recalls` are the "holdout_recalls" of the run of "plain"
    with the same seed, for the methods in `after_plain`, which wait for it; those of earlier runs
    are given in `plain`. `train` may return a dict, or a tuple whose last item is one.
    """
    context, plain, todo = mp.get_context("spawn"), dict(plain or {}), list(todo)
    counter, total = context.Value("i", 0), len(todo) * epochs
    columns = ("[bold]{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        ProcessPoolExecutor(jobs, context, _start, (counter, threads)) as pool,
        Progress(*columns, console=console, disable=console is None) as progress,
    ):
        bar, running = progress.add_task("epochs", total=total), {}
        while todo or running:
            ready = [(m, s) for m, s in todo if m not in after_plain or s in plain]
            for method, seed in ready[: max(0, jobs - len(running))]:
                todo.remove((method, seed))
                recalls = plain.get(seed) if method in after_plain else None
                running[pool.submit(train, method, seed, recalls)] = method, seed
            if not running:
                raise ValueError('Expected "plain" to be among the methods, with every seed.')
            for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                method, seed = running.pop(future)
                result = future.result()
                if method == "plain":
                    plain[seed] = (result if isinstance(result, dict) else result[-1])[
                        "holdout_recalls"
                    ]
                yield method, seed, result
            progress.update(bar, completed=counter.value)


# ---------------------------------------------------------------------------- tables and pictures


def print_recalls(results: list[dict[str, Any]], console: Console) -> None:
    """A row a method: mean, sd and lowest recall as trained and decided, ± sd over the seeds."""
    table = Table(title="Recalls on the test images (± sd over the seeds)")
    table.add_column("method", no_wrap=True)
    for part in ("", "decided\n"):
        for name in FIGURES:
            table.add_column(f"{part}{name}", justify="right", vertical="bottom")
    table.add_column("seconds\na run", justify="right")
    for method in dict.fromkeys(r["method"] for r in results):
        mine = [r for r in results if r["method"] == method]
        cells = []
        for key in ("recalls", "recalls_decided"):
            rows = figures([r[key] for r in mine])
            spread = rows.std(0, ddof=1) if len(rows) > 1 else [None] * 3
            cells += [
                f"{mean:.3f}" + ("" if sd is None else f" ±{sd:.3f}")
                for mean, sd in zip(rows.mean(0), spread, strict=True)
            ]
        table.add_row(method, *cells, f"{np.mean([r['seconds'] for r in mine]):.0f}")
    console.print(table)


def draw_recalls(results: list[dict[str, Any]], classes: list[str], path: Path) -> None:
    """Bars of the classes' recalls: plain as trained, the other methods with their decision.

    Of more than 60 classes, the fifteen that the first method does worst and its best five.
    """
    from matplotlib.figure import Figure

    series = {}
    for method in dict.fromkeys(r["method"] for r in results):
        key, more = ("recalls", "") if method == "plain" else ("recalls_decided", " + decision")
        series[method + more] = np.mean([r[key] for r in results if r["method"] == method], 0)
    order = np.argsort(next(iter(series.values())))
    order = order if len(order) <= 60 else np.concatenate([order[:15], order[-5:]])
    height = max(3.5, 0.12 * len(order) * (len(series) + 1) + 1.2)
    figure = Figure(figsize=(8, height), layout="constrained")
    axes, width = figure.subplots(), 0.8 / len(series)
    for i, (name, recalls) in enumerate(series.items()):
        mean, _, lowest = figures(recalls)
        label = f"{name}  (mean {mean:.3f}, lowest {lowest:.3f})"
        at = np.arange(len(order)) + (i - (len(series) - 1) / 2) * width
        axes.barh(at, recalls[order], width, label=label, color=COLOURS[i % len(COLOURS)])
    # A $ would be read as mathematics
    axes.set_yticks(range(len(order)), [classes[c].replace("$", r"\$")[:32] for c in order])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("recall on the test images")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", frameon=False)
    figure.savefig(path, dpi=130)


def draw_pixels(pictures: dict[str, Any], path: Path) -> None:
    """Images `(H, W, 3)` and class ids `(H, W)`, negative ones white, side by side, by title."""
    from matplotlib.figure import Figure

    columns = min(len(pictures), 5)
    rows = -(-len(pictures) // columns)
    canvas = Figure(figsize=(2.8 * columns, 2.4 * rows), layout="constrained")
    for place, (title, picture) in enumerate(pictures.items()):
        axes = canvas.add_subplot(rows, columns, place + 1, title=title)
        axes.axis("off")
        if picture.ndim == 2:
            picture = np.ma.masked_less(np.asarray(picture), 0)
        axes.imshow(picture, cmap="tab20", vmin=0, vmax=19, interpolation="nearest")
    canvas.savefig(path, dpi=110)
