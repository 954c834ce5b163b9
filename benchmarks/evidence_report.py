"""Table, picture and JSON of the runs of benchmarks/evidence.py."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

FIGURES = ("mean", "sd", "lowest")
VIEWS = {"recalls": "as trained", "recalls_decided": "with the fitted decision"}


def figures_of(results: list[dict[str, Any]], key: str) -> dict[str, np.ndarray]:
    """Of each method `(seeds, 3)`: mean, sd and lowest of the classes' recalls."""
    rows: dict[str, list] = {}
    for result in sorted(results, key=lambda r: r["seed"]):
        recalls = np.array(result[key])
        rows.setdefault(result["method"], []).append((recalls.mean(), recalls.std(), recalls.min()))
    return {method: np.array(values) for method, values in rows.items()}


def half_width(values: np.ndarray) -> np.ndarray:
    """Half a 95% confidence interval of the mean over the first axis, after Student's t."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return np.full(values.shape[1:], np.nan)
    return t.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n)


def front(points: dict[str, np.ndarray]) -> list[str]:
    """Methods that no other beats in both mean recall and spread, by their seeds' averages."""
    at = {method: values.mean(0) for method, values in points.items()}

    def beaten(one: np.ndarray) -> bool:
        return any(
            o[0] >= one[0] and o[1] <= one[1] and (o[0] > one[0] or o[1] < one[1])
            for o in at.values()
        )

    return [method for method, one in at.items() if not beaten(one)]


def noise_floor(record: dict[str, Any]) -> tuple[float, tuple[float, float]]:
    """Sd of equal recalls that sampling noise leaves, √mean r(1−r)(1/n_holdout + 1/n_test).

    And where that sd is for 95% of all hold-outs and test sets (10,000 normal draws): all runs
    share one of each. r is the mean recall of all methods with the fitted decision.
    """
    r = np.mean([result["recalls_decided"] for result in record["results"]])
    held, tested = (np.array(record["support"][part], float) for part in ("holdout", "test"))
    sd = np.sqrt(r * (1 - r) * (1 / held + 1 / tested))
    drawn = np.random.default_rng(0).normal(0, sd, (10_000, len(sd))).std(1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(np.sqrt(np.mean(sd**2))), (low, high)


def table(record: dict[str, Any], default: str) -> list[str]:
    """Markdown: mean ± half a 95% confidence interval, as trained and decided."""
    views = [figures_of(record["results"], key) for key in VIEWS]
    fronts = [front(view) for view in views]
    lines = [
        "| | seeds | mean | sd | lowest | decided: mean | sd | lowest | on the front | CPU s |",
        "|" + "---|" * 10,
    ]
    for method in views[0]:
        cells = [str(len(views[0][method]))]
        for view in views:
            middle, half = view[method].mean(0), half_width(view[method])
            cells += [
                f"{m:.3f}" + ("" if np.isnan(h) else f" ± {h:.3f}")
                for m, h in zip(middle, half, strict=True)
            ]
        where = [
            name
            for name, members in zip(("as trained", "decided"), fronts, strict=True)
            if method in members
        ]
        mine = [r for r in record["results"] if r["method"] == method]
        name = f"**{method}**" if method == default else method
        cells += [", ".join(where), f"{np.mean([r['cpu_seconds'] for r in mine]):.0f}"]
        lines.append(f"| {name}: {record['methods'][method]} | " + " | ".join(cells) + " |")
    return lines


def goals(record: dict[str, Any], default: str) -> list[str]:
    """Where the default stands, and who is ahead of it."""
    floor, (low, high) = noise_floor(record)
    lines = [
        f"Sampling noise alone leaves an sd of {floor:.3f} between hold-out and test, and of "
        f"{low:.3f} to {high:.3f} for 95% of all hold-outs and test sets."
    ]
    for key, view in VIEWS.items():
        figures = figures_of(record["results"], key)
        if default not in figures:
            return lines
        at = {method: values.mean(0) for method, values in figures.items()}
        mean, sd, lowest = at[default]
        ahead = [m for m, p in at.items() if p[0] > mean and p[1] < sd]
        best = max(at, key=lambda m: at[m][2])
        lines.append(
            f"{default}, {view}: sd {sd / floor:.2f} of the floor; "
            + (f"behind in mean and sd: {', '.join(ahead)}" if ahead else "on the front")
            + "; lowest recall "
            + ("the highest of all." if best == default else f"{lowest:.3f}, {best}'s ")
            + ("" if best == default else f"{at[best][2]:.3f}.")
        )
        for other in ahead:
            pairs = min(len(figures[other]), len(figures[default]))
            difference = figures[other][:pairs] - figures[default][:pairs]
            half = half_width(difference)
            told = ", ".join(
                f"{name} {d:+.3f} ± {h:.3f}"
                for name, d, h in zip(FIGURES, difference.mean(0), half, strict=True)
            )
            lines.append(f"  {other} − {default}, {pairs} seeds, paired: {told}.")
    return lines


def apart(heights: np.ndarray, low: float, high: float) -> np.ndarray:
    """Heights in increasing order, moved as little as keeps their labels from overlapping."""
    from sklearn.isotonic import isotonic_regression

    gap = (high - low) / max(26, len(heights))
    steps = gap * np.arange(len(heights))
    most = max(low, high - gap / 2 - steps[-1])
    return isotonic_regression(heights - steps, y_min=min(low + gap / 2, most), y_max=most) + steps


def draw(record: dict[str, Any], title: str, default: str, path: Path) -> None:
    """Mean recall against its spread over the classes, as trained and decided, with the front.

    Names stand in a column, in the order of their points, with a line to each: none overlaps.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgba

    figure, panels = plt.subplots(1, 2, figsize=(13, 6), layout="constrained")
    for axes, (key, view) in zip(panels, VIEWS.items(), strict=True):
        figures = figures_of(record["results"], key)
        members = front(figures)
        at = {method: values.mean(0) for method, values in figures.items()}
        for method, (mean, sd, _) in at.items():
            half = np.nan_to_num(half_width(figures[method]))
            colour = "#c2502d" if method == default else "#2f6f9f"
            colour = colour if method in members or method == default else "#8d99a6"
            bars = to_rgba(colour, 0.3)
            axes.errorbar(sd, mean, half[0], half[1], "o", color=colour, ecolor=bars, markersize=5)
        line = np.array(sorted(at[m][[1, 0]].tolist() for m in members))
        axes.step(*line.T, where="post", color="#2f6f9f", linewidth=1.2, alpha=0.6)
        spans = np.array([[p[0], p[1]] for p in at.values()])
        (low, left), (high, right) = spans.min(0), spans.max(0)
        margin_y, margin_x = 0.08 * (high - low) + 0.004, 0.06 * (right - left) + 0.002
        low, high = low - margin_y, high + margin_y
        left, right = left - margin_x, right + margin_x
        axes.set_ylim(low, high)
        axes.set_xlim(left, right)
        floor, span = noise_floor(record)
        if left < floor < right:
            axes.axvspan(max(left, span[0]), min(right, span[1]), color="#8d99a6", alpha=0.1, lw=0)
            axes.axvline(floor, color="#8d99a6", linestyle=":", linewidth=1)
            axes.annotate(
                "noise", (floor, low), (3, 3), textcoords="offset points", size=7, color="#5d6975"
            )
        order = sorted(at, key=lambda m: at[m][0])
        places = apart(np.array([at[m][0] for m in order]), low, high)
        for method, place in zip(order, places, strict=True):
            chosen = method in members or method == default
            axes.annotate(
                method,
                (at[method][1], at[method][0]),
                (right + 0.05 * (right - left), place),
                va="center",
                size=8,
                weight="bold" if method == default else "normal",
                color="black" if chosen else "#5d6975",
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": "#c2502d" if method == default else "#c5ccd3",
                    "linewidth": 0.6,
                    "relpos": (0, 0.5),
                },
            )
        axes.set_title(view, size=10)
        axes.xaxis.set_major_locator(plt.MaxNLocator(5))
        axes.set_xlabel("sd of the classes' recalls  (less is better)")
        axes.set_ylabel("mean recall")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    seeds = sorted({len(values) for values in figures.values()})
    told = "–".join(map(str, seeds[:: max(1, len(seeds) - 1)]))
    figure.suptitle(f"{title}: means over {told} seeds, 95% confidence intervals", size=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_report(record: dict[str, Any], name: str, folder: Path, default: str) -> None:
    """`evidence_NAME.json`, `.md` and `.png` in the folder; the table is printed too."""
    folder.mkdir(parents=True, exist_ok=True)
    settings, support = record["settings"], record["support"]
    seeds = len({r["seed"] for r in record["results"]})
    where = torch.cuda.get_device_name() if settings["device"] == "cuda" else platform.machine()
    head = [
        f"# {name}",
        "",
        f"`python -m benchmarks.evidence --set {settings['set']}"
        + (f" --net {settings['net']}" if settings["net"] != "small" else "")
        + (" --pilot" if settings["pilot"] else "")
        + f" --seeds {seeds}`: {sum(support['train']):,} training, {sum(support['holdout']):,} "
        f"hold-out and {sum(support['test']):,} test images; {settings['net']} net of width "
        f"{settings['width']}, {settings['epochs']} epochs, batches of {settings['batch_size']}, "
        f"learning rate {settings['lr']}, {'bfloat16' if settings['bf16'] else 'float32'}. "
        f"torch {torch.__version__.split('+')[0]}, Python {platform.python_version()}, {where}, "
        "one thread a run.",
        "",
        f"Training images a class: {', '.join(map(str, support['train']))}; "
        f"hold-out: {', '.join(map(str, support['holdout']))}.",
        "",
        "Recalls on the test images; mean over the seeds ± half a 95% confidence interval (t).",
        "",
    ]
    body = table(record, default) + [""] + [f"* {line.strip()}" for line in goals(record, default)]
    text = "\n".join(head + body + ["", f"![front](evidence_{name}.png)", ""])
    (folder / f"evidence_{name}.md").write_text(text)
    last = [r | {"log_weight": r["log_weight"][-1]} for r in record["results"]]
    short = _rounded(record | {"results": last})
    (folder / f"evidence_{name}.json").write_text(json.dumps(short) + "\n")
    draw(record, name, default, folder / f"evidence_{name}.png")
    print("\n" + text)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value
