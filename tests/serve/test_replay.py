"""Replay: versions answer the journal's inputs again, and what that would have meant on call."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import journalled
import numpy as np
import pandas as pd
import pytest
import tiny

from aiops_core import cli, journal, servable, tracking
from aiops_core.errors import UsageError
from aiops_core.replay import alerts
from aiops_core.replay.run import Options, replay

HOUR = pd.Timedelta(hours=1)
START = pd.Timestamp("2026-03-01T00:00Z")


def register(folder: Path, work: Path, *, alias: str | None = "champion") -> int:
    """Register a servable as a new version of its task's model."""
    task = servable.read_card(folder)["task"]
    search = tracking.open_search(task, work / f"{task}-{folder.name}", name="tiny", params={}, tags={})
    logged = tracking.log_servable(search.run_id, folder)
    return tracking.register(task, search.run_id, alias, model_uri=logged).version


def changed(folder: Path, target: Path, **fields: Any) -> Path:
    """Copy a servable and change its card."""
    shutil.copytree(folder, target)
    servable.update_card(target, **fields)
    return target


@pytest.fixture
def two_failures(store: Path, servables: dict[str, Path], tmp_path: Path) -> Path:
    """State folder with a journal of version 1; version 2 alarms at everything."""
    tracking.prepare_store()
    register(servables["failure"], tmp_path)
    nervous = changed(servables["failure"], tmp_path / "nervous", decision={"threshold": 0.0})
    register(nervous, tmp_path, alias="challenger")
    state = tmp_path / "state"
    journalled.failures(state, servable.load(servables["failure"]), tiny.dataset("failure"))
    return state


def period(state: Path, task: str) -> tuple[str, str]:
    when = journal.read(state, task)["event_time"]
    return str(when.min()), str(when.max() + HOUR)


def test_a_version_replays_its_own_answers_and_another_shows_what_it_would_have_cost(
    two_failures: Path, tmp_path: Path
) -> None:
    frame = journal.read(two_failures, "failure")
    victim = frame["resource_id"].iloc[0]
    begins = frame.loc[frame["resource_id"] == victim, "event_time"].iloc[30]
    csv = tmp_path / "incidents.csv"
    csv.write_text(
        f"resource_id,start,end\n{victim},{begins.isoformat()},{(begins + 2 * HOUR).isoformat()}\nother,{begins},\n"
    )
    options = Options(*period(two_failures, "failure"), versions=(1, 2), incidents=csv)
    content = replay(options, tmp_path / "out", state=two_failures)
    assert content["records"] == len(frame) and content["left_out"] == 0
    first, second = content["versions"]
    assert first["answered"] == len(frame) and first["largest_difference"] < 1e-6
    assert first["alarms"] == int(frame["alarm"].sum())
    assert second["alarms"] == len(frame) and second["caught"] == second["incidents"] == 1
    # Window steps are asked about before it: the earliest alarm within the horizon.
    assert second["median_lead_hours"] == 24
    assert second["cost"] == second["false_alerts"] == second["alerts"] - 1
    assert content["differences"]["records"] == int((~frame["alarm"]).sum())
    assert [row["resource_id"] for row in content["incidents"]] == [victim]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(json.dumps(content))
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        "<svg" in page
        and "Version 2 would have announced 1 of 1 incidents" in page
        and "http"
        not in page.replace("http://www.w3.org", "")
        .replace("http://purl.org", "")
        .replace("https://matplotlib.org", "")
        .replace("http://creativecommons.org", "")
    )


def test_an_alert_stands_for_the_horizon_and_repeats_after_it() -> None:
    rows = pd.DataFrame({"resource_id": "a", "time": [START + k * HOUR for k in range(10)], "alarm": True})
    found = alerts.alerts(rows, 4 * HOUR)
    assert found["start"].tolist() == [START, START + 5 * HOUR] and found["alarms"].tolist() == [5, 5]
    incidents = pd.DataFrame({"resource_id": ["a", "a", "b"], "start": [START + 2 * HOUR, START + 60 * HOUR, START]})
    said = alerts.announced(rows, incidents, 4 * HOUR)
    assert said["asked"].tolist() == [True, False, False] and said["lead_hours"].tolist()[0] == 2
    counted = alerts.outcome(found, said, incidents, 4 * HOUR, cost_missed=10, cost_false_alarm=1)
    assert counted["false_alerts"] == 1 and counted["caught"] == 1 and counted["missed"] == 0 and counted["cost"] == 1


def test_columns_are_matched_by_name_and_categories_by_their_words(
    store: Path, servables: dict[str, Path], tmp_path: Path
) -> None:
    loaded = servable.load(servables["threat"])
    state = tmp_path / "state"
    activity = journalled.threats(state, loaded, tiny.dataset("threat"), rows=200)
    frame = journal.read(state, "threat")
    known = journal.versions(state, "threat")
    from aiops_core.replay.answers import answers

    want = answers(loaded, frame, known)
    assert want["said"].tolist() == frame["threat_type"].tolist()
    # The same rows as another version would have kept them: another order, and a column that nobody knows.
    order = [*loaded.features[::-1], "unheard"]
    values = np.array(journal.inputs_of(frame, len(loaded.features)))[:, 0][:, ::-1]
    turned = frame.assign(version=7, inputs=[np.r_[row, 1.0].astype("<f4").tobytes() for row in values])
    meaning = {7: {"features": [{"name": name} for name in order]}}
    pd.testing.assert_frame_equal(answers(loaded, turned, meaning), want)
    assert len(activity) == len(want)


def test_feedback_on_rows_measures_versions_of_the_threat_detector(
    store: Path, servables: dict[str, Path], tmp_path: Path
) -> None:
    tracking.prepare_store()
    version = register(servables["threat"], tmp_path)
    state = tmp_path / "state"
    activity = journalled.threats(state, servable.load(servables["threat"]), tiny.dataset("threat"), rows=100)
    labels = [{"kind": "class", "request_id": f"t{i}", "label": activity["threat_type"][i]} for i in range(60)]
    journal.add_feedback(state, labels, who="test")
    options = Options(*period(state, "threat"), versions=(version,), task="threat")
    (entry,) = replay(options, tmp_path / "out", state=state)["versions"]
    frame = journal.read(state, "threat").head(60)
    right = (frame["threat_type"].to_numpy() == activity["threat_type"].to_numpy()[:60]).mean()
    assert entry["labelled"] == 60 and entry["accuracy"] == pytest.approx(right)


def test_forecasts_are_measured_by_what_later_histories_hold(
    store: Path, servables: dict[str, Path], tmp_path: Path
) -> None:
    tracking.prepare_store()
    version = register(servables["capacity"], tmp_path)
    state = tmp_path / "state"
    journalled.forecasts(state, servable.load(servables["capacity"]), tiny.dataset("capacity"))
    options = Options(*period(state, "capacity"), versions=(version,), task="capacity", limit=1.0)
    content = replay(options, tmp_path / "out", state=state)
    (entry,) = content["versions"]
    assert entry["labelled"] > 100 and 0 < entry["mean_absolute_error"] < 30
    assert entry["alarms"] == content["records"]
    assert "is off by" in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_replayed_is_said_in_one_sentence(two_failures: Path, tmp_path: Path) -> None:
    start, end = period(two_failures, "failure")
    for options, words in (
        (Options(end, start), "must lie before END"),
        (Options("soon", end), "START 'soon' is no time"),
        (Options("2020-01-01", "2020-02-01"), "holds no answer of a trained failure model"),
        (Options(start, end, task="failur"), "unknown task 'failur'"),
    ):
        with pytest.raises(UsageError, match=words):
            replay(options, tmp_path / "out", state=two_failures)
    assert not (tmp_path / "out").exists()


def test_the_command_replays_champion_and_newest_other_by_itself(
    two_failures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["aiops", "replay", *period(two_failures, "failure"), "--out", str(tmp_path / "r")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code in (0, None)
    said = capsys.readouterr().out
    assert "Version 1 would have raised" in said and "Version 2 would have raised" in said
    assert (tmp_path / "r" / "report.html").is_file()
