"""What happened, in a few plain sentences made from the numbers of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unicodedata import bidirectional

import numpy as np

from equipoise.balancer.grouping import group_figures
from equipoise.figures import caption
from equipoise.report.numbers import array, ratio, still_improving

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["last_mining", "name_of", "notes", "story", "warnings"]

PLAIN = (
    "The plain decision takes the shifts of loss and sampling out of the logits "
    "(balancer.correct), and then the largest, or of several labels those above 0. The price of an "
    "outcome is the mean recall of the plain decision less its own; a negative price is a gain."
)
AS_MANY = (
    "As many as true: each label's recall at the threshold where as many are predicted as are "
    "true, so that predicting more of a label does not raise it."
)
TRAINING = (
    "Most of what changed since the first epoch is training, not balancing. Give logits and "
    "targets, or baseline=… with the recalls of a plain run, to see the difference."
)
CHANCE = (
    "By chance: the standard deviation (sd) that equal recalls would show on so few examples. An "
    "sd near it cannot be told from equal recalls."
)
WEIGHT = (
    "λ is the log-weight after the last epoch, in natural-log units, with mean zero: at +0.69 a "
    "class weighs twice as much as at 0."
)


def story(report: Report) -> list[tuple[str, str]]:
    """Heading and text of: what was unbalanced, what was done, what it changed, what it cost."""
    return [
        ("What was unbalanced", _unbalanced(report)),
        ("What was done", _done(report)),
        ("What it changed", _changed(report)),
        ("What it cost", _cost(report)),
    ]


def warnings(report: Report) -> list[str]:
    """What has to be known before the figures are judged."""
    lines = []
    if still_improving(report.epochs):
        lines.append(
            "Do not judge yet: the network's mean recall on the hold-out was still rising in the "
            "last epochs, by more than chance explains."
        )
    if missing := [c for c, n in enumerate(report.support or []) if not n]:
        some = ", ".join(name_of(report, c) for c in missing[:5])
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        lines.append(f"There was no test example of {some}{more}, so nothing is known of them.")
    return lines


def notes(report: Report) -> list[str]:
    """What the figures are of, and how to read them."""
    found = report.evaluation
    of = (
        "the hold-out" if found is None else f"the {found['num_examples']:,} {report.counted} given"
    )
    lines = [f"Recall is the share of a class's {report.counted} that are recognised, of {of}."]
    if report.counted == "elements":
        lines.append("Elements are what the examples carry, such as the pixels of images.")
    if found and found["num_left_out"]:
        lines.append(f"{found['num_left_out']:,} had NaN logits or unknown targets: left out.")
    names = {row["name"] for row in report.outcomes}
    lines += [PLAIN] if names & {"plain", "decided"} else []
    lines += [AS_MANY] if "as many as true" in names else []
    lines += [TRAINING] if "first epoch" in names and "baseline" not in names else []
    return [*lines, CHANCE, WEIGHT]


def name_of(report: Report, c: int) -> str:
    """The class's name, not too long, as part of a sentence that it must not turn around."""
    name = caption(report.names[c], 60)
    turns = any(bidirectional(letter) in ("R", "AL", "AN", "RLE", "RLO") for letter in name)
    return f"\u2068{name}\u2069" if turns else name  # Unicode's isolates


def last_mining(report: Report) -> dict[str, Any] | None:
    """What mining counted in the last epoch that it was at work in."""
    rows = [row["mining"] for row in report.epochs if row.get("mining", {}).get("num_seen")]
    return rows[-1] if rows else None


def _unbalanced(report: Report) -> str:
    counts, n = np.array(report.counts), report.num_examples
    most, least = int(counts.argmax()), int(counts.argmin())
    if report.multilabel:
        known = np.array(report.known)
        share = counts / np.maximum(known, 1)
        most, least = int(share.argmax()), int(share.argmin())
        text = (
            f"{name_of(report, most)} is on {_percent(share[most])} of the {n:,} training examples"
        )
        text += (
            f", {name_of(report, least)} on {_percent(share[least])}." if len(counts) > 1 else "."
        )
        if (known < n).any():
            text += " Examples in which a label is unknown are left out of its share."
    elif counts[most] < 1.05 * counts[least]:
        text = (
            f"Each of {len(counts):,} classes has about {counts.mean():,.0f} training "
            f"{report.counted}."
        )
    else:
        text = (
            f"{name_of(report, most)} has {counts[most]:,} training {report.counted}, "
            f"{_times(counts[most] / max(counts[least], 1))} as many as {name_of(report, least)} "
            f"({counts[least]:,})."
        )
    if not report.outcomes or report.outcomes[0]["mean"] is None:
        return text
    first = report.outcomes[0]
    best = int(np.nanargmax(array(first["recalls"])))
    if best == first["worst"]:
        return f"{text} The recall ({first['name']}) is {first['lowest']:.0%}."
    return (
        f"{text} The recalls ({first['name']}) range from {first['lowest']:.0%} of "
        f"{name_of(report, first['worst'])} to {first['recalls'][best]:.0%} of "
        f"{name_of(report, best)}."
    )


def _done(report: Report) -> str:
    parts, said = report.parts, []
    drawn = ratio(array(report.draws), array(report.counts))
    up, down = int(np.nanargmax(drawn)), int(np.nanargmin(drawn))
    if drawn[up] > 1.005 * drawn[down]:
        said.append(
            f"{parts['policy']} changed how often examples are drawn. An epoch now draws each "
            f"example of {name_of(report, up)} {_times(drawn[up])} on average, and each of "
            f"{name_of(report, down)} {_times(drawn[down])}."
        )
    share = 1 - parts["sampler_share"]
    weight = array(report.log_weight) * share
    if np.ptp(weight) > 0.005:
        up, down = int(weight.argmax()), int(weight.argmin())
        said.append(
            f"{parts['loss']} carries {_percent(share)} of λ, from {weight[down]:+.2f} for "
            f"{name_of(report, down)} to {weight[up]:+.2f} for {name_of(report, up)}."
        )
    else:
        said.append(f"The loss is {parts['loss']}.")
    if (mined := last_mining(report)) is not None:
        said.append(f"{parts['mining']} learnt from {_percent(mined['share_kept'])} of what came.")
    if parts["decision"]:
        said.append(f"The decision was fitted on a hold-out for the objective {parts['decision']}.")
    return " ".join(said)


def _changed(report: Report) -> str:
    if not report.outcomes or report.outcomes[-1]["mean"] is None:
        return "Not known: no recalls were observed, and no logits were given."
    first, now = report.outcomes[0], report.outcomes[-1]
    lowest = f"{now['lowest']:.3f} of {name_of(report, now['worst'])}"
    if first is now:
        said = f"The lowest recall ({now['name']}) is {lowest}, the sd of all {now['sd']:.3f}"
    else:
        said = (
            f"From {first['name']} to {now['name']}, the lowest recall went from "
            f"{first['lowest']:.3f} of {name_of(report, first['worst'])} to {lowest}, and the sd "
            f"of all recalls from {first['sd']:.3f} to {now['sd']:.3f}"
        )
    floor = now["chance"]
    said += "." if floor is None else f", of which chance alone would leave about {floor:.3f}."
    gain = np.nan_to_num(array(now["recalls"]) - array(first["recalls"]))
    c = int(gain.argmax())
    if gain[c] >= 0.005:
        said += f" Raised most was {name_of(report, c)}, by {gain[c]:.2f}"
        precisions = [(row["precisions"] or [None] * (c + 1))[c] for row in (first, now)]
        if None not in precisions:
            said += f"; its precision went from {precisions[0]:.2f} to {precisions[1]:.2f}"
        said += "."
    if report.num_groups and report.support and len(report.names) > report.num_groups:
        shape = -1, report.num_groups
        support = array(report.support).reshape(shape)
        before, after = (
            group_figures(array(row["recalls"]).reshape(shape), support) for row in (first, now)
        )
        gap, worst, was = "equal_opportunity_gap", "worst_group_accuracy", ["", ""]
        if first is not now:
            was = [f" ({before[gap]:.3f} {first['name']})", f" ({before[worst]:.3f})"]
        said += f" Two groups' recalls of one class differ by up to {after[gap]:.3f}{was[0]}"
        said += f"; the lowest accuracy of a group is {after[worst]:.3f}{was[1]}."
    if report.multilabel and now["predicted"] and report.support:
        times = _times(sum(now["predicted"]) / max(sum(report.support), 1))
        said += f" Labels are predicted {times} as often as they are true ({now['name']})."
    return said


def _cost(report: Report) -> str:
    said = []
    known = [row for row in report.outcomes if row["mean"] is not None]
    if len(known) > 1:
        ends = [f"{row['mean']:.3f} ({row['name']})" for row in (known[0], known[-1])]
        said.append(f"The mean recall went from {ends[0]} to {ends[1]}.")
    if known and known[-1]["price"] is not None:
        price = known[-1]["price"]
        kind = "more than" if price <= 0 else "less than"
        said.append(f"That is {abs(price):.3f} {kind} under the plain decision.")
    found = report.decision or {}
    if found.get("price") is not None:
        said.append(
            f"On the hold-out the decision costs {found['price']:.3f} of mean recall, against the "
            "one of the highest mean."
        )
    if found.get("equality_price") is not None:
        said.append(f"To make all recalls equal would cost about {found['equality_price']:.3f}.")
    return " ".join(said) or "Nothing that these figures show."


def _times(number: float) -> str:
    """2.3 times, 41 times, 1,200 times."""
    if number >= 10:
        return f"{number:,.0f} times"
    return f"{number:.1f} times" if number >= 2 else f"{number:.2f} times"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if 0 < share < 0.0995 else f"{share:.0%}"
