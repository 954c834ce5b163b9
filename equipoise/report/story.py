"""What happened, in a few plain sentences made from the numbers of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unicodedata import bidirectional

import numpy as np

from equipoise.figures import caption
from equipoise.report.numbers import array, still_improving

if TYPE_CHECKING:
    from equipoise.report.report import Report

__all__ = ["last_mining", "name_of", "notes", "story"]

WHEN = {
    "plain run": "in the plain run",
    "plain decision": "under the plain decision",
    "as trained": "as trained",
    "as many as true": "where as many are predicted as are true",
    "decided": "as decided",
    "first epoch": "after the first epoch",
    "last epoch": "after the last epoch",
}


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
    name = caption(report.names[c], 60)
    turns = any(bidirectional(letter) in ("R", "AL", "AN", "RLE", "RLO") for letter in name)
    return f"\u2068{name}\u2069" if turns else name


def last_mining(report: Report) -> dict[str, Any] | None:
    """What mining counted in the last epoch that it was at work in."""
    for row in reversed(report.epochs):
        if row.get("mining", {}).get("num_seen"):
            found: dict[str, Any] = row["mining"]
            return found
    return None


def notes(report: Report) -> list[str]:
    """What the figures are of, and what has to be known before they are judged."""
    kind, kinds = ("label", "labels") if report.multilabel else ("class", "classes")
    lines = []
    if still_improving(report.epochs):
        lines.append(
            "Do not judge yet: the network's mean recall on the hold-out was still rising in the "
            "last epochs, by more than chance explains."
        )
    missing = [c for c, n in enumerate(report.support or []) if not n]
    if missing:
        some = ", ".join(name_of(report, c) for c in missing[:5])
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        lines.append(f"No example was there to test {some}{more}, so nothing is known of them.")
    if report.evaluation is None:
        where = "the hold-out, as observed at the end of an epoch"
    else:
        where = f"the {report.evaluation['num_examples']:,} examples that were given"
    lines.append(f"Recall is the share of a {kind}'s examples that are recognised. It is of {where}.")
    if report.evaluation and report.evaluation["num_left_out"]:
        out = report.evaluation["num_left_out"]
        lines.append(f"{out:,} examples had NaN logits or unknown targets and were left out.")
    names = {row["name"] for row in report.outcomes}
    if "plain decision" in names:
        lines.append(
            "The plain decision takes the shifts of loss and sampling out of the logits "
            "(balancer.correct) and then takes the largest. The price of an outcome is the mean "
            "recall of the plain decision less its own; a negative price is a gain."
        )
    if "as many as true" in names:
        lines.append(
            "As many as true: each label's recall at the threshold where as many are predicted as "
            "are true, so that predicting more of a label does not raise it."
        )
    if "first epoch" in names and "plain run" not in names:
        lines.append(
            "Most of what changed since the first epoch is training, not balancing. Give logits "
            "and targets, or baseline=… with the recalls of a plain run, to see the difference."
        )
    lines.append(
        "Chance leaves: the standard deviation (sd) that equal recalls would show on so few "
        "examples. An sd near it cannot be told from equal recalls."
    )
    lines.append(
        f"λ is the log-weight of a {kind} after the last epoch, in natural-log units; its mean over "
        f"the {kinds} is zero. At +0.69 a {kind} weighs twice as much as at 0."
    )
    return lines


def _unbalanced(report: Report) -> str:
    counts = np.array(report.counts)
    most, least = int(counts.argmax()), int(counts.argmin())
    if report.multilabel:
        text = (
            f"{name_of(report, most)} is on {_percent(counts[most] / report.num_examples)} of the "
            f"{report.num_examples:,} training examples, {name_of(report, least)} on "
            f"{_percent(counts[least] / report.num_examples)}."
        )
    elif counts[most] < 1.05 * counts[least]:
        text = f"Each of the {len(counts):,} classes has about {counts.mean():,.0f} training examples."
    else:
        text = (
            f"{name_of(report, most)} has {counts[most]:,} training examples, "
            f"{_times(counts[most] / max(counts[least], 1))} as many as {name_of(report, least)} "
            f"({counts[least]:,})."
        )
    if not report.outcomes or report.outcomes[0]["mean"] is None:
        return text
    first = report.outcomes[0]
    recalls, when = array(first["recalls"]), WHEN[first["name"]]
    best = int(np.nanargmax(recalls))
    return (
        f"{text} {when[0].upper()}{when[1:]}, {first['lowest']:.0%} of "
        f"{name_of(report, first['worst'])} was recalled, and {recalls[best]:.0%} of "
        f"{name_of(report, best)}."
    )


def _done(report: Report) -> str:
    parts, said = report.parts, []
    ends = _most_and_least_drawn(report)
    if ends is not None:
        (up, many), (down, few) = ends
        text = f"{parts['policy']} changed how often examples are drawn:"
        if few > 0:
            said.append(
                f"{text} an example of {name_of(report, up)} is now drawn {_times(many / few)} as "
                f"often as one of {name_of(report, down)}."
            )
        else:
            said.append(f"{text} none of {name_of(report, down)} is drawn any more.")
    weight = array(report.log_weight) * (1 - parts["sampler_share"])
    if np.ptp(weight) > 0.005:
        up, down = int(weight.argmax()), int(weight.argmin())
        said.append(
            f"The loss ({parts['loss']}) carries {_percent(1 - parts['sampler_share'])} of λ, "
            f"which spans {np.ptp(weight):.2f} there, from {name_of(report, down)} to "
            f"{name_of(report, up)}."
        )
    else:
        said.append(f"The loss is {parts['loss']}.")
    mined = last_mining(report)
    if mined is not None:
        text = f"Mining ({parts['mining']}) learnt from {_percent(mined['share_kept'])} of what came"
        cost = mined.get("estimated_cost", 1.0)
        said.append(
            f"{text}, in about {_percent(cost)} of the time without it."
            if cost < 0.995
            else f"{text}."
        )
    if parts["decision"]:
        said.append(f"The decision was fitted on a hold-out for the objective {parts['decision']}.")
    return " ".join(said)


def _changed(report: Report) -> str:
    if not report.outcomes or report.outcomes[-1]["mean"] is None:
        return "Not known: no recalls were observed, and no logits were given."
    first, now = report.outcomes[0], report.outcomes[-1]
    when = WHEN[now["name"]]
    if first is now:
        said = f"{when[0].upper()}{when[1:]} the recalls have a standard deviation of {now['sd']:.3f}"
    else:
        said = (
            f"From {first['name']} to {now['name']}, the lowest recall went from "
            f"{first['lowest']:.3f} ({name_of(report, first['worst'])}) to {now['lowest']:.3f} "
            f"({name_of(report, now['worst'])}), and the standard deviation of the recalls from "
            f"{first['sd']:.3f} to {now['sd']:.3f}"
        )
    floor = now["chance"]
    said += "." if floor is None else f", of which chance alone would leave about {floor:.3f}."
    raised = _most_raised(first, now)
    if raised is not None:
        recalls = [row["recalls"][raised] for row in (first, now)]
        said += f" Raised most was {name_of(report, raised)}, from {recalls[0]:.2f} to {recalls[1]:.2f}"
        precisions = [(row["precisions"] or recalls)[raised] for row in (first, now)]
        if first["precisions"] and now["precisions"] and None not in precisions:
            said += f", while its precision went from {precisions[0]:.2f} to {precisions[1]:.2f}"
        said += "."
    if now["predicted"] and report.multilabel:
        ratio = sum(now["predicted"]) / max(sum(report.support or []), 1)
        said += f" Labels are predicted {_times(ratio)} as often as they are true."
    return said


def _cost(report: Report) -> str:
    said = []
    if report.outcomes and report.outcomes[-1]["mean"] is not None:
        first, now = report.outcomes[0], report.outcomes[-1]
        if first is not now:
            said.append(
                f"The mean recall went from {first['mean']:.3f} ({first['name']}) to "
                f"{now['mean']:.3f} ({now['name']})."
            )
        if now["name"] == "last epoch" and now["price"] is not None:
            said.append(f"{_gain_or_price(now['price'])} against the plain decision.")
    decision = report.decision
    if decision is not None and decision["price"] is not None:
        said.append(f"On the hold-out, {_gain_or_price(decision['price']).lower()} was expected.")
    if decision is not None and decision["equality_price"] is not None:
        said.append(
            f"Making all recalls equal is predicted to cost {decision['equality_price']:.3f} of "
            "mean recall."
        )
    ends = _most_and_least_drawn(report)
    if ends is not None:
        (up, many), (down, few) = ends
        text = f"An epoch draws each example of {name_of(report, up)} {_times(many)} on average"
        if few < 0.995:
            text += f", and {_percent(few)} of those of {name_of(report, down)}"
        said.append(f"{text}.")
    if report.seconds:
        total = sum(report.seconds.values())
        times = ", ".join(f"{name} {_duration(value)}" for name, value in report.seconds.items())
        said.append(f"Time: {times}" + (f", {_duration(total)} in all." if len(report.seconds) > 1 else "."))
    return " ".join(said) if said else "Nothing that these figures show."


def _gain_or_price(price: float) -> str:
    kind = "A price" if price >= 0 else "A gain"
    return f"{kind} of {abs(price):.3f} of mean recall"


def _most_raised(first: dict[str, Any], now: dict[str, Any]) -> int | None:
    gain = array(now["recalls"]) - array(first["recalls"])
    if np.isnan(gain).all() or np.nanmax(gain) < 0.005:
        return None
    return int(np.nanargmax(gain))


def _most_and_least_drawn(report: Report) -> tuple[tuple[int, float], tuple[int, float]] | None:
    """Class and draws per example at both ends; `None` where all are drawn alike."""
    if report.draws is None:
        return None
    counts = np.array(report.counts, np.float64)
    drawn = np.divide(report.draws, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    up, down = int(np.nanargmax(drawn)), int(np.nanargmin(drawn))
    if drawn[up] <= 1.005 * drawn[down]:
        return None
    return (up, float(drawn[up])), (down, float(drawn[down]))


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 300:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _times(ratio: float) -> str:
    """2.3 times, 41 times, 1,200 times."""
    if ratio >= 10:
        return f"{ratio:,.0f} times"
    return f"{ratio:.1f} times" if ratio >= 2 else f"{ratio:.2f} times"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if 0 < share < 0.0995 else f"{share:.0%}"
