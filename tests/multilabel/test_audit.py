"""Audit: hand-computed values, naive loops, mldr's conventions, views."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import gmean

from equipoise.audit import audit
from equipoise.targets import Targets
from tests.multilabel.cases import matrices

EMOTIONS = [173, 166, 264, 148, 168, 189]  # counts, and truths as stored by R's mldr


def test_emotions_counts_give_mldrs_values():
    rows = np.zeros((593, 6), np.uint8)
    for label, count in enumerate(EMOTIONS):
        rows[:count, label] = 1
    found = audit(rows)
    expected = [1.526012, 1.590361, 1, 1.783784, 1.571429, 1.396825]
    assert found.irlbl == pytest.approx(expected, abs=1e-6)
    assert found.mean_ir == pytest.approx(1.478068, abs=1e-6)
    assert found.cvir == pytest.approx(0.1796, abs=1e-4)
    assert found.cardinality == pytest.approx(1.868465, abs=1e-6)


def test_by_hand():
    found = audit([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert found.counts.tolist() == [3, 1, 0]
    assert found.irlbl.tolist() == [1, 3, 0]  # a label without positives counts 0, as in mldr
    assert found.cvir == pytest.approx(np.std([1, 3, 0], ddof=1) / (4 / 3))
    scumble = 1 - math.sqrt(3) / 2  # of the second example alone
    assert found.scumble == pytest.approx(scumble / 4)
    assert found.scumble_per_label == pytest.approx([scumble / 3, scumble, 0])
    assert found.imbalance_ratio == 3
    assert (found.cardinality, found.density) == (1, pytest.approx(1 / 3))
    assert found.cardinality_counts.tolist() == [1, 2, 1]
    assert (found.num_label_sets, found.num_single_label_sets) == (3, 2)
    assert found.label_sets[0] == ((0,), 2)
    assert sorted(found.label_sets[1:]) == [((), 1), ((0, 1), 1)]


def naive(rows):
    """As the papers write it: IRLbl of each label, SCUMBLE of each example."""
    counts = rows.sum(0)
    irlbl = np.array([counts.max() / n if n else 0 for n in counts])
    each = [irlbl[row == 1] for row in rows]
    return irlbl, [1 - gmean(mine) / mine.mean() if len(mine) else 0 for mine in each]


@settings(max_examples=100, deadline=None)
@given(matrices)
def test_equals_the_naive_loops(rows):
    irlbl, scumble = naive(rows.astype(int))
    found = audit(rows)
    assert found.irlbl == pytest.approx(irlbl)
    assert found.mean_ir == pytest.approx(irlbl.mean())
    assert found.scumble_per_example == pytest.approx(scumble, abs=1e-12)
    assert found.num_label_sets == len(np.unique(rows, axis=0))
    assert (found.cooccurrence.toarray() == rows.T.astype(int) @ rows).all()


def test_single_label():
    found = audit([0, 0, 0, 1, 1, 2])
    assert found.imbalance_ratio == 3
    assert found.irlbl == pytest.approx([1, 1.5, 3])
    assert (found.scumble, found.cardinality, found.num_label_sets) == (0, 1, 3)
    assert found.label_sets[0] == ((0,), 3)
    assert found.cooccurrence.toarray().tolist() == np.diag([3, 2, 1]).tolist()


def test_pictures_and_json(tmp_path):
    """What is printed is looked at in tests/test_cli.py."""
    found = audit([[1, 0], [1, 1], [1, 0]], class_names=["common", "rare"])
    for name, targets in (("multi.png", found), ("single.svg", audit([0, 0, 1]))):
        targets.plot(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    again = json.loads(found.to_json())
    assert again == json.loads(json.dumps(found.to_dict()))
    rare = again["classes"][1]
    assert (rare["name"], rare["count"], rare["irlbl"]) == ("rare", 1, 3.0)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([[1, 0], [1, 0]], "No example.*1 label \\(1\\)"),
        ([[1, 0], [1, 1]], "In every example.*1 label \\(0\\)"),
        ([[1, 0], [0, 0], [0, 1]], "carry no label"),
        ([0, 1] * 30, "about equal"),
        ([0] * 60 + [1], "The largest class, 0, has 60 examples: 60.0 times 1's 1"),
        ([[1, 0]] * 3 + [[0, 1]] * 2 + [[0, 0]] * 95, "pos_weight"),
    ],
)
def test_advice(targets, words):
    assert any(re.search(words, line) for line in audit(targets).advice), audit(targets).advice


def test_unknown_labels_are_left_out_of_shares():
    rows = np.zeros((10, 2))
    rows[:2, 0], rows[2:6, 0], rows[:5, 1] = 1, -1, 1
    found = audit(Targets(rows, unknown=-1), class_names=["partly", "known"])
    assert found.prevalence.tolist() == [2 / 6, 5 / 10]
    said = "20.0% of the labels are unknown, at most 4 examples of one (partly)"
    assert any(said in line for line in found.advice)
    everywhere = audit(Targets([[1, 0], [-1, 1]], unknown=-1))
    assert "In every example, so nothing to learn: 1 label (0)" in " ".join(everywhere.advice)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="Expected class_names to be 2 names, but got 1"):
        audit([0, 1], class_names=["one"])
    with pytest.raises(ValueError, match="at least one positive label"):
        audit(np.zeros((3, 2)))
