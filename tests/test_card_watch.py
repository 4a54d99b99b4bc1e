"""What cards keep for monitoring: histograms, scores of held-out rows, how little related rows tell."""

from __future__ import annotations

import numpy as np

from aiops_core.tasks import cards


def test_edges_ascend_and_every_value_is_counted_once() -> None:
    rng = np.random.default_rng(0)
    values = np.r_[rng.normal(size=500), np.full(20, np.nan)]
    found = cards.histogram(values)
    assert np.all(np.diff(found["edges"]) > 0)
    assert sum(found["counts"]) == 500
    assert found["missing"] == 20 / 520
    assert found["edges"][0] == np.nanmin(values)


def test_an_idle_sensors_zero_has_a_bin_of_its_own() -> None:
    found = cards.histogram(np.r_[np.zeros(90), np.arange(1.0, 11.0)])
    assert found["counts"][0] == 90
    full = cards.histogram(np.r_[np.arange(60.0), np.full(40, 100.0)])
    assert full["counts"][-1] == 40


def test_a_constant_feature_and_an_absent_one_have_a_histogram() -> None:
    assert cards.histogram(np.full(5, 3.0))["counts"] == [5]
    assert cards.histogram(np.full(5, np.nan)) == {"edges": [0.0, 1.0], "counts": [0], "missing": 1.0}


def test_a_policy_curve_turns_back_into_the_scores_it_came_from() -> None:
    from aiops_core.tasks.failure.decision import _cuts

    rng = np.random.default_rng(1)
    score = rng.beta(1, 6, 4000)
    truth = (rng.random(4000) < score).astype(int)
    cut, threshold, hit = _cuts(truth, score)
    curve = {
        "threshold": threshold.tolist(),
        "recall": (hit / truth.sum()).tolist(),
        "missed": ((truth.sum() - hit) / 4000).tolist(),
        "false_alarms": ((cut + 1 - hit) / 4000).tolist(),
    }
    said, outcome, weight = cards.of_curve(curve, 4000, 0.5)
    assert abs(weight.sum() - 4000) < 1e-6
    assert abs((weight * outcome).sum() - truth.sum()) < 1e-6
    assert abs(np.average(said, weights=weight) - score.mean()) < 0.01
    bins = cards.calibration(said, outcome, weight, also=[float(threshold[40])])
    assert float(threshold[40]) in bins["edges"]
    assert np.abs(np.array(bins["rate"]) - bins["mean"]).max() < 0.1


def test_the_score_has_twenty_bins_even_where_scores_tie() -> None:
    for score in (np.random.default_rng(2).random(300), np.full(50, 0.25), np.zeros(0)):
        found = cards.score_histogram(score)
        assert len(found["edges"]) == 21 and np.all(np.diff(found["edges"]) > 0)
        assert sum(found["counts"]) == len(score)


def test_rows_of_a_resource_count_as_few_where_they_resemble_each_other() -> None:
    rng = np.random.default_rng(3)
    resource, day = np.repeat(np.arange(40), 240), np.tile(np.repeat(np.arange(10), 24), 40)
    alone = cards.scatter(rng.integers(0, 10, 9600), 10, resource, day)
    alike = cards.scatter(np.repeat(rng.integers(0, 10, 40), 240), 10, resource, day)
    assert alone["within"] < 0.01 and alone["size"] > 5000
    assert alike["within"] > 0.9 and alike["size"] < 60
    assert alike["day"] < 0.01
    together = cards.scatter(np.tile(np.repeat(rng.integers(0, 10, 10), 24), 40), 10, resource, day)
    assert together["day"] > 0.5


def test_a_window_that_does_not_move_has_no_spread_and_half_a_window_is_not_judged() -> None:
    windows = np.full((3, 8, 1), 5.0, dtype=np.float32)
    windows[1, :, 0] = np.arange(8)
    windows[2, :5] = np.nan
    mean, spread = cards.window_statistics(windows)
    assert spread[0, 0] == 0 and spread[1, 0] > 2
    assert np.isnan(mean[2, 0]) and np.isnan(spread[2, 0])
