"""Models with derived features, all tasks: requests hold raw columns, and every way to ask gives the same numbers."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from conftest import Service, point

from aiops_core import servable
from aiops_core.facts import MODELS
from aiops_core.tracking.scoring import ServableModel, score_table

DERIVE = {
    "failure": {
        "saturation": "max(cpu_usage, memory_usage)",
        "error_ratio": "network_errors / (request_rate + 1)",
        "slower": "log1p(response_time) - lag(rolling_mean(log1p(response_time), 6), 2)",
        "always": "cpu_usage > 1000",
    },
    "threat": {
        "failed_share": "failed_auth_count / request_rate",
        "sweep": "log1p(port_scan_score) * (unique_ips > 5)",
        "odd": "sqrt(clip(geographic_entropy + time_anomaly_score, 0, 1.5))",
    },
    "capacity": {
        "per_user": "request_rate / (user_count + 1)",
        "rise": "diff(memory_usage, 24)",
        "load": "rolling_mean(max(cpu_usage, memory_usage), 12)",
    },
}


class Trained:
    """One task: the prepared data, the native model and the folder of its servable."""

    def __init__(self, task: str, folder: Path) -> None:
        self.task: Any = importlib.import_module(f"aiops_core.tasks.{task}")
        full = tiny.dataset(task).configured(task, derive=DERIVE[task])
        if task == "failure":
            # Gaps and missing values on the way into training; rows that jitter are another matter than derived features.
            telemetry = full.tables["telemetry"].drop(index=[30, 31, 400])
            telemetry = telemetry[telemetry["timestamp"].dt.floor("h") == telemetry["timestamp"]].reset_index(drop=True)
            telemetry.loc[::11, "response_time"] = np.nan
            full = full.replaced(telemetry=telemetry)
        self.dataset = full
        self.data = self.task.prepare(full, seed=3, effort=self.task.Effort(**tiny.LESS[task]))
        self.model = self.task.finish([self.task.defaults(self.data)[0]], self.data, seed=3)
        self.folder = folder
        self.task.export(self.model, self.data, folder)
        # Loading replays the golden examples: what numpy derived, and missing values, against the graphs.
        self.loaded: Any = servable.load(folder)
        self.card = json.loads((folder / "card.json").read_text())
        self.pyfunc = ServableModel()
        self.pyfunc.load_context(SimpleNamespace(artifacts={"servable": str(folder)}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    base = tmp_path_factory.mktemp("derived")
    return {task: Trained(task, base / task) for task in MODELS}


@pytest.fixture(scope="module")
def service(trained: dict[str, Trained], tmp_path_factory: pytest.TempPathFactory) -> Service:
    state = tmp_path_factory.mktemp("derived-service") / "state"
    point(state, {MODELS[task]: (one.folder, "1") for task, one in trained.items()})
    return Service(state)


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", date_format="iso", double_precision=15))
    return found


@pytest.mark.parametrize("task", list(MODELS))
def test_a_card_lists_raw_columns_as_features_and_the_derived_ones_with_their_expression(
    trained: dict[str, Trained], task: str
) -> None:
    one = trained[task]
    names = {feature["name"] for feature in one.card["features"]}
    assert not names & set(DERIVE[task])
    wanted = {name: text for name, text in DERIVE[task].items() if name != "always"}
    assert {entry["name"]: entry["expression"] for entry in one.card["derived"]} == wanted
    left_out = {"always": "constant in training"} if task == "failure" else {}
    assert one.data.info["derived_left_out"] == left_out


def test_the_schema_asks_for_raw_columns_and_says_what_is_derived(service: Service) -> None:
    parts = service.client.get("/schema").json()["components"]["schemas"]
    for name, task in (("TelemetryRow", "failure"), ("ThreatRequest", "threat"), ("CapacityRequest", "capacity")):
        for feature, expression in DERIVE[task].items():
            said = f"{feature} = {expression}" in parts[name]["description"]
            assert said == (feature != "always"), (name, feature)
            assert feature not in parts[name]["properties"]


def test_failure_sees_in_training_what_pandas_derives(trained: dict[str, Trained]) -> None:
    data = trained["failure"].data
    names = [feature["name"] for feature in data.features]
    assert names[-3:] == ["saturation", "error_ratio", "slower"]
    frame = pd.DataFrame(data.values.astype(np.float64), columns=names).assign(resource=data.resource)
    by = frame.assign(log=np.log1p(frame["response_time"])).groupby("resource")["log"]
    mean = by.rolling(6, min_periods=1).mean().reset_index(drop=True)
    slower = np.log1p(frame["response_time"]) - mean.groupby(frame["resource"]).shift(2)
    np.testing.assert_allclose(frame["slower"], slower, atol=1e-6)
    np.testing.assert_allclose(
        frame["saturation"], frame[["cpu_usage", "memory_usage"]].max(axis=1, skipna=False), rtol=1e-6
    )
    ratio = frame["network_errors"] / (frame["request_rate"] + 1)
    np.testing.assert_allclose(frame["error_ratio"], ratio, rtol=1e-6, atol=1e-6)


def test_failure_gives_one_number_in_training_tables_mlflow_and_requests(
    trained: dict[str, Trained], service: Service
) -> None:
    one = trained["failure"]
    assert one.loaded.window == one.card["window"] == 24 + 7
    native = one.task.predict(one.model, one.data, "test")["probability"]
    np.testing.assert_allclose(one.task.score(one.loaded, one.data, "test")["probability"], native, atol=1e-6)
    keys = one.data.keys("test").assign(native=native)
    telemetry = one.dataset.tables["telemetry"]
    resource = keys["resource_id"].iloc[0]
    scored = score_table(one.loaded, telemetry)
    both = keys.merge(scored, on=["resource_id", "timestamp"])
    assert len(both) == len(keys) > 100
    np.testing.assert_allclose(both["probability"], both["native"], atol=1e-6)
    rows = rows_of(telemetry[telemetry["resource_id"] == resource].tail(60))
    scored = scored[scored["resource_id"] == resource]
    assert any(row["response_time"] is None for row in rows)
    instances = [{"resource_id": resource, "time_series": rows[: k + 1]} for k in range(40, 60)]
    answers = service.client.post("predict/failure", {"instances": instances}).json()["predictions"]
    found = [answer["probability"] for answer in answers]
    assert {answer["model"]["kind"] for answer in answers} == {"lstm"}
    np.testing.assert_allclose(found, scored["probability"].tail(20), atol=1e-6)
    # Also where a series begins: what lies before its first row is missing in a table and in a window.
    names, early = [feature["name"] for feature in one.data.metrics], np.arange(40)
    whole = one.data.derived.of_windows(one.data.served_windows(early), names)
    np.testing.assert_array_equal(whole, one.data.windows(early))
    windows = one.data.served_windows(one.data.ends["test"][:5])
    clockless = one.loaded.predict(windows)
    np.testing.assert_allclose(one.pyfunc.predict(None, windows), clockless, atol=1e-9)
    assert {d["feature"] for a in answers for d in a["drivers"]} <= {f["name"] for f in one.card["features"]}
    refused = service.client.post("predict/failure", {"resource_id": "r", "saturation": 3.0})
    assert refused.status == 422 and "saturation" in refused.json()["detail"]


def test_threat_gives_one_number_in_training_tables_mlflow_and_requests(
    trained: dict[str, Trained], service: Service
) -> None:
    one = trained["threat"]
    activity = one.dataset.tables["activity"].copy()
    x = pd.DataFrame(one.data.X.astype(np.float64), columns=[f["name"] for f in one.data.features])
    share = (x["failed_auth_count"] / x["request_rate"]).where(x["request_rate"] != 0)
    sweep = np.log1p(x["port_scan_score"]) * (x["unique_ips"] > 5).where(x["unique_ips"].notna())
    odd = np.sqrt((x["geographic_entropy"] + x["time_anomaly_score"]).clip(0, 1.5))
    for name, wanted in (("failed_share", share), ("sweep", sweep), ("odd", odd)):
        np.testing.assert_allclose(x[name], wanted.astype(float), rtol=1e-6, atol=1e-6)
    native = one.task.predict(one.model, one.data, "test")["probability"]
    test = activity.iloc[one.data.index("test")]
    classes = one.loaded.classes
    np.testing.assert_allclose(score_table(one.loaded, test)[classes], native, atol=1e-6)
    # What a request leaves out is missing for the derived features, too.
    some = test.head(40).copy()
    some.loc[some.index[::2], "request_rate"] = np.nan
    some.loc[some.index[::3], "geographic_entropy"] = np.nan
    raw = some[[f["name"] for f in one.data.columns]].to_numpy(dtype=np.float32)
    wanted = one.model.calibrated(one.model.forest.predict_proba(one.model.inputs.expand(one.data.whole(raw))))
    np.testing.assert_allclose(score_table(one.loaded, some)[classes], wanted, atol=1e-6)
    np.testing.assert_allclose(one.pyfunc.predict(None, some)[classes], wanted, atol=1e-6)
    answers = service.client.post("predict/threat", {"instances": rows_of(some)}).json()["predictions"]
    found = np.array([[answer["probabilities"][name] for name in classes] for answer in answers])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    single = service.client.post("predict/threat", rows_of(some)[1]).json()
    np.testing.assert_allclose([single["probabilities"][name] for name in classes], wanted[1], atol=1e-6)


def test_masked_copies_of_training_rows_do_not_know_what_derives_from_a_masked_column(
    trained: dict[str, Trained],
) -> None:
    from aiops_core.tasks.threat.rows import training_rows

    data = trained["threat"].data
    chosen = np.ones(len(data.rows), dtype=bool)
    _, X, _ = training_rows({"mask_share": 1.0, "balance": 0.0}, data, chosen, 1)
    names = [feature["name"] for feature in data.features]
    masked = np.isnan(X[len(data.rows) :])
    either = masked[:, names.index("geographic_entropy")] | masked[:, names.index("time_anomaly_score")]
    assert either.any() and not either.all()
    np.testing.assert_array_equal(masked[:, names.index("odd")], either)


def test_capacity_gives_one_number_in_training_tables_mlflow_and_requests(
    trained: dict[str, Trained], service: Service
) -> None:
    one = trained["capacity"]
    data = one.data
    frame = pd.DataFrame(
        np.moveaxis(data.values, 1, 2).reshape(-1, len(data.columns)).astype(np.float64), columns=data.columns
    ).assign(resource=np.repeat(np.arange(len(data.resources)), data.values.shape[2]))
    by = frame.groupby("resource")
    np.testing.assert_allclose(frame["rise"], by["memory_usage"].diff(24), atol=1e-5, rtol=1e-6)
    both = frame[["cpu_usage", "memory_usage"]].max(axis=1, skipna=False)
    load = both.groupby(frame["resource"]).rolling(12, min_periods=1).mean().reset_index(drop=True)
    np.testing.assert_allclose(frame["load"], load, rtol=1e-6)
    np.testing.assert_allclose(frame["per_user"], frame["request_rate"] / (frame["user_count"] + 1), rtol=1e-6)
    assert set(one.loaded.exogenous) >= {"request_rate", "user_count", "memory_usage", "cpu_usage"}

    # The forecast from the end of the table, as training builds its features there.
    usage = one.dataset.tables["usage"]
    scored = score_table(one.loaded, usage)
    from aiops_core.tasks.capacity.pairs import history_of, others_of

    n = len(data.resources)
    r, t = np.arange(n), np.zeros(n, dtype=int)
    o = np.full(n, data.values.shape[2] - 1)
    steps = np.tile(np.arange(1, 25), (n, 1))
    history = history_of(data, r, t, o, data.layout.context)
    bands = one.loaded.forecast_rows(history, data.time(r, o), steps, t, others_of(data, r, t, o))
    target = data.layout.targets[0]
    mine = scored[(scored["target"] == target) & (scored["step"] <= 24)].sort_values(["resource_id", "step"])
    np.testing.assert_allclose(mine[["p10", "p50", "p90"]].to_numpy().reshape(n, 24, 3), bands, rtol=1e-6)

    recent = usage[usage["timestamp"] > usage["timestamp"].max() - pd.Timedelta(days=40)].reset_index(drop=True)
    recent.loc[::7, "user_count"] = np.nan
    scored = score_table(one.loaded, recent)
    pd.testing.assert_frame_equal(one.pyfunc.predict(None, recent), scored)
    resource = recent["resource_id"].iloc[0]
    body = {"resource_id": resource, "historical_data": rows_of(recent[recent["resource_id"] == resource])}
    answer = service.client.post("predict/capacity", {**body, "forecast_days": 2}).json()
    for name, points in answer["forecast"].items():
        mine = scored[(scored["resource_id"] == resource) & (scored["target"] == name)].head(len(points))
        np.testing.assert_allclose([p["p50"] for p in points], mine["p50"], atol=1e-6)
    assert len(answer["forecast"]) == 2
    without = usage.drop(columns=["user_count"])
    assert not np.allclose(score_table(one.loaded, without)["p50"], score_table(one.loaded, usage)["p50"])
