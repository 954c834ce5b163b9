"""`equipoise decide`: what the saved scores of any model could reach, and how to decide for it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from equipoise.audit.arrays import listed
from equipoise.cli.failing import check_output, one_line
from equipoise.cli.scores import Scores, read_scores
from equipoise.decision import (
    ClassDecision,
    LabelDecision,
    fit_class_decision,
    fit_label_decision,
    front,
)
from equipoise.figures import require, save
from equipoise.report.evaluation import outcome
from equipoise.report.front import front_figure
from equipoise.report.numbers import plain
from equipoise.report.terminal import table

__all__ = ["decide_command"]

INTERVALS = ("mean_interval", "lowest_interval")  # of what the picture draws


def decide_command(
    scores: Annotated[
        Path,
        typer.Argument(
            metavar="SCORES",
            help="A hold-out's scores and targets: an .npz of `logits` or `probabilities`, and "
            "`targets`; or a .csv, .tsv, .parquet with a column for each class, and `target`.",
            show_default=False,
        ),
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            help="Scores of other examples, to judge the decision on; --apply needs no targets "
            "there.",
            metavar="SCORES",
            show_default=False,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="For class ids fair (by default), equal-recall or accuracy; for several labels "
            "prevalence (by default), f1, recall, precision, equal-recall or top-k.",
            show_default=False,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="The point of the front, instead of the strongest that --max-price allows.",
            min=0,
            show_default=False,
        ),
    ] = None,
    max_price: Annotated[
        float,
        typer.Option(help="What fair may cost in mean recall, top-k in precision at k.", min=0),
    ] = 0.01,
    k: Annotated[
        int | None,
        typer.Option(help="Labels an example, for top-k.", min=1, show_default=False),
    ] = None,
    at_least: Annotated[
        float | None,
        typer.Option(
            help="The recall or precision that each label is to reach.", show_default=False
        ),
    ] = None,
    most: Annotated[
        int, typer.Option(metavar="N", help="Rows of the table of labels.", min=1)
    ] = 20,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Draw the front: .png, .svg or .pdf.", metavar="PATH", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write offsets or cuts there, as JSON.", metavar="PATH", show_default=False
        ),
    ] = None,
    apply: Annotated[
        Path | None,
        typer.Option(
            help="Write what is decided for each example of --test there: .csv or .npz.",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else on stdout.")
    ] = False,
) -> None:
    """Choose how to decide with a model that is trained already, from its scores on a hold-out.

    For class ids it prints the front from the highest mean recall to equal recalls, each point with
    its price, and marks the one that is taken; for several labels, the cut of each.

    For example: equipoise decide heldout.npz --test test.npz --picture front.png --out offsets.json
    """
    if apply is not None and (test is None or apply.suffix not in (".csv", ".npz")):
        raise typer.BadParameter("--apply needs a path that ends in .csv or .npz, and --test.")
    with one_line("decide"):
        for path in filter(None, (picture, out, apply)):
            check_output(path)
        held = read_scores(scores)
        other = None if test is None else read_scores(test, held)
        judged = other if other is not None and other.targets is not None else None
        if held.several:
            if alpha is not None or picture is not None:
                raise ValueError(
                    f"Expected --alpha and --picture for class ids only, but {scores} has several "
                    "labels."
                )
            labels = fit_label_decision(
                held.logits, held.truth, objective, at_least=at_least, k=k, max_price=max_price
            )
            decision: ClassDecision | LabelDecision = replace(labels, corrected=False)
            record = _label_record(labels, held, judged)
        else:
            if at_least is not None or k is not None:
                raise ValueError(
                    f"Expected --at-least and --k for several labels, but {scores} has class ids."
                )
            decision = classes = fit_class_decision(
                held.logits,
                held.truth,
                objective,
                max_price=max_price,
                alpha=alpha,
                listed=lambda some: listed([held.names[c] for c in some]),
            )
            record = _class_record(classes, held, judged)
            if picture is not None:
                cap = max_price if decision.objective == "fair" and alpha is None else None
                _draw(record, cap, picture)
        if out is not None:
            decision.save(out, held.names)
        if apply is not None and other is not None:
            _write(decision(other.logits), held.names, apply)
        if as_json:
            typer.echo(json.dumps(record, indent=2))
        else:
            _show_labels(record, most) if held.several else _show_classes(record)
    for name, written in (("Picture", picture), ("Decision", out), ("Decided", apply)):
        if written is not None:
            typer.echo(f"{name}: {written}", err=True)


def _class_record(decision: ClassDecision, held: Scores, judged: Scores | None) -> dict[str, Any]:
    """The front, which of its points is taken, and what it reaches on other examples."""
    points = decision.front or front(held.logits, held.truth)
    ways = {
        "as scored": torch.zeros_like(decision.values),
        "best mean": points[0]["offset"],  # what prices are measured against
        "decided": decision.values,
    }
    tests = (
        []
        if judged is None
        else [_judge_classes(name, judged, offset) for name, offset in ways.items()]
    )
    for row in tests:
        row["price"] = plain(tests[1]["mean"] - row["mean"])
    chosen = torch.inf if decision.objective == "equal-recall" else decision.alpha
    keys = ("alpha", "strength", "mean", "sd", "lowest", "price", *INTERVALS)
    return {
        "objective": decision.objective,
        "alpha": decision.alpha,
        "price": plain(decision.price),
        "classes": held.names,
        "offset": plain(decision.values),
        "front": [
            {key: plain(point[key]) for key in keys} | {"chosen": point["alpha"] == chosen}
            for point in points
        ],
        "holdout": [_judge_classes("as scored", held, ways["as scored"])],
        "test": tests,
    }


def _label_record(decision: LabelDecision, held: Scores, judged: Scores | None) -> dict[str, Any]:
    return {
        "objective": decision.objective,
        "classes": held.names,
        "k": decision.k,
        "rate": plain(decision.rate),
        "values": plain(decision.values),
        "front": [
            {key: plain(value) for key, value in row.items()}
            | {"chosen": row["rate"] == decision.rate}
            for row in decision.front
        ],
        "holdout": _judge_labels(decision, held),
        "test": None if judged is None else _judge_labels(decision, judged),
    }


def _judge_classes(name: str, scores: Scores, offset: Tensor) -> dict[str, Any]:
    classes, predicted = len(scores.names), (scores.logits + offset.float()).argmax(1)
    support = torch.bincount(scores.truth, minlength=classes)
    hits = torch.bincount(scores.truth[predicted == scores.truth], minlength=classes)
    return outcome(name, hits / support, support)


def _judge_labels(decision: LabelDecision, scores: Scores) -> list[dict[str, Any]]:
    """Above a probability of ½, or the k most probable; and as decided."""
    as_scored = replace(decision, values=torch.zeros_like(decision.values))
    rows = []
    for name, decide in (("as scored", as_scored), ("decided", decision)):
        way = decide(scores.logits).bool()
        true, made = scores.truth.sum(0), way.sum(0)
        hits, seen = (way & scores.truth.bool()).sum(0), true > 0
        each = {"recall": hits / true, "precision": hits / made, "f1": 2 * hits / (true + made)}
        rows.append(
            {"name": name, "positives": true.tolist(), "predicted": made.tolist()}
            | {key: plain(value) for key, value in each.items()}
            | {f"macro {key}": plain(value[seen].nanmean()) for key, value in each.items()}
            | {"micro precision": plain(hits.sum() / made.sum())}
            | {"micro f1": plain(2 * hits.sum() / (true + made).sum())}
        )
    return rows


def _draw(record: dict[str, Any], max_price: float | None, path: Path) -> None:
    chosen = next((i for i, point in enumerate(record["front"]) if point["chosen"]), None)
    outcomes = [row for row in record["test"] if row["name"] != "best mean"]
    save(front_figure(record["front"], chosen, max_price, outcomes), path)


def _show_classes(record: dict[str, Any]) -> None:
    names, (before,) = record["classes"], record["holdout"]
    keys = ("mean", "sd", "lowest")
    rows = [
        [
            "∞" if point["alpha"] is None else f"{point['alpha']:.3g}",
            *(_rate(point[key]) for key in keys),
            f"{point['price']:+.3f}",
            f"{point['strength']:.0%}",
            "← chosen" if point["chosen"] else "",
        ]
        for point in record["front"]
    ]
    _print(
        f"The front of {len(names):,} classes, cross-fitted on the hold-out",
        table(("α", *keys, "price", "strength", ""), rows, names=(6,)),
        f"As scored, the hold-out has mean {_rate(before['mean'])} and lowest "
        f"{_rate(before['lowest'])} ({names[before['worst']]}).",
    )
    if record["test"]:
        rows = [
            [row["name"], *(_rate(row[key]) for key in keys), names[row["worst"]]]
            + [f"{row['price']:+.3f}"]
            for row in record["test"]
        ]
        _print("The test", table(("recalls", *keys, "of", "price"), rows, names=(0, 4)))


def _show_labels(record: dict[str, Any], most: int) -> None:
    which = "holdout" if record["test"] is None else "test"
    judged = record[which]
    where = "test" if which == "test" else "hold-out that it was fitted on"
    if record["front"]:
        kept = ("precision", "macro_recall", "price")
        rows = [
            [
                "∞" if row["rate"] is None else f"{row['rate']:.3g}",
                *(_rate(row[key]) for key in kept),
            ]
            + ["← chosen" if row["chosen"] else ""]
            for row in record["front"]
        ]
        headings = ("rate", "precision", "macro recall", "price", "")
        title = f"The {record['k']} best labels, rare ones raised, on the hold-out"
        _print(title, table(headings, rows, names=(4,)))
    else:
        _print(*_cuts(record, judged[1], most, where))
    keys = ["micro f1", "macro precision", "macro recall", "macro f1"]
    if record["front"]:
        keys = ["micro precision", "macro recall"]
    rows = [[row["name"], *(_rate(row[key]) for key in keys)] for row in judged]
    _print(f"All labels of the {where}", table(("", *keys), rows, names=(0,)))


def _cuts(
    record: dict[str, Any], judged: dict[str, Any], most: int, where: str
) -> tuple[str, Any, str]:
    order = np.argsort(-np.array(record["holdout"][1]["positives"]), kind="stable")
    left_out = max(len(order) - most, 0)
    order = np.delete(order, slice((most + 1) // 2, (most + 1) // 2 + left_out))
    cuts = torch.tensor([np.inf if t is None else t for t in record["values"]]).sigmoid()
    rates = ("recall", "precision", "f1")
    rows = [
        [record["classes"][c], f"{cuts[c]:.3f}"]
        + [f"{judged[key][c]:,}" for key in ("positives", "predicted")]
        + [_rate(judged[key][c]) for key in rates]
        for c in order
    ]
    title = f"The cuts of {len(cuts):,} labels, as probabilities, on the {where}"
    note = f"{left_out:,} labels between these are not shown." if left_out else ""
    return title, table(("label", "cut", "true", "predicted", *rates), rows, names=(0,)), note


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _print(title: str, found: Any, note: str = "") -> None:
    text = require("rich.text", "cli").Text
    console = require("rich.console", "cli").Console(highlight=False)
    console.print(text(title, style="bold"))
    console.print(found)
    if note:
        console.print(text(note, style="dim"))
    console.print()


def _write(decided: Tensor, names: Sequence[str], path: Path) -> None:
    """Class ids or rows of 0 and 1 in an .npz; names in a .csv, several with bars between."""
    if path.suffix == ".npz":
        np.savez_compressed(path, decided=decided.numpy(), class_names=np.array(names))
        return
    ids = (
        decided[:, None].tolist() if decided.ndim == 1 else [row.nonzero()[:, 0] for row in decided]
    )
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [["decided"], *(["|".join(names[c] for c in row)] for row in ids)]
        )
