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
from equipoise.report.views import table

__all__ = ["decide_command"]

SCORES = """A hold-out's scores and targets: an .npz of `logits` or `probabilities`, and `targets`;
or a .csv, .tsv, .parquet with a column for each class, and `target`."""
TEST = "Scores of other examples, to judge the decision on; --apply needs no targets there."
OBJECTIVE = """For class ids fair (by default), equal-recall or accuracy; for several labels
prevalence (by default), f1, recall, precision, equal-recall or top-k."""
ALPHA = "The point of the front, instead of the strongest that --max-price allows."
MAX_PRICE = "What fair may cost in mean recall, top-k in precision at k."
AT_LEAST = "The recall or precision that each label is to reach."
APPLY = "Write what is decided for each example of --test there: .csv or .npz."

FRONT = ("alpha", "strength", "mean", "sd", "lowest", "price", "mean_interval", "lowest_interval")


def decide_command(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help=SCORES)],
    test: Annotated[Path | None, typer.Option(help=TEST, metavar="SCORES")] = None,
    objective: Annotated[str | None, typer.Option(help=OBJECTIVE)] = None,
    alpha: Annotated[float | None, typer.Option(help=ALPHA, min=0)] = None,
    max_price: Annotated[float, typer.Option(help=MAX_PRICE, min=0)] = 0.01,
    k: Annotated[int | None, typer.Option(help="Labels an example, for top-k.", min=1)] = None,
    at_least: Annotated[float | None, typer.Option(help=AT_LEAST)] = None,
    most: Annotated[
        int, typer.Option(help="Rows of the table of labels.", metavar="N", min=1)
    ] = 20,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the front: .png, .svg or .pdf.", metavar="PATH")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write offsets or cuts there, as JSON.", metavar="PATH")
    ] = None,
    apply: Annotated[Path | None, typer.Option(help=APPLY, metavar="PATH")] = None,
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
        check_output(picture, out, apply)
        held = read_scores(scores)
        other = None if test is None else read_scores(test, held)
        judged = None if other is None or other.targets is None else other
        here, there = "class ids", "several labels"
        wrong: dict[str, Any] = {"--at-least": at_least, "--k": k}
        if held.several:
            here, there = there, here
            wrong = {"--alpha": alpha, "--picture": picture}
        if any(value is not None for value in wrong.values()):
            raise ValueError(
                f"Expected {' and '.join(wrong)} for {there} only, but {scores} has {here}."
            )
        decision: ClassDecision | LabelDecision
        if held.several:
            labels = fit_label_decision(
                held.logits, held.targets, objective, at_least=at_least, k=k, max_price=max_price
            )
            decision = replace(labels, corrected=False)
            record = _label_record(labels, held, judged)
        else:
            decision = classes = fit_class_decision(
                held.logits,
                held.targets,
                objective,
                max_price=max_price,
                alpha=alpha,
                listed=lambda some: listed([held.names[c] for c in some]),
            )
            record = _class_record(classes, held, judged)
            if picture is not None:
                cap = max_price if decision.objective == "fair" and alpha is None else None
                chosen = next((i for i, row in enumerate(record["front"]) if row["chosen"]), None)
                outcomes = [row for row in record["test"] if row["name"] != "best mean"]
                save(front_figure(record["front"], chosen, cap, outcomes), picture)
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
    points = decision.front or front(held.logits, held.targets)
    chosen = torch.inf if decision.objective == "equal-recall" else decision.alpha
    as_scored = torch.zeros_like(decision.values)
    tests = []
    if judged is not None:
        best = _judge_classes("best mean", judged, points[0]["offset"])
        tests = [_judge_classes("as scored", judged, as_scored), best]
        tests.append(_judge_classes("decided", judged, decision.values))
        for row in tests:
            row["price"] = plain(best["mean"] - row["mean"])
    return {
        "objective": decision.objective,
        "alpha": decision.alpha,
        "price": plain(decision.price),
        "classes": held.names,
        "offset": plain(decision.values),
        "front": [
            {key: plain(point[key]) for key in FRONT} | {"chosen": point["alpha"] == chosen}
            for point in points
        ],
        "holdout": [_judge_classes("as scored", held, as_scored)],
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
    support = torch.bincount(scores.targets, minlength=classes)
    hits = torch.bincount(scores.targets[predicted == scores.targets], minlength=classes)
    return outcome(name, hits / support, support)


def _judge_labels(decision: LabelDecision, scores: Scores) -> list[dict[str, Any]]:
    """Above a probability of ½, or the k most probable; and as decided."""
    as_scored = replace(decision, values=torch.zeros_like(decision.values))
    rows = []
    for name, decide in (("as scored", as_scored), ("decided", decision)):
        way = decide(scores.logits).bool()
        true, made = scores.targets.sum(0), way.sum(0)
        hits, seen = (way & scores.targets.bool()).sum(0), true > 0
        each = {"recall": hits / true, "precision": hits / made, "f1": 2 * hits / (true + made)}
        rows.append(
            {"name": name, "positives": true.tolist(), "predicted": made.tolist()}
            | {key: plain(value) for key, value in each.items()}
            | {f"macro {key}": plain(value[seen].nanmean()) for key, value in each.items()}
            | {"micro precision": plain(hits.sum() / made.sum())}
            | {"micro f1": plain(2 * hits.sum() / (true + made).sum())}
        )
    return rows


def _show_classes(record: dict[str, Any]) -> None:
    """Print the front, what the scores reach as they are, and what the test says."""
    names, (before,), keys = record["classes"], record["holdout"], ("mean", "sd", "lowest")
    _print(
        f"The front of {len(names):,} classes, cross-fitted on the hold-out",
        ("α", *keys, "price", "strength", ""),
        [
            [_strength(row["alpha"]), *_rates(row, keys), f"{row['price']:+.3f}"]
            + [f"{row['strength']:.0%}", "← chosen" if row["chosen"] else ""]
            for row in record["front"]
        ],
        names=(6,),
        note=f"As scored, the hold-out has mean {before['mean']:.3f} and lowest "
        f"{before['lowest']:.3f} ({names[before['worst']]}).",
    )
    rows = [
        [row["name"], *_rates(row, keys), names[row["worst"]], f"{row['price']:+.3f}"]
        for row in record["test"]
    ]
    if rows:
        _print("The test", ("recalls", *keys, "of", "price"), rows, names=(0, 4))


def _show_labels(record: dict[str, Any], most: int) -> None:
    """Print the cuts or, of the k best labels, the front; and the means over all labels."""
    judged = record["test"] or record["holdout"]
    where = "test" if record["test"] else "hold-out that it was fitted on"
    if record["front"]:
        _print(
            f"The {record['k']} best labels, rare ones raised, on the hold-out",
            ("rate", "precision", "macro recall", "price", ""),
            [
                [_strength(row["rate"]), *_rates(row, ("precision", "macro_recall", "price"))]
                + ["← chosen" if row["chosen"] else ""]
                for row in record["front"]
            ],
            names=(4,),
        )
        keys = ["micro precision", "macro recall"]
    else:
        _cuts(record, judged[1], most, where)
        keys = ["micro f1", "macro precision", "macro recall", "macro f1"]
    rows = [[row["name"], *_rates(row, keys)] for row in judged]
    _print(f"All labels of the {where}", ("", *keys), rows, names=(0,))


def _cuts(record: dict[str, Any], judged: dict[str, Any], most: int, where: str) -> None:
    order = np.argsort(-np.array(record["holdout"][1]["positives"]), kind="stable")
    left_out = max(len(order) - most, 0)
    order = np.delete(order, slice((most + 1) // 2, (most + 1) // 2 + left_out))
    cuts = torch.tensor([np.inf if t is None else t for t in record["values"]]).sigmoid()
    rates = ("recall", "precision", "f1")
    _print(
        f"The cuts of {len(cuts):,} labels, as probabilities, on the {where}",
        ("label", "cut", "true", "predicted", *rates),
        [
            [record["classes"][c], f"{cuts[c]:.3f}"]
            + [f"{judged[key][c]:,}" for key in ("positives", "predicted")]
            + _rates({key: judged[key][c] for key in rates}, rates)
            for c in order
        ],
        names=(0,),
        note=f"{left_out:,} labels between these are not shown." if left_out else "",
    )


def _rates(row: dict[str, Any], keys: Sequence[str]) -> list[str]:
    return ["–" if row[key] is None else f"{row[key]:.3f}" for key in keys]


def _strength(value: float | None) -> str:
    """Of α or a rate: `None` stands for infinity."""
    return "∞" if value is None else f"{value:.3g}"


def _print(
    title: str,
    headings: Sequence[str],
    rows: list[list[str]],
    names: tuple[int, ...],
    note: str = "",
) -> None:
    text = require("rich.text", "cli").Text
    console = require("rich.console", "cli").Console(highlight=False)
    console.print(text(title, style="bold"))
    console.print(table(headings, rows, names))
    if note:
        console.print(text(note, style="dim"))
    console.print()


def _write(decided: Tensor, names: Sequence[str], path: Path) -> None:
    """Class ids or rows of 0 and 1 in an .npz; names in a .csv, several with bars between."""
    if path.suffix == ".npz":
        np.savez_compressed(path, decided=decided.numpy(), class_names=np.array(names))
        return
    rows = decided[:, None] if decided.ndim == 1 else [row.nonzero()[:, 0] for row in decided]
    with path.open("w", encoding="utf-8", newline="") as file:
        cells = ("|".join(names[c] for c in row) for row in rows)
        csv.writer(file).writerows([["decided"], *([cell] for cell in cells)])
