"""Several labels an example: how often each label is predicted, and how well. Methods side by side.

    python examples/multilabel.py --data bibtex.npz --method plain pos-weight balancer --seeds 3

Trains a small network once for each method and seed, then prints on the test examples: area under
the precision-recall curve (AUPRC), F1 at a probability of .5 and at cuts tuned on the hold-out,
how many positives are predicted for each true one, and how well probabilities are calibrated.

`--data` is one of
* digits: collages of one to four of scikit-learn's digits (nothing to download);
* an `.npz`: X_data, X_indices, X_indptr, X_shape, Y_… likewise, split (0 train, 1 test);
* an `.arff` of Mulan or MEKA;
* a folder of images with a `labels.csv`: file name, then 0 or 1 for each label (named in the
  header), or one column of label names separated by spaces. Read into memory, scaled to `--size`;
* a `.beton` with a field "image" or "features" and a `MultiHotField` "label" (see
  `equipoise.ffcv.write`), read by FFCV. Images are cut to squares of `--size`, features are taken
  as stored. For what does not fit into memory.
Where the data names no test examples, a quarter, drawn at random, is the test.

One file, to copy from: the lines that use equipoise are in `make_balancer`, `make_loader` and
`train`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table
from sklearn.metrics import average_precision_score
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.functional.classification import binary_calibration_error, multilabel_f1_score

from equipoise import Balancer
from equipoise.decision import calibrate_labels, label_thresholds, thresholds_at_prevalence
from equipoise.losses import AsymmetricLoss, SigmoidFocalLoss, WeightedBCE, pos_weight_from_counts

METHODS = {
    "plain": "binary cross-entropy",
    "pos-weight": "positives weighted by negatives / positives",
    "focal": "focal loss, α .25, γ 2",
    "asymmetric": "asymmetric loss, γ− 4, γ+ 1, margin .05",
    "balancer": "the defaults: positives weighted by the root of that, which is taken out again",
    "focused": "the same, and focused on hard negatives (γ− 2)",
    "equal-recall": "closed loop on the labels' recalls, by sampling",
}
# Predicted / true is shown for labels with this many test positives: chance moves fewer by a third.
COUNTABLE = 10
# The mean of these runs' corrected logits is a row of its own, "averaged".
AVERAGED = ("plain", "balancer", "focused")


def make_balancer(method: str, labels: sp.csr_matrix, **options) -> Balancer:
    """What differs between the methods."""
    if method == "balancer":
        return Balancer(labels, **options)
    if method == "equal-recall":
        return Balancer(labels, "equal-recall", **options)
    counts = np.asarray(labels.sum(0)).ravel().tolist()
    weight = pos_weight_from_counts(counts, labels.shape[0])
    losses = {
        "plain": WeightedBCE(),
        "pos-weight": WeightedBCE(weight),
        "focal": SigmoidFocalLoss(),
        "asymmetric": AsymmetricLoss(),
        "focused": AsymmetricLoss(gamma_neg=2, gamma_pos=0, margin=0, pos_weight=weight.sqrt()),
    }
    return Balancer(labels, loss=losses[method], **options)


# ---------------------------------------------------------------------------------------- data


def load_data(name: str, size: int) -> dict[str, Any]:
    """Inputs x: features (CSR) or images `(N, H, W, 3)` uint8, or the path of a `.beton`; labels y
    (CSR) and their names; which rows are for training and for the test."""
    path, split = Path(name), None
    if name == "digits":
        (x, y), (x_test, y_test) = collages(6000, 0), collages(3000, 1)
        x, y = np.concatenate([x, x_test]), sp.vstack([y, y_test], "csr")
        names, split = [str(digit) for digit in range(10)], np.arange(9000) >= 6000
    elif path.is_dir():
        x, y, names = read_folder(path, size)
    elif path.suffix == ".arff":
        from equipoise.arff import read_arff

        data = read_arff(path)
        x, y, names = data.features, data.targets.matrix, data.label_names
    elif path.suffix == ".beton":
        from equipoise.ffcv import targets

        x, y = path, targets(path).matrix
        names = [str(label) for label in range(y.shape[1])]
    else:
        z = np.load(path, allow_pickle=False)
        x, y = (
            sp.csr_matrix(
                (z[f"{k}_data"], z[f"{k}_indices"], z[f"{k}_indptr"]), tuple(z[f"{k}_shape"])
            )
            for k in "XY"
        )
        names = z["label_names"].tolist()
        if path.stem == "genbase":
            x = x[:, 1:]  # the row's id
        split = z["split"] == 1 if "split" in z else None
    if split is None:
        drawn = np.random.default_rng(0).permutation(y.shape[0])
        split = np.isin(np.arange(y.shape[0]), drawn[: y.shape[0] // 4])
    train, test = np.flatnonzero(~split), np.flatnonzero(split)
    return {"x": scaled(x, train), "y": y, "labels": names, "train": train, "test": test}


def collages(count: int, part: int) -> tuple[np.ndarray, sp.csr_matrix]:
    """One to four different digits on a 2 × 2 grid, 0 the most frequent and 9 the rarest."""
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(part)
    pool = np.flatnonzero(np.arange(len(digits.target)) % 3 == 2 if part else
                          np.arange(len(digits.target)) % 3 < 2)  # fmt: skip
    members = [pool[digits.target[pool] == c] for c in range(10)]
    # the k highest of Gumbel noise + log-weights are k draws without replacement
    ranks = (rng.gumbel(size=(count, 10)) - 0.45 * np.arange(10)).argsort(1)[:, ::-1]
    several = rng.integers(1, 5, count)
    images, labels = np.zeros((count, 24, 24), np.uint8), np.zeros((count, 10), np.uint8)
    for i in range(count):
        cells = rng.permutation(4)
        for cell, digit in zip(cells, ranks[i, : several[i]], strict=False):
            top, left = 12 * (cell // 2) + rng.integers(0, 5), 12 * (cell % 2) + rng.integers(0, 5)
            picture = digits.images[rng.choice(members[digit])] * (255 / 16)
            images[i, top : top + 8, left : left + 8] = picture.astype(np.uint8)
            labels[i, digit] = 1
    return np.repeat(images[..., None], 3, axis=-1), sp.csr_matrix(labels)


def read_folder(folder: Path, size: int) -> tuple[np.ndarray, sp.csr_matrix, list[str]]:
    """Images, resized to size × size, and labels of a folder with a `labels.csv`."""
    from PIL import Image

    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    if len(header) > 2:
        names, labels = header[1:], sp.csr_matrix(np.array([r[1:] for r in rows]).astype(np.uint8))
    else:
        sets = [r[1].split() for r in rows]
        names = sorted(set().union(*sets))
        labels = sp.csr_matrix(np.array([[n in s for n in names] for s in sets], np.uint8))
    images = [Image.open(folder / row[0]).convert("RGB").resize((size, size)) for row in rows]
    return np.stack([np.asarray(image) for image in images]), labels, names


def scaled(x, train: np.ndarray):
    """Dense features standardised; sparse ones by inverse document frequency, rows of length 1."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.preprocessing import StandardScaler

    if not sp.issparse(x):
        return x
    seen = x[train]
    if seen.nnz > 0.3 * np.prod(seen.shape) or seen.min() < 0:
        dense = StandardScaler().fit(seen.toarray()).transform(x.toarray())
        return dense.clip(-5, 5).astype(np.float32)
    return TfidfTransformer().fit(seen).transform(x).tocsr()


class Rows(Dataset):
    """Rows of inputs and labels, as a data set that hands out whole batches (`__getitems__`)."""

    def __init__(self, x, y: sp.csr_matrix, rows: np.ndarray) -> None:
        self.x, self.y, self.rows = x, y, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, ...]:
        rows = self.rows[indices]
        x = self.x[rows].toarray() if sp.issparse(self.x) else self.x[rows]
        y = self.y[rows].toarray()
        return torch.from_numpy(x), torch.from_numpy(y), torch.tensor(indices)


def make_loader(data: dict, rows: np.ndarray, settings: dict, balancer: Balancer | None = None):
    """Batches of inputs, labels and indices: in the balancer's order, or as the rows are."""
    x, y, size = data["x"], data["y"], min(settings["batch_size"], len(rows))
    if not isinstance(x, Path):
        sampler = None if balancer is None else balancer.sampler
        return DataLoader(Rows(x, y, rows), size, sampler=sampler, collate_fn=lambda batch: batch)
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    from equipoise.ffcv import BalancedLoader, MultiHotField, check

    pipelines = {
        name: [field.get_decoder_class()(), ToTensor()] for name, field in check(x).handlers.items()
    }
    if "image" in pipelines:
        square = (settings["size"], settings["size"])
        pipelines["image"][0] = CenterCropRGBImageDecoder(square, ratio=1)
    loader = Loader(
        str(x),
        size,
        num_workers=settings["threads"],
        os_cache=True,
        order=OrderOption.SEQUENTIAL if balancer is None else balancer.order,
        indices=rows,
        drop_last=False,
        custom_fields={"label": MultiHotField},
        pipelines=pipelines,
    )
    return BalancedLoader(loader, with_indices=True)


def on_device(loader, device: str) -> Iterator[tuple[torch.Tensor, ...]]:
    """A loader's batches as the network takes them."""
    for inputs, targets, indices in loader:
        x = inputs.to(device).float()
        x = x if x.ndim == 2 else x.permute(0, 3, 1, 2).div(127.5).sub(1)
        yield x, targets.to(device), indices


# --------------------------------------------------------------------------------------- model


def make_net(settings: dict, inputs: torch.Tensor, labels: int) -> nn.Module:
    """For inputs like these: an MLP for features, convolutions for images."""
    if inputs.ndim == 2:
        width = settings["width"] or 256
        return nn.Sequential(
            nn.Linear(inputs.shape[1], width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(width, labels),
        )  # fmt: skip
    if settings["net"] == "densenet121":
        from torchvision.models import densenet121

        return densenet121(num_classes=labels)
    width = settings["width"] or 16

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(3, width, 1),
        *block(width, 2 * width, 2),
        *block(2 * width, 4 * width, 2),
        *block(4 * width, 4 * width, 1),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, labels),
    )


@torch.no_grad()
def start_at_prevalence(model: nn.Module, balancer: Balancer) -> None:
    """The last layer's bias: every label begins at its own frequency, as its loss will have it."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    counts = torch.from_numpy(balancer.targets.counts)
    wanted = ((counts + 1) / (balancer.targets.num_examples - counts + 1)).log()
    low, high = torch.full_like(wanted, -20), torch.full_like(wanted, 20)
    for _ in range(40):  # the logit that `correct` turns into the label's log-odds
        middle = (low + high) / 2
        above = balancer.correct(middle[None])[0] > wanted
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    last.bias.copy_(middle)


@torch.no_grad()
def predict(model: nn.Module, loader, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of all a loader gives."""
    model.eval()
    pairs = [(model(x).float().cpu(), y.cpu().clone()) for x, y, _ in on_device(loader, device)]
    return torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs])


# ------------------------------------------------------------------------------------ training


def train(method: str, seed: int, data: dict, settings: dict, tick: Callable[[], Any]) -> dict:
    """Train once; every figure of the table on the test examples."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    device, epochs = settings["device"], settings["epochs"]
    # Drawn at random: cuts and calibration need a hold-out like the data in every respect.
    order = data["train"][np.random.default_rng(0).permutation(len(data["train"]))]
    kept, held = np.split(order, [round((1 - settings["holdout"]) * len(order))])

    balancer = make_balancer(method, data["y"][kept], mining=settings["mining"], seed=seed)
    loader = make_loader(data, kept, settings, balancer)
    held_loader, test_loader = (make_loader(data, rows, settings) for rows in (held, data["test"]))
    some, *_ = next(on_device(held_loader, device))
    model = make_net(settings, some, data["y"].shape[1]).to(device)
    start_at_prevalence(model, balancer)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), settings["lr"], weight_decay=1e-2)
    steps = len(loader)
    if settings["mining"] == "selective-backprop":
        steps = math.ceil(steps * balancer.mining.keep) + 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings["lr"], total_steps=epochs * steps, pct_start=0.2
    )
    for _ in range(epochs):
        model.train()
        for inputs, targets, indices in balancer.mine(on_device(loader, device), model):
            loss = balancer.loss(model(inputs), targets, indices)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            averaged.update_parameters(model)
        held_logits, y_held = predict(averaged, held_loader, device)
        balancer.observe(held_logits, y_held)
        balancer.step()
        tick()

    logits, y_test = predict(averaged, test_loader, device)
    decided = {"half": logits > 0}
    for objective in ("prevalence", "f1"):
        balancer.fit_decision(held_logits, y_held, objective)
        decided[objective] = balancer.decide(logits)
    corrected = {"held": balancer.correct(held_logits), "test": balancer.correct(logits)}
    return {
        "method": method,
        "seed": seed,
        **figures(decided, logits, corrected, y_held, y_test, data),
        **mined(balancer, len(kept)),
        "seconds": time.perf_counter() - began,
        "history": [
            {k: v for k, v in row.items() if not isinstance(v, list)} for row in balancer.history
        ],
        "logits": corrected,
        "truth": (y_held, y_test),
    }


def averaged_runs(method: str, runs: list[dict], data: dict) -> dict:
    """The figures of the mean of several runs' corrected logits."""
    corrected = {
        part: torch.stack([run["logits"][part] for run in runs]).mean(0)
        for part in ("held", "test")
    }
    y_held, y_test = runs[0]["truth"]
    decided = {"half": corrected["test"] > 0}
    for objective in ("prevalence", "f1"):
        decided[objective] = corrected["test"] > label_thresholds(
            corrected["held"], y_held, objective
        )
    return {
        "method": method,
        "seed": runs[0]["seed"],
        **figures(decided, corrected["test"], corrected, y_held, y_test, data),
        "seconds": sum(run["seconds"] for run in runs),
    }


def auprc(logits: torch.Tensor, truth: torch.Tensor, kind: str) -> float:
    """Macro (mean over labels that occur) or micro average precision."""
    occurs = truth.sum(0) > 0
    return float(average_precision_score(truth[:, occurs], logits[:, occurs], average=kind))


def figures(decided: dict, raw, corrected: dict, y_held, y_test, data: dict) -> dict:
    """All figures of one run; labels without positives among the test examples are left out."""
    held, logits = corrected["held"], corrected["test"]
    prevalence = torch.from_numpy(data["y"][data["train"]].mean(0)).flatten()
    decided = decided | {
        "searched": logits > label_thresholds(held, y_held, "f1", prior=0),
        "unlabelled": logits > thresholds_at_prevalence(logits, prevalence),
    }
    occurs = y_test.sum(0) > 0
    true = y_test[:, occurs]
    found: dict = {f"auprc_{kind}": auprc(logits, y_test, kind) for kind in ("macro", "micro")}
    found["holdout_macro_auprc"] = auprc(held, y_held, "macro")
    for name, predicted in decided.items():
        for kind in ("macro", "micro"):
            found[f"f1_{kind}_{name}"] = float(
                multilabel_f1_score(predicted[:, occurs].int(), true, true.shape[1], average=kind)
            )
        ratio = (predicted[:, occurs].sum(0) / true.sum(0)).double()
        frequent = ratio[true.sum(0) >= min(COUNTABLE, int(true.sum(0).max()))]
        found[f"ratio_{name}"] = float(frequent.quantile(0.5))
        found[f"worst_{name}"] = float(frequent[frequent.clamp_min(0.02).log().abs().argmax()])
        found[f"ratios_{name}"] = ratio.tolist()
        found[f"total_{name}"] = float(predicted.sum() / y_test.sum())
    calibrate = calibrate_labels(held, y_held)
    stages = {"raw": raw.sigmoid(), "corrected": logits.sigmoid(), "calibrated": calibrate(logits)}
    for name, p in stages.items():
        found[f"mean_{name}"] = float(p.mean() / y_test.float().mean())
        found[f"ece_{name}"] = float(binary_calibration_error(p.flatten(), y_test.flatten()))
    return found


def mined(balancer: Balancer, examples: int) -> dict:
    """What the miner kept in the last epoch: of what is drawn, and of each batch's losses."""
    row = balancer.history[-1].get("mining", {})
    names = ("share_kept", "mean_loss_kept", "mean_loss_dropped")
    found = {name: row[name] for name in names if row.get(name) is not None}
    return found | {"share_drawn": len(balancer.sampler) / examples} if row else {}


# ------------------------------------------------------------------------------------- results

TABLES = {
    "On the test examples (± sd over the seeds)": {
        "AUPRC\nmacro": "auprc_macro",
        "\nmicro": "auprc_micro",
        "macro F1\nat .5": "f1_macro_half",
        "\nsearched": "f1_macro_searched",
        "\nfitted": "f1_macro_f1",
        "micro F1\nat .5": "f1_micro_half",
        "\nfitted ": "f1_micro_f1",
    },
    f"Predicted / true positives, of labels with {COUNTABLE} or more of the test": {
        "median\nat .5": "ratio_half",
        "\nfitted": "ratio_prevalence",
        "\nunlabelled": "ratio_unlabelled",
        "worst\nat .5": "worst_half",
        "\nfitted ": "worst_prevalence",
        "\nunlabelled ": "worst_unlabelled",
    },
    "Calibration": {
        "mean p / prev.\nraw": "mean_raw",
        "\ncorrected": "mean_corrected",
        "\ncalibrated": "mean_calibrated",
        "ECE\nraw": "ece_raw",
        "\ncorrected ": "ece_corrected",
        "\ncalibrated ": "ece_calibrated",
        "seconds\na run": "seconds",
    },
    "Mining, last epoch": {
        "share of the\nexamples drawn": "share_drawn",
        "share of these\nlosses kept": "share_kept",
        "mean loss\nkept": "mean_loss_kept",
        "\ndropped": "mean_loss_dropped",
    },
}


def with_averages(results: list[dict], data: dict) -> list[dict]:
    """The results, and the averages of each seed's different runs, and of plain's seeds."""
    rows = list(results)
    for seed in sorted({r["seed"] for r in results}):
        runs = [r for r in results if r["seed"] == seed and r["method"] in AVERAGED]
        if len(runs) > 1:
            rows.append(averaged_runs("averaged", runs, data))
    plain = [r for r in results if r["method"] == "plain"]
    if len(plain) > 1:
        rows.append(averaged_runs(f"plain × {len(plain)}", plain, data))
    return [{k: v for k, v in r.items() if k not in ("logits", "truth")} for r in rows]


def print_tables(results: list[dict], console: Console) -> None:
    for place, (title, columns) in enumerate(TABLES.items()):
        shown = {name: key for name, key in columns.items() if key in results[0]}
        rows = [r for r in results if shown and set(shown.values()) <= r.keys()]
        if not rows:
            continue
        table = Table(title=title)
        table.add_column("method", no_wrap=True)
        for name in shown:
            table.add_column(name, justify="right")
        for method in dict.fromkeys(r["method"] for r in rows):
            cells = []
            for key in shown.values():
                values = [r[key] for r in rows if r["method"] == method]
                spread = f" ±{np.std(values, ddof=1):.3f}" if len(values) > 1 and not place else ""
                cells.append(f"{np.mean(values):.{1 if max(values) >= 100 else 3}f}{spread}")
            table.add_row(method, *cells)
        console.print(table)
    console.print(
        "searched: cuts by trying every one on the hold-out; fitted: fit_decision on the hold-out, "
        "for F1, or for predicted = true; unlabelled: as many of the test's scores as the "
        "training labels' prevalence says. corrected: loss and sampling taken out; calibrated: a "
        "slope and intercepts fitted on the hold-out besides. averaged: the corrected logits of "
        f"{', '.join(AVERAGED)} averaged, at the cost of all; plain × n: of n seeds."
    )


def draw(results: list[dict], path: Path) -> None:
    """Predicted over true positives of every label, at .5 and as fitted, a strip a method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    methods = list(dict.fromkeys(r["method"] for r in results))
    figure, panels = plt.subplots(
        1, 2, figsize=(10, 0.7 * len(methods) + 1.6), sharey=True, sharex=True, layout="constrained"
    )
    rng = np.random.default_rng(0)
    names = {"half": "at a probability of .5", "prevalence": 'after fit_decision("prevalence")'}
    for axes, (name, title) in zip(panels, names.items(), strict=True):
        for row, method in enumerate(methods):
            ratios = np.mean([r[f"ratios_{name}"] for r in results if r["method"] == method], 0)
            ratios = ratios.clip(0.02, 50)
            jitter = row + rng.uniform(-0.25, 0.25, len(ratios))
            axes.scatter(ratios, jitter, s=8, alpha=0.5, color="#2f6f9f", linewidths=0)
            axes.plot([np.median(ratios)] * 2, [row - 0.35, row + 0.35], color="#c2703d", lw=2)
        axes.set_xscale("log")
        axes.axvline(1, color="black", lw=0.8)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("predicted / true positives: a dot a label, a bar the median")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", default="digits", help="digits, an .npz, an .arff, a folder or a .beton"
    )
    parser.add_argument(
        "--method", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD",
        help="; ".join(f"{name}: {what}" for name, what in METHODS.items()),
    )  # fmt: skip
    parser.add_argument(
        "--net", choices=["small", "densenet121"], default="small", help="of images"
    )
    parser.add_argument("--width", type=int, help="of the network's first layer")
    parser.add_argument(
        "--size", type=int, default=64, help="to which images of a folder are scaled"
    )
    parser.add_argument(
        "--mining",
        choices=["hard-negatives", "hardest-examples", "selective-backprop", "loss-pruning"],
        help="learn from all positives and the hardest negatives, or from half of the examples",
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--holdout", type=float, default=0.2, help="share of the training examples")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/multilabel", help="folder of picture and JSON")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    console = Console() if sys.stdout.isatty() else Console(width=130)
    data = load_data(args.data, args.size)
    examples, name = len(data["train"]), Path(args.data).stem
    settings = vars(args) | {"batch_size": args.batch_size or (64 if examples < 8000 else 256)}
    console.print(
        f"{name}: {examples:,} training (of these {args.holdout:.0%} held out) and "
        f"{len(data['test']):,} test examples, {len(data['labels']):,} labels, "
        f"{data['y'][data['train']].sum() / examples:.1f} an example; on {args.device}"
    )
    methods = list(dict.fromkeys(args.method))
    columns = ("[bold]{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("epochs", total=args.seeds * len(methods) * args.epochs)
        results = [
            train(method, seed, data, settings, lambda: progress.advance(bar))
            for method in methods
            for seed in range(args.seeds)
        ]
    results = with_averages(results, data)
    print_tables(results, console)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    record = {"settings": settings, "labels": data["labels"], "results": results}
    (out / f"{name}.json").write_text(json.dumps(record, indent=1))
    draw(results, out / f"{name}.png")
    console.print(f"Picture: {out / f'{name}.png'}   Figures: {out / f'{name}.json'}")


if __name__ == "__main__":
    main()
