"""Rows of the tables as requests, word for word: any names, unused columns, times, gaps, and what the batch score says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from client import Client
from conftest import Service, point

from aiops_core import servable
from aiops_core.data.tables import Dataset
from aiops_core.data.validation import validate_all
from aiops_core.facts import MODELS
from aiops_core.tasks import threat
from aiops_core.tracking import scoring

NAMES = ["Failed Logins", "Bytes Out (MB)", "req/s", "explain", "costs", "source_ip", "instances", "größe", 'disk 3.5" temp',
         "a\\b", "class", "f0"]  # fmt: skip
CLASSES = ["normal", "Web Attack (XSS)", 'brute "force"', "übernahme"]
HOUR = 3600
START = 1_767_225_600


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as their JSON, as a client has them."""
    text = frame.to_json(orient="records", date_format="iso", double_precision=15)
    found: list[dict[str, Any]] = json.loads(text)
    return found


def make_activity(names: list[str], n: int = 600) -> pd.DataFrame:
    """Return a table of activity with these columns, and with all that a table may hold beside features."""
    rng = np.random.default_rng(5)
    label = rng.integers(0, len(CLASSES), n)
    frame = pd.DataFrame({name: rng.normal(label * (j % 3), 1.0).round(3) for j, name in enumerate(names)})
    frame.loc[::7, names[1]] = None
    frame["threat_type"] = np.array(CLASSES)[label]
    frame["group"] = [f"campaign {k % 40}" for k in range(n)]
    frame["timestamp"] = pd.date_range("2026-01-01", periods=n, freq="min", tz="UTC")
    frame["always"] = 3
    frame["note"] = [f"text {k}" for k in range(n)]
    frame["on"] = rng.random(n) > 0.5
    return frame


def train_threat(activity: pd.DataFrame, folder: Path) -> Path:
    tables, notes = validate_all({"activity": activity})
    few = threat.Effort(final_trees=20)
    data = threat.prepare(Dataset("own", "Own", "none", tables, {}, {}, notes), seed=1, effort=few)
    threat.export(threat.finish([threat.defaults(data)[0]], data, seed=1), data, folder)
    return folder


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Service, pd.DataFrame, Path]:
    """A service whose threat detector was trained on columns called anything."""
    base = tmp_path_factory.mktemp("nasty")
    activity = make_activity(NAMES)
    folder = train_threat(activity, base / "threat")
    point(base / "state", {MODELS["threat"]: (folder, "1")})
    return Service(base / "state"), activity, folder


def series(client_rows: int = 30, step: int = HOUR, **extra: Any) -> list[dict[str, Any]]:
    return [
        {"resource_id": "s", "timestamp": START + step * k, "cpu_usage": 40.0 + k % 5, "memory_usage": 60, **extra}
        for k in range(client_rows)
    ]


# Any names -----------------------------------------------------------------------------------------------------------


def test_columns_called_anything_are_loaded_and_their_rows_answered_like_the_batch_score(
    nasty: tuple[Service, pd.DataFrame, Path],
) -> None:
    service, activity, folder = nasty
    status = next(m for m in service.client.get("models/status").json()["models"] if m["name"] == MODELS["threat"])
    assert status["status"] == "loaded", status
    scored = scoring.score_table(servable.load(folder), activity)
    rows = rows_of(activity)
    batch = service.client.post("predict/threat", {"instances": rows, "explain": True}).json()["predictions"]
    for k in range(60):
        single = service.client.post("predict/threat", rows[k])
        assert single.status == 200, single.body
        for answer in (single.json(), batch[k]):
            assert answer["model"]["kind"] == "random_forest"
            assert answer["prediction"] == scored["prediction"][k]
            for name in CLASSES:
                assert answer["probabilities"][name] == pytest.approx(scored[name][k], abs=1e-6)
            assert (
                answer["warnings"].count("ignored: threat_type, group, timestamp, always, note (not used by the model)")
                == 1
            )
    assert any(d["feature"] in NAMES for answer in batch for d in answer["drivers"])
    assert service.client.get("metrics").status == 200 and service.client.get("/schema").status == 200
    assert service.client.get("/docs").status == 200


def test_a_name_that_the_table_did_not_have_is_refused_and_a_long_list_of_names_is_cut(
    nasty: tuple[Service, pd.DataFrame, Path],
) -> None:
    from serve_app.wire.wording import listed

    client = nasty[0].client
    answer = client.post("predict/threat", {"req/s": 1, "reqs": 2})
    assert answer.status == 422 and "reqs" in answer.json()["errors"][0]["path"]
    assert listed([str(k) for k in range(400)]).endswith("19 and 380 more")


def test_four_hundred_columns_are_served(tmp_path: Path) -> None:
    names = [f"column {k} (MB)" for k in range(400)]
    activity = make_activity(names, 160)
    folder = train_threat(activity, tmp_path / "threat")
    point(tmp_path / "state", {MODELS["threat"]: (folder, "1")})
    client = Service(tmp_path / "state").client
    rows = rows_of(activity)
    answer = client.post("predict/threat", rows[3]).json()
    scored = scoring.score_table(servable.load(folder), activity.iloc[3:4])
    assert answer["probabilities"]["normal"] == pytest.approx(float(scored["normal"].iloc[0]), abs=1e-6)
    few = client.post("predict/threat", {names[0]: 1}).json()
    assert few["warnings"][0].startswith("not given: ") and "and 380 more" in few["warnings"][0]
    wrong = client.post("predict/threat", {"colum": 1})
    assert wrong.status == 422 and len(wrong.json()["detail"]) < 1000


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Expected `float | null`, got `str`", "a number or null is expected, not text"),
        (
            "Expected `bool | int | float | str | null`, got `array`",
            "true or false, a number, text or null is expected, not a list",
        ),
        ("Expected `float` <= 100.0", "a number <= 100 is expected"),
        ("Expected `array` of length >= 1", "a list of length >= 1 is expected"),
        ("Object missing required field `resource_id`", "resource_id is missing"),
        ("Object contains unknown field `x`", "unknown field x"),
        ("Number out of range", "the number is too large"),
    ],
)
def test_rules_are_said_in_plain_words(message: str, words: str) -> None:
    from serve_app.wire.wording import plain_rule

    assert plain_rule(message) == words


def test_a_row_of_the_test_part_beyond_the_units_bounds_is_answered_and_booleans_are_read(tmp_path: Path) -> None:
    activity = make_activity(["cpu_usage", "req/s"], 200)
    activity["cpu_usage"] = activity["cpu_usage"].clip(0, 100)
    activity["split"] = np.where(np.arange(200) % 4 == 0, "test", "train")
    activity = activity.drop(columns="group")
    activity.loc[0, "cpu_usage"] = 130.0
    folder = train_threat(activity, tmp_path / "threat")
    point(tmp_path / "state", {MODELS["threat"]: (folder, "1")})
    client = Service(tmp_path / "state").client
    rows = rows_of(activity)
    assert isinstance(rows[0]["on"], bool)
    answer = client.post("predict/threat", rows[0])
    assert answer.status == 200, answer.body
    assert any("outside the training range" in w for w in answer.json()["warnings"])
    assert client.post("predict/threat", {"req/s": True}).status == 422


# Rows word for word --------------------------------------------------------------------------------------------------


def test_rows_of_telemetry_are_answered_like_the_batch_score(client: Client, servables: dict[str, Path]) -> None:
    telemetry = tiny.dataset("failure").tables["telemetry"]
    some = telemetry[telemetry["resource_id"] == telemetry["resource_id"].iloc[0]].iloc[:90]
    # Gaps, and a scrape that comes early.
    some = some.drop(index=some.index[[5, 30, 31, 60]]).reset_index(drop=True)
    some.loc[50, "timestamp"] -= pd.Timedelta(minutes=7)
    some.loc[::9, some.columns[2]] = None
    loaded: Any = servable.load(servables["failure"])
    scored = scoring.score_table(loaded, some)
    rows = rows_of(some)
    assert isinstance(rows[0]["timestamp"], str)
    resource = rows[0]["resource_id"]
    instances = [{"resource_id": resource, "time_series": rows[: k + 1]} for k in range(len(rows))]
    answers = client.post("predict/failure", {"instances": instances}).json()["predictions"]
    assert len(answers) >= 50
    for answer, p in zip(answers, scored["probability"], strict=True):
        assert answer["model"]["kind"] == "lstm"
        assert answer["probability"] == pytest.approx(p, abs=1e-6)
    assert any("2 steps of 1 h are missing" in w for w in answers[35]["warnings"])


def test_a_flat_row_is_a_snapshot_and_rows_in_a_batch_fill_the_window(client: Client) -> None:
    rows = [{**row, "resource_id": 17} for row in series(26)]
    first = client.post("predict/failure", {**rows[0], "resource_id": "flat"}).json()
    assert first["model"]["kind"] == "rule_based" and first["resource_id"] == "flat"
    answers = client.post("predict/failure", {"instances": rows}).json()["predictions"]
    assert [a["model"]["kind"] for a in answers] == ["rule_based"] * 23 + ["lstm"] * 3
    assert {a["resource_id"] for a in answers} == {"17"}
    window = client.post("predict/failure", {"resource_id": 17, "time_series": rows}).json()
    assert answers[-1]["probability"] == pytest.approx(window["probability"], abs=1e-6)


def test_rows_of_usage_are_answered_like_the_batch_score(client: Client, servables: dict[str, Path]) -> None:
    usage = tiny.dataset("capacity").tables["usage"]
    loaded: Any = servable.load(servables["capacity"])
    assert loaded.exogenous
    usage = usage[usage["timestamp"] > usage["timestamp"].max() - pd.Timedelta(days=30)]
    scored = scoring.score_table(loaded, usage)
    instances = [
        {"resource_id": name, "historical_data": rows_of(part), "forecast_days": 7}
        for name, part in usage.groupby("resource_id")
    ]
    answers = client.post("predict/capacity", {"instances": instances}).json()["predictions"]
    checked = 0
    for answer in answers:
        for target, points in answer["forecast"].items():
            mine = scored[(scored["resource_id"] == answer["resource_id"]) & (scored["target"] == target)]
            for name in ("p10", "p50", "p90"):
                found = np.array([p[name] for p in points])
                assert np.abs(found - mine[name].to_numpy()).max() < 1e-6
            assert [p["timestamp"] for p in points] == [t.strftime("%Y-%m-%dT%H:%M:%SZ") for t in mine["timestamp"]]
            checked += len(points)
    assert checked > 50


def test_scoring_uses_exogenous_columns_and_takes_tables_from_which_nothing_can_be_learned(
    servables: dict[str, Path],
) -> None:
    loaded: Any = servable.load(servables["capacity"])
    usage = tiny.dataset("capacity").tables["usage"]
    one = usage[usage["resource_id"] == usage["resource_id"].iloc[0]].tail(200)
    others = [name for name in loaded.exogenous if name not in loaded.targets]
    changed = one.assign(**{name: one[name].to_numpy()[::-1] for name in others})
    assert not np.allclose(scoring.score_table(loaded, one)["p50"], scoring.score_table(loaded, changed)["p50"])
    constant = one.tail(1).assign(**dict.fromkeys(others, np.nan))
    assert len(scoring.score_table(loaded, constant)) == loaded.horizon * len(loaded.targets)


def test_unused_columns_of_any_kind_are_named_once_and_unknown_ones_refused(client: Client) -> None:
    # The telemetry of these tests has no such column; a card without the list knows what tables reserve.
    quiet = {"failed_auth_count": 1, "threat_type": None, "timestamp": "2026-01-01T00:00:00.000Z"}
    answer = client.post("predict/threat", quiet).json()
    assert "ignored: threat_type, timestamp (not used by the model)" in answer["warnings"]
    assert client.post("predict/threat", {**quiet, "group": "x"}).status == 422
    refused = client.post("predict/failure", {"resource_id": "s", "time_series": series(3, label=1)})
    assert refused.status == 422 and refused.json()["errors"][0]["path"] == "$.time_series[0].label"


# Time ----------------------------------------------------------------------------------------------------------------


def test_rows_that_go_back_in_time_are_refused_with_the_first_that_does(client: Client) -> None:
    rows = series(30)
    rows[10], rows[11] = rows[11], rows[10]
    for route in ("predict/failure", "analyze/anomaly"):
        answer = client.post(route, {"resource_id": "s", "time_series": rows})
        assert answer.status == 422 and answer.json()["errors"][0]["path"] == "$.time_series[11].timestamp"
    usage = [{k: v for k, v in row.items() if k != "memory_usage"} for row in rows]
    answer = client.post("predict/capacity", {"resource_id": "s", "historical_data": usage})
    assert answer.status == 422 and answer.json()["errors"][0]["path"] == "$.historical_data[11].timestamp"
    stamps = {"historical_data": {"cpu_usage": [1, 2, 3]}, "timestamps": [START, START + HOUR, START]}
    answer = client.post("predict/capacity", {"resource_id": "s", **stamps})
    assert answer.status == 422 and answer.json()["errors"][0]["path"] == "$.timestamps[2]"


def test_rows_at_another_step_and_rows_without_time_are_warned_about_with_the_models_step(client: Client) -> None:
    fast = client.post("predict/failure", {"resource_id": "s", "time_series": series(60, 300)}).json()
    assert any("every 5 min" in w and "model's step is 1 h" in w for w in fast["warnings"])
    assert any("of 24 rows" in w for w in fast["warnings"])
    slow = client.post("predict/capacity", {"resource_id": "s", "historical_data": series(40, 24 * HOUR)}).json()
    assert any("every 24 h" in w and "model's step is 1 h" in w for w in slow["warnings"])
    bare = [{k: v for k, v in row.items() if k != "timestamp"} for row in series(24)]
    untimed = client.post("predict/failure", {"resource_id": "s", "time_series": bare}).json()
    assert any("rows count as one every 1 h" in w for w in untimed["warnings"])
    half = client.post("predict/failure", {"resource_id": "s", "time_series": [*series(3), bare[0]]})
    assert half.status == 422 and "every row has a timestamp or none" in half.json()["detail"]


@pytest.mark.parametrize("stamp", ["2026-01-01T00:00:00", 1_767_225_600_000])
def test_a_time_without_a_zone_or_in_milliseconds_is_refused_everywhere(client: Client, stamp: Any) -> None:
    words = "no time zone" if isinstance(stamp, str) else "not milliseconds"
    row = {"cpu_usage": 50, "timestamp": stamp}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("predict/failure", {"metrics": {"cpu_usage": 50}, "timestamp": stamp}),
        ("predict/failure", {"time_series": [row]}),
        ("predict/failure", row),
        ("predict/capacity", {"historical_data": {"cpu_usage": [50]}, "timestamps": [stamp]}),
        ("predict/capacity", {"historical_data": {"cpu_usage": [{"value": 50, "timestamp": stamp}]}}),
        ("predict/capacity", {"historical_data": [row]}),
        ("analyze/anomaly", {"metrics": {"cpu_usage": 50}, "timestamp": stamp}),
        ("analyze/anomaly", row),
    ]
    for route, body in bodies:
        answer = client.post(route, {"resource_id": "z", **body})
        assert answer.status == 422 and words in answer.json()["detail"], (route, body, answer.body)


def test_a_late_snapshot_is_judged_as_of_the_newest(client: Client) -> None:
    rows = [{**row, "resource_id": "late"} for row in series(30)]
    answers = client.post("predict/failure", {"instances": [*rows, rows[20]]}).json()["predictions"]
    assert answers[-1]["probability"] == pytest.approx(answers[-2]["probability"], abs=1e-6)
    assert any("older than the newest snapshot of late" in w for w in answers[-1]["warnings"])


def test_the_models_step_window_and_horizon_stand_in_status_and_schema(client: Client) -> None:
    models = {m["name"]: m for m in client.get("models/status").json()["models"]}
    failure = models[MODELS["failure"]]
    assert (failure["step_seconds"], failure["window"], failure["horizon"]) == (3600, 24, 24)
    assert models[MODELS["capacity"]]["horizon"] == 168
    parts = client.get("/schema").json()["components"]["schemas"]
    assert "step is 1 h (3600 s). Window: 24 steps" in parts["Snapshot"]["description"]
    assert "step is 1 h" in parts["CapacityRequest"]["description"]


# Batches -------------------------------------------------------------------------------------------------------------


def mixed() -> list[tuple[str, list[dict[str, Any]], list[int], list[str]]]:
    """Return for every route a batch, which of its instances are bad, and their paths."""
    return [
        (
            "predict/threat",
            [{"xss_score": 0.5}, {"xss_score": 2}, {"nothing": 1}, {"xss_score": 0.1}, {}],
            [1, 2, 4],
            ["$.instances[1].xss_score", "$.instances[2].nothing", "$.instances[4]"],
        ),
        (
            "predict/failure",
            [
                {"resource_id": "s", "time_series": series(24)},
                {"resource_id": "p", "time_series": [{"cpu_usage": 101}]},
                {"resource_id": "p", "metrics": {"cpu_usage": "x"}},
                {"metrics": {"cpu_usage": 1}},
                {"resource_id": "p", "cpu_usage": 5},
            ],
            [1, 2, 3],
            ["$.instances[1].time_series[0].cpu_usage", "$.instances[2].metrics.cpu_usage", "$.instances[3].resource_id"],
        ),
        (
            "predict/capacity",
            [
                {"resource_id": "p", "current_metrics": {"cpu_usage": 5}},
                {"resource_id": "p"},
                {"resource_id": "p", "historical_data": [{"cpu_usage": 5, "timestamp": "x"}]},
            ],
            [1, 2],
            ["$.instances[1]", "$.instances[2].historical_data[0].timestamp"],
        ),
        (
            "analyze/anomaly",
            [{"resource_id": "p", "cpu_usage": 5}, {"resource_id": "p"}, {"resource_id": "p", "metrics": {"cpu_usage": -1}}],
            [1, 2],
            ["$.instances[1]", "$.instances[2].metrics.cpu_usage"],
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(("route", "instances", "bad", "paths"), mixed(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_bad_row_of_a_batch_is_named_and_partial_answers_the_good_ones(
    client: Client, route: str, instances: list[dict[str, Any]], bad: list[int], paths: list[str]
) -> None:
    refused = client.post(route, {"instances": instances})
    assert refused.status == 422 and f"{len(bad)} of {len(instances)} instances" in refused.json()["detail"]
    found = [error["path"] for error in refused.json()["errors"]]
    assert all(a.startswith(b) for a, b in zip(found, paths, strict=True)), found
    answer = client.post(route, {"instances": instances, "partial": True})
    assert answer.status == 200, answer.body
    found = answer.json()["predictions"]
    assert [i for i, item in enumerate(found) if "error" in item] == bad
    for i, item in enumerate(found):
        if i in bad:
            assert item["error"]["status"] == 422 and item["error"]["detail"]
            assert item["error"]["errors"][0]["path"].startswith(f"$.instances[{i}]")
        else:
            assert "prediction" in item and item["request_id"].endswith(f"-{i}")


def test_an_unknown_field_beside_the_instances_is_named(client: Client) -> None:
    refused = client.post("predict/threat", {"instances": [{"xss_score": 1}], "explian": True})
    assert (
        refused.status == 422 and "explian" in refused.json()["detail"] and "xss_score" not in refused.json()["detail"]
    )


def test_a_batch_of_bad_rows_is_refused_in_linear_time_with_at_most_a_hundred_errors(client: Client) -> None:
    refused = client.post("predict/threat", {"instances": [{"nothing": 1}] * 10_000})
    assert refused.status == 422 and len(refused.json()["errors"]) == 100
    assert "10000 of 10000 instances" in refused.json()["detail"]


def test_the_same_instance_gets_the_same_actions_alone_and_in_a_batch(client: Client) -> None:
    rows = [{**row, "cpu_usage": 99, "memory_usage": 99, "error_rate": 90, "network_errors": 90} for row in series(24)]
    body = {"resource_id": "s", "time_series": rows, "decision": {"rule": "cost", "cost_missed": 1e6}}
    single = client.post("predict/failure", body).json()
    batch = client.post("predict/failure", {"instances": [body]}).json()["predictions"][0]
    silent = client.post("predict/failure", {**body, "explain": False}).json()
    assert single["prediction"] == "failure" and single["recommended_actions"]
    assert batch["recommended_actions"] == silent["recommended_actions"] == single["recommended_actions"]
    assert batch["drivers"] == silent["drivers"] == [] and single["drivers"]


def test_without_a_model_flat_rows_are_answered_by_the_rules(make_service: Callable[..., Service]) -> None:
    client = make_service().client
    row = {"resource_id": "r", "timestamp": "2026-01-01T00:00:00Z", "cpu_usage": 99}
    assert client.post("predict/failure", row).json()["model"]["kind"] == "rule_based"
    assert client.post("predict/failure", {"resource_id": "r", "time_series": [row]}).status == 200
