from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from aiops_core.judge import curves, intervals, metrics
from aiops_core.judge.units import of_labels

RNG = np.random.default_rng(0)


def test_failure_metrics_equal_scikit_learn_with_ties() -> None:
    truth = RNG.integers(0, 2, 900)
    probability = np.round(np.clip(0.3 * truth + 0.7 * RNG.random(900), 0, 1), 2)
    alarm = probability > 0.5
    values = metrics.failure_values(truth, probability, alarm)(np.ones(900))
    assert values["roc_auc"] == pytest.approx(reference.roc_auc_score(truth, probability))
    assert values["average_precision"] == pytest.approx(reference.average_precision_score(truth, probability))
    assert values["f1"] == pytest.approx(reference.f1_score(truth, alarm))
    assert values["precision"] == pytest.approx(reference.precision_score(truth, alarm))
    assert values["recall"] == pytest.approx(reference.recall_score(truth, alarm))
    assert values["brier"] == pytest.approx(reference.brier_score_loss(truth, probability))


def test_threat_metrics_equal_scikit_learn() -> None:
    probability = RNG.dirichlet(np.ones(4), 700)
    truth = RNG.integers(0, 4, 700)
    label = probability.argmax(axis=1)
    values = metrics.threat_values(truth, probability, label, list("abcd"))(np.ones(700))
    assert values["accuracy"] == pytest.approx(reference.accuracy_score(truth, label))
    assert values["macro_f1"] == pytest.approx(reference.f1_score(truth, label, average="macro"))
    assert values["log_loss"] == pytest.approx(reference.log_loss(truth, probability))
    assert values["f1_b"] == pytest.approx(reference.f1_score(truth, label, average=None)[1])


def test_capacity_metrics_average_r2_over_targets() -> None:
    truth, p50 = RNG.normal(size=400), RNG.normal(size=400)
    target = np.repeat([0, 1], 200)
    truth[200:] *= 100
    p50[200:] = truth[200:] + 1
    values = metrics.capacity_values(truth, p50, p50 - 1, p50 + 1, scale=np.ones(400), target=target)(np.ones(400))
    by_target = [reference.r2_score(truth[target == t], p50[target == t]) for t in (0, 1)]
    assert values["r2"] == pytest.approx(np.mean(by_target))
    assert values["mae"] == pytest.approx(reference.mean_absolute_error(truth, p50))
    inside = (truth >= p50 - 1) & (truth <= p50 + 1)
    assert values["coverage_80"] == pytest.approx(inside.mean())
    expected = np.mean(
        [reference.mean_pinball_loss(truth, p50 + d, alpha=q) for d, q in ((-1, 0.1), (0, 0.5), (1, 0.9))]
    )
    assert values["pinball"] == pytest.approx(expected)


def test_weights_act_like_repeated_rows() -> None:
    truth, probability = RNG.integers(0, 2, 60), RNG.random(60)
    weight = RNG.integers(0, 4, 60)
    repeated = np.repeat(np.arange(60), weight)
    once = metrics.failure_values(truth, probability, probability > 0.4)(weight.astype(float))
    again = metrics.failure_values(truth[repeated], probability[repeated], probability[repeated] > 0.4)(
        np.ones(len(repeated))
    )
    for name in ("roc_auc", "average_precision", "f1", "brier"):
        assert once[name] == pytest.approx(again[name])


def test_clusters_widen_the_interval() -> None:
    truth = np.repeat(RNG.integers(0, 2, 40), 50)
    probability = 0.2 * truth + 0.8 * np.repeat(RNG.random(40), 50)
    rows = metrics.failure(truth, probability, probability > 0.5, seed=1)["roc_auc"]
    whole = metrics.failure(
        truth, probability, probability > 0.5, seed=1, units=of_labels(np.repeat(np.arange(40), 50))
    )["roc_auc"]
    assert whole["high"] - whole["low"] > 2 * (rows["high"] - rows["low"])


def test_paired_comparison_sees_what_single_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 800)
    score = 0.25 * truth + 0.75 * rng.random(800)
    worse = score + 0.2 * rng.normal(size=800)
    a, b = (metrics.failure_values(truth, s, s > 0.5) for s in (score, worse))
    gains = intervals.paired(a, {"b": b}, 800, only=("roc_auc", "brier"), n_boot=300)["b"]
    gain = gains["roc_auc"]
    assert gain["low"] > 0
    assert gain["value"] == pytest.approx(a(np.ones(800))["roc_auc"] - b(np.ones(800))["roc_auc"])
    ours, theirs = (metrics.failure(truth, s, s > 0.5)["roc_auc"] for s in (score, worse))
    assert ours["low"] < theirs["high"]
    # Lower is better: the gain is positive where the own value is lower.
    brier = gains["brier"]
    assert brier["value"] == pytest.approx(b(np.ones(800))["brier"] - a(np.ones(800))["brier"])
    assert brier["own"] == pytest.approx(a(np.ones(800))["brier"])


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    truth, probability = RNG.integers(0, 2, 100), RNG.random(100)
    one, same, other = (metrics.failure(truth, probability, probability > 0.5, seed=s) for s in (3, 3, 4))
    assert one == same
    assert one["brier"] != other["brier"]


def test_a_paired_interval_is_that_of_the_differences_on_the_same_resamples() -> None:
    x, n = RNG.random(50), 50

    def shifted(by: float) -> intervals.Weighted:
        return lambda weight: {"f1": float(weight @ x) / n - by, "mae": float(weight @ x) / n - by, "unused": 0.0}

    gains = intervals.paired(shifted(0.0), {"lower": shifted(0.25)}, n, only=("f1", "mae"), n_boot=40)
    # Resamples move both alike, so that only the difference is left.
    for metric, sign in (("f1", 1), ("mae", -1)):
        gain = gains["lower"][metric]
        assert [gain[end] for end in ("value", "low", "high")] == pytest.approx([sign * 0.25] * 3)  # type: ignore[literal-required]
        assert (gain["own"], gain["other"]) == (pytest.approx(x.mean()), pytest.approx(x.mean() - 0.25))
    assert set(gains["lower"]) == {"f1", "mae"}


@pytest.mark.parametrize("clusters", [None, np.repeat(np.arange(6), [1, 2, 3, 4, 5, 15])], ids=["rows", "clusters"])
def test_resamples_draw_as_many_clusters_as_there_are_and_whole_ones(clusters: np.ndarray | None) -> None:
    seen: list[np.ndarray] = []

    def values(weight: np.ndarray) -> dict[str, float]:
        seen.append(weight)
        return {"f1": float(weight.sum())}

    units = None if clusters is None else of_labels(clusters)
    intervals.bootstrap(values, 30, units, 3, 200)
    intervals.paired(values, {}, 30, only=("f1",), units=units, seed=3, n_boot=200)
    own = np.arange(30) if clusters is None else clusters
    first = np.unique(own, return_index=True)[1]
    for weight in seen:
        assert weight.shape == (30,) and (weight == weight[first][own]).all()
        assert weight[first].sum() == len(first)
    assert (seen[0] == 1).all() and (seen[201] == 1).all()
    # Every cluster is left out and drawn twice somewhere, as often as the others.
    drawn = np.array([weight[first] for weight in seen])
    assert (drawn.min(axis=0) == 0).all() and (drawn.max(axis=0) >= 2).all()
    np.testing.assert_allclose(drawn.mean(axis=0), 1.0, atol=0.25)


def test_an_interval_holds_the_middle_95_percent_and_the_value() -> None:
    replicates = np.linspace(0, 1, 1001)
    assert intervals.interval(0.5, replicates) == pytest.approx({"value": 0.5, "low": 0.025, "high": 0.975})
    assert intervals.interval(0.01, replicates) == pytest.approx({"value": 0.01, "low": 0.01, "high": 0.975})
    assert intervals.interval(1.5, np.r_[replicates, np.nan, np.inf])["high"] == 1.5
    for value, found in ((0.5, np.array([np.nan])), (np.nan, replicates)):
        assert np.isnan([intervals.interval(value, found)[end] for end in ("low", "high")]).all()  # type: ignore[literal-required]


def test_rows_of_one_class_or_none_have_no_ranking_but_numbers_that_are_defined() -> None:
    probability = np.array([0.2, 0.7, 0.9])
    none = metrics.failure_values(np.zeros(3), probability, probability > 0.5)(np.ones(3))
    assert np.isnan([none["roc_auc"], none["average_precision"], none["recall"]]).all()
    assert (none["precision"], none["f1"]) == (0.0, 0.0)
    assert (none["ece"], none["brier"]) == (pytest.approx(1.8 / 3), pytest.approx(1.34 / 3))
    every = metrics.failure_values(np.ones(3), probability, probability > 0.5)(np.ones(3))
    assert np.isnan(every["roc_auc"])
    assert (every["average_precision"], every["precision"]) == (1.0, 1.0)
    assert every["recall"] == pytest.approx(2 / 3)
    silent = metrics.failure_values(np.array([0, 1, 0]), probability, probability > 1)(np.ones(3))
    assert (silent["precision"], silent["recall"], silent["f1"]) == (0.0, 0.0, 0.0)


def test_calibration_errors_are_the_gap_of_bins_of_equal_mass() -> None:
    probability = np.repeat([0.2, 0.8], 50)
    truth = np.r_[np.repeat([0, 1], [30, 20]), np.repeat([0, 1], [20, 30])]
    values = metrics.failure_values(truth, probability, probability > 0.5)(np.ones(100))
    assert values["ece"] == pytest.approx(0.2)
    P, label = np.c_[probability, 1 - probability], (probability < 0.5).astype(int)
    sure = metrics.threat_values(np.zeros(100, dtype=int), P, label, ["a", "b"])(np.ones(100))
    # Every decision is said to be 80 % sure, half of them are right.
    assert sure["ece"] == pytest.approx(0.3)


def test_scaled_errors_leave_out_series_without_a_scale() -> None:
    truth, p50 = np.array([1.0, 2.0, -3.0]), np.array([2.0, 4.0, 0.0])
    values = metrics.capacity_values(
        truth, p50, None, None, scale=np.array([2.0, 0.0, 1.0]), target=np.zeros(3, dtype=int)
    )(np.ones(3))
    assert values["mase"] == pytest.approx((0.5 + 3) / 2)
    assert values["wape"] == pytest.approx((1 + 2 + 3) / 6)
    assert values["rmse"] == pytest.approx(np.sqrt(14 / 3))
    assert "coverage_80" not in values and "pinball" not in values
    flat = metrics.capacity_values(np.ones(3), p50, p50, p50, scale=np.ones(3), target=np.zeros(3, dtype=int))(
        np.ones(3)
    )
    assert np.isnan(flat["r2"])


def test_a_class_in_neither_truth_nor_decision_has_no_f1() -> None:
    values = metrics.threat_values(np.array([0, 1]), np.eye(3)[[0, 1]], np.array([0, 0]), list("abc"))(np.ones(2))
    assert np.isnan(values["f1_c"])
    assert values["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_an_error_in_units_of_series_that_never_moved_is_undefined() -> None:
    still = np.zeros(3)
    found = metrics.capacity_values(still, still + 1, None, None, scale=still, target=np.zeros(3, int))(np.ones(3))
    assert found["mae"] == 1.0 and np.isnan(found["mase"]) and np.isnan(found["wape"])


@pytest.mark.parametrize("weighted", [False, True])
def test_failure_metrics_equal_scikit_learn_with_ties_and_weights(weighted: bool) -> None:
    rng = np.random.default_rng(3)
    truth, score = rng.integers(0, 2, 300), np.round(rng.random(300), 1)
    alarm = rng.random(300) > 0.6
    weight = rng.integers(0, 4, 300).astype(float) if weighted else np.ones(300)
    values = metrics.failure_values(truth, score, alarm)(weight)
    of: dict[str, float] = {
        "roc_auc": reference.roc_auc_score(truth, score, sample_weight=weight),
        "average_precision": reference.average_precision_score(truth, score, sample_weight=weight),
        "f1": reference.f1_score(truth, alarm, sample_weight=weight),
        "precision": reference.precision_score(truth, alarm, sample_weight=weight),
        "recall": reference.recall_score(truth, alarm, sample_weight=weight),
        "brier": np.average((score - truth) ** 2, weights=weight),
    }
    assert values == pytest.approx(of | {"ece": values["ece"]})
    bins = curves.mass_bins(score)
    gaps = [abs(weight[bins == b] @ (score - truth)[bins == b]) for b in np.unique(bins)]
    assert values["ece"] == pytest.approx(sum(gaps) / weight.sum())


@pytest.mark.parametrize("behind", ["below", "above"])
def test_more_scores_of_positives_than_are_told_apart_are_merged_in_order(behind: str) -> None:
    n = 2 * metrics.MOST_CUTS
    truth = np.r_[np.ones(n // 2 + 1), np.zeros(n // 2 - 1)].astype(int)
    score = np.random.default_rng(4).permutation(n) / n
    # Negatives that lie below all positives stay there.
    score[-50:] += -2 if behind == "below" else 2
    values = metrics.failure_values(truth, score, score > 0.7)
    assert values.coarse is not None
    rank = (score[:, None] < np.unique(score[truth == 1])).sum(axis=1)
    cuts = int(truth.sum())
    merged = np.where(rank == cuts, metrics.MOST_CUTS, rank * metrics.MOST_CUTS // cuts)
    rough = values.coarse(np.ones(n))
    # Within a merged cut all rows count as tied, but a negative below all positives is tied with none.
    assert rough["roc_auc"] == pytest.approx(reference.roc_auc_score(truth, -merged))
    assert rough["average_precision"] == pytest.approx(reference.average_precision_score(truth, -merged))
    exact = values(np.ones(n))
    assert {k: rough[k] for k in ("f1", "precision", "recall", "brier", "ece")} == pytest.approx(
        {k: exact[k] for k in ("f1", "precision", "recall", "brier", "ece")}
    )
    # As many as are told apart are not merged.
    few = np.r_[np.arange(metrics.MOST_CUTS), 0.5]
    assert metrics.failure_values(np.r_[np.ones(metrics.MOST_CUTS), 0], few, few > 1).coarse is None


def test_threat_metrics_equal_scikit_learn_under_weights() -> None:
    rng = np.random.default_rng(5)
    P, truth, label = rng.dirichlet(np.ones(3), 200), rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    weight = rng.integers(0, 3, 200).astype(float)
    values = metrics.threat_values(truth, P, label, list("abc"))(weight)
    assert values["accuracy"] == pytest.approx(reference.accuracy_score(truth, label, sample_weight=weight))
    assert values["log_loss"] == pytest.approx(reference.log_loss(truth, P, sample_weight=weight))
    each = reference.f1_score(truth, label, average=None, sample_weight=weight)
    assert [values[f"f1_{name}"] for name in "abc"] == pytest.approx(each)
    assert values["macro_f1"] == pytest.approx(each.mean())
    top = P.max(axis=1)
    gap, bins = weight * (top - (P.argmax(axis=1) == truth)), curves.mass_bins(top)
    assert values["ece"] == pytest.approx(sum(abs(gap[bins == b].sum()) for b in np.unique(bins)) / weight.sum())
    # A class whose rows were not drawn is in neither truth nor decision.
    rest = metrics.threat_values(truth, P, label, list("abc"))(((truth != 2) & (label != 2)).astype(float))
    assert np.isnan(rest["f1_c"]) and rest["macro_f1"] == pytest.approx((rest["f1_a"] + rest["f1_b"]) / 2)


def test_a_class_that_was_held_impossible_costs_as_much_as_one_in_ten_million() -> None:
    values = metrics.threat_values(np.array([0, 1]), np.eye(2)[[0, 0]], np.array([0, 0]), ["a", "b"])(np.ones(2))
    assert values["log_loss"] == pytest.approx(-np.log(1e-7) / 2)
    assert (values["f1_a"], values["f1_b"]) == (pytest.approx(2 / 3), 0.0)


def test_capacity_metrics_are_those_of_counting_by_hand() -> None:
    truth, p50 = np.array([1.0, 2.0, 5.0, 30.0, 10.0, 20.0]), np.array([2.0, 2.0, 3.0, 10.0, 10.0, 60.0])
    p10, p90 = np.array([1.0, 2.1, 0.0, 5.0, 4.0, 30.0]), np.array([3.0, 4.0, 5.0, 29.0, 10.0, 90.0])
    scale, target = np.array([1.0, 2.0, 3.0, 10.0, 0.0, 20.0]), np.array([0, 0, 0, 2, 2, 2])
    weight = np.array([2.0, 1.0, 0.0, 1.0, 3.0, 1.0])
    values = metrics.capacity_values(truth, p50, p10, p90, scale=scale, target=target)(weight)
    error = np.array([1.0, 0.0, 2.0, 20.0, 0.0, 40.0])
    assert values["mae"] == pytest.approx(62 / 8)
    # The mean scale of a target is that of all its rows, drawn or not.
    assert values["nmae"] == pytest.approx((2 * 1 / 2 + 20 / 10 + 40 / 10) / 8)
    assert values["rmse"] == pytest.approx(np.sqrt(np.average(error**2, weights=weight)))
    assert values["mase"] == pytest.approx((2 * 1 + 2 + 2) / 5)
    assert values["wape"] == pytest.approx(62 / (2 * 1 + 2 + 30 + 3 * 10 + 20))
    r2 = [reference.r2_score(truth[target == t], p50[target == t], sample_weight=weight[target == t]) for t in (0, 2)]
    assert values["r2"] == pytest.approx(np.mean(r2))
    # The ends belong to the band: row 0 (drawn twice) lies on the lower one, row 4 (three times) on the upper one.
    assert values["coverage_80"] == 5 / 8
    losses = [
        reference.mean_pinball_loss(truth, p, alpha=q, sample_weight=weight)
        for p, q in ((p10, 0.1), (p50, 0.5), (p90, 0.9))
    ]
    assert values["pinball"] == pytest.approx(np.mean(losses))
    for ends in ((p10, None), (None, p90)):
        half = metrics.capacity_values(truth, p50, *ends, scale=scale, target=target)(weight)
        assert half == {name: values[name] for name in ("mae", "nmae", "rmse", "r2", "mase", "wape")}


def test_a_constant_target_has_no_r2_and_a_target_without_a_scale_no_error_in_units_of_it() -> None:
    truth, p50, target = np.array([1.0, 3.0, 7.0, 7.0]), np.array([2.0, 3.0, 6.0, 7.0]), np.array([0, 0, 1, 1])
    scale = np.array([1.0, 1.0, 0.0, 0.0])
    values = metrics.capacity_values(truth, p50, None, None, scale=scale, target=target)(np.ones(4))
    assert values["r2"] == pytest.approx(reference.r2_score(truth[:2], p50[:2]))
    assert values["nmae"] == pytest.approx(1 / 4)
    assert values["mase"] == pytest.approx(1 / 2)


def test_the_pinball_loss_weighs_what_lies_above_a_quantile_by_it_and_what_lies_below_by_the_rest() -> None:
    found = metrics.pinball(np.array([3, 1, 2]), np.array([1, 3, 2]), 0.9)
    assert found.tolist() == pytest.approx([1.8, 0.2, 0.0])


def test_a_better_prediction_gains_in_every_metric_whichever_way_it_counts() -> None:
    rng = np.random.default_rng(6)
    truth, kind, real = np.arange(90) % 2, np.arange(90) % 3, rng.normal(size=90)
    sure, vague = np.where(truth == 1, 0.95, 0.05), np.clip(0.6 - 0.1 * truth + 0.1 * rng.random(90), 0, 1)
    right, wrong = 0.9 * np.eye(3)[kind] + 0.1 / 3, 0.9 * np.eye(3)[(kind + rng.integers(0, 2, 90)) % 3] + 0.1 / 3
    settings = {"scale": np.ones(90), "target": np.zeros(90, dtype=int)}
    pairs = [
        [metrics.failure_values(truth, p, p > 0.55) for p in (sure, vague)],
        [metrics.threat_values(kind, p, p.argmax(1), list("abc")) for p in (right, wrong)],
        [metrics.capacity_values(real, real + d, real + d - 0.1, real + d + 0.1, **settings) for d in (0.05, 2.0)],
    ]
    for good, bad in pairs:
        names = tuple(good(np.ones(90)))
        found = intervals.paired(good, {"bad": bad}, 90, only=names, n_boot=10)["bad"]
        assert {name: gain["value"] > 0 for name, gain in found.items()} == dict.fromkeys(names, True)
        assert not set(names) - set(metrics.WORDS) - {"f1_a", "f1_b", "f1_c"}


def test_a_single_positive_or_negative_row_is_enough_for_a_ranking() -> None:
    score = np.array([0.9, 0.6, 0.2])
    for truth in (np.array([0, 1, 0]), np.array([1, 0, 1]), np.array([1, 0])):
        some = score[: len(truth)]
        values = metrics.failure_values(truth, some, some > 0.5)(np.ones(len(truth)))
        assert values["roc_auc"] == pytest.approx(reference.roc_auc_score(truth, some))
        assert values["average_precision"] == pytest.approx(reference.average_precision_score(truth, some))
        assert values["recall"] == pytest.approx(reference.recall_score(truth, some > 0.5))


def test_many_resamples_at_once_give_what_each_gives_alone() -> None:
    rng = np.random.default_rng(8)
    truth, score, target = rng.integers(0, 2, 40), rng.random(40), rng.integers(0, 2, 40)
    kind, P, scale = rng.integers(0, 3, 40), rng.dirichlet(np.ones(3), 40), rng.random(40)
    weight = rng.integers(0, 3, (6, 40)).astype(float)
    # A resample without a positive row, without a row of the third class, of one target and of nothing.
    weight[2] *= truth == 0
    weight[3] *= kind < 2
    weight[4] *= target == 0
    weight[5] = 0
    for values in (
        metrics.failure_values(truth, score, score > 0.5),
        metrics.threat_values(kind, P, P.argmax(1), list("abc")),
        metrics.capacity_values(score, P[:, 0], P[:, 0] - 0.2, P[:, 0] + 0.2, scale=scale, target=target),
    ):
        together = values.of(weight @ values.rows)
        for i, row in enumerate(weight):
            assert {name: found[i] for name, found in together.items()} == pytest.approx(values(row), nan_ok=True)


def test_a_target_of_one_row_has_its_own_scale_and_a_large_level_costs_r2_no_digits() -> None:
    truth, p50, target = np.array([1.0, 2.0, 9.0]), np.array([2.0, 4.0, 5.0]), np.array([0, 0, 1])
    values = metrics.capacity_values(truth, p50, None, None, scale=np.array([1.0, 3.0, 8.0]), target=target)
    assert values(np.ones(3))["nmae"] == pytest.approx((1 / 2 + 2 / 2 + 4 / 8) / 3)
    noise, zero = np.random.default_rng(9).normal(size=(2, 50)), np.zeros(50, dtype=int)
    far = metrics.capacity_values(1e9 + noise[0], 1e9 + noise[1], None, None, scale=np.ones(50), target=zero)
    assert far(np.ones(50))["r2"] == pytest.approx(reference.r2_score(*noise), abs=1e-5)
