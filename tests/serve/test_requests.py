"""What the service answers: the requests of the user's document, forms of input, envelopes, batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client import Client
from conftest import RUN, Service, point

from aiops_core import servable
from aiops_core.facts import MODELS
from serve_app.answers.envelope import UNCALIBRATED, quality
from serve_app.champions.watcher import STALE_SECONDS
from serve_app.operations.remediation import catalogue

SNAPSHOT = {"cpu_usage": 85.5, "memory_usage": 78.2, "disk_io": 1200, "network_errors": 15}
THREAT = {"source_ip": "192.168.1.100", "failed_auth_count": 25, "request_rate": 1500, "unique_ips": 50}
ENVELOPE = {
    "prediction", "probability", "confidence", "severity", "threshold", "drivers", "recommended_actions", "warnings",
    "request_id", "model",
}  # fmt: skip


def check_envelope(answer: dict[str, Any]) -> None:
    assert answer.keys() >= ENVELOPE
    assert 0 <= answer["probability"] <= 1 and 0 <= answer["confidence"] <= 1
    assert answer["severity"] in ("low", "medium", "high", "critical")
    assert set(answer["recommended_actions"]) <= set(catalogue())
    assert answer["model"].keys() == {"name", "version", "run_id", "kind", "trained_at", "alias"}
    for driver in answer["drivers"]:
        assert driver.keys() == {"feature", "value", "contribution"}


def test_the_documents_failure_request_is_answered_by_the_rules_and_says_so(client: Client) -> None:
    answer = client.post("predict/failure", {"resource_id": "doc-01", "metrics": SNAPSHOT}).json()
    check_envelope(answer)
    assert answer["resource_id"] == "doc-01"
    assert answer["model"]["kind"] == "rule_based" and answer["model"]["name"] == "rule_based_failure_predictor"
    assert answer["prediction"] == "failure" and answer["severity"] == "high"
    assert any("1 of 24 snapshots" in w for w in answer["warnings"])


def test_the_documents_threat_request_is_an_attack_with_high_risk(client: Client) -> None:
    answer = client.post("predict/threat", THREAT).json()
    check_envelope(answer)
    assert answer["source_ip"] == "192.168.1.100"
    assert answer["prediction"] != "normal" and answer["severity"] in ("high", "critical")
    assert answer["attack_probability"] > 0.6
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert answer["probability"] == answer["probabilities"][answer["prediction"]]
    assert answer["drivers"][0]["feature"] == "failed_auth_count"
    assert answer["model"]["kind"] == "random_forest" and answer["model"]["run_id"] == RUN
    assert any("avg_payload_size" in w for w in answer["warnings"])


def test_quiet_activity_is_normal_with_low_risk(client: Client) -> None:
    quiet = {"failed_auth_count": 0, "request_rate": 40, "unique_ips": 2, "port_scan_score": 0.01, "xss_score": 0.01}
    answer = client.post("predict/threat", quiet).json()
    assert answer["prediction"] == "normal" and answer["severity"] in ("low", "medium")
    assert answer["recommended_actions"] == ["continue_monitoring"]


def test_five_models_are_in_the_status(client: Client) -> None:
    status = client.get("models/status").json()
    assert len(status["models"]) == 5
    kinds = {m["name"]: m["kind"] for m in status["models"]}
    assert kinds == {
        "failure_predictor": "lstm",
        "threat_detector": "random_forest",
        "capacity_forecaster": "xgboost",
        "rule_based_failure_predictor": "rule_based",
        "statistical_anomaly_detector": "statistical",
    }
    assert all(m["status"] == "loaded" for m in status["models"])


def test_the_registry_is_reachable_as_long_as_the_follower_reports(make_service: Callable[..., Service]) -> None:
    service = make_service()
    for age, reachable in ((0.0, True), (2 * STALE_SECONDS, False)):
        point(service.state, {}, asked=time.time() - age)
        service.models.watcher.look()
        found = service.client.get("models/status").json()["mlflow"]
        assert found["reachable"] is reachable
        assert found["error"] == (None if reachable else "the follower has stopped reporting")


def test_health_is_healthy_and_ready(client: Client) -> None:
    health = client.get("health").json()
    assert health["status"] == "healthy" and health["ready"] and len(health["models_loaded"]) == 5


def test_a_window_goes_straight_to_the_lstm(client: Client, servables: dict[str, Path]) -> None:
    rows = [{**SNAPSHOT, "cpu_usage": 40 + i} for i in range(24)]
    answer = client.post("predict/failure", {"resource_id": "w", "time_series": rows}).json()
    check_envelope(answer)
    assert answer["model"]["kind"] == "lstm" and answer["model"]["version"] == "1"
    loaded = servable.load(servables["failure"])
    window = np.full((1, 24, len(loaded.features)), np.nan, dtype=np.float32)
    for i, row in enumerate(rows):
        for name, value in row.items():
            window[0, i, loaded.features.index(name)] = value
    assert answer["probability"] == pytest.approx(float(loaded.predict(window)[0]), abs=2e-6)  # type: ignore[attr-defined]


def test_snapshots_fill_a_window_and_then_the_lstm_answers(client: Client) -> None:
    kinds = []
    for i in range(25):
        body = {"resource_id": "filling", "metrics": {**SNAPSHOT, "cpu_usage": 30 + i}}
        kinds.append(client.post("predict/failure", body).json()["model"]["kind"])
    assert kinds == ["rule_based"] * 23 + ["lstm"] * 2


def test_timestamps_place_snapshots_on_the_grid(client: Client) -> None:
    def ask(hour: float) -> dict[str, Any]:
        stamp = 1_750_000_000 // 3600 * 3600 + 3600 * hour
        body = {"resource_id": "timed", "metrics": SNAPSHOT, "timestamp": stamp}
        answer: dict[str, Any] = client.post("predict/failure", body).json()
        return answer

    # Two in the same hour are one step; every second hour missing still fills the window.
    assert ask(0)["warnings"][0].startswith("1 of 24") and ask(0.5)["warnings"][0].startswith("1 of 24")
    answers = [ask(hour) for hour in range(2, 24, 2)] + [ask(23)]
    assert [a["model"]["kind"] for a in answers] == ["rule_based"] * 11 + ["lstm"]
    # After a silence longer than a window it starts anew.
    assert ask(500)["warnings"][0].startswith("1 of 24")


@pytest.mark.parametrize(
    "history",
    [
        {"historical_data": {"cpu_usage": [50, 55, 60], "memory_usage": [70, 71, None]}},
        {"historical_data": {"cpu_usage": 50}},
        {"historical_data": {"cpu_usage": {"value": 50, "timestamp": "2026-01-01T00:00:00Z"}}},
        {"historical_data": {"cpu_usage": [{"value": 50 + i, "timestamp": 1767225600 + 3600 * i} for i in range(30)]}},
        {"historical_data": {"cpu_usage": [50, 55]}, "timestamps": ["2026-01-01T00:00Z", "2026-01-01T01:00Z"]},
        {"current_metrics": {"cpu_usage": 50, "memory_usage": 60}},
    ],
)
def test_capacity_takes_lists_scalars_and_points_alike(client: Client, history: dict[str, Any]) -> None:
    answer = client.post("predict/capacity", {"resource_id": "c", **history, "forecast_days": 7})
    assert answer.status == 200, answer.body
    content = answer.json()
    check_envelope(content)
    for metric, points in content["forecast"].items():
        assert len(points) == 168
        assert all(p["p10"] <= p["p50"] <= p["p90"] for p in points)
        assert content["time_to_threshold"][metric]["threshold"] == 85
    assert content["recommendation"]["action"] in ("scale_up", "plan_capacity", "scale_down", "maintain")
    assert content["model"]["kind"] == "xgboost"


def test_timestamps_of_the_forecast_follow_the_last_value(client: Client) -> None:
    body = {"resource_id": "c", "historical_data": {"cpu_usage": [50, 52]}, "timestamps": [1767225600, 1767229200]}
    points = client.post("predict/capacity", {**body, "forecast_days": 0.125}).json()["forecast"]["cpu_usage"]
    assert [p["timestamp"] for p in points] == ["2026-01-01T02:00:00Z", "2026-01-01T03:00:00Z", "2026-01-01T04:00:00Z"]


def test_a_metric_above_its_threshold_asks_for_more_capacity(client: Client) -> None:
    body = {"resource_id": "c", "historical_data": {"cpu_usage": [60.0] * 48}, "thresholds": {"cpu_usage": 20}}
    answer = client.post("predict/capacity", body).json()
    assert answer["time_to_threshold"]["cpu_usage"]["hours"] == 0
    assert answer["prediction"] == "threshold_reached" and answer["recommendation"]["action"] == "scale_up"
    assert answer["recommended_actions"] == ["scale_up"] and answer["severity"] == "critical"


def test_an_outlier_is_an_anomaly_in_its_own_history_and_is_counted(shared: Service) -> None:
    before = shared.total("aiops_anomalies_detected_total")
    rows: list[dict[str, float]] = [{"cpu_usage": 40 + i % 3, "queue": 5 + i % 3} for i in range(40)]
    normal = shared.client.post("analyze/anomaly", {"resource_id": "a", "time_series": rows}).json()
    assert normal["prediction"] == "normal" and normal["model"]["kind"] == "statistical"
    rows[-1] = {"cpu_usage": 99.0, "queue": 6}
    odd = shared.client.post("analyze/anomaly", {"resource_id": "a", "time_series": rows}).json()
    check_envelope(odd)
    assert odd["prediction"] == "anomaly" and odd["severity"] in ("high", "critical")
    assert odd["anomalies"][-1]["metric"] == "cpu_usage" and odd["anomalies"][-1]["index"] == 39
    assert shared.total("aiops_anomalies_detected_total") == before + 1


def test_a_snapshot_is_judged_by_the_training_telemetry(client: Client) -> None:
    usual = client.post("analyze/anomaly", {"resource_id": "a", "metrics": {"cpu_usage": 45}}).json()
    odd = client.post("analyze/anomaly", {"resource_id": "a", "metrics": {"network_errors": 90000}}).json()
    assert usual["prediction"] == "normal" and odd["prediction"] == "anomaly"


# Confidence and warnings ---------------------------------------------------------------------------------------------


def test_confidence_is_the_calibrated_probability_when_nothing_is_missing(
    client: Client, servables: dict[str, Path]
) -> None:
    card = servable.load(servables["threat"]).card
    full = {f["name"]: f["reference"]["median"] for f in card["features"]}
    answer = client.post("predict/threat", full).json()
    assert answer["warnings"] == []
    assert answer["confidence"] == answer["probability"]


def test_missing_features_lower_the_confidence_by_the_stated_factor(client: Client) -> None:
    answer = client.post("predict/threat", THREAT).json()
    assert answer["confidence"] == pytest.approx(answer["probability"] * quality(9, 0, 12), abs=1e-5)


def test_values_outside_the_training_range_warn_and_lower_the_confidence(client: Client) -> None:
    answer = client.post("predict/threat", {**THREAT, "request_rate": 1e12}).json()
    assert any("request_rate = 1e+12 is outside the training range" in w for w in answer["warnings"])
    assert answer["confidence"] == pytest.approx(answer["probability"] * quality(9, 1, 12), abs=1e-5)


def test_confidence_differs_between_requests(client: Client) -> None:
    found = {client.post("predict/threat", {"failed_auth_count": n}).json()["confidence"] for n in range(0, 100, 7)}
    assert len(found) > 3


def test_the_rules_never_claim_more_than_their_cap(client: Client) -> None:
    worst = {"cpu_usage": 100, "memory_usage": 100, "disk_io": 99999, "network_errors": 999, "error_rate": 999}
    answer = client.post("predict/failure", {"resource_id": "cap", "metrics": worst}).json()
    assert answer["severity"] == "critical" and answer["confidence"] <= UNCALIBRATED


# Batches -------------------------------------------------------------------------------------------------------------


def _rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        row = {
            "failed_auth_count": float(rng.integers(0, 60)),
            "request_rate": float(np.exp(rng.normal(5, 2))),
            "unique_ips": float(rng.integers(1, 200)),
            "xss_score": float(rng.uniform()),
            "data_transfer_rate": float(np.exp(rng.normal(0, 2))),
        }
        rows.append({k: v for k, v in row.items() if rng.uniform() > 0.2} or row)
    return rows


def test_a_batch_of_ten_thousand_equals_the_servable_and_single_rows(
    client: Client, servables: dict[str, Path]
) -> None:
    rows = _rows(10_000)
    started = time.perf_counter()
    answers = client.post("predict/threat", {"instances": rows}).json()["predictions"]
    assert time.perf_counter() - started < 30
    assert len(answers) == len(rows)
    loaded: Any = servable.load(servables["threat"])
    p = loaded.predict(loaded.encode(rows))
    found = np.array([[a["probabilities"][c] for c in loaded.classes] for a in answers])
    assert np.abs(found - p).max() < 2e-6
    assert [a["prediction"] for a in answers] == [loaded.classes[i] for i in loaded.decide(p)]
    assert all(a["drivers"] == [] for a in answers)
    for i in range(0, 10_000, 500):
        single = client.post("predict/threat", rows[i]).json()
        assert single["prediction"] == answers[i]["prediction"]
        assert single["probability"] == pytest.approx(answers[i]["probability"], abs=2e-6)


def test_drivers_in_a_batch_come_on_request(client: Client) -> None:
    body = {"instances": [{"failed_auth_count": 30}, {"failed_auth_count": 30, "explain": False}], "explain": True}
    first, second = client.post("predict/threat", body).json()["predictions"]
    assert first["drivers"] and not second["drivers"]


def test_a_batch_of_windows_equals_single_windows(client: Client) -> None:
    rng = np.random.default_rng(1)
    bodies = [
        {"resource_id": f"b{i}", "time_series": [{"cpu_usage": float(v)} for v in rng.uniform(10, 95, 24)]}
        for i in range(40)
    ]
    batch = client.post("predict/failure", {"instances": bodies}).json()["predictions"]
    for body, answer in zip(bodies, batch, strict=True):
        assert answer["resource_id"] == body["resource_id"]
        single = client.post("predict/failure", body).json()
        assert single["probability"] == pytest.approx(answer["probability"], abs=2e-6)


def test_a_batch_of_forecasts_equals_single_forecasts(client: Client) -> None:
    bodies: list[dict[str, Any]] = [
        {
            "resource_id": "x",
            "historical_data": {"cpu_usage": [40.0] * n},
            "timestamps": [1767225600 + 3600 * i for i in range(n)],
        }
        for n in (1, 5, 60)
    ]
    batch = client.post("predict/capacity", {"instances": bodies}).json()["predictions"]
    for body, answer in zip(bodies, batch, strict=True):
        single = client.post("predict/capacity", body).json()
        a, b = (np.array([p["p50"] for p in x["forecast"]["cpu_usage"]]) for x in (single, answer))
        assert np.allclose(a, b, atol=1e-3)


# Without champions ---------------------------------------------------------------------------------------------------


def test_without_champions_the_legacy_models_answer_and_say_how_to_train(make_service: Any) -> None:
    client = make_service().client
    health = client.get("health").json()
    assert health["status"] == "healthy" and not health["ready"] and "aiops report" in health["detail"]
    answer = client.post("predict/failure", {"resource_id": "r", "metrics": SNAPSHOT}).json()
    assert answer["model"]["kind"] == "rule_based" and any("aiops report" in w for w in answer["warnings"])
    refused = client.post("predict/threat", THREAT)
    assert refused.status == 503 and "aiops report" in refused.json()["detail"]
    assert [m["status"] for m in client.get("models/status").json()["models"]] == ["no_champion"] * 3 + ["loaded"] * 2


def test_one_missing_champion_leaves_the_others_in_service(
    make_service: Any, servables: dict[str, Path], tmp_path: Path
) -> None:
    point(tmp_path / "state", {MODELS["threat"]: (servables["threat"], "7")})
    client = make_service().client
    assert client.post("predict/threat", THREAT).json()["model"]["version"] == "7"
    assert client.post("predict/capacity", {"resource_id": "r", "current_metrics": {"cpu_usage": 1}}).status == 503


# Decisions at run time -----------------------------------------------------------------------------------------------


def test_a_request_may_bring_its_own_decision_policy(client: Client, servables: dict[str, Path]) -> None:
    from aiops_core.servable.failure import choose_threshold

    rows = [{**SNAPSHOT, "cpu_usage": 40 + i} for i in range(24)]
    body = {"resource_id": "w", "time_series": rows}
    plain = client.post("predict/failure", body).json()
    curve = servable.load(servables["failure"]).card["decision"]["curve"]
    for cost in (0.01, 1000.0):
        policy = {"rule": "cost", "cost_missed": cost}
        answer = client.post("predict/failure", {**body, "decision": policy}).json()
        assert answer["probability"] == plain["probability"]
        assert answer["threshold"] == pytest.approx(choose_threshold(curve, "cost", cost_missed=cost), abs=1e-6)
        assert answer["prediction"] == ("failure" if answer["probability"] >= answer["threshold"] else "no_failure")
        batch = client.post("predict/failure", {"instances": [body], "decision": policy}).json()["predictions"][0]
        assert batch["threshold"] == answer["threshold"]
    assert client.post("predict/failure", {**body, "decision": {"rule": "cost", "cost_missed": 0}}).status == 422
    snapshot = {"resource_id": "by-rules", "metrics": SNAPSHOT, "decision": {"rule": "max_f1"}}
    assert any("decision was not used" in w for w in client.post("predict/failure", snapshot).json()["warnings"])


def test_costs_of_a_request_decide_the_class(client: Client) -> None:
    plain = client.post("predict/threat", THREAT).json()
    attacks = [name for name in plain["probabilities"] if name not in ("normal", plain["prediction"])]
    feared = max(attacks, key=lambda name: plain["probabilities"][name])
    # Missing this one class costs so much that its share is enough.
    costs = {feared: {name: 1e6 for name in plain["probabilities"] if name != feared}}
    answer = client.post("predict/threat", {**THREAT, "costs": costs}).json()
    assert answer["prediction"] == feared != plain["prediction"]
    assert answer["probabilities"] == plain["probabilities"]
    assert answer["threshold"] is None or answer["threshold"] < 1e-5
    batch = client.post("predict/threat", {"instances": [THREAT], "costs": costs}).json()["predictions"][0]
    assert batch["prediction"] == feared
    wrong = client.post("predict/threat", {**THREAT, "costs": {"flu": {"normal": 3}}})
    assert wrong.status == 422 and "'flu'" in wrong.json()["detail"]
    inside = client.post("predict/threat", {"instances": [{**THREAT, "costs": costs}]})
    assert inside.status == 422 and "whole batch" in inside.json()["detail"]
