"""Training over HTTP, with a stand-in for the pipeline."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Disk

from serve_app.wire.problems import Problem

PIPELINE = """
import json, pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
seed = sys.argv[sys.argv.index("--seed") + 1]
print("threat: trial 1 of 2", flush=True)
if seed == "1":
    time.sleep(60)
if seed == "2":
    sys.exit("no such data")
out.mkdir(parents=True)
task = {"model": "threat_detector", "status": "trained", "gate": {"decision": "champion"}, "args": sys.argv[1:]}
(out / "report.json").write_text(json.dumps({"tasks": {"threat": task}}))
"""


@pytest.fixture
def service(make_service: Any, tmp_path: Path) -> Any:
    script = tmp_path / "pipeline.py"
    script.write_text(PIPELINE)
    return make_service(command=[sys.executable, str(script)])


def wait(client: Any, job: str, *states: str, seconds: float = 30) -> dict[str, Any]:
    deadline = time.time() + seconds
    while time.time() < deadline:
        found: dict[str, Any] = client.get(f"models/train/{job}").json()
        if found["status"] in states:
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def test_a_job_runs_and_its_result_comes_from_the_report(service: Any) -> None:
    answer = service.client.post("models/train", {"models": ["threat_detector"], "n_samples": 1000, "seed": 0})
    assert answer.status == 202
    job = answer.json()
    assert answer.headers["location"] == f"/api/v3/aiops/models/train/{job['job_id']}"
    done = wait(service.client, job["job_id"], "succeeded", "failed")
    assert done["status"] == "succeeded" and done["exit_code"] == 0 and done["ended"]
    assert done["result"]["threat"]["gate"] == {"decision": "champion"}
    assert done["progress"] == ["threat: trial 1 of 2"]
    report = json.loads((service.state / "jobs" / job["job_id"] / "report" / "report.json").read_text())
    options = report["tasks"]["threat"]["args"]
    assert options[:4] == ["--source", "synthetic", "--tasks", "threat"] and options[4:6] == ["--n-samples", "1000"]
    assert service.client.get("models/train").json()["jobs"][0]["job_id"] == job["job_id"]


def test_a_job_replaces_a_champion_only_where_the_request_says_so(service: Any) -> None:
    for body, mode in (
        ({"seed": 0}, "first"),
        ({"seed": 3, "promote": True}, "gate"),
        ({"seed": 4, "promote": False}, "first"),
    ):
        job = service.client.post("models/train", body).json()["job_id"]
        assert wait(service.client, job, "succeeded", "failed")["status"] == "succeeded"
        report = json.loads((service.state / "jobs" / job / "report" / "report.json").read_text())
        options = report["tasks"]["threat"]["args"]
        assert ["--promote", mode] in [options[i : i + 2] for i in range(len(options))]


def test_one_job_at_a_time_and_cancelling_frees_the_place(service: Any) -> None:
    job = service.client.post("models/train", {"seed": 1}).json()["job_id"]
    second = service.client.post("models/train", {"seed": 0})
    assert second.status == 409 and job in second.json()["detail"]
    wait(service.client, job, "running")
    assert service.client.request("DELETE", f"models/train/{job}").status == 202
    assert wait(service.client, job, "cancelled")["status"] == "cancelled"
    assert service.client.request("DELETE", f"models/train/{job}").status == 409
    assert service.client.post("models/train", {"seed": 0}).status == 202


def test_a_failed_job_says_why(service: Any) -> None:
    job = service.client.post("models/train", {"seed": 2}).json()["job_id"]
    failed = wait(service.client, job, "failed")
    assert failed["error"] == "no such data" and failed["result"] is None


def test_a_job_outlives_the_replica_that_started_it(service: Any, make_service: Any) -> None:
    job = service.client.post("models/train", {"seed": 1}).json()["job_id"]
    running = wait(service.client, job, "running")
    assert running["progress"] in ([], ["threat: trial 1 of 2"])
    status = json.loads((service.state / "jobs" / job / "status.json").read_text())
    assert os.getsid(status["pid"]) != os.getsid(0)
    later = make_service()
    assert later.client.get(f"models/train/{job}").json()["status"] == "running"
    # Its runner gone without a word, it is lost, and the next one may start.
    os.kill(status["pid"], signal.SIGKILL)
    lost = wait(later.client, job, "lost")
    assert "ended without a result" in lost["error"]
    assert service.client.post("models/train", {"seed": 0}).status == 202


def test_on_a_full_disk_no_job_starts_and_a_running_one_is_not_lost(disk: Disk, service: Any) -> None:
    job = service.client.post("models/train", {"seed": 1}).json()["job_id"]
    wait(service.client, job, "running")
    disk.fill()
    time.sleep(2.5)
    assert service.client.get(f"models/train/{job}").json()["status"] == "running"
    service.client.request("DELETE", f"models/train/{job}")
    time.sleep(2.5)
    # Its end cannot be written yet.
    assert service.client.get(f"models/train/{job}").json()["status"] == "running"
    disk.free()
    assert wait(service.client, job, "cancelled", "lost")["status"] == "cancelled"
    disk.fill()
    answer = service.client.post("models/train", {"seed": 0})
    assert answer.status == 503 and "No space left" in answer.json()["detail"]
    assert [found["job_id"] for found in service.client.get("models/train").json()["jobs"]] == [job]
    assert len([path for path in (service.state / "jobs").iterdir() if path.is_dir()]) == 1


def test_jobs_are_only_found_by_their_own_ids(service: Any) -> None:
    for name in ("..", "0123456789AB", "lock", "a" * 300):
        with pytest.raises(Problem) as caught:
            service.jobs.get(name)
        assert caught.value.status == 404
