"""advice: what an audit's numbers mean for training, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from equipoise.audit.measures import Audit

__all__ = ["advice"]


def advice(found: Audit) -> list[str]:
    """What to know and what to do, in sentences; the most elementary first."""
    n, counts, multilabel = found.targets.num_examples, found.counts, found.targets.multilabel
    one, several = ("label", "labels") if multilabel else ("class", "classes")
    said = []

    def of(condition: np.ndarray, text: str) -> None:
        if len(classes := np.flatnonzero(condition)):
            some = [found.class_names[c] for c in classes[:5]] + ["…"] * (len(classes) > 5)
            many = f"{len(classes)} {one if len(classes) == 1 else several}"
            said.append(text.format(many, ", ".join(some)))

    of(counts == 0, "No example, so not to be learnt: {} ({}). Drop, or collect examples.")
    unknown = found.targets.unknown_counts
    everywhere = (counts == n - unknown) & (counts > 0)
    of(everywhere, "In every example, so nothing to learn: {} ({}). Drop.")
    of(
        (counts > 0) & (counts < 20),
        "Fewer than 20 examples: {} ({}). Recalls on a hold-out of these are mostly noise; do not "
        "let them steer, and cap how often an example is repeated.",
    )
    if unknown.any():
        said.append(
            f"{unknown.sum() / (n * len(counts)):.1%} of the labels are unknown, at most "
            f"{unknown.max():,} examples of one ({found.class_names[int(unknown.argmax())]}): "
            "shares are of the known ones, and all losses, rates and thresholds leave them out."
        )
    if multilabel and (empty := int(found.cardinality_counts[0])):
        said.append(f"{empty:,} of {n:,} examples carry no label: they serve as negatives only.")
    if (counts > 0).sum() > 1:
        said.append(_about_counts(found, one))
    if multilabel:
        said += _about_labels(found)
    return said


def _about_counts(found: Audit, one: str) -> str:
    counts, names = found.counts, found.class_names
    if found.imbalance_ratio < 1.5:
        if found.targets.multilabel:
            return "Counts are about equal: sampling has little to even out; thresholds may have."
        return (
            "Counts are about equal: where recalls differ all the same, some classes are harder, "
            'not rarer; weights from counts will not help, policy="equal-recall" will.'
        )
    common = int(counts.argmax())
    rare = int(np.where(counts > 0, counts, counts.max() + 1).argmin())
    said = (
        f"The largest {one}, {names[common]}, has {counts[common]:,} examples: "
        f"{found.imbalance_ratio:,.1f} times {names[rare]}'s {counts[rare]:,}."
    )
    if found.targets.multilabel:
        return said
    share = found.prevalence[common]
    if share > 0.2:
        said += f" Always guessing {names[common]} is right in {share:.0%}."
    return said + (
        " Look at mean, spread and lowest recall rather than at accuracy; Balancer(targets) evens "
        "the recalls out."
    )


def _about_labels(found: Audit) -> list[str]:
    said = []
    if found.scumble > 0.1:
        said.append(
            f"Rare labels come together with frequent ones (SCUMBLE {found.scumble:.3f}, over .1): "
            "cloning examples raises both. Use LabelBalancedSampler, which solves for all labels "
            "at once."
        )
    elif found.mean_ir > 1.5:
        said.append(
            f"Rare labels mostly come without frequent ones (SCUMBLE {found.scumble:.3f}, at most "
            ".1): sampling can raise them. LabelBalancedSampler does, and says what it reached."
        )
    median = float(np.median(found.prevalence))
    if 0 < median < 0.2:
        said.append(
            f"Half of the labels are on fewer than {median:.2%} of the examples: pos_weight = "
            f"neg/pos multiplies their odds by {1 / median - 1:,.0f} or more, and a cut at .5 "
            'predicts far too many. Use fit_decision("prevalence") instead.'
        )
    return said
