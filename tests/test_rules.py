"""The untrained models: failure rules, anomaly statistics, threat signatures, recommended actions."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from aiops_core import rules
from aiops_core.data import synthetic
from aiops_core.errors import UsageError
from aiops_core.rules.failure import severity

SNAPSHOT = {"cpu_usage": 85.5, "memory_usage": 78.2, "disk_io": 1200, "network_errors": 15}


@pytest.fixture(scope="module")
def predictor() -> rules.RuleBasedFailurePredictor:
    return rules.RuleBasedFailurePredictor()


def season(days: int, *, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Hourly load with a high peak at noon of every day, from a Monday on."""
    times = np.datetime64("2025-03-03T00", "h") + np.arange(24 * days)
    hour = np.arange(24 * days) % 24
    rng = np.random.default_rng(0)
    return times, 30 + 50 * np.exp(-((hour - 12) ** 2) / 2) + noise * rng.standard_normal(24 * days)


# Failure rules


def test_a_strained_server_is_a_high_risk_with_reasons(predictor: rules.RuleBasedFailurePredictor) -> None:
    verdict = predictor.assess(SNAPSHOT)
    assert verdict.probability >= predictor.threshold
    assert verdict.severity == "high"
    assert verdict.drivers[0]["feature"] == "cpu_usage"
    assert verdict.used == list(SNAPSHOT)
    assert len(verdict.reasons) == len(verdict.drivers)
    assert "cpu_usage 85.5 is above 70" in verdict.reasons[0]


def test_a_quiet_server_is_at_the_base_rate_without_drivers(predictor: rules.RuleBasedFailurePredictor) -> None:
    verdict = predictor.assess({"cpu_usage": 20.0, "error_rate": 0.0})
    assert verdict.probability == pytest.approx(0.1)
    assert (verdict.severity, verdict.drivers) == ("low", [])


@pytest.mark.parametrize("metric", list(rules.FAILURE_RULES))
def test_risk_never_falls_as_a_metric_rises(predictor: rules.RuleBasedFailurePredictor, metric: str) -> None:
    rule = rules.FAILURE_RULES[metric]
    steps = np.linspace(0, 4 * rule.critical, 50)[:, None]
    risk = predictor.predict(steps, [metric])
    assert (np.diff(risk) >= 0).all()
    assert risk[-1] > risk[0]


@pytest.mark.parametrize("metric", list(rules.FAILURE_RULES))
def test_evidence_grows_from_the_warning_limit_to_twice_the_way_to_the_critical_one(
    predictor: rules.RuleBasedFailurePredictor, metric: str
) -> None:
    rule = rules.FAILURE_RULES[metric]
    assert metric in synthetic.TELEMETRY_METRICS and rule.warn < rule.critical
    places = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 5.0])
    risk = predictor.predict((rule.warn + places * (rule.critical - rule.warn))[:, None], [metric])
    evidence = np.log(risk / (1 - risk)) - np.log(0.1 / 0.9)
    np.testing.assert_allclose(evidence, rule.weight * np.array([0, 0, 0.5, 1, 2, 2]), atol=1e-9)


def test_severities_begin_at_their_probability() -> None:
    least = {"low": 0.0, "medium": 0.25, "high": 0.5, "critical": 0.8}
    assert {name: severity(p) for name, p in least.items()} == {name: name for name in least}
    assert [severity(p - 1e-9) for p in (0.25, 0.5, 0.8)] == ["low", "medium", "high"]


def test_many_rows_give_what_one_row_gives(predictor: rules.RuleBasedFailurePredictor) -> None:
    names = list(synthetic.TELEMETRY_METRICS)
    table = synthetic.telemetry(100, seed=0).telemetry[names].to_numpy()[:200]
    risk = predictor.predict(table, names)
    single = [predictor.assess(dict(zip(names, map(float, row), strict=True))).probability for row in table]
    np.testing.assert_allclose(risk, single)


def test_missing_and_unknown_metrics_are_no_evidence(predictor: rules.RuleBasedFailurePredictor) -> None:
    assert (
        predictor.predict(np.array([[90.0, np.nan, 7.0]]), ["cpu_usage", "memory_usage", "fan_speed"])[0]
        == (predictor.predict(np.array([90.0]), ["cpu_usage"])[0])
    )
    verdict = predictor.assess({"cpu_usage": None, "memory_usage": float("nan"), "fan_speed": 1e9})
    assert verdict.probability == pytest.approx(0.1)
    assert verdict.used == []


def test_one_broken_sensor_cannot_make_certainty(predictor: rules.RuleBasedFailurePredictor) -> None:
    assert predictor.predict(np.array([[1e12]]), ["disk_io"])[0] < 0.9
    assert predictor.predict(np.array([[np.inf]]), ["disk_io"])[0] < 0.9


def test_columns_that_do_not_fit_their_names_are_refused(predictor: rules.RuleBasedFailurePredictor) -> None:
    with pytest.raises(UsageError, match="2 feature names do not fit values of shape"):
        predictor.predict(np.zeros((3, 1)), ["cpu_usage", "memory_usage"])


def test_rules_know_next_to_nothing_about_synthetic_failures(predictor: rules.RuleBasedFailurePredictor) -> None:
    story = synthetic.telemetry(4000, seed=0)
    rows = story.telemetry.merge(story.oracle, on=["resource_id", "timestamp"])
    risk = predictor.predict(rows[list(synthetic.TELEMETRY_METRICS)].to_numpy(), synthetic.TELEMETRY_METRICS)
    order = np.corrcoef(pd.Series(risk).rank(), rows["probability"].rank())[0, 1]
    assert -0.02 < order < 0.2


# Anomaly detector


def test_an_injected_spike_is_found_and_the_seasonal_peak_is_not() -> None:
    times, values = season(28)
    values[24 * 20 + 3] = 80.0  # as high as every noon, but at night
    (finding,) = rules.StatisticalAnomalyDetector().detect({"cpu_usage": values}, timestamps=times)
    assert list(np.flatnonzero(finding.anomalous[24:]) + 24) == [24 * 20 + 3]  # no noon is known on the first day
    assert finding.high[24 * 20 + 3] < 80.0 < finding.high[24 * 20 + 12]
    assert finding.score[24:].argmax() == 24 * 19 + 3


def test_one_outlier_does_not_make_its_neighbours_anomalous() -> None:
    rng = np.random.default_rng(0)
    values = 50 + rng.standard_normal(100)
    values[40] = 90.0
    (finding,) = rules.StatisticalAnomalyDetector().detect({"cpu_usage": values})
    assert list(np.flatnonzero(finding.anomalous)) == [40]
    assert abs(finding.expected - 50).max() < 1


def test_weekends_have_their_own_usual_value() -> None:
    times, values = season(56, noise=0.0)
    weekend = (np.arange(len(times)) // 24) % 7 >= 5
    values[weekend] = 30 + (values[weekend] - 30) * 0.1
    values += np.random.default_rng(0).standard_normal(len(values))
    values[24 * 40 + 12] = 80.0  # a weekday's noon load on a Saturday
    (finding,) = rules.StatisticalAnomalyDetector().detect({"cpu_usage": values}, timestamps=times)
    assert list(np.flatnonzero(finding.anomalous[24 * 28 :]) + 24 * 28) == [24 * 40 + 12]


def test_a_learned_reference_survives_json_and_judges_by_resource() -> None:
    telemetry = synthetic.telemetry(300, seed=0).telemetry
    detector = rules.StatisticalAnomalyDetector()
    reference = json.loads(json.dumps(detector.learn(telemetry)))
    ids = telemetry["resource_id"].unique()
    assert list(reference["resources"]) == list(ids)
    levels = {i: reference["resources"][i]["request_rate"]["median"] for i in ids}
    small = min(levels, key=lambda i: levels[i])
    large = max(levels.values())
    times = np.array(["2025-06-02T10"], dtype="datetime64[h]")
    known, stranger = (
        detector.detect({"request_rate": [large]}, timestamps=times, resource_id=name, reference=reference)[0]
        for name in (small, "never-seen")
    )
    assert known.anomalous[0]
    assert not stranger.anomalous[0]


def test_missing_values_score_nothing_and_short_series_are_not_judged() -> None:
    detector = rules.StatisticalAnomalyDetector()
    (finding,) = detector.detect({"cpu_usage": [50.0, None, 51.0, 49.0, 50.5, float("nan")]})
    assert finding.score[1] == finding.score[5] == 0
    (short,) = detector.detect({"cpu_usage": [1.0, 99.0]})
    assert not short.anomalous.any()
    assert np.isnan(short.expected).all()


def test_a_constant_metric_does_not_turn_every_wiggle_into_an_anomaly() -> None:
    (finding,) = rules.StatisticalAnomalyDetector().detect({"cpu_usage": [50.0] * 40 + [50.5, 80.0]})
    assert list(np.flatnonzero(finding.anomalous)) == [41]


def test_a_higher_threshold_finds_fewer_anomalies() -> None:
    values = np.random.default_rng(0).standard_t(2, 500)
    counts = [
        rules.StatisticalAnomalyDetector(threshold).detect({"x": values})[0].anomalous.sum() for threshold in (3.0, 6.0)
    ]
    assert counts[0] > counts[1] > 0
    with pytest.raises(UsageError, match="must be positive"):
        rules.StatisticalAnomalyDetector(0.0)


def test_series_and_timestamps_of_different_length_are_refused() -> None:
    times, values = season(2)
    with pytest.raises(UsageError, match="'cpu_usage' has 47 values but there are 48 timestamps"):
        rules.StatisticalAnomalyDetector().detect({"cpu_usage": values[:-1]}, timestamps=times)


def judged(values: np.ndarray) -> rules.Finding:
    return rules.StatisticalAnomalyDetector().detect({"x": values})[0]


def test_a_series_is_judged_by_its_past_and_never_by_what_follows() -> None:
    times, values = season(120)
    detector = rules.StatisticalAnomalyDetector()
    (whole,) = detector.detect({"x": values}, timestamps=times)
    for n in (8, 30, 100, 1000, 2000):
        (early,) = detector.detect({"x": values[:n]}, timestamps=times[:n])
        for name in ("score", "expected", "low", "high"):
            np.testing.assert_allclose(getattr(whole, name)[:n], getattr(early, name), err_msg=f"{name} of {n}")


def test_a_small_lasting_shift_is_found_though_no_value_is_beyond_the_range() -> None:
    values = 50 + np.random.default_rng(0).standard_normal(600)
    values[400:460] += 2.0
    finding = judged(values)
    inside = (values > finding.low) & (values < finding.high)
    assert not finding.anomalous[:400].any()
    assert (finding.anomalous & inside)[400:460].any()


def test_a_new_level_becomes_usual_in_the_end() -> None:
    values = 50 + np.random.default_rng(0).standard_normal(4000)
    values[1000:] += 30
    finding = judged(values)
    assert finding.anomalous[1000:1060].all()
    assert finding.anomalous[3000:].mean() < 0.01
    assert abs(finding.expected[-1] - 80) < 1


def test_bursts_are_usual_for_a_count_that_is_mostly_zero() -> None:
    rng = np.random.default_rng(0)
    values = rng.poisson(4, 1000) * (rng.random(1000) < 0.12).astype(float)
    values[900] = 60
    finding = judged(values)
    assert finding.anomalous[900]
    assert np.delete(finding.anomalous, 900).mean() < 0.01


def test_values_before_and_after_a_gap_keep_their_scores() -> None:
    values = 50 + np.random.default_rng(0).standard_normal(200)
    values[150] = 90.0
    gap = np.insert(values, 100, [np.nan] * 5)
    np.testing.assert_array_equal(np.delete(judged(gap).score, range(100, 105)), judged(values).score)


# Threat signatures and actions


def test_signatures_recognise_blatant_attacks_and_leave_normal_alone() -> None:
    frame, _ = synthetic.activity(4000, seed=0)
    classes = list(synthetic.CLASSES)
    P = rules.threat_rules(frame[list(synthetic.ACTIVITY_FEATURES)].to_numpy(), synthetic.ACTIVITY_FEATURES, classes)
    np.testing.assert_allclose(P.sum(axis=1), 1)
    label = np.array(classes)[P.argmax(axis=1)]
    truth = frame["threat_type"].to_numpy().astype(str)
    assert 0.65 < (label == truth).mean() < 0.92
    assert (label[truth == "normal"] == "normal").mean() > 0.9


def test_three_features_are_enough_to_see_a_brute_force_attack() -> None:
    names = ["failed_auth_count", "request_rate", "unique_ips"]
    P = rules.threat_rules(np.array([[25.0, 1500.0, 50.0]]), names, list(synthetic.CLASSES))
    assert list(synthetic.CLASSES)[int(P.argmax())] == "brute_force"


@pytest.mark.parametrize("label", list(rules.THREAT_RULES))
def test_the_leading_feature_of_an_attack_alone_decides_from_its_limit_on(label: str) -> None:
    classes = list(synthetic.CLASSES)
    (leading, limit), *supporting = rules.THREAT_RULES[label]
    assert label in classes and {leading, *(name for name, _ in supporting)} <= set(synthetic.ACTIVITY_FEATURES)
    P = rules.threat_rules(np.array([[limit], [np.nextafter(limit, 0)]]), [leading], classes)
    assert [classes[i] for i in P.argmax(axis=1)] == [label, "normal"]
    # Against the lead of normal, 3, an attack has 4 for its leading feature and 1 for each supporting one.
    row = [limit, *(value for _, value in supporting)]
    found = rules.threat_rules(np.array([row]), [leading, *(name for name, _ in supporting)], ["normal", label])[0]
    assert np.log(found[1] / found[0]) == pytest.approx(4 + len(supporting) - 3)
    many = rules.threat_rules(np.array([row, np.zeros(len(row))]), [leading, *(n for n, _ in supporting)], classes)
    np.testing.assert_allclose(many.sum(axis=1), 1.0)


def test_a_row_without_any_value_is_normal() -> None:
    P = rules.threat_rules(np.full((1, 2), np.nan), ["failed_auth_count", "xss_score"], list(synthetic.CLASSES))
    assert P.argmax() == 0


def test_actions_follow_the_drivers_in_their_order() -> None:
    drivers = rules.RuleBasedFailurePredictor().assess({"memory_usage": 99.0, "network_errors": 20.0}).drivers
    assert rules.failure_actions(drivers) == ["restart_service", "scale_vertical", "failover_network"]
    assert rules.failure_actions(drivers, failing=False) == ["continue_monitoring"]


def test_every_class_has_an_action() -> None:
    for name in synthetic.CLASSES:
        assert rules.threat_actions(name) != ["investigate"]
    assert rules.threat_actions("something_new") == ["investigate"]
