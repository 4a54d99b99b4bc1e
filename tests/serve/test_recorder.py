"""The journal of the service: what real servables answered over the real application is what is read back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Service, point

from aiops_core import journal, servable
from aiops_core.facts import MODELS
from serve_app.journal import entries
from serve_app.journal import recorder as recording
from serve_app.operations.telemetry import Metrics

START = datetime(2026, 3, 1, tzinfo=UTC)
WATCHED = {"": "on"}


@pytest.fixture
def service(make_service: Callable[..., Service], servables: dict[str, Path], tmp_path: Path) -> Service:
    """A service with all three models that keeps a journal."""
    return started(make_service, servables, tmp_path, WATCHED)


def started(make: Callable[..., Service], servables: dict[str, Path], folder: Path, options: dict[str, Any]) -> Service:
    point(folder / "state", {MODELS[task]: (path, "3") for task, path in servables.items()})
    found = make(journal=options)
    found.journal.start()
    return found


def written(service: Service, task: str, count: int) -> Any:
    """Return the records of a task as soon as there are so many."""
    deadline = time.monotonic() + 30
    while len(frame := journal.read(service.state, task)) < count:
        assert time.monotonic() < deadline, f"{len(frame)} of {count} records"
        time.sleep(0.05)
    assert len(frame) == count
    return frame


def stamp(hours: float) -> str:
    return (START + timedelta(hours=hours)).isoformat()


def window(card: dict[str, Any], rows: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    names = [f["name"] for f in card["features"]]
    step = card["step_seconds"] / 3600
    return [
        {"timestamp": stamp(k * step), **{n: round(float(v), 3) for n, v in zip(names, rng.random(len(names)), strict=True)}}
        for k in range(rows)
    ]  # fmt: skip


def test_a_failure_answer_is_kept_as_the_model_saw_it_and_gives_the_same_probability_again(
    service: Service, servables: dict[str, Path]
) -> None:
    model: Any = servable.load(servables["failure"])
    rows = window(model.card, model.window)
    answer = service.client.post("predict/failure", {"resource_id": "web-01", "time_series": rows}).json()
    (record,) = written(service, "failure", 1).to_dict("records")
    assert (record["request_id"], record["resource_id"], record["version"]) == (answer["request_id"], "web-01", 3)
    assert (record["role"], record["row"]) == ("champion", 0) and record["key"] != record["key"]
    assert record["event_time"].isoformat() == rows[-1]["timestamp"]
    assert abs(record["arrival_time"].timestamp() - time.time()) < 60 and 0 < record["latency_ms"] < 60_000
    assert record["alarm"] == (answer["prediction"] == "failure")
    assert record["threshold"] == pytest.approx(answer["threshold"], abs=1e-6)
    (seen,) = journal.inputs_of(journal.read(service.state, "failure"), len(model.features))
    last = np.array([record["event_time"].tz_localize(None)], dtype="datetime64[s]")
    assert record["probability"] == model.predict(seen[None], last, ["web-01"])[0]


def test_snapshots_are_kept_with_the_rules_and_then_as_the_window_that_they_fill(
    service: Service, servables: dict[str, Path]
) -> None:
    model: Any = servable.load(servables["failure"])
    for row in window(model.card, model.window):
        metrics = {name: value for name, value in row.items() if name != "timestamp"}
        body = {"resource_id": "web-02", "metrics": metrics, "timestamp": row["timestamp"]}
        answer = service.client.post("predict/failure", body).json()
    frame = written(service, "failure", model.window)
    assert answer["model"]["version"] == "3"
    by_model = frame[frame["version"] == 3]
    assert (frame["version"] == 0).sum() + len(by_model) == model.window and len(by_model) >= 1
    (seen,) = journal.inputs_of(by_model.tail(1), len(model.features))
    assert seen.shape == (model.window, len(model.features)) and np.isfinite(seen[-1]).all()
    assert by_model["probability"].iloc[-1] == pytest.approx(answer["probability"], abs=1e-6)
    rules = journal.versions(service.state, "failure")[0]
    (judged,) = journal.inputs_of(frame.head(1), len(rules["features"]))
    assert judged.shape == (1, len(rules["features"])) and np.isfinite(judged).any()


def test_every_row_of_a_batch_is_kept_under_its_own_id(service: Service, servables: dict[str, Path]) -> None:
    model: Any = servable.load(servables["threat"])
    ip = {"source_ip": "10.0.0.7", "timestamp": stamp(2)}
    body = {"instances": [{"failed_auth_count": 25, **ip}, {"failed_auth_count": "x"}, {"failed_auth_count": 1}]}
    answers = service.client.post("predict/threat", {**body, "partial": True}).json()["predictions"]
    frame = written(service, "threat", 2)
    assert frame["request_id"].tolist() == [answers[0]["request_id"], answers[2]["request_id"]]
    assert frame["row"].tolist() == [0, 2]
    assert frame["resource_id"].tolist()[0] == "10.0.0.7" and frame["event_time"].iloc[0].isoformat() == stamp(2)
    assert frame["event_time"].isna().tolist() == [False, True]
    for place, k in ((0, 0), (1, 2)):
        row, answer = frame.iloc[place], answers[k]
        assert row["threat_type"] == answer["prediction"] and row["alarm"] == (answer["prediction"] != "normal")
        assert row["probability"] == pytest.approx(answer["probability"], abs=1e-6)
        seen = journal.inputs_of(frame.iloc[[place]], len(model.features))[0]
        assert np.allclose(model.predict(seen)[0], row["probabilities"], atol=1e-6)


def test_a_forecast_leaves_a_record_for_each_target(service: Service, servables: dict[str, Path]) -> None:
    model: Any = servable.load(servables["capacity"])
    history = {"cpu_usage": [50.0, 51.0, 52.5], "memory_usage": [70.0, 71.0]}
    stamps = {"timestamps": [stamp(k) for k in range(3)]}
    body = {
        "resource_id": "db-01",
        "historical_data": {"cpu_usage": history["cpu_usage"]},
        **stamps,
        "forecast_days": 1,
    }
    answer = service.client.post("predict/capacity", body).json()
    service.client.post("predict/capacity", {"resource_id": "db-01", "historical_data": history, "forecast_days": 1})
    frame = written(service, "capacity", 3)
    first = frame.iloc[0]
    assert (first["target"], first["steps"], first["version"]) == ("cpu_usage", 3, 3)
    assert first["event_time"].isoformat() == stamp(2)
    shown = answer["forecast"]["cpu_usage"]
    assert np.allclose(first["forecast"], [step["p50"] for step in shown], rtol=1e-5)
    assert np.allclose(first["low"], [step["p10"] for step in shown], rtol=1e-5)
    assert set(frame["target"].iloc[1:]) == {"cpu_usage", "memory_usage"}
    names = [f["name"] for f in model.card["features"]]
    seen = journal.inputs_of(frame, len(names))[2]
    assert seen[:, names.index("memory_usage")].tolist()[1:] == [70.0, 71.0]
    assert np.isnan(seen[0, names.index("memory_usage")])


def test_the_name_of_the_key_is_kept(service: Service) -> None:
    from serve_app.guard import keys

    key = keys.add(service.state / "keys.json", "collector", ["predict"])
    service.guard.look()
    headers = {"authorization": f"Bearer {key}"}
    assert service.client.request("POST", "predict/threat", {"failed_auth_count": 1}, headers=headers).status == 200
    assert written(service, "threat", 1)["key"].tolist() == ["collector"]


def test_a_refused_request_leaves_no_record(service: Service) -> None:
    assert service.client.post("predict/threat", {"failed_auth_count": "many"}).status == 422
    service.client.post("predict/threat", {"failed_auth_count": 1})
    written(service, "threat", 1)


def test_switched_off_nothing_is_written(
    make_service: Callable[..., Service], servables: dict[str, Path], tmp_path: Path
) -> None:
    service = started(make_service, servables, tmp_path, {"": "off"})
    service.client.post("predict/threat", {"failed_auth_count": 1})
    time.sleep(2 * recording.WRITE_SECONDS)
    assert not (service.state / "journal").exists()


def every_byte(folder: Path) -> bytes:
    parts = [p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()]
    for path in folder.rglob("*.parquet"):
        # What compression would hide.
        parts.append(json.dumps(journal.read(folder, path.parent.name).to_dict("records"), default=repr).encode())
    return b"\n".join(parts)


@pytest.mark.parametrize("how", ["drop", "hash"])
def test_what_must_not_be_stored_is_nowhere_in_the_files(
    make_service: Callable[..., Service], servables: dict[str, Path], tmp_path: Path, how: str
) -> None:
    fields = ("resource_id", "source_ip", "inputs")
    service = started(make_service, servables, tmp_path, {**WATCHED, f"_{how}": fields})
    value = 1234.5677
    service.client.post("predict/threat", {"source_ip": "198.51.100.77", "request_rate": value})
    service.client.post("predict/failure", {"resource_id": "secret-host", "metrics": {"cpu_usage": 12.5}})
    written(service, "threat", 1)
    written(service, "failure", 1)
    report = {"resource_id": "secret-host", "start": stamp(0)}
    assert service.client.post("feedback", report).status == (200 if how == "hash" else 422)
    service.journal.close()
    for seal in (False, True):
        if seal:
            from aiops_core.journal import segments

            assert segments.seal_left_behind(service.state, MODELS, recording.socket.gethostname()) == 2
        kept = every_byte(service.state / "journal") + every_byte(service.state)
        for secret in (b"198.51.100.77", b"secret-host", np.float32(value).tobytes(), np.float32(12.5).tobytes()):
            places = [p for p in service.state.rglob("*") if p.is_file() and secret in p.read_bytes()]
            # The buffer of snapshots and the audit log have rules of their own.
            assert {p.name for p in places} <= {"audit.jsonl"}, (secret, places)
        assert kept
    frame = journal.read(service.state, "failure")
    assert frame["steps"].tolist() == [0] and journal.inputs_of(frame, 3)[0].shape == (0, 3)
    if how == "hash":
        said = journal.feedback(service.state)
        # The two still fit together.
        assert said["resource_id"].tolist() == frame["resource_id"].tolist()
        shown = service.client.get("journal?resource_id=secret-host").json()["records"]
        assert [r["resource_id"] for r in shown] == frame["resource_id"].tolist()


def test_a_feature_that_is_dropped_is_missing_in_the_inputs(
    make_service: Callable[..., Service], servables: dict[str, Path], tmp_path: Path
) -> None:
    service = started(make_service, servables, tmp_path, {**WATCHED, "_drop": ("request_rate",)})
    service.client.post("predict/threat", {"request_rate": 5000, "failed_auth_count": 7})
    names = [f["name"] for f in servable.read_card(servables["threat"])["features"]]
    (seen,) = journal.inputs_of(written(service, "threat", 1), len(names))
    assert np.isnan(seen[0, names.index("request_rate")]) and seen[0, names.index("failed_auth_count")] == 7


# Bounds --------------------------------------------------------------------------------------------------------------


def test_when_too_many_wait_the_rest_is_dropped_and_counted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.client.post("predict/threat", {"failed_auth_count": 1})
    written(service, "threat", 1)
    monkeypatch.setattr(recording, "MOST_ENTRIES", 3)
    body = {"instances": [{"failed_auth_count": 1}] * 10}
    assert len(service.client.post("predict/threat", body).json()["predictions"]) == 10
    frame = written(service, "threat", 4)
    assert len(frame) == 4
    assert service.total("aiops_journal_dropped_total", reason="queue") == 7
    assert service.total("aiops_journal_records_total", task="threat") == 4
    assert service.total("aiops_journal_bytes") > 0 and service.total("aiops_journal_oldest_seconds") >= 0


def test_a_full_disk_costs_records_and_nothing_else(
    make_service: Callable[..., Service], servables: dict[str, Path], tmp_path: Path, disk: Any
) -> None:
    service = started(make_service, servables, tmp_path, WATCHED)
    service.client.post("predict/threat", {"failed_auth_count": 1})
    written(service, "threat", 1)
    disk.fill()
    deadline = time.monotonic() + 30
    while not service.total("aiops_journal_dropped_total", reason="disk"):
        assert service.client.post("predict/threat", {"failed_auth_count": 1}).status == 200
        assert time.monotonic() < deadline
        time.sleep(0.1)
    disk.free()
    newest = service.client.post("predict/threat", {"failed_auth_count": 2}).json()["request_id"]
    deadline = time.monotonic() + 30
    while newest not in set(journal.read(service.state, "threat")["request_id"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_long_segment_is_sealed_and_the_next_one_begun(
    servables: dict[str, Path], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.journal._seal = (1, 3600.0)  # type: ignore[union-attr]
    for k in range(3):
        service.client.post("predict/threat", {"failed_auth_count": k})
        written(service, "threat", k + 1)
    folder = service.state / "journal" / "threat"
    deadline = time.monotonic() + 30
    while len(list(folder.glob("*.parquet"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not list(folder.glob("*.segment")) and len(journal.read(service.state, "threat")) == 3


# Killed --------------------------------------------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from aiops_core.settings import Settings
from serve_app.journal.entries import About, Entry
from serve_app.journal.recorder import recorder
from serve_app.operations.telemetry import Metrics

state = Path(sys.argv[1])
journal = recorder(state, Metrics(state / "metrics", flush=False), Settings(journal="on"))
journal.start()
card = {"features": [{"name": "a"}, {"name": "b"}], "classes": ["normal", "scan"]}
about, row = About("threat", 1, card), np.ones(2, dtype=np.float32)
number = 0
while True:
    for _ in range(20):
        journal.put(Entry(about, f"r{number}", False, None, None, row, ([0.1, 0.9], 1, 0.5)), 2)
        number += 1
    print(number, time.time(), flush=True)
    time.sleep(0.01)
"""


def test_sigkill_costs_at_most_the_last_second(tmp_path: Path) -> None:
    with open(tmp_path / "said", "wb") as said:
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "state")], stdout=said)
    try:
        deadline = time.monotonic() + 60
        while len((tmp_path / "said").read_bytes().splitlines()) < 200:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    lines = [line.split() for line in (tmp_path / "said").read_text().splitlines() if line.count(" ") == 1]
    put, when = int(lines[-1][0]), float(lines[-1][1])
    frame = journal.read(tmp_path / "state", "threat")
    kept = frame["request_id"].tolist()
    # Nothing is missing in between.
    assert kept == [f"r{k}" for k in range(len(kept))]
    older = max((int(number) for number, at in lines if float(at) < when - 1.0), default=0)
    assert older <= len(kept) <= put + 20 and older > 0
    from aiops_core.journal import segments

    assert segments.seal_left_behind(tmp_path / "state", ["threat"], recording.socket.gethostname()) == 1
    assert journal.read(tmp_path / "state", "threat")["request_id"].tolist() == kept


# Feedback over HTTP --------------------------------------------------------------------------------------------------


def test_feedback_and_journal_close_the_circle(service: Service) -> None:
    answer = service.client.post("predict/threat", {"source_ip": "10.0.0.9", "failed_auth_count": 25}).json()
    written(service, "threat", 1)
    said = {"request_id": answer["request_id"], "verdict": "false_alarm"}
    assert service.client.post("feedback", said).json() == {"new": 1, "changed": 0, "unchanged": 0}
    assert service.client.post("feedback", said).json() == {"new": 0, "changed": 0, "unchanged": 1}
    assert journal.labelled(service.state, "threat")["truth"].tolist() == ["normal"]
    many = {
        "feedback": [{**said, "verdict": "confirmed"}, {"resource_id": "web-01", "start": stamp(0), "end": stamp(1)}]
    }
    assert service.client.post("feedback", many).json() == {"new": 1, "changed": 1, "unchanged": 0}
    assert journal.labelled(service.state, "threat")["truth"].tolist() == [answer["prediction"]]
    events = [json.loads(line) for line in (service.state / "audit.jsonl").read_text().splitlines()]
    assert [e["route"] for e in events if e.get("route")][0] == "feedback"
    (record,) = service.client.get("journal").json()["records"]
    assert record["request_id"] == answer["request_id"] and record["task"] == "threat" and "inputs" not in record
    assert service.client.get("journal?request_id=nobody").json() == {"records": []}
    assert service.client.get("journal?task=failure").json() == {"records": []}
    assert len(service.client.get("journal?resource_id=10.0.0.9&limit=1").json()["records"]) == 1


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"verdict": "confirmed"}, "$.request_id"),
        ({"request_id": "r", "verdict": "maybe"}, "$.verdict"),
        ({}, "$.kind"),
        ({"feedback": []}, "$.feedback"),
        ({"feedback": [{"request_id": "r", "verdict": "missed"}, {"label": "dos"}]}, "$.feedback[1].request_id"),
        ({"resource_id": "w", "start": "2026-03-01T00:00:00"}, "$.start"),
        ({"resource_id": "w", "start": stamp(2), "end": stamp(1)}, "$.end"),
        ({"request_id": "r", "verdict": "missed", "value": 3}, "$.value"),
    ],
)
def test_wrong_feedback_is_refused_with_its_place(service: Service, body: Any, path: str) -> None:
    answer = service.client.post("feedback", body)
    assert answer.status == 422 and answer.json()["errors"][0]["path"] == path, answer.json()
    assert journal.feedback(service.state).empty


def test_an_id_that_names_another_statement_is_a_conflict(service: Service) -> None:
    first = {"request_id": "r", "verdict": "missed", "id": "t-1"}
    assert service.client.post("feedback", first).status == 200
    assert service.client.post("feedback", {**first, "verdict": "expected"}).status == 409


@pytest.mark.parametrize("query", ["limit=0", "limit=many", "task=all", "colour=red"])
def test_a_query_that_cannot_be_answered_is_refused(service: Service, query: str) -> None:
    answer = service.client.get(f"journal?{query}")
    assert answer.status == 422 and "errors" in answer.json()


def test_feedback_needs_the_scope_predict_and_the_journal_read(service: Service) -> None:
    from serve_app.guard import keys

    path = service.state / "keys.json"
    made = {scope: keys.add(path, scope, [scope]) for scope in ("read", "predict")}
    service.guard.look()
    ask = service.client.request
    bearer = {scope: {"authorization": f"Bearer {key}"} for scope, key in made.items()}
    said = {"request_id": "r", "verdict": "missed"}
    assert ask("POST", "feedback", said, headers=bearer["read"]).status == 403
    assert ask("POST", "feedback", said, headers=bearer["predict"]).status == 200
    assert ask("GET", "journal", headers=bearer["predict"]).status == 403
    assert ask("GET", "journal", headers=bearer["read"]).status == 200
    assert journal.feedback(service.state)["who"].tolist() == ["predict"]


def test_what_a_shadow_would_have_answered_stands_beside_the_answer(tmp_path: Path) -> None:
    row, bands = np.ones(2, dtype=np.float32), np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    features = [{"name": "a"}, {"name": "b"}]
    card = {"features": features, "classes": ["normal", "scan"]}
    canary = entries.About("threat", "5", card, entries.CANARY)
    given: dict[str, tuple[entries.About, Any, Any, tuple[Any, ...], tuple[Any, ...]]] = {
        "threat": (canary, None, row, ([0.1, 0.9], 1, 0.5), (7, "normal", [0.8, 0.2])),
        "failure": (entries.About("failure", "5", card), "w", row[None], (0.4, 0.5), (7, 0.6, True)),
        "capacity": (
            entries.About("capacity", "5", card), "w", {"a": np.ones(3), "b": np.ones(2)},
            ({"a": bands, "b": bands},), (7, {"a": bands[:, 2]}),
        ),
    }  # fmt: skip
    journal_of = recording.Recorder(
        tmp_path, Metrics(tmp_path / "metrics", flush=False), journal.Privacy(tmp_path),
        most_bytes=2**30, most_seconds=1e9,
    )  # fmt: skip
    for about, subject, inputs, outputs, shadow in given.values():
        journal_of.put(entries.Entry(about, "r0", False, subject, 1e9, inputs, outputs, shadow), 2)
        journal_of.put(entries.Entry(about, "r1", False, subject, 1e9, inputs, outputs), 2)
    journal_of.start()
    journal_of.close()
    threat, failure, capacity = (journal.read(tmp_path, task) for task in given)
    assert threat["shadow_version"].tolist()[0] == 7 and np.isnan(threat["shadow_version"][1])
    assert threat["shadow_threat_type"][0] == "normal" and threat["role"].tolist() == ["canary"] * 2
    np.testing.assert_allclose(threat["shadow_probabilities"][0], [0.8, 0.2], rtol=1e-6)
    assert (failure["shadow_probability"][0], failure["shadow_alarm"][0]) == (0.6, True)
    assert capacity["target"].tolist() == ["a", "b", "a", "b"]
    assert capacity["shadow_forecast"][0].tolist() == [3.0, 4.0] and capacity["shadow_forecast"][1] is None
    assert capacity["forecast"][1].tolist() == [2.0, 3.0]
