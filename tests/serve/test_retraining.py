"""What starts a retraining beside the service, and what the metrics say of the last one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Service

from aiops_core import files, journal, settings
from aiops_core.errors import UsageError
from aiops_core.retrain import state as states_of
from serve_app.operations.jobs import Jobs
from serve_app.operations.retraining import Retraining, next_time, states, wanted
from serve_app.operations.telemetry import Metrics

NOW = 1_800_000_000.0


def remember(where: Path, task: str = "failure", **content: Any) -> None:
    states_of.remember(files.private_folder(where), task, content)


@pytest.fixture
def make(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Build the thread's object with settings, at a time; its jobs are real."""

    def build(now: float = NOW, **given: str) -> Retraining:
        for name, value in given.items():
            monkeypatch.setenv(f"AIOPS_{name.upper()}", value)
        state = tmp_path / "state"
        environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}", "AIOPS_STATE_DIR": str(state)}
        jobs = Jobs(state / "jobs", Metrics(state / "metrics", flush=False), environment)
        return Retraining(state, jobs, settings.load(), environment, clock=lambda: now)

    return build


def looked(state: Path, **task: Any) -> None:
    """Write the report of a look of the monitoring, made an hour before `NOW`."""
    files.write_json(state / "monitor" / "report.json", {"tasks": {"failure": task}})
    os.utime(state / "monitor" / "report.json", (NOW - 3600, NOW - 3600))


def test_by_default_nothing_is_trained_again(make: Any, tmp_path: Path) -> None:
    assert not wanted(settings.load()) and make().due("failure") is None and make().look() == []
    assert not (tmp_path / "state" / "jobs").exists()


def test_drift_on_which_to_act_is_a_reason_but_a_broken_sensor_is_none(make: Any, tmp_path: Path) -> None:
    watcher, state = make(retrain_on_drift="true"), tmp_path / "state"
    assert wanted(settings.load()) and watcher.due("failure") is None
    looked(state, verdict={"state": "watch"})
    assert watcher.due("failure") is None
    looked(state, verdict={"state": "act"})
    assert watcher.due("failure") == "drift" and watcher.due("threat") is None
    looked(state, verdict={"state": "act"}, broken=["cpu_usage"])
    assert watcher.due("failure") is None
    # What was seen before the last retraining is no reason for another.
    looked(state, verdict={"state": "act"})
    remember(state, began=NOW - 1800)
    assert make(retrain_cool_down_hours="0").due("failure") is None
    remember(state, began=NOW - 7200)
    assert make().due("failure") == "drift"
    assert make(retrain_cool_down_hours="3").due("failure") is None


def test_so_many_labels_since_the_last_one_are_a_reason(make: Any, tmp_path: Path) -> None:
    watcher, state = make(retrain_labels="3"), tmp_path / "state"
    said = [{"kind": "class", "request_id": f"r{i}", "label": "normal"} for i in range(4)]
    journal.add_feedback(state, said[:2])
    assert watcher.due("threat") is None
    journal.add_feedback(state, said)
    assert watcher.due("threat") == "4 labels since the last one" and watcher.due("failure") is None
    remember(state, "threat", began=NOW - 90_000, labels=2)
    assert watcher.due("threat") is None


def test_a_due_retraining_is_a_job_like_any_other_and_its_failure_is_seen(make: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"
    watcher = make(retrain_on_drift="true", retrain_tasks="failure", retrain_trials="2")
    looked(state, verdict={"state": "act"})
    assert watcher.look() == ["failure: drift"]
    jobs = Jobs(state / "jobs", Metrics(state / "metrics", flush=False), {})
    (job,) = jobs.list()
    command = json.loads((state / "jobs" / job["job_id"] / "job.json").read_text())["command"]
    assert "retrain" in command and command[command.index("--trigger") + 1] == "drift"
    assert command[command.index("--policy") + 1] == "never"
    # One job at a time: the reason is still there at the next look.
    assert watcher.look() == []
    deadline = time.time() + 120
    while jobs.get(job["job_id"])["status"] in ("queued", "running"):
        assert time.time() < deadline
        time.sleep(0.2)
    ended = jobs.get(job["job_id"])
    assert ended["status"] == "failed" and "has no champion to go on from" in ended["error"]


def test_the_metrics_say_how_the_last_one_went_and_a_killed_one_has_failed(make_service: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"
    service: Service = make_service()
    assert states(state) == [] and service.total("aiops_retraining") == 0
    remember(state, "threat", state="succeeded")
    remember(state, "failure", state="running")
    with states_of.alone(state):
        assert {labels["task"]: labels["state"] for labels, _ in states(state)} == {
            "threat": "succeeded", "failure": "running"
        }  # fmt: skip
    assert states(state)[0] == ({"task": "failure", "state": "failed"}, 1.0)
    assert service.total("aiops_retraining", state="failed", task="failure") == 1


def test_a_schedule_is_a_cron_expression(make: Any) -> None:
    pytest.importorskip("cronsim")
    at = next_time("30 2 * * 0", NOW)
    stamp = time.gmtime(at)
    assert at > NOW and (stamp.tm_hour, stamp.tm_min, stamp.tm_wday) == (2, 30, 6)
    with pytest.raises(UsageError, match="AIOPS_RETRAIN_CRON 'weekly' is no cron expression"):
        make(retrain_cron="weekly")
    assert make(now=at - 1, retrain_cron="30 2 * * 0")._next == at
