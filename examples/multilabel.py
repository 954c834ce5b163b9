"""Several labels per example: how often each is predicted, and how well. Methods side by side.

    python -m examples.multilabel --data bibtex.npz --method plain pos-weight balancer --seeds 3

Trains a small network once for each method and seed, then prints on the test examples: area under
the precision-recall curve (AUPRC), F1 at a probability of .5 and at cuts tuned on the hold-out,
how many positives are predicted for each true one, and how well probabilities are calibrated.
`load_data` in examples/labels.py says what --data may be. The lines that use equipoise are in
`make_balancer`, `make_loader` and `train`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from rich.console import Console
from rich.progress import track
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from equipoise import Balancer
from equipoise.losses import AsymmetricLoss, SigmoidFocalLoss, WeightedBCE, pos_weight_from_counts
from examples import labels as shown
from examples.labels import Rows, make_net, on_device, predict

METHODS = {
    "plain": "binary cross-entropy",
    "pos-weight": "positives weighted by negatives / positives",
    "focal": "focal loss, α .25, γ 2",
    "asymmetric": "asymmetric loss, γ− 4, γ+ 1, margin .05",
    "balancer": "the defaults: positives weighted by the root of that, which is taken out again",
    "focused": "the same, and focused on hard negatives (γ− 2)",
    "equal-recall": "closed loop on the labels' recalls, by sampling",
}


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


def train(method: str, seed: int, data: dict, settings: dict) -> dict:
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
    shown.start_at_prevalence(model, balancer)
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

    logits, y_test = predict(averaged, test_loader, device)
    decided = {"half": logits > 0}
    for objective in ("prevalence", "f1"):
        balancer.fit_decision(held_logits, y_held, objective)
        decided[objective] = balancer.decide(logits)
    corrected = {"held": balancer.correct(held_logits), "test": balancer.correct(logits)}
    return {
        "method": method,
        "seed": seed,
        **shown.figures(decided, logits, corrected, y_held, y_test, data),
        "seconds": time.perf_counter() - began,
        "history": [
            {k: v for k, v in row.items() if not isinstance(v, list)} for row in balancer.history
        ],
    }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", default="digits", help="digits, an .npz, an .arff, a folder or a .beton")
    told = "; ".join(f"{name}: {what}" for name, what in METHODS.items())
    add("--method", nargs="+", choices=list(METHODS), default=list(METHODS), help=told)
    add("--net", default="small", help="of images; or one of torchvision's, densenet121 say")
    add("--width", type=int, help="of the network's first layer")
    add("--size", type=int, default=64, help="to which images of a folder are scaled")
    miners = ["hard-negatives", "hardest-examples", "selective-backprop", "loss-pruning"]
    add("--mining", choices=miners, help="learn from the hardest negatives, or half the examples")
    add("--seeds", type=int, default=1, help="how many")
    add("--epochs", type=int, default=20)
    add("--holdout", type=float, default=0.2, help="share of the training examples")
    add("--batch-size", type=int)
    add("--lr", type=float, default=3e-3)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int, default=1)
    add("--out", type=Path, default=Path("runs/multilabel"), help="folder of picture and JSON")
    return parser.parse_args()


def main() -> None:
    args, console = options(), Console() if sys.stdout.isatty() else Console(width=130)
    torch.set_num_threads(args.threads)
    data = shown.load_data(args.data, args.size)
    examples, name = len(data["train"]), Path(args.data).stem
    settings = vars(args) | {"batch_size": args.batch_size or (64 if examples < 8000 else 256)}
    console.print(
        f"{name}: {examples:,} training (of these {args.holdout:.0%} held out) and "
        f"{len(data['test']):,} test examples, {len(data['labels']):,} labels, "
        f"{data['y'][data['train']].sum() / examples:.1f} per example; on {args.device}"
    )
    runs = [(m, s) for m in dict.fromkeys(args.method) for s in range(args.seeds)]
    results = [train(*run, data, settings) for run in track(runs, "runs", console=console)]
    shown.print_tables(results, console)
    args.out.mkdir(parents=True, exist_ok=True)
    record = {"settings": settings, "labels": data["labels"], "results": results}
    (args.out / f"{name}.json").write_text(json.dumps(record, indent=1, default=str))
    shown.draw(results, args.out / f"{name}.png")
    console.print(f"Picture: {args.out / f'{name}.png'}   Figures: {args.out / f'{name}.json'}")


if __name__ == "__main__":
    main()
