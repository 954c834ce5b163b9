from __future__ import annotations

import numpy as np
import pytest

from equipoise.weighting import (
    class_difficulty,
    effective_number,
    inverse_frequency,
    recall_power,
    repeat_factor,
)

FOUNDING_RECALLS = (0.9560878243512974, 0.7365384615384616, 0.7807933194154488)
FOUNDING_WEIGHTS = (0.743631046434835, 1.2530321887900169, 1.1150155156144919)


def test_founding_formula_gives_the_founding_numbers():
    assert recall_power(FOUNDING_RECALLS, 2).tolist() == pytest.approx(FOUNDING_WEIGHTS, abs=1e-14)
    # and γ = 4 is their square, as (r̄ / r)^γ says
    assert np.allclose(recall_power(FOUNDING_RECALLS, 4), np.square(FOUNDING_WEIGHTS))


def test_inverse_frequency_balances():
    counts = np.array([500, 20, 3])
    assert np.ptp(counts * inverse_frequency(counts)) < 1e-9
    assert inverse_frequency(counts, 0).tolist() == [1, 1, 1]
    assert np.ptp(np.sqrt(counts) * inverse_frequency(counts, 0.5)) < 1e-9
    assert inverse_frequency(counts).mean() == pytest.approx(1)


def test_effective_number_lies_between_equal_and_inverse_frequency():
    counts = np.array([500, 20, 3])
    assert effective_number(counts, 0).tolist() == [1, 1, 1]
    assert np.allclose(effective_number(counts, 1 - 1e-12), inverse_frequency(counts), rtol=1e-3)
    naive = (1 - 0.9) / (1 - 0.9**counts)
    assert np.allclose(effective_number(counts, 0.9), naive * 3 / naive.sum())


def test_repeat_factor_leaves_frequent_classes():
    assert repeat_factor([50, 50]).tolist() == [1, 1]
    assert repeat_factor([999, 1], threshold=0.1).tolist() == [1, 10]


def test_class_difficulty_after_the_paper():
    d = np.array([0.1, 0.4])
    naive = 1 / (1 + np.exp(-(1 - 0.1) / (1 - 0.4 + 0.01)))
    expected = d**naive * 2 / (d**naive).sum()
    assert np.allclose(class_difficulty(1 - d), expected)


@pytest.mark.parametrize("function", [recall_power, class_difficulty])
@pytest.mark.parametrize("recalls", [[0.0, 0.5, 1.0], [0.0, 0.0], [1.0, 0.5]])
def test_weights_are_finite_and_above_zero(function, recalls):
    weights = function(recalls)
    assert ((weights > 0) & np.isfinite(weights)).all()


@pytest.mark.parametrize("function", [inverse_frequency, effective_number, repeat_factor])
@pytest.mark.parametrize("counts", [[5, 0], [], [5, -1], [5, float("nan")], [[1, 2]]])
def test_bad_counts_are_named(function, counts):
    with pytest.raises(ValueError, match="Expected counts"):
        function(counts)


@pytest.mark.parametrize("function", [recall_power, class_difficulty])
@pytest.mark.parametrize("recalls", [[0.5, 1.1], [], [-0.1], [float("nan")], [[0.5]]])
def test_bad_recalls_are_named(function, recalls):
    with pytest.raises(ValueError, match="Expected recalls"):
        function(recalls)


@pytest.mark.parametrize(
    ("function", "setting"),
    [(effective_number, {"beta": 1.0}), (repeat_factor, {"threshold": 0}),
     (class_difficulty, {"tau": "static"})],
)  # fmt: skip
def test_bad_settings_are_named(function, setting):
    with pytest.raises(ValueError, match=f"Expected {next(iter(setting))}"):
        function([1], **setting)
