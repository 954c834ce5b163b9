"""What happened, in a few plain sentences made from the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.report.spread import noise_floor, spread_of

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["last_mining", "per_example", "short", "sources", "story"]

BEFORE = {
    "baseline": "in the plain run",
    "first epoch": "after the first epoch",
    "as trained": "before the decision",
}
CLOSED_LOOP = ("EqualRecall", "WorstClass", "ClassDifficulty")


def story(report: Report) -> list[tuple[str, str]]:
    """Heading and text of: what was unbalanced, what was done, what it changed, what it cost."""
    return [
        ("What was unbalanced", _unbalanced(report)),
        ("What was done", _done(report)),
        ("What it changed", _changed(report)),
        ("What it cost", _cost(report)),
    ]


def short(name: str, most: int = 24) -> str:
    """The name, cut to `most` characters.

    Example:
        >>> short("a very long name", 8)
        'a very …'
    """
    return name if len(name) <= most else name[: most - 1] + "…"


def per_example(report: Report) -> np.ndarray | None:
    """`(C,)` how often an example of each class is drawn an epoch; NaN for a class of none."""
    if report.drawn is None:
        return None
    counts = np.array(report.counts, np.float64)
    return np.divide(report.drawn, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def last_mining(report: Report) -> dict[str, Any] | None:
    """What mining counted in the last epoch that it was at work in."""
    for row in reversed(report.epochs):
        if row.get("mining", {}).get("num_seen"):
            found: dict[str, Any] = row["mining"]
            return found
    return None


def sources(report: Report) -> list[str]:
    """Where the figures come from, and what to give for better ones."""
    kind = "label" if report.multilabel else "class"
    where = (
        f"at the threshold where as many are predicted as are true, so that predicting more of a "
        f"{kind} does not raise it"
        if report.multilabel
        else "the share of a class's examples that are recognised as such"
    )
    lines = [f"Recall: {where}."]
    before = {
        "baseline": "Before: the baseline that was given.",
        "first epoch": (
            "Before: the first epoch of this run, because no baseline was given. With "
            "baseline=…, the recalls of a plain run, it tells what balancing itself changed."
        ),
        "as trained": "Before: the same examples, by the largest logit, without the decision.",
        None: "Before: not known, because no baseline was given and there was one epoch only.",
    }
    lines.append(before[report.before["source"]])
    if report.after["source"] == "evaluation" and report.evaluation is not None:
        found = report.evaluation
        what = f"the {found['num_examples']:,} examples that were given"
        fitted = report.parts["decision"]
        how = f", with fitted {fitted}" if fitted and not report.multilabel else ""
        lines.append(f"Now: {what}{how}.")
        if found["num_left_out"]:
            lines.append(f"{found['num_left_out']:,} of them had NaN logits or unknown targets.")
    elif report.after["source"] == "last epoch":
        lines.append("Now: what was observed at the end of the last epoch.")
    else:
        lines.append("No recalls: none were observed, and no logits given.")
    lines.append(
        "λ and what is drawn are those after the last epoch. λ is a log-weight, mean zero: a "
        f"{kind} at +0.69 weighs twice as much as one at 0."
    )
    return lines


def _unbalanced(report: Report) -> str:
    counts, names = np.array(report.counts), report.names
    most, least = int(counts.argmax()), int(counts.argmin())
    if report.multilabel:
        n = report.num_examples
        text = (
            f"{names[most]} is on {_percent(counts[most] / n)} of the {n:,} training examples, "
            f"{names[least]} on {_percent(counts[least] / n)}."
        )
    elif counts[most] < 1.05 * counts[least]:
        text = f"Each of the {len(counts):,} classes has about {_about(counts.mean())} examples."
    else:
        ratio = counts[most] / max(counts[least], 1)
        text = (
            f"{names[most]} has {counts[most]:,} training examples and {names[least]} "
            f"{counts[least]:,}, a ratio of {_times(ratio)}."
        )
    before = spread_of(report.before["recalls"])
    if before is None:
        return text
    return (
        f"{text} {_capital(BEFORE[report.before['source']])}, {names[before.worst]} was recalled "
        f"{before.lowest:.2f} of the time, {names[before.best]} {before.highest:.2f}."
    )


def _done(report: Report) -> str:
    parts, names = report.parts, report.names
    after = _after_epochs(report)
    said = []
    drawn = per_example(report)
    if drawn is not None and np.nanmax(drawn) > 1.005 * np.nanmin(drawn):
        up, down = int(np.nanargmax(drawn)), int(np.nanargmin(drawn))
        by = " by the recalls on a hold-out" if parts["policy"] in CLOSED_LOOP else ""
        said.append(
            f"{parts['policy']} changed how often examples are drawn{by}: {after} an example "
            f"of {names[up]} is drawn {_times(drawn[up] / drawn[down])} as often as one of "
            f"{names[down]}."
        )
    weight = np.array(report.log_weight) * (1 - parts["sampler_share"])
    if np.ptp(weight) > 0.005:
        up, down = int(weight.argmax()), int(weight.argmin())
        said.append(
            f"{'The loss' if said else parts['policy'] + ': the loss'} counts {names[up]} "
            f"{_times(np.exp(np.ptp(weight)))} as much as {names[down]}."
        )
    mined = last_mining(report)
    if mined is not None:
        said.append(f"{parts['mining']} learnt from {_percent(mined['share_kept'])} of what came.")
    if parts["decision"]:
        said.append(f"Predictions are made with {parts['decision']} fitted on a hold-out.")
    if not said:
        said.append("Nothing: every example is drawn equally often, and all count the same.")
    return " ".join(said)


def _changed(report: Report) -> str:
    now, before = spread_of(report.after["recalls"]), spread_of(report.before["recalls"])
    if now is None:
        return "Not known: no recalls were observed, and no logits given."
    names = report.names
    said = f"Recalls now lie between {now.lowest:.2f} ({names[now.worst]}) and {now.highest:.2f}"
    said += f" ({names[now.best]})"
    if before is None:
        said += f"; their spread (sd) is {now.sd:.3f}"
    else:
        said += (
            f"; {BEFORE[report.before['source']]} between {before.lowest:.2f} and "
            f"{before.highest:.2f}. Their spread (sd) went from {before.sd:.3f} to {now.sd:.3f}"
        )
    floor = noise_floor(report.after["recalls"], report.after["support"])
    said += "." if floor is None else f"; chance alone would leave about {floor:.3f}."
    if report.multilabel and report.evaluation is not None:
        found = report.evaluation
        true = max(sum(found["support"]), 1)
        trained, decided = (sum(found[k]["predicted"]) / true for k in ("trained", "decided"))
        said += (
            f" As trained, labels are predicted {_times(trained)} as often as they are true; "
            f"as decided, {_times(decided)}."
        )
    return said


def _cost(report: Report) -> str:
    said = []
    now, before = spread_of(report.after["recalls"]), spread_of(report.before["recalls"])
    if now is not None and before is not None:
        went = f"mean recall went from {before.mean:.3f} to {now.mean:.3f}"
        if report.before["source"] == "first epoch":
            said.append(
                f"Since the first epoch the {went}; what balancing itself cost would show against "
                "a plain run (baseline=…)."
            )
        else:
            said.append(f"The {went}.")
    precision = [row.get("mean_average_precision") for row in report.epochs]
    if precision[-1] is not None and precision[0] is not None and len(precision) > 1:
        said.append(f"Mean average precision went from {precision[0]:.3f} to {precision[-1]:.3f}.")
    drawn = per_example(report)
    if drawn is not None and np.nanmax(drawn) > 1.005 * np.nanmin(drawn):
        up, down = int(np.nanargmax(drawn)), int(np.nanargmin(drawn))
        share = min(drawn[down], 1.0)
        text = f"An epoch draws each example of {report.names[up]} {_times(drawn[up])} on average"
        if share < 0.995:
            text += f", and {_percent(share)} of those of {report.names[down]}"
        said.append(text + ".")
    if report.seconds:
        said.append(f"Time: {times(report.seconds)}.")
    return " ".join(said) if said else "Nothing that these figures show."


def times(seconds: dict[str, float]) -> str:
    """What took how long, and its share of all.

    Example:
        >>> times({"training": 90, "hold-out": 10})
        'training 90 s (90%), hold-out 10 s (10%)'
    """
    total = sum(seconds.values())
    if len(seconds) == 1 or not total:
        return ", ".join(f"{name} {_seconds(value)}" for name, value in seconds.items())
    return ", ".join(
        f"{name} {_seconds(value)} ({_percent(value / total)})" for name, value in seconds.items()
    )


def _seconds(value: float) -> str:
    if value >= 5400:
        return f"{value / 3600:.1f} h"
    if value >= 300:
        return f"{value / 60:.0f} min"
    return f"{value:,.0f} s" if value >= 10 else f"{value:.2g} s"


def _after_epochs(report: Report) -> str:
    n = len(report.epochs)
    return "after one epoch" if n == 1 else f"after {n:,} epochs"


def _times(ratio: float) -> str:
    """2.3 times, 41 times, 1,200 times."""
    if ratio >= 10:
        return f"{ratio:,.0f} times"
    return f"{ratio:.1f} times" if ratio >= 2 else f"{ratio:.2f} times"


def _percent(share: float) -> str:
    if 0 < share < 0.0995:
        return f"{100 * share:.2g}%"
    return f"{share:.0%}"


def _about(count: float) -> str:
    return f"{count:,.0f}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
