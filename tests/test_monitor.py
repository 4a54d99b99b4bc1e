"""Drift, broken sensors, estimates, labelled quality and verdicts, on traffic whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aiops_core.errors import UsageError
from aiops_core.monitor import Traffic, look, look_at
from aiops_core.monitor.drift import distances, drift, telling_rows, threshold
from aiops_core.monitor.records import since_time
from aiops_core.monitor.sensors import broken
from aiops_core.monitor.traffic import near_steps
from aiops_core.tasks import cards

START = np.datetime64("2026-01-05T00:00:00", "s")


def card(rng: np.random.Generator, rows: int = 4000) -> dict[str, Any]:
    """Return the card of a detector of two numeric features whose confidence is right as often as it says."""
    values = np.c_[rng.normal(size=rows), rng.gamma(2.0, size=rows)]
    score = rng.uniform(0.6, 1.0, rows)
    right = (rng.random(rows) < score).astype(float)
    kept = cards.score_histogram(score)
    return {
        "task": "threat",
        "features": [{"name": "speed", "dtype": "number"}, {"name": "load", "dtype": "number"}],
        "classes": ["normal", "attack"],
        "watch": {
            "features": cards.features_watch(["speed", "load"], values, np.arange(rows)),
            "score": {**kept, "scatter": {"within": 0.0, "rows": 1.0, "day": 0.0, "size": float(rows)}},
            "calibration": cards.calibration(score, right),
            "classes": {"normal": 0.8, "attack": 0.2},
            "alarm_rate": 0.2,
            "rows": rows,
        },
    }


def traffic(rng: np.random.Generator, own: dict[str, Any], a_day: int = 400, days: int = 3, **changes: Any) -> Traffic:
    """Return quiet traffic of unnamed callers."""
    n = a_day * days
    time = START + (np.arange(n) * 86_400 // a_day).astype("timedelta64[s]")
    score = rng.uniform(0.6, 1.0, n)
    label = (rng.random(n) < 0.2).astype(int)
    day = (time.max() - time).astype(int) // 86_400
    quiet = Traffic(
        "threat", own, time, day, np.arange(n), [f"answer {i}" for i in range(n)],
        np.c_[rng.normal(size=n), rng.gamma(2.0, size=n)], np.arange(n), day, score, label == 1, label=label,
        truth={"known": rng.random(n) < 0.2, "right": rng.random(n) < score},
    )  # fmt: skip
    return replace(quiet, **changes)


@pytest.fixture(scope="module")
def own() -> dict[str, Any]:
    return card(np.random.default_rng(0))


def test_a_threshold_falls_with_the_rows_and_is_rarely_exceeded_by_chance() -> None:
    share = np.full(10, 0.1)
    assert threshold(share, 1000, 0.001) < threshold(share, 100, 0.001) < threshold(share, 20, 0.001)
    rng, limit = np.random.default_rng(5), threshold(share, 200, 0.01)
    over = [distances(rng.multinomial(200, share) / 200, share)[0] > limit for _ in range(4000)]
    assert 0.003 < np.mean(over) < 0.02


def test_rows_of_few_resources_that_resemble_each_other_tell_as_much_as_the_resources() -> None:
    resource = np.repeat(np.arange(20), 24)
    alike = {"within": 1.0, "day": 0.0, "rows": 24.0, "size": 1e9}
    assert telling_rows(resource, alike) == pytest.approx(20, rel=0.01)
    assert telling_rows(resource, {**alike, "within": 0.0}) == pytest.approx(480, rel=0.01)
    # Where nobody says whose rows they are, they belong together as in training.
    assert telling_rows(np.arange(480), alike, named=False) == pytest.approx(20, rel=0.01)
    assert telling_rows(np.arange(480), alike) == pytest.approx(480, rel=0.01)


def test_quiet_traffic_is_fine(own: dict[str, Any]) -> None:
    for seed in range(20):
        found = look_at(traffic(np.random.default_rng(seed), own))
        assert found["verdict"]["state"] == "fine", found["verdict"]
        assert found["estimate"]["low"] < found["estimate"]["promised"] < found["estimate"]["high"] + 0.02


def test_a_feature_that_moves_is_named_and_does_not_page_while_quality_holds(own: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    quiet = traffic(rng, own)
    moved = quiet.features.copy()
    moved[quiet.row_day == 0, 0] += 1.5
    found = look_at(replace(quiet, features=moved))
    named = [d for d in found["drift"] if d["drifted"]]
    assert [(d["feature"], d["kind"]) for d in named] == [("speed", "value")]
    assert not named[0]["days"][1]["drifted"]
    assert found["verdict"]["state"] == "watch"
    assert "speed" in found["verdict"]["why"][0]


def test_drift_with_lower_confidence_is_a_page(own: dict[str, Any]) -> None:
    rng = np.random.default_rng(2)
    quiet = traffic(rng, own, truth={})
    today, moved, score = quiet.day == 0, quiet.features.copy(), quiet.score.copy()
    moved[today, 0] += 1.5
    score[today] = rng.uniform(0.6, 0.65, int(today.sum()))
    found = look_at(replace(quiet, features=moved, score=score))
    assert found["estimate"]["fallen"] and found["estimate"]["ratio"] < 0.85
    assert found["verdict"]["state"] == "act"
    assert "train on newer data" in " ".join(found["verdict"]["todo"])


def test_answers_that_become_wrong_without_a_sign_are_seen_in_labels_and_not_in_the_estimate(
    own: dict[str, Any],
) -> None:
    rng = np.random.default_rng(3)
    quiet = traffic(rng, own)
    right = quiet.truth["right"] & ~((quiet.day == 0) & (rng.random(len(quiet.day)) < 0.6))
    found = look_at(replace(quiet, truth={**quiet.truth, "right": right}))
    assert not found["estimate"]["fallen"]
    assert found["quality"]["fallen"] and found["quality"]["newest"]["value"] < found["quality"]["promised"]
    assert found["verdict"]["state"] == "act"


def test_labels_of_the_doubtful_answers_only_are_no_fall(own: dict[str, Any]) -> None:
    quiet = traffic(np.random.default_rng(4), own)
    doubtful = quiet.score < 0.7
    found = look_at(replace(quiet, truth={**quiet.truth, "known": doubtful}))
    assert found["quality"]["value"] < 0.72 < found["estimate"]["promised"]
    assert not found["quality"]["fallen"] and found["verdict"]["state"] == "fine"


def test_a_sensor_that_repeats_itself_or_falls_silent_is_to_be_acted_on(own: dict[str, Any]) -> None:
    rng = np.random.default_rng(6)
    quiet = traffic(rng, own)
    part = (quiet.row_day == 0) & (rng.random(len(quiet.row_day)) < 0.3)
    for value, words in ((0.123, "the same again and again"), (np.nan, "missing")):
        values = quiet.features.copy()
        values[part, 0] = value
        found = look_at(replace(quiet, features=values))
        assert found["verdict"]["state"] == "act"
        assert words in " ".join(found["verdict"]["why"])


def test_a_frozen_and_a_silent_sensor_are_found_by_resource(own: dict[str, Any]) -> None:
    rng = np.random.default_rng(7)
    quiet = traffic(rng, own, a_day=40, days=1)
    recent = np.stack([rng.normal(size=(3, 24)), rng.gamma(2.0, size=(3, 24))], axis=2).astype(np.float32)
    recent[0, 5:, 0] = 0.25
    recent[1, 5:, 1] = np.nan
    recent[2, :, 0] = recent[2].min()  # at the end of its range
    recent[2, :, 0] = -99
    names, resource = ["one", "two", "three"], np.arange(40) % 3
    found = broken(replace(quiet, recent=recent, names=names, resource=resource))
    assert {(f["feature"], f["resource"], f["fault"]) for f in found} == {
        ("speed", "one", "frozen"),
        ("load", "two", "silent"),
    }


def test_a_day_with_too_few_answers_is_not_compared(own: dict[str, Any]) -> None:
    quiet = traffic(np.random.default_rng(8), own, a_day=12, days=4)
    assert all(d["days"] == [] and not d["drifted"] for d in drift(quiet))


def test_a_version_whose_card_keeps_nothing_cannot_be_monitored() -> None:
    frame = pd.DataFrame({"version": [3] * 40})
    found = look(frame, {"task": "threat"}, task="threat", version=3)
    assert found["verdict"]["state"] == "unknown"
    assert "cannot be monitored" in found["verdict"]["why"][0]


@pytest.mark.parametrize("text", ["soon", "7 days", "0d", "-3d", "", "NaT"])
def test_a_period_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        since_time(text)


@pytest.mark.parametrize("scored", [list(range(1, 49)), "1 to 48"])
def test_a_forecast_all_of_whose_steps_are_scored_can_be_monitored(scored: Any) -> None:
    # Earlier cards said it in words where there were many.
    found = near_steps({"scored_steps": scored, "season": 24}, horizon=20)
    assert found.tolist() == list(range(1, 21))
    assert near_steps({"scored_steps": [36, 48], "season": 24}, horizon=48).tolist() == [36]
