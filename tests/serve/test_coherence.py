"""Prediction, severity, recommended actions and confidence of an answer never contradict each other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from client import Client
from conftest import Service, point
from hypothesis import strategies as st

from aiops_core import servable
from aiops_core.facts import MODELS
from serve_app.answers.envelope import UNCALIBRATED, between

QUIET = {"no_failure", "normal", "within_capacity", "forecast_only"}
SETTINGS = hypothesis.settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)


def coherent(answer: dict[str, Any], event: float | None) -> None:
    """Check an answer; `event` is the probability of the bad event where it has one."""
    alarm = answer["prediction"] not in QUIET
    actions, confidence = answer["recommended_actions"], answer["confidence"]
    assert (answer["severity"] == "low") == (not alarm), answer
    if alarm and event is not None:
        assert (answer["severity"] == "medium") == (event < 0.5), answer
    assert ("continue_monitoring" in actions) <= (not alarm), answer
    assert alarm or actions in (["continue_monitoring"], ["plan_capacity"], ["scale_down"]), answer
    if confidence is None:
        assert answer["probability"] is None and answer["prediction"] == "forecast_only"
        return
    if "probabilities" in answer or alarm:
        stated = answer["probability"]
    else:
        stated = 1 - answer["probability"]
    assert confidence <= stated + 2e-6
    if confidence < stated - 2e-6:
        (reason,) = [w for w in answer["warnings"] if w.startswith("confidence is")]
        share = re.match(r"confidence is (\d+) % of the probability of the prediction: .+", reason)
        assert share is not None and abs(confidence - int(share[1]) / 100 * stated) < 0.006, (answer, stated)


def rows_of(card: dict[str, Any]) -> st.SearchStrategy[dict[str, float]]:
    """Rows in and a little outside of the training range, with anything missing but not everything."""
    values = {}
    for f in card["features"]:
        r = f["reference"]
        low, high = r["min"], r["max"]
        top = 1.0 if f.get("unit") == "score" else 100.0 if f.get("unit") == "%" else high * 1.5 + 1
        values[f["name"]] = st.floats(max(0.0, low), max(top, 0.0)) | st.just(r["median"])
    names = sorted(values)
    return st.lists(st.sampled_from(names), min_size=1, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({name: values[name] for name in chosen})
    )


def test_failure_answers_are_coherent(client: Client, servables: dict[str, Path]) -> None:
    card = servable.load(servables["failure"]).card
    seen = set()

    @hypothesis.given(st.lists(rows_of(card), min_size=1, max_size=26), st.sampled_from([0.01, 1, 1e4]))
    @SETTINGS
    def check(rows: list[dict[str, float]], cost: float) -> None:
        body = {"resource_id": "r", "time_series": rows, "decision": {"rule": "cost", "cost_missed": cost}}
        answer = client.post("predict/failure", body).json()
        coherent(answer, answer["probability"])
        seen.add(answer["prediction"])
        snapshot = client.post("predict/failure", {"resource_id": str(rows), "metrics": rows[0]})
        if snapshot.status == 200:
            coherent(snapshot.json(), snapshot.json()["probability"])

    check()
    assert seen == {"failure", "no_failure"}


def test_threat_answers_are_coherent(client: Client, servables: dict[str, Path]) -> None:
    card = servable.load(servables["threat"]).card
    seen = set()

    @hypothesis.given(rows_of(card), st.sampled_from([None, 0.01, 100]))
    @SETTINGS
    def check(row: dict[str, float], cost: float | None) -> None:
        others = [c for c in card["classes"] if c != "normal"]
        costs = {} if cost is None else {"costs": {c: {"normal": cost} for c in others}}
        answer = client.post("predict/threat", {**row, **costs}).json()
        coherent(answer, answer["attack_probability"])
        seen.add(answer["prediction"] == "normal")

    check()
    assert seen == {True, False}


def test_anomaly_answers_are_coherent(client: Client) -> None:
    seen = set()

    @hypothesis.given(
        st.lists(st.floats(0, 100), min_size=1, max_size=30), st.booleans(), st.sampled_from(["cpu_usage", "queue"])
    )
    @SETTINGS
    def check(values: list[float], outlier: bool, name: str) -> None:
        rows = [{name: v} for v in values + [1000.0 if name == "queue" else 100.0] * outlier]
        answer = client.post("analyze/anomaly", {"resource_id": "r", "time_series": rows}).json()
        coherent(answer, answer["probability"])
        seen.add(answer["prediction"])

    check()
    assert seen == {"anomaly", "normal"}


def test_capacity_claims_a_crossing_exactly_where_the_median_crosses(client: Client) -> None:
    seen = set()

    @hypothesis.given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.none() | st.floats(1, 100))
    @SETTINGS
    def check(values: list[float], threshold: float | None) -> None:
        body: dict[str, Any] = {"resource_id": "r", "historical_data": {"cpu_usage": values}}
        if threshold is not None:
            body["thresholds"] = {"cpu_usage": threshold}
        answer = client.post("predict/capacity", body).json()
        coherent(answer, answer["probability"])
        limit = 85 if threshold is None else threshold
        crosses = any(p["p50"] >= limit for p in answer["forecast"]["cpu_usage"])
        reach, reason = answer["time_to_threshold"]["cpu_usage"], answer["recommendation"]["reason"]
        assert (answer["prediction"] == "threshold_reached") == crosses == (reach["hours"] is not None)
        assert (answer["probability"] >= 0.5) == crosses or abs(answer["probability"] - 0.5) < 1e-6
        assert (answer["recommended_actions"] == ["scale_up"]) == crosses
        # Timed histories are read in the precision of training: what it cannot tell apart counts as either.
        assert ("the latest value" in reason) == (values[-1] >= limit) or abs(values[-1] - limit) < 1e-6 * limit
        assert "reached" not in reason or crosses
        seen.add(answer["recommendation"]["action"])

    check()
    assert seen >= {"scale_up", "plan_capacity", "scale_down"}


def test_a_latest_value_above_the_threshold_is_said_but_is_no_forecast(client: Client) -> None:
    body: dict[str, Any] = {"resource_id": "r", "historical_data": {"cpu_usage": [30.0] * 47 + [99.0]}}
    points = client.post("predict/capacity", body).json()["forecast"]["cpu_usage"]
    highest = max(p["p50"] for p in points)
    assert highest < 98.5
    answer = client.post("predict/capacity", {**body, "thresholds": {"cpu_usage": 98.5}}).json()
    assert answer["prediction"] == "within_capacity" and answer["probability"] < 0.5
    said = "the latest value 99 is at or above the threshold of 98.5, the median forecast stays below it"
    assert said in answer["recommendation"]["reason"] and f"cpu_usage: {said}" in answer["warnings"]
    assert answer["recommended_actions"] == ["plan_capacity"]
    assert answer["time_to_threshold"]["cpu_usage"]["hours"] is None


@pytest.fixture
def in_gigabytes(make_service: Callable[..., Service], servables: dict[str, Path], tmp_path: Path) -> Client:
    """A service whose capacity model has one metric in GB and one in %."""
    folder = tmp_path / "gigabytes"
    shutil.copytree(servables["capacity"], folder)
    card = json.loads((folder / "card.json").read_text())
    next(f for f in card["features"] if f["name"] == "memory_usage")["unit"] = "GB"
    (folder / "card.json").write_text(json.dumps(card))
    point(tmp_path / "state", {MODELS["capacity"]: (folder, "1")})
    return make_service().client


def test_no_threshold_is_invented_for_a_metric_that_has_none(in_gigabytes: Client) -> None:
    history = {"memory_usage": [50.0] * 30}
    body: dict[str, Any] = {"resource_id": "r", "historical_data": history}
    answer = in_gigabytes.post("predict/capacity", body).json()
    assert answer["prediction"] == "forecast_only" and answer["severity"] == "low"
    assert answer["probability"] is None and answer["confidence"] is None and answer["threshold"] is None
    assert answer["time_to_threshold"] == {} and answer["recommended_actions"] == ["continue_monitoring"]
    assert "no threshold known for memory_usage: name one in thresholds" in answer["warnings"]
    assert "no threshold is known" in answer["recommendation"]["reason"]
    both = {**body, "historical_data": {**history, "cpu_usage": [40.0] * 30}}
    answer = in_gigabytes.post("predict/capacity", both).json()
    assert answer["time_to_threshold"].keys() == {"cpu_usage"} and answer["probability"] is not None
    assert any("no threshold known for memory_usage" in w for w in answer["warnings"])
    named = in_gigabytes.post("predict/capacity", {**body, "thresholds": {"memory_usage": 10}}).json()
    assert named["prediction"] == "threshold_reached" and not any("no threshold" in w for w in named["warnings"])


def test_the_schema_allows_a_forecast_without_a_probability(in_gigabytes: Client) -> None:
    parts = in_gigabytes.get("/schema").json()["components"]["schemas"]
    for name in ("probability", "confidence"):
        assert {"type": "null"} in parts["CapacityAnswer"]["properties"][name].get("anyOf", [])
        assert "anyOf" not in parts["ThreatAnswer"]["properties"][name]


def test_a_sure_anomaly_says_why_its_confidence_is_lower(client: Client) -> None:
    body = {"resource_id": "a", "metrics": {"network_errors": 90000}}
    answer = client.post("analyze/anomaly", body).json()
    assert answer["probability"] > 0.99 and answer["confidence"] <= UNCALIBRATED
    assert (
        "confidence is 60 % of the probability of the prediction: the statistics are not calibrated"
        in answer["warnings"]
    )


def test_nothing_to_compare_with_gives_no_confidence(client: Client) -> None:
    answer = client.post("analyze/anomaly", {"resource_id": "a", "metrics": {"queue": 3}}).json()
    assert answer["prediction"] == "normal" and answer["confidence"] == 0


def test_missing_and_unfamiliar_features_are_named_as_what_lowers_the_confidence(client: Client) -> None:
    answer = client.post("predict/threat", {"failed_auth_count": 25, "request_rate": 1e12}).json()
    reason = next((w for w in answer["warnings"] if w.startswith("confidence")), "")
    assert "10 of 12 features not given, 1 of 2 given features outside the training range" in reason
    rows = [{"cpu_usage": 50.0}] * 12
    answer = client.post("predict/failure", {"resource_id": "r", "time_series": rows}).json()
    assert any(re.match(r"confidence is .* of \d+ values of the window not given", w) for w in answer["warnings"])


def test_ranges_are_written_for_reading() -> None:
    assert between(5.8194e-09, 4.2034567) == "0 to 4.203"
    assert between(0, 1234567.0) == "0 to 1,234,567" and between(1e-7, 5e-7) == "0.0000001 to 0.0000005"
    assert between(-np.inf, np.inf) == "-inf to inf" and between(0, 0) == "0 to 0"
