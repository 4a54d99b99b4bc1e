"""Bins, curves and thresholds of scores, on arrays small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from aiops_core.judge import curves


def test_bins_hold_equal_mass_and_equal_scores_share_one() -> None:
    score = np.random.default_rng(0).permutation(150) / 150
    assert np.bincount(curves.mass_bins(score)).tolist() == [10] * 15
    assert curves.mass_bins(np.arange(6) / 6, bins=3).tolist() == [0, 0, 1, 1, 2, 2]
    tied = curves.mass_bins(np.repeat([0.1, 0.5, 0.9], [7, 2, 1]), bins=4)
    assert all(len(set(part)) == 1 for part in (tied[:7], tied[7:9]))
    assert curves.mass_bins(np.zeros(0)).tolist() == []


def test_rows_of_equal_score_keep_their_order_and_share_a_cut() -> None:
    order, ranked, last = curves.descending(np.array([1, 3, 2, 3, 2]))
    assert order.tolist() == [1, 3, 2, 4, 0]
    assert ranked.tolist() == [3.0, 3.0, 2.0, 2.0, 1.0]
    assert last.tolist() == [False, True, False, True, True]
    assert [len(part) for part in curves.descending(np.zeros(0))] == [0, 0, 0]


def test_a_reliability_curve_has_the_means_of_bins_that_hold_rows() -> None:
    found = curves.reliability_curve(np.array([1, 0, 1, 1]), np.array([0.8, 0.1, 0.3, 0.6]), bins=2)
    assert found["predicted"] == pytest.approx([0.2, 0.7])
    assert (found["observed"], found["count"]) == ([0.5, 1.0], [2.0, 2.0])
    one = curves.reliability_curve(np.array([1, 0, 0, 0]), np.full(4, 0.5))
    assert one == {"predicted": [0.5], "observed": [0.25], "count": [4.0]}


def test_precision_and_recall_are_those_of_each_threshold() -> None:
    found = curves.precision_recall_curve(np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.8, 0.8]))
    assert found["threshold"] == [0.9, 0.8, 0.1]
    assert found["precision"] == pytest.approx([1.0, 2 / 3, 0.5])
    assert found["recall"] == [0.5, 1.0, 1.0]
    assert curves.precision_recall_curve(np.zeros(2), np.array([0.2, 0.1]))["recall"] == [0.0, 0.0]
    assert curves.precision_recall_curve(np.zeros(0), np.zeros(0)) == {"threshold": [], "precision": [], "recall": []}
    score = np.arange(1000) / 1000
    assert len(curves.precision_recall_curve(score > 0.5, score)["threshold"]) == 200
    few = curves.precision_recall_curve(score > 0.5, score, points=3)
    assert few["threshold"] == pytest.approx([0.999, 0.5, 0.0])
    assert len(curves.precision_recall_curve(score[:3] > 0, score[:3], points=3)["threshold"]) == 3


def test_a_temperature_divides_the_logits_whatever_their_size() -> None:
    odds = np.array([[np.e, 1.0]])
    np.testing.assert_allclose(curves.apply_temperature(np.array([[2.0, 0.0]]), 2.0), odds / odds.sum())
    np.testing.assert_allclose(curves.apply_temperature(np.array([[1e4, 1e4, -1e4]]), 0.5), [[0.5, 0.5, 0.0]])
