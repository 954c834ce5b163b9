"""What examples/multilabel.py is not about: its data, networks, figures, tables and picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score
from torch import nn
from torch.utils.data import Dataset
from torchmetrics.functional.classification import binary_calibration_error, multilabel_f1_score

from equipoise import Balancer
from equipoise.audit import read_labels
from equipoise.decision import calibrate_labels, label_thresholds, thresholds_at_prevalence
from examples import harness

# Predicted / true is shown for labels with this many test positives: chance moves fewer by a third.
COUNTABLE = 10


def load_data(name: str, size: int) -> dict[str, Any]:
    """Inputs x: features (CSR) or images `(N, H, W, 3)` uint8, or the path of a `.beton`; labels y
    (CSR) and their names; which rows are for training and for the test.

    * digits: collages of one to four of scikit-learn's digits (nothing to download);
    * an `.npz`: X_data, X_indices, X_indptr, X_shape, Y_… likewise, split (0 train, 1 test);
    * an `.arff` of Mulan or MEKA;
    * a folder of images with a `labels.csv`: file name, then 0 or 1 for each label (named in the
      header), or one column of label names separated by spaces. Read into memory, scaled to `size`;
    * a `.beton` with a field "image" or "features" and a `MultiHotField` "label" (see
      `equipoise.ffcv.write`), read by FFCV. Images are cut to squares of `size`, features are taken
      as stored. For what does not fit into memory.

    Where the data names no test examples, a quarter, drawn at random, is the test.
    """
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

    targets, names = read_labels(folder, separator=" ")
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        paths = [folder / row[0] for row in csv.reader(file)][1:]
    images = [Image.open(path).convert("RGB").resize((size, size)) for path in paths]
    return np.stack([np.asarray(image) for image in images]), targets.matrix, names


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


def make_net(settings: dict, inputs: torch.Tensor, labels: int) -> nn.Module:
    """For inputs like these: an MLP for features; for images convolutions, or torchvision's."""
    if inputs.ndim == 2:
        width = settings["width"] or 256
        hidden = [nn.Linear(inputs.shape[1], width), nn.BatchNorm1d(width), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Dropout(0.5), nn.Linear(width, labels))
    if settings["net"] != "small":
        from torchvision.models import get_model

        return get_model(settings["net"], weights=None, num_classes=labels)
    net = harness.small_net(labels, settings["width"] or 16)
    net[-3] = nn.AdaptiveMaxPool2d(1)  # a label is somewhere in the image, not all over it
    return net


def on_device(loader, device: str) -> Iterator[tuple[torch.Tensor, ...]]:
    """A loader's batches as the network takes them."""
    for inputs, targets, indices in loader:
        x = inputs.to(device).float()
        x = x if x.ndim == 2 else x.permute(0, 3, 1, 2).div(127.5).sub(1)
        yield x, targets.to(device), indices


@torch.no_grad()
def predict(model: nn.Module, loader, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of all a loader gives."""
    model.eval()
    pairs = [(model(x).float().cpu(), y.cpu().clone()) for x, y, _ in on_device(loader, device)]
    return torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs])


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


# ------------------------------------------------------------------------------------- figures


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
}


def print_tables(results: list[dict], console: Console) -> None:
    for place, (title, columns) in enumerate(TABLES.items()):
        table = Table(title=title)
        table.add_column("method", no_wrap=True)
        for name in columns:
            table.add_column(name, justify="right")
        for method in dict.fromkeys(r["method"] for r in results):
            cells = []
            for key in columns.values():
                values = [r[key] for r in results if r["method"] == method]
                spread = f" ±{np.std(values, ddof=1):.3f}" if len(values) > 1 and not place else ""
                cells.append(f"{np.mean(values):.{1 if max(values) >= 100 else 3}f}{spread}")
            table.add_row(method, *cells)
        console.print(table)
    console.print(
        "searched: cuts by trying every one on the hold-out; fitted: fit_decision on the hold-out, "
        "for F1, or for predicted = true; unlabelled: as many of the test's scores as the "
        "training labels' prevalence says. corrected: loss and sampling taken out; calibrated: a "
        "slope and intercepts fitted on the hold-out besides."
    )


def draw(results: list[dict], path: Path) -> None:
    """Predicted over true positives of every label, at .5 and as fitted, a strip a method."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(r["method"] for r in results))
    figure = Figure(figsize=(10, 0.7 * len(methods) + 1.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, sharex=True)
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
