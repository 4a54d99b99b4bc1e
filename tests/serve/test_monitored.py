"""What monitoring found, as gauges, and the schedule on which the service has it run."""

from __future__ import annotations

import json
import os
import sys
import time
import types
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aiops_core.errors import UsageError
from serve_app.operations import schedule
from serve_app.operations.monitored import REPORT, Monitored
from serve_app.operations.telemetry import Metrics

pytestmark = pytest.mark.serve


def written(state: Path, **threat: Any) -> None:
    """Write a report as `aiops_core.study.monitoring` does."""
    found = {
        "verdict": {"state": "watch", "why": [], "todo": []},
        "drift": [
            {"feature": "a", "kind": "value", "drifted": True, "days": [{"day": 0, "psi": 0.6, "threshold": 0.3}]},
            {"feature": "b", "kind": "value", "drifted": False, "days": []},
        ],
        "broken": [{"feature": "a", "resource": "", "fault": "stuck"}],
        "estimate": {"metric": "accuracy", "value": 0.9, "promised": 0.95},
        "quality": None,
        "alerts": {"per_day": [7, 3]},
        **threat,
    }
    unknown = {"verdict": {"state": "unknown", "why": [], "todo": []}}
    (state / REPORT).parent.mkdir(parents=True, exist_ok=True)
    created = datetime.now(UTC) - timedelta(minutes=1)
    content = {"created": created.isoformat(timespec="seconds"), "tasks": {"threat": found, "failure": unknown}}
    (state / REPORT).write_text(json.dumps(content))


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Return the samples of monitoring by name and labels."""
    families = text_string_to_metric_families(metrics.render().decode())
    found = [s for family in families for s in family.samples if s.name.startswith("aiops_monitor")]
    return {(s.name, ",".join(s.labels[name] for name in sorted(s.labels))): s.value for s in found}


def test_every_replica_shows_the_figures_of_the_newest_report(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics", flush=False)
    Monitored(tmp_path).attach(metrics)
    assert samples(metrics) == {}
    written(tmp_path)
    found = samples(metrics)
    assert found["aiops_monitor_state", "threat"] == 1 and found["aiops_monitor_state", "failure"] == -1
    assert found["aiops_monitor_drift_ratio", "threat"] == pytest.approx(2)
    assert found["aiops_monitor_drifted", "threat"] == 1 and found["aiops_monitor_broken_sensors", "threat"] == 1
    assert found["aiops_monitor_quality", "accuracy,estimated,threat"] == 0.9
    assert found["aiops_monitor_quality", "accuracy,promised,threat"] == 0.95
    assert ("aiops_monitor_quality", "accuracy,labelled,threat") not in found
    assert found["aiops_monitor_alerts", "threat"] == 7
    assert 55 < found["aiops_monitor_age_seconds", ""] < 600


def test_a_newer_report_takes_the_place_of_an_older_one_and_a_torn_one_shows_nothing(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics", flush=False)
    Monitored(tmp_path).attach(metrics)
    written(tmp_path)
    assert samples(metrics)["aiops_monitor_state", "threat"] == 1
    written(tmp_path, verdict={"state": "act", "why": [], "todo": []})
    os.utime(tmp_path / REPORT, ns=(1, 1))
    assert samples(metrics)["aiops_monitor_state", "threat"] == 2
    (tmp_path / REPORT).write_text('{"tasks": ')
    assert samples(metrics) == {}


def soon(*seconds: float) -> Iterator[datetime]:
    """Return times from now."""
    return iter([datetime.now(UTC) + timedelta(seconds=s) for s in seconds])


def waited_for(path: Path, lines: int = 1) -> list[str]:
    """Return the lines of a file once it has so many."""
    for _ in range(400):
        if path.is_file() and len(path.read_text().splitlines()) >= lines:
            return path.read_text().splitlines()
        time.sleep(0.05)
    raise AssertionError(f"{path} never had {lines} lines")


def test_monitoring_runs_when_it_is_due_into_the_state_folder(tmp_path: Path) -> None:
    note = tmp_path / "note"
    code = (
        f"import os, sys; open({str(note)!r}, 'a').write(os.environ['AIOPS_STATE_DIR'] + ' ' + sys.argv[-1] + chr(10))"
    )
    due = soon(-100, 0.1, 0.2)
    planned = schedule.Schedule(due, tmp_path, {"AIOPS_STATE_DIR": "here"}, (sys.executable, "-c", code))
    planned.start()
    lines = waited_for(note)
    planned.close()
    assert lines[0] == f"here {tmp_path / 'monitor' / 'latest'}"
    # Of three times the first has passed, and the third did while the run of the second was going on or just ended.
    assert len(note.read_text().splitlines()) <= 2


def test_a_run_that_is_going_on_ends_with_the_service(tmp_path: Path) -> None:
    note = tmp_path / "note"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid()) + chr(10)); time.sleep(600)"
    planned = schedule.Schedule(soon(0.05), tmp_path, {}, (sys.executable, "-c", code))
    planned.start()
    pid = int(waited_for(note)[0])
    planned.close()
    assert not Path(f"/proc/{pid}").exists()


class Refused(Exception):
    """Stands for cronsim's own."""


def test_a_cron_expression_that_cannot_be_read_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class CronSim:
        def __init__(self, expression: str, start: datetime) -> None:
            if len(expression.split()) != 5:
                raise Refused("wrong number of fields")
            self.at = start

        def __iter__(self) -> Iterator[datetime]:
            return iter([self.at])

    stand_in = types.SimpleNamespace(CronSim=CronSim, CronSimError=Refused)
    monkeypatch.setitem(sys.modules, "cronsim", stand_in)  # type: ignore[arg-type]
    assert len(list(schedule.times("0 5 * * *"))) == 1
    with pytest.raises(
        UsageError, match="AIOPS_MONITOR_SCHEDULE 'daily' is no cron expression: wrong number of fields"
    ):
        schedule.times("daily")


def test_a_schedule_without_its_package_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(UsageError, match="needs the package cronsim"):
        schedule.times("0 5 * * *")
