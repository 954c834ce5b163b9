"""Table, picture and JSON of what benchmarks.evidence has decided."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.evidence.decisions import DECISIONS, MAX_PRICE
from examples import harness

TITLES = dict(zip(DECISIONS, ("as trained", "fair", "equal-recall"), strict=True))
Figures = dict[str, dict[int, np.ndarray]]  # by method and seed: mean, sd, lowest


def figures_of(record: dict[str, Any], decision: str) -> Figures:
    """Mean, sd and lowest of the classes' recalls of each method and seed."""
    found: Figures = {}
    for run in record["results"]:
        row = harness.figures(run["recalls"][decision])
        found.setdefault(run["method"], {})[run["seed"]] = row
    return found


def half_width(values: np.ndarray) -> np.ndarray:
    """Half a 95% confidence interval of the mean over the first axis, after Student's t."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return np.full(values.shape[1:], np.nan)
    return t.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n)


def paired(ours: dict[int, np.ndarray], theirs: dict[int, np.ndarray]) -> np.ndarray:
    """`(seeds, 3)`: differences of the runs with the same seed."""
    seeds = sorted(ours.keys() & theirs.keys())
    return np.array([ours[s] - theirs[s] for s in seeds]).reshape(-1, 3)


def noise_floor(record: dict[str, Any]) -> tuple[float, tuple[float, float]]:
    """Sd of equal recalls that sampling noise leaves; where 95% of hold-outs and tests have it.

    The latter from 10,000 normal draws: all runs share one hold-out and one test set. The recall is
    the mean of all methods with equal-recall offsets.
    """
    r = float(np.nanmean([run["recalls"]["equal"] for run in record["results"]]))
    supports = [np.array(record["support"][part], float) for part in ("holdout", "test")]
    sd = np.sqrt(r * (1 - r) * sum(1 / np.maximum(n, 1) for n in supports))
    drawn = np.random.default_rng(0).normal(0, sd, (10_000, len(sd))).std(1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return harness.noise_floor(r, *supports), (low, high)


def _with_half(values: np.ndarray, sign: str = "") -> list[str]:
    halves = half_width(values)
    return [
        f"{middle:{sign}.3f}" + ("" if np.isnan(half) else f" ± {half:.3f}")
        for middle, half in zip(values.mean(0), halves, strict=True)
    ]


def table(record: dict[str, Any], default: str) -> list[str]:
    """Markdown: a row a method, mean over the seeds ± half a 95% confidence interval."""
    views = {name: figures_of(record, name) for name in DECISIONS}
    many = len(record["classes"]) >= 50
    heads = [f"{TITLES[name]}: mean | sd | lowest" for name in DECISIONS]
    heads += [f"lowest tenth: {' | '.join(TITLES.values())}"] if many else []
    head = f"| | seeds | {' | '.join(heads)} | price | CPU s |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for method, what in record["methods"].items():
        mine = [run for run in record["results"] if run["method"] == method]
        cells = [str(len(mine))]
        for view in views.values():
            cells += _with_half(np.array([*view[method].values()]))
        if many:
            cells += _with_half(np.array([[run["tenth"][d] for d in DECISIONS] for run in mine]))
        cells += _with_half(np.array([[run["price"]] for run in mine]), "+")
        name = f"**{method}**" if method == default else method
        cells += [f"{np.mean([run['cpu_seconds'] for run in mine]):.0f}"]
        lines.append(f"| {name}: {what} | " + " | ".join(cells) + " |")
    return lines


def differences(record: dict[str, Any], default: str) -> list[str]:
    """Markdown: runs with the same seed compared, mean and lowest recall."""
    views = {name: figures_of(record, name) for name in DECISIONS}
    against = [
        ("trained", "plain", "trained"),
        ("fair", "plain", "trained"),
        ("fair", "plain", "fair"),
        ("fair", default, "fair"),
    ]
    against = [row for row in against if row[1] in record["methods"]]
    heads = [f"{TITLES[a]} − {other} {TITLES[b]}: mean | lowest" for a, other, b in against]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---|---|" * len(against)]
    for method in record["methods"]:
        cells = []
        for ours, other, theirs in against:
            apart = paired(views[ours][method], views[theirs][other])
            same = (method, ours) == (other, theirs) or not len(apart)
            cells += ["", ""] if same else _with_half(apart[:, [0, 2]], "+")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def apart(heights: np.ndarray, low: float, high: float) -> np.ndarray:
    """Heights in increasing order, moved as little as keeps their labels from overlapping."""
    from sklearn.isotonic import isotonic_regression

    gap = (high - low) / max(26, len(heights))
    steps = gap * np.arange(len(heights))
    most = max(low, high - gap / 2 - steps[-1])
    return isotonic_regression(heights - steps, y_min=min(low + gap / 2, most), y_max=most) + steps


def curve(record: dict[str, Any], method: str) -> np.ndarray:
    """`(α, 3)`: mean, sd and lowest recall along the front, means over the seeds."""
    rows = [run["front"] for run in record["results"] if run["method"] == method]
    return np.array(rows, float)[:, :, 1:].mean(0)


def draw(record: dict[str, Any], title: str, default: str, path: Path) -> None:
    """Mean recall against the lowest, of each method as trained and decided.

    Names stand in a column, in the order of their points, with a line to each: none overlaps. Of
    plain and of the default the whole front is drawn, from α = 0 to equal recalls.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 6.5), layout="constrained")
    axes = figure.subplots()
    at = {
        name: {
            m: np.array([*rows.values()]).mean(0) for m, rows in figures_of(record, name).items()
        }
        for name in ("trained", "fair")
    }
    colours = {default: "#c2502d", "plain": "#333333"}
    for method, (mean, _, lowest) in at["fair"].items():
        colour = colours.get(method, "#2f6f9f")
        before = at["trained"][method]
        axes.plot([before[2], lowest], [before[0], mean], "-", color=colour, lw=0.7, alpha=0.35)
        axes.plot(before[2], before[0], "o", mfc="white", color=colour, ms=5, alpha=0.7)
        axes.plot(lowest, mean, "o", color=colour, ms=5)
    for method in (m for m in colours if m in at["fair"]):
        line = curve(record, method)
        axes.plot(line[:, 2], line[:, 0], ".-", color=colours[method], lw=1.2, ms=3, alpha=0.8)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    order = sorted(at["fair"], key=lambda m: at["fair"][m][0])
    places = apart(np.array([at["fair"][m][0] for m in order]), low, high)
    for method, place in zip(order, places, strict=True):
        mean, _, lowest = at["fair"][method]
        axes.annotate(
            method,
            (lowest, mean),
            (right + 0.03 * (right - left), place),
            va="center",
            size=8,
            weight="bold" if method == default else "normal",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colours.get(method, "#c5ccd3"),
                "linewidth": 0.5,
                "relpos": (0, 0.5),
            },
        )
    axes.set_xlabel("lowest recall of a class")
    axes.set_ylabel("mean recall")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    seeds = sorted({len(rows) for rows in figures_of(record, "fair").values()})
    told = "–".join(map(str, seeds[:: max(1, len(seeds) - 1)]))
    axes.set_title(
        f"{title}: means over {told} seeds. Hollow: as trained; filled: fair decision;\n"
        f"lines: the fronts of plain and {default}, from α = 0 to equal recalls",
        size=10,
    )
    figure.savefig(path, dpi=110)


def write_report(record: dict[str, Any], name: str, folder: Path, default: str) -> None:
    """`evidence_NAME.json`, `.md` and `.png` in the folder; the tables are printed too."""
    folder.mkdir(parents=True, exist_ok=True)
    settings, support = record["settings"], record["support"]
    seeds = len({run["seed"] for run in record["results"]})
    where = torch.cuda.get_device_name() if settings["device"] == "cuda" else platform.machine()
    floor, (low, high) = noise_floor(record)
    more = "".join(
        f" --{key} {settings[key]}"
        for key, usual in (("net", "small"), ("head", "linear"))
        if settings[key] != usual
    )
    lines = [
        f"# {name}",
        "",
        f"`python -m benchmarks.evidence --set {settings['set']}{more}"
        + (" --pilot" if settings["pilot"] else "")
        + f" --seeds {seeds}`: {sum(support['train']):,} training, {sum(support['holdout']):,} "
        f"hold-out and {sum(support['test']):,} test images; {settings['net']} net of width "
        f"{settings['width']}, {settings['epochs']} epochs, batches of {settings['batch_size']}, "
        f"learning rate {settings['lr']}, {'bfloat16' if settings['bf16'] else 'float32'}. "
        f"torch {torch.__version__.split('+')[0]}, Python {platform.python_version()}, {where}, "
        "one thread a run.",
        "",
        f"Images a class: training {_range(support['train'])}, hold-out "
        f"{_range(support['holdout'])}, test {_range(support['test'])}.",
        "",
        "Recalls on the test images, mean over the seeds ± half a 95% confidence interval (t). "
        "Fair: the strongest offsets of the front whose price, cross-fitted on the hold-out, is at "
        f"most {MAX_PRICE:g}. Equal-recall: offsets for equal recalls at any price. Price: mean "
        "recall with λ taken out, less that of the fair decision.",
        "",
        *table(record, default),
        "",
        f"Sampling noise alone leaves an sd of {floor:.3f} where recalls are equal, and of "
        f"{low:.3f} to {high:.3f} for 95% of all hold-outs and test sets.",
        "",
        "## Paired differences",
        "",
        *differences(record, default),
        "",
        f"![Mean and lowest recall](evidence_{name}.png)",
        "",
    ]
    text = "\n".join(lines)
    (folder / f"evidence_{name}.md").write_text(text)
    (folder / f"evidence_{name}.json").write_text(json.dumps(_rounded(record)) + "\n")
    draw(record, name, default, folder / f"evidence_{name}.png")
    print("\n" + text)


def _range(counts: list[int]) -> str:
    return f"{min(counts):,}" + ("" if min(counts) == max(counts) else f" to {max(counts):,}")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value
