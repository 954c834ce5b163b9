"""Tables of results: one run as trained and decided, or methods side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["CLASS_COLUMNS", "LABEL_COLUMNS", "show_comparison", "show_run", "summary"]

# Key of the results, and what stands above it
CLASS_COLUMNS = {"mean_recall": "mean", "sd_recall": "sd", "lowest_recall": "lowest"}
LABEL_COLUMNS = {
    "macro_auprc": "macro AUPRC",
    "macro_f1": "macro F1",
    "median_predicted_over_true": "predicted / true",
}
ROWS = {"as_trained": "as trained", "decided": "decided"}


def columns_of(multilabel: bool) -> dict[str, str]:
    """The figures of a table."""
    return LABEL_COLUMNS if multilabel else CLASS_COLUMNS


def show_run(record: dict[str, Any]) -> None:
    """Print what a finished run reached on its test examples."""
    multilabel, results = record["multilabel"], record["results"]
    columns = columns_of(multilabel) | ({} if multilabel else {"accuracy": "accuracy"})
    kind = "labels" if multilabel else "recalls of classes"
    table = Table(title=f"{kind} on {record['examples']['test']:,} test examples")
    table.add_column("")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for key, name in ROWS.items():
        table.add_row(name, *(_number(results[key][column]) for column in columns))
    console = Console(highlight=False)
    console.print(table)
    console.print(_lowest(record), markup=False)


def _lowest(record: dict[str, Any], most: int = 5) -> str:
    key = "auprc" if record["multilabel"] else "recalls"
    values = record["results"]["decided"][key]
    known = [(value, name) for value, name in zip(values, record["names"], strict=True)
             if value is not None]  # fmt: skip
    what = "lowest AUPRC" if record["multilabel"] else "lowest recalls, decided"
    return f"{what}: " + ", ".join(f"{name} {value:.3f}" for value, name in sorted(known)[:most])


def summary(results: list[dict[str, Any]], multilabel: bool) -> dict[str, dict[str, Any]]:
    """By method: mean and standard deviation over the seeds of every figure, and seconds."""
    found: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(result["method"] for result in results):
        mine = [result for result in results if result["method"] == method]
        found[method] = {"seeds": len(mine)}
        for row in ROWS:
            found[method][row] = {
                key: _mean_sd([r["results"][row][key] for r in mine])
                for key in columns_of(multilabel)
            }
        found[method]["seconds"] = _mean_sd([r["seconds"] for r in mine])
    return found


def _mean_sd(values: list[Any]) -> dict[str, float | None]:
    known = np.array([np.nan if value is None else value for value in values], float)
    spread = float(known.std(ddof=1)) if len(known) > 1 else None
    return {"mean": float(known.mean()), "sd": spread}


def show_comparison(record: dict[str, Any]) -> None:
    """Print methods side by side: mean ± standard deviation over the seeds."""
    multilabel = record["multilabel"]
    columns = columns_of(multilabel)
    kind = "labels" if multilabel else "recalls of classes"
    seeds = max(row["seeds"] for row in record["summary"].values())
    over = f", mean ± sd over {seeds} seeds" if seeds > 1 else ""
    title = f"{kind} on {record['examples']['test']:,} test examples{over}"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")
    table.add_column("", no_wrap=True)
    for heading in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for method, found in record["summary"].items():
        for row, name in ROWS.items():
            cells = [_spread(found[row][key]) for key in columns]
            if row == "as_trained":
                table.add_row(Text(method), name, *cells, f"{found['seconds']['mean']:.0f}")
            else:
                table.add_row("", name, *cells, "", end_section=True)
    Console(highlight=False).print(table)


def _spread(found: dict[str, Any]) -> str:
    return _number(found["mean"]) + ("" if found["sd"] is None else f" ±{found['sd']:.3f}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
