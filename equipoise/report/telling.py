"""What happened, in a few plain sentences made from the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unicodedata import bidirectional

import numpy as np

from equipoise.report.spread import noise_floor, spread_of

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["last_mining", "name_of", "per_example", "short", "sources", "story"]

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


def name_of(report: Report, c: int) -> str:
    """The class's name as part of a sentence: not too long, and with a direction of its own.

    A name written from right to left would turn the sentence around, so it is put between Unicode's
    isolates.
    """
    name = short(report.names[c], 60)
    turns = any(bidirectional(letter) in ("R", "AL", "AN", "RLE", "RLO") for letter in name)
    return f"\u2068{name}\u2069" if turns else name


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
    counts = np.array(report.counts)
    most, least = int(counts.argmax()), int(counts.argmin())
    if report.multilabel:
        n = report.num_examples
        text = (
            f"{name_of(report, most)} is on {_percent(counts[most] / n)} of the {n:,} training "
            f"examples, {name_of(report, least)} on {_percent(counts[least] / n)}."
        )
    elif counts[most] < 1.05 * counts[least]:
        text = (
            f"Each of the {len(counts):,} classes has about {counts.mean():,.0f} training examples."
        )
    else:
        text = (
            f"{name_of(report, most)} has {counts[most]:,} training examples, "
            f"{_times(counts[most] / max(counts[least], 1))} as many as {name_of(report, least)} "
            f"({counts[least]:,})."
        )
    before = spread_of(report.before["recalls"])
    if before is None:
        return text
    when = BEFORE[report.before["source"]]
    return (
        f"{text} {when[0].upper()}{when[1:]}, {before.lowest:.0%} of "
        f"{name_of(report, before.worst)} was recalled, and {before.highest:.0%} of "
        f"{name_of(report, before.best)}."
    )


def _done(report: Report) -> str:
    parts = report.parts
    after = _after_epochs(report)
    said = []
    drawn = per_example(report)
    if drawn is not None and np.nanmax(drawn) > 1.005 * np.nanmin(drawn):
        up, down = int(np.nanargmax(drawn)), int(np.nanargmin(drawn))
        by = (
            " by class counts and the recalls on a hold-out"
            if parts["policy"] in CLOSED_LOOP
            else ""
        )
        text = f"{parts['policy']} changed how often examples are drawn{by}: {after}"
        if drawn[down] > 0:
            said.append(
                f"{text} an example of {name_of(report, up)} is drawn "
                f"{_times(drawn[up] / drawn[down])} as often as one of {name_of(report, down)}."
            )
        else:
            said.append(f"{text} none of {name_of(report, down)} is drawn any more.")
    weight = np.array(report.log_weight) * (1 - parts["sampler_share"])
    if np.ptp(weight) > 0.005:
        up, down = int(weight.argmax()), int(weight.argmin())
        loss = "The loss" if said else f"{parts['policy']}: the loss"
        if parts["loss"] == "LogitAdjustedCrossEntropy":
            said.append(
                f"{loss} lowers the logits of {name_of(report, up)} by {np.ptp(weight):.2f} "
                f"against those of {name_of(report, down)}, and the network makes up for it."
            )
        else:
            said.append(
                f"{loss} counts {name_of(report, up)} {_times(np.exp(np.ptp(weight)))} as much as "
                f"{name_of(report, down)}."
            )
    mined = last_mining(report)
    if mined is not None:
        cost = mined.get("estimated_cost", 1.0)
        said.append(
            f"Mining ({parts['mining']}) learnt from {_percent(mined['share_kept'])} of what came"
            + (f", in about {_percent(cost)} of the time without it." if cost < 0.995 else ".")
        )
    if parts["decision"]:
        said.append(f"Predictions are made with {parts['decision']} fitted on a hold-out.")
    if not said:
        kind = "label" if report.multilabel else "class"
        said.append(f"No {kind} is drawn or weighted differently from another.")
    if parts["loss"] != "WeightedCrossEntropy":
        said.append(f"The loss is {parts['loss']}.")
    return " ".join(said)


def _changed(report: Report) -> str:
    now, before = spread_of(report.after["recalls"]), spread_of(report.before["recalls"])
    if now is None:
        return "Not known: no recalls were observed, and no logits given."
    said = (
        f"Recalls now lie between {now.lowest:.2f} ({name_of(report, now.worst)}) and "
        f"{now.highest:.2f} ({name_of(report, now.best)})"
    )
    if before is None:
        said += f"; their spread (sd) is {now.sd:.3f}"
    else:
        said += (
            f"; {BEFORE[report.before['source']]} between {before.lowest:.2f} and "
            f"{before.highest:.2f}. Their spread (sd) went from {before.sd:.3f} to {now.sd:.3f}"
        )
    floor = noise_floor(report.after["recalls"], report.after["support"])
    said += "." if floor is None else f"; chance alone would leave about {floor:.3f}."
    areas = [row.get("mean_average_precision") for row in report.epochs]
    if areas[-1] is not None and areas[0] is not None and len(areas) > 1:
        said += (
            f" On the hold-out, mean average precision went from {areas[0]:.3f} after the first "
            f"epoch to {areas[-1]:.3f}."
        )
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
    drawn = per_example(report)
    if drawn is not None and np.nanmax(drawn) > 1.005 * np.nanmin(drawn):
        up, down = int(np.nanargmax(drawn)), int(np.nanargmin(drawn))
        share = min(drawn[down], 1.0)
        text = (
            f"An epoch draws each example of {name_of(report, up)} {_times(drawn[up])} on average"
        )
        if share < 0.995:
            text += f", and {_percent(share)} of those of {name_of(report, down)}"
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
