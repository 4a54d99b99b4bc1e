"""The journal's library: files, reading, feedback, truth, contract tables."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from aiops_core import journal
from aiops_core.data.folder import load_folder
from aiops_core.errors import DataError, UsageError
from aiops_core.journal import reading, segments
from aiops_core.journal.schema import SCHEMAS
from aiops_core.journal.versions import keep_version

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
CARDS: dict[str, dict[str, Any]] = {
    "failure": {"step_seconds": 3600, "window": 3, "horizon": 4, "features": [{"name": "cpu"}, {"name": "mem"}]},
    "threat": {
        "classes": ["normal", "scan"],
        "features": [{"name": "rate"}, {"name": "proto", "categories": ["tcp", "udp"], "dtype": "category"}],
    },
    "capacity": {
        "step_seconds": 3600, "season": 24, "horizon": 3, "targets": ["cpu"],
        "features": [{"name": "cpu"}, {"name": "mem"}],
    },
}  # fmt: skip
OUTPUTS: dict[str, dict[str, Any]] = {
    "failure": {"probability": 0.7, "threshold": 0.5, "alarm": True},
    "threat": {"threat_type": "scan", "probabilities": [0.2, 0.8], "probability": 0.8, "alarm": True},
    "capacity": {"target": "cpu", "forecast": [1.0, 2.0, 3.0], "low": [0.0, 1.0, 2.0], "high": [2.0, 3.0, 4.0]},
}


def record(task: str, k: int, values: Any, **more: Any) -> dict[str, Any]:
    """A record of hour `k`, answered five minutes later."""
    inputs = np.asarray(values, dtype="<f4")
    return {
        "request_id": f"{task}-r{k}",
        "row": 0,
        "resource_id": "web-01",
        "event_time": START + k * HOUR,
        "arrival_time": START + k * HOUR + timedelta(minutes=5),
        "version": 1,
        "role": "champion",
        "latency_ms": 0.1,
        "inputs": inputs.tobytes(),
        "steps": len(inputs),
        **OUTPUTS[task],
        **more,
    }


def write(state: Path, task: str, records: list[dict[str, Any]], *, close: bool = True) -> Path:
    """Append records to a new segment."""
    segment = segments.Segment(segments.folder_of(state, task), SCHEMAS[task], "node-a")
    segment.append(pa.RecordBatch.from_pylist(records, SCHEMAS[task]))
    if close:
        segment.close()
    keep_version(state, task, 1, CARDS[task])
    return segment.path


def test_what_was_written_is_read_back_from_open_segments_and_sealed_files_alike(tmp_path: Path) -> None:
    written = [record("failure", k, [[k, np.nan], [k, 1.0], [k, 2.0]]) for k in range(5)]
    sealed = segments.seal(write(tmp_path, "failure", written[:3]))
    assert sealed is not None and sealed.suffix == ".parquet" and sealed.stat().st_mode & 0o077 == 0
    write(tmp_path, "failure", written[3:], close=False)
    frame = journal.read(tmp_path, "failure")
    assert frame["request_id"].tolist() == [f"failure-r{k}" for k in range(5)]
    assert frame["event_time"].tolist() == [pd.Timestamp(START + k * HOUR) for k in range(5)]
    assert frame["shadow_version"].isna().all()
    arrays = journal.inputs_of(frame, 2)
    np.testing.assert_array_equal(arrays[4], np.array([[4, np.nan], [4, 1], [4, 2]], dtype=np.float32))
    with pytest.raises(UsageError, match="6 values of a record are no rows of 4 features"):
        journal.inputs_of(frame, 4)


def test_a_file_that_is_still_being_made_is_nobody_s_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "threat", [record("threat", 0, [[1, 0]])])
    seen: list[int] = []
    whole = segments.pq.write_table

    def half_way(table: pa.Table, target: Path, **options: Any) -> None:
        target.write_bytes(b"PAR1 and no more yet")
        seen.append(len(journal.read(tmp_path, "threat")))
        assert len(segments.held(tmp_path)) == 1
        whole(table, target, **options)

    monkeypatch.setattr(segments.pq, "write_table", half_way)
    assert segments.seal(path) == path.with_suffix(".parquet")
    assert seen == [1] and len(journal.read(tmp_path, "threat")) == 1
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == [f"{path.stem}.parquet"]


def test_a_period_goes_by_event_time_and_by_arrival_where_there_is_none(tmp_path: Path) -> None:
    late = record("failure", 1, [[1, 1]], arrival_time=START + 30 * HOUR, request_id="late")
    timeless = record("failure", 2, [[1, 1]], event_time=None, request_id="timeless")
    write(tmp_path, "failure", [late, timeless, record("failure", 9, [[1, 1]])])
    found = journal.read(tmp_path, "failure", since=START + HOUR, until="2026-03-01T03:00")
    assert set(found["request_id"]) == {"late", "timeless"}
    by_arrival = journal.read(tmp_path, "failure", since=START + 20 * HOUR, by="arrival_time")
    assert by_arrival["request_id"].tolist() == ["late"]
    with pytest.raises(UsageError, match="is no time"):
        journal.read(tmp_path, "failure", since="yesterday-ish")


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_torn_record_at_the_end_of_a_segment_is_skipped(tmp_path: Path, cut: int) -> None:
    segment = segments.Segment(segments.folder_of(tmp_path, "threat"), SCHEMAS["threat"], "node-a")
    for k in range(3):
        segment.append(pa.RecordBatch.from_pylist([record("threat", k, [[1, 0]])], SCHEMAS["threat"]))
    segment.close()
    with open(segment.path, "r+b") as file:
        file.truncate(segment.size - cut)
    assert journal.read(tmp_path, "threat")["request_id"].tolist() == ["threat-r0", "threat-r1"]
    segments.seal(segment.path)
    assert journal.read(tmp_path, "threat")["request_id"].tolist() == ["threat-r0", "threat-r1"]


def test_a_changed_byte_ends_a_segment_where_it_stands(tmp_path: Path) -> None:
    path = write(tmp_path, "threat", [record("threat", 0, [[1, 0]])])
    content = bytearray(path.read_bytes())
    content[-20] ^= 0xFF
    path.write_bytes(content)
    assert len(journal.read(tmp_path, "threat")) == 0


def test_segments_of_dead_processes_are_sealed_and_those_of_living_ones_left_alone(tmp_path: Path) -> None:
    dead = write(tmp_path, "threat", [record("threat", 0, [[1, 0]])])
    alive = write(tmp_path, "threat", [record("threat", 1, [[1, 0]])], close=False)
    assert segments.seal_left_behind(tmp_path, ["threat"], "node-b") == 0
    assert segments.seal_left_behind(tmp_path, ["threat"], "node-a") == 1
    assert not dead.exists() and dead.with_suffix(".parquet").exists() and alive.exists()
    assert len(journal.read(tmp_path, "threat")) == 2


def test_a_segment_of_another_node_is_sealed_after_a_day_of_silence(tmp_path: Path) -> None:
    path = write(tmp_path, "threat", [record("threat", 0, [[1, 0]])])
    day_ago = time.time() - 2 * 86_400
    os.utime(path, (day_ago, day_ago))
    assert segments.seal_left_behind(tmp_path, ["threat"], "node-b") == 1


def test_the_oldest_files_go_first_when_there_is_too_much_and_old_ones_go_anyway(tmp_path: Path) -> None:
    paths = []
    for k in range(4):
        sealed = segments.seal(write(tmp_path, "threat", [record("threat", k, [[1, 0]])]))
        assert sealed is not None
        # A name says when a file was begun.
        stamp = (datetime.now(UTC) - timedelta(days=10 - k)).strftime("%Y%m%dT%H%M%S%f")
        paths.append(sealed.rename(sealed.with_name(f"{stamp}-node_a-1.parquet")))
    size = paths[0].stat().st_size
    assert segments.retain(tmp_path, 3 * size + size // 2, 100 * 86_400.0) == 1
    assert [path.exists() for path in paths] == [False, True, True, True]
    assert segments.retain(tmp_path, 10 * size, 8.5 * 86_400.0) == 1
    assert [path.exists() for path in paths] == [False, False, True, True]
    open_one = write(tmp_path, "threat", [record("threat", 9, [[1, 0]])], close=False)
    segments.retain(tmp_path, 0, 0.0)
    assert open_one.exists() and not paths[3].exists()


def test_the_newest_records_of_several_replicas_come_first(tmp_path: Path) -> None:
    other = write(tmp_path, "threat", [record("threat", k, [[1, 0]]) for k in (1, 4, 7)])
    write(tmp_path, "threat", [record("threat", k, [[1, 0]]) for k in (2, 5)], close=False)
    assert segments.seal(write(tmp_path, "threat", [record("threat", k, [[1, 0]]) for k in (3, 6)])) is not None
    now = time.time()
    os.utime(other, (now + 5, now + 5))
    found = reading.newest(tmp_path, ["threat", "failure"], 4)
    assert [row["request_id"] for row in found] == [f"threat-r{k}" for k in (7, 6, 5, 4)]
    only = reading.newest(tmp_path, ["threat"], 9, request_id="threat-r3")
    assert [row["request_id"] for row in only] == ["threat-r3"]


# Feedback ------------------------------------------------------------------------------------------------------------


def test_feedback_said_twice_changes_nothing_and_the_newest_word_counts(tmp_path: Path) -> None:
    alarm = {"request_id": "r1", "verdict": "confirmed"}
    assert journal.add_feedback(tmp_path, [alarm, alarm], who="ann", at=START) == {
        "new": 1, "changed": 0, "unchanged": 1,
    }  # fmt: skip
    assert journal.add_feedback(tmp_path, [alarm], who="bob") == {"new": 0, "changed": 0, "unchanged": 1}
    corrected = journal.add_feedback(tmp_path, [{**alarm, "verdict": "false_alarm"}], who="bob", at=START + HOUR)
    assert corrected["changed"] == 1
    now = journal.feedback(tmp_path)
    assert now[["verdict", "who"]].values.tolist() == [["false_alarm", "bob"]]
    before = journal.feedback(tmp_path, until=START + HOUR)
    assert before[["verdict", "who"]].values.tolist() == [["confirmed", "ann"]]
    assert journal.feedback(tmp_path, until=START).empty


def test_a_retry_that_comes_late_does_not_undo_a_correction(tmp_path: Path) -> None:
    first = {"request_id": "r1", "verdict": "confirmed", "id": "ticket-7"}
    journal.add_feedback(tmp_path, [first])
    journal.add_feedback(tmp_path, [{"request_id": "r1", "verdict": "false_alarm", "id": "ticket-8"}])
    assert journal.add_feedback(tmp_path, [first])["unchanged"] == 1
    assert journal.feedback(tmp_path)["verdict"].tolist() == ["false_alarm"]
    with pytest.raises(UsageError, match="already names another statement"):
        journal.add_feedback(tmp_path, [{**first, "verdict": "expected"}])


def test_feedback_can_be_withdrawn(tmp_path: Path) -> None:
    incident = {"resource_id": "web-01", "start": START.isoformat(), "end": (START + HOUR).isoformat()}
    journal.add_feedback(tmp_path, [incident])
    gone = {"kind": "incident", "resource_id": "web-01", "start": START.isoformat(), "withdrawn": True}
    assert journal.add_feedback(tmp_path, [gone])["changed"] == 1
    assert journal.feedback(tmp_path).empty


def test_every_wrong_entry_is_named_and_nothing_is_kept(tmp_path: Path) -> None:
    entries = [
        {"request_id": "r1", "verdict": "confirmed"},
        {"request_id": "r2", "verdict": "maybe"},
        {"resource_id": "web-01", "start": "2026-03-01T00:00:00"},
        {"resource_id": "web-01", "start": START.isoformat(), "end": (START - HOUR).isoformat()},
        {"verdict": "confirmed"},
    ]
    with pytest.raises(DataError) as caught:
        journal.add_feedback(tmp_path, entries)
    said = [str(fault) for fault in caught.value.faults]
    assert [text.split(":")[0] for text in said] == ["feedback[1]", "feedback[2]", "feedback[3]", "feedback[4]"]
    assert "time zone" in said[1] and "before start" in said[2] and "request_id" in said[3]
    assert journal.feedback(tmp_path).empty


def test_a_database_that_another_process_reads_takes_feedback(tmp_path: Path) -> None:
    journal.add_feedback(tmp_path, [{"request_id": "r1", "verdict": "confirmed"}])
    assert (tmp_path / "feedback.sqlite").stat().st_mode & 0o077 == 0
    import sqlite3

    reader = sqlite3.connect(tmp_path / "feedback.sqlite")
    reader.execute("begin")
    assert reader.execute("select count(*) from statements").fetchone() == (1,)
    journal.add_feedback(tmp_path, [{"request_id": "r2", "verdict": "confirmed"}])
    reader.close()
    assert len(journal.feedback(tmp_path)) == 2


# Truth ---------------------------------------------------------------------------------------------------------------


def truths(state: Path, task: str = "failure", **options: Any) -> list[Any]:
    return [None if x != x else x for x in journal.labelled(state, task, **options)["truth"]]


def test_incidents_tell_the_truth_of_failure_answers_once_their_horizon_has_passed(tmp_path: Path) -> None:
    write(tmp_path, "failure", [record("failure", k, [[1, 1]]) for k in range(12)])
    assert truths(tmp_path) == [None] * 12
    incident = {"resource_id": "web-01", "start": (START + 6 * HOUR).isoformat(), "end": (START + 8 * HOUR).isoformat()}
    journal.add_feedback(tmp_path, [incident], at=START + 9 * HOUR)
    # Horizon 4: hours 2 to 5 see it ahead; 6 and 7 lie within it, hour 8 after it.
    assert truths(tmp_path) == [0, 0, 1, 1, 1, 1, None, None, 0, 0, 0, 0]
    assert truths(tmp_path, known_at=START + 9 * HOUR) == [None] * 12
    assert truths(tmp_path, known_at=START + 13 * HOUR) == [0, 0, 1, 1, 1, 1, None, None, 0, 0, None, None]
    assert truths(tmp_path, horizon=1)[:6] == [0, 0, 0, 0, 0, 1]
    known = journal.labelled(tmp_path, "failure")["known_at"]
    assert known[0] == pd.Timestamp(START + 9 * HOUR) and known[8] == pd.Timestamp(START + 12 * HOUR)


def test_no_news_is_good_news_only_where_somebody_said_until_when(tmp_path: Path) -> None:
    write(tmp_path, "failure", [record("failure", k, [[1, 1]]) for k in range(4)])
    journal.add_feedback(tmp_path, [{"kind": "covered", "end": (START + 6 * HOUR).isoformat()}], at=START + 7 * HOUR)
    assert truths(tmp_path) == [0, 0, 0, None]


def test_a_verdict_comes_before_incidents(tmp_path: Path) -> None:
    write(tmp_path, "failure", [record("failure", k, [[1, 1]]) for k in range(4)])
    journal.add_feedback(tmp_path, [{"resource_id": "web-01", "start": (START + 2 * HOUR).isoformat()}])
    said = {"failure-r0": "expected", "failure-r1": "confirmed"}
    journal.add_feedback(tmp_path, [{"request_id": name, "verdict": verdict} for name, verdict in said.items()])
    assert truths(tmp_path)[:2] == [0, 1]


def test_a_row_of_a_batch_is_found_by_its_own_id_and_by_that_of_the_batch(tmp_path: Path) -> None:
    write(tmp_path, "threat", [record("threat", k, [[1, 0]], request_id=f"b-{k}", row=k) for k in range(3)])
    journal.add_feedback(tmp_path, [{"request_id": "b-0", "verdict": "false_alarm"}])
    journal.add_feedback(tmp_path, [{"request_id": "b", "row": 2, "label": "dos"}])
    assert truths(tmp_path, "threat") == ["normal", None, "dos"]


def test_verdicts_tell_the_class_of_a_threat_and_the_last_word_counts(tmp_path: Path) -> None:
    write(tmp_path, "threat", [record("threat", k, [[1, 0]]) for k in range(4)])
    for k, said in enumerate(({"verdict": "confirmed"}, {"verdict": "new_trend"}, {"verdict": "missed"})):
        journal.add_feedback(tmp_path, [{"request_id": f"threat-r{k}", **said}], at=START + 5 * HOUR)
    assert truths(tmp_path, "threat") == ["scan", "normal", None, None]
    journal.add_feedback(tmp_path, [{"request_id": "threat-r0", "label": "dos"}], at=START + 6 * HOUR)
    assert truths(tmp_path, "threat")[0] == "dos"
    assert truths(tmp_path, "threat", known_at=START + 6 * HOUR)[0] == "scan"


def test_later_histories_bring_the_truth_of_earlier_forecasts(tmp_path: Path) -> None:
    usage = np.arange(10, dtype=float)
    records = [
        record("capacity", k, np.c_[usage[max(0, k - 3) : k + 1], np.full(min(k, 3) + 1, np.nan)]) for k in (3, 4, 6)
    ]
    write(tmp_path, "capacity", records)
    frame = journal.labelled(tmp_path, "capacity")
    np.testing.assert_array_equal(frame["truth"][0], np.array([4, 5, 6], dtype=np.float32))
    np.testing.assert_array_equal(frame["truth"][1], np.array([5, 6, np.nan], dtype=np.float32))
    assert frame["known_at"][0] == records[2]["arrival_time"]
    early = journal.labelled(tmp_path, "capacity", known_at=START + 5 * HOUR)
    np.testing.assert_array_equal(early["truth"][0], np.array([4, np.nan, np.nan], dtype=np.float32))
    stated = {"resource_id": "web-01", "target": "cpu", "timestamp": (START + 7 * HOUR).isoformat(), "value": 70.0}
    journal.add_feedback(tmp_path, [stated])
    assert journal.labelled(tmp_path, "capacity")["truth"][1].tolist() == [5.0, 6.0, 70.0]


def test_an_empty_journal_is_read_as_an_empty_table(tmp_path: Path) -> None:
    for task in SCHEMAS:
        frame = journal.labelled(tmp_path, task)
        assert frame.empty and {"truth", "known_at", "inputs"} <= set(frame.columns)


# Tables --------------------------------------------------------------------------------------------------------------


def test_the_journal_turns_back_into_contract_tables(tmp_path: Path) -> None:
    series = np.arange(40, dtype=float).reshape(20, 2)
    write(tmp_path, "failure", [record("failure", k, series[k - 2 : k + 1]) for k in range(2, 20)])
    activity = [record("threat", k, [[k, k % 2]]) for k in range(6)]
    write(tmp_path, "threat", activity)
    write(tmp_path, "capacity", [record("capacity", k, series[k - 3 : k + 1]) for k in range(3, 20)])
    journal.add_feedback(
        tmp_path,
        [
            {"resource_id": "web-01", "start": (START + 9 * HOUR).isoformat(), "end": (START + 11 * HOUR).isoformat(), "label": "disk"},
            *({"request_id": f"threat-r{k}", "label": ("normal", "scan")[k % 2]} for k in range(5)),
        ],
    )  # fmt: skip
    rows = journal.export_tables(tmp_path, tmp_path / "out")
    assert rows == {"telemetry": 20, "incidents": 1, "activity": 5, "usage": 20}
    tables = load_folder(tmp_path / "out").tables
    telemetry = tables["telemetry"]
    assert list(telemetry.columns) == ["resource_id", "timestamp", "cpu", "mem"]
    np.testing.assert_array_equal(telemetry[["cpu", "mem"]].to_numpy(), series)
    assert telemetry["timestamp"].iloc[0] == pd.Timestamp(START)
    assert tables["incidents"]["kind"].tolist() == ["disk"]
    assert tables["activity"]["proto"].tolist() == ["tcp", "udp", "tcp", "udp", "tcp"]
    assert tables["activity"]["threat_type"].tolist() == ["normal", "scan", "normal", "scan", "normal"]
    np.testing.assert_array_equal(tables["usage"][["cpu", "mem"]].to_numpy(), series)


def test_an_empty_journal_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds nothing yet"):
        journal.export_tables(tmp_path, tmp_path / "out")


# Commands ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of the commands of a test."""
    monkeypatch.setenv("AIOPS_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def aiops(*arguments: str) -> str:
    from aiops_core.cli import app

    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_incidents_are_imported_from_the_contract_table_once(state: Path, tmp_path: Path) -> None:
    table = tmp_path / "incidents.csv"
    table.write_text(
        "resource_id,start,end,kind\nweb-01,2026-03-01T06:00:00Z,2026-03-01T08:00:00Z,disk\n"
        "web-02,2026-03-01 09:00:00+00:00,2026-03-01 10:00:00+00:00,\n"
    )
    assert aiops("feedback", "import", str(table)) == "2 new, 0 changed, 0 unchanged\n"
    again = aiops("feedback", "import", str(table), "--kind", "incident", "--covered-until", "2026-03-02T00:00Z")
    assert again == "1 new, 0 changed, 2 unchanged\n"
    said = journal.feedback(state, "failure")
    assert said["kind"].tolist() == ["incident", "incident", "covered"]
    assert said["label"].tolist()[0] == "disk" and said["start"][1] == pd.Timestamp("2026-03-01T09:00Z")
    assert said["who"].str.endswith("(shell)").all()
    said[said["kind"] == "incident"][["resource_id", "start", "end"]].to_parquet(tmp_path / "incidents.parquet")
    assert aiops("feedback", "import", str(tmp_path / "incidents.parquet")).startswith("0 new, 1 changed, 1 unchanged")


def test_verdicts_are_imported_and_shown_beside_their_answer(state: Path, tmp_path: Path) -> None:
    write(state, "threat", [record("threat", k, [[k, 1]], request_id=f"b-{k}", row=k) for k in range(2)])
    table = tmp_path / "verdicts.csv"
    table.write_text("request_id,row,verdict\nb,1,false_alarm\n")
    aiops("feedback", "import", str(table))
    shown = [json.loads(line) for line in aiops("journal", "show", "b").splitlines()]
    assert [line["request_id"] for line in shown] == ["b-0", "b-1"]
    assert shown[1]["inputs"] == {"rate": [1.0], "proto": [1.0]} and shown[0]["feedback"] == []
    assert shown[1]["feedback"][0]["verdict"] == "false_alarm"
    with pytest.raises(UsageError, match="holds no answer 'c'"):
        aiops("journal", "show", "c")


def test_what_is_exported_is_a_valid_data_set(state: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    series = rng.random((60, 2))
    write(state, "failure", [record("failure", k, series[k - 2 : k + 1]) for k in range(2, 60)])
    write(state, "threat", [record("threat", k, [[k, k % 2]]) for k in range(60)])
    write(state, "capacity", [record("capacity", k, series[k - 3 : k + 1]) for k in range(3, 60)])
    journal.add_feedback(
        state, [{"request_id": f"threat-r{k}", "label": ("normal", "scan")[k % 2]} for k in range(60)]
    )  # fmt: skip
    journal.add_feedback(
        state, [{"resource_id": "web-01", "start": START + 20 * HOUR, "end": START + 22 * HOUR}]
    )  # fmt: skip
    said = aiops("journal", "export", "--as", "tables", str(tmp_path / "out"))
    assert said.startswith("telemetry: 60 rows, incidents: 1 rows, activity: 60 rows, usage: 60 rows")
    described = aiops("data", "validate", str(tmp_path / "out"))
    assert "telemetry" in described and "activity" in described and "usage" in described
    only = aiops("journal", "export", str(tmp_path / "part"), "--since", "2026-03-02T00:00Z")
    assert only.startswith("telemetry: 36 rows")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("journal", "export", "--as", "xml", "out"), "known: tables"),
        (("feedback", "import", "incidents.csv", "--kind", "rumour"), "is not one of verdict"),
    ],
)
def test_a_command_says_what_it_does_not_know(state: Path, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        aiops(*arguments)
