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

from serve_app.cluster.leftovers import started
from serve_app.operations import jobs
from serve_app.wire.problems import Problem

PIPELINE = """
import json, pathlib, subprocess, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
seed = sys.argv[sys.argv.index("--seed") + 1]
print("threat: trial 1 of 2", flush=True)
if seed == "1":
    time.sleep(60)
if seed == "2":
    sys.exit("no such data")
if seed == "7":
    sys.exit("cannot connect to postgresql://svc:s3cret@db/mlflow")
if seed == "5":
    time.sleep(3)
if seed == "6":
    child = subprocess.Popen(["sleep", "60"])
    (out.parent / "child").write_text(str(child.pid))
    time.sleep(60)
out.mkdir(parents=True)
task = {"model": "threat_detector", "status": "trained", "gate": {"decision": "champion"}, "args": sys.argv[1:]}
(out / "report.json").write_text(json.dumps({"tasks": {"threat": task}}))
"""


#: What no child of the service may know.
SECRETS = {
    "AIOPS_WEBHOOK_SECRET": "s3cret",
    "AIOPS_WEBHOOKS": '{"scale_horizontal": "http://hooks/s3cret"}',
    "AIOPS_KEYS_FILE": "/s3cret/keys.json",
    "SOMEBODYS_PASSWORD": "s3cret",
    "AIOPS_SERVE_ID": "s3cret",
}


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
    assert os.getsid(status["runner"][0]) != os.getsid(0)
    later = make_service()
    assert later.client.get(f"models/train/{job}").json()["status"] == "running"
    assert service.client.request("DELETE", f"models/train/{job}").status == 202


def status_of(service: Any, job: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((service.state / "jobs" / job / "status.json").read_text())
    return found


def test_a_pipeline_whose_runner_was_killed_counts_as_running_and_can_be_cancelled(
    service: Any, make_service: Any
) -> None:
    job = service.client.post("models/train", {"seed": 1}).json()["job_id"]
    wait(service.client, job, "running")
    status = status_of(service, job)
    os.kill(status["runner"][0], signal.SIGKILL)
    time.sleep(1.5)
    # It may still promote a model: no second job beside it.
    assert make_service().client.get(f"models/train/{job}").json()["status"] == "running"
    assert service.client.post("models/train", {"seed": 0}).status == 409
    assert started(status["pipeline"][0]) is not None
    assert service.client.request("DELETE", f"models/train/{job}").status == 202
    assert wait(service.client, job, "cancelled")["status"] == "cancelled"
    assert started(status["pipeline"][0]) is None
    assert service.client.post("models/train", {"seed": 0}).status == 202


def test_a_job_of_which_no_process_is_left_is_lost_and_a_finished_pipeline_is_not(service: Any) -> None:
    job = service.client.post("models/train", {"seed": 1}).json()["job_id"]
    wait(service.client, job, "running")
    status = status_of(service, job)
    for process in ("runner", "pipeline"):
        os.kill(status[process][0], signal.SIGKILL)
    lost = wait(service.client, job, "lost")
    assert "ended without a result" in lost["error"]
    job = service.client.post("models/train", {"seed": 5}).json()["job_id"]
    wait(service.client, job, "running")
    os.kill(status_of(service, job)["runner"][0], signal.SIGKILL)
    done = wait(service.client, job, "succeeded", "lost")
    assert done["status"] == "succeeded" and done["result"]["threat"]["status"] == "trained"


def test_a_killed_pipeline_failed_and_takes_its_group_with_it(service: Any) -> None:
    job = service.client.post("models/train", {"seed": 6}).json()["job_id"]
    wait(service.client, job, "running")
    children = service.state / "jobs" / job / "child"
    deadline = time.time() + 20
    while not children.exists() and time.time() < deadline:
        time.sleep(0.05)
    child = int(children.read_text())
    os.kill(status_of(service, job)["pipeline"][0], signal.SIGKILL)
    failed = wait(service.client, job, "failed")
    assert failed["exit_code"] == -signal.SIGKILL
    assert started(child) is None


def test_a_clock_that_jumps_loses_no_job(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = service.client.post("models/train", {"seed": 1}).json()["job_id"]
    wait(service.client, job, "running")
    now = time.time
    for jump in (3600.0, -3600.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: now() + jump)
        assert service.client.get(f"models/train/{job}").json()["status"] == "running"
        assert service.client.post("models/train", {"seed": 0}).status == 409
    monkeypatch.undo()
    service.client.request("DELETE", f"models/train/{job}")


def test_the_newest_jobs_are_kept_and_ended_ones_are_read_once(
    make_service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "pipeline.py"
    script.write_text(PIPELINE)
    service = make_service(command=[sys.executable, str(script)], keep_jobs=2)
    done = []
    for _ in range(3):
        done.append(service.client.post("models/train", {"seed": 0}).json()["job_id"])
        assert wait(service.client, done[-1], "succeeded", "failed")["status"] == "succeeded"
        # Created within the same second, they would have no order.
        time.sleep(1.0)
    listed = [job["job_id"] for job in service.client.get("models/train").json()["jobs"]]
    assert listed == [done[2], done[1]]
    assert not (service.state / "jobs" / done[0]).exists()
    assert service.client.get(f"models/train/{done[0]}").status == 404
    read: list[Path] = []
    original = jobs.read_json
    monkeypatch.setattr(jobs, "read_json", lambda path: read.append(path) or original(path))
    assert [job["job_id"] for job in service.client.get("models/train").json()["jobs"]] == listed
    assert read == []


def test_a_job_knows_only_what_it_needs_of_the_environment(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIOPS_DATASETS_DIR", "/data/sets")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-of-mlflow")
    job = service.client.post("models/train", {"seed": 1}).json()["job_id"]
    wait(service.client, job, "running")
    for process in ("runner", "pipeline"):
        environment = Path(f"/proc/{status_of(service, job)[process][0]}/environ").read_bytes().decode()
        assert "s3cret" not in environment
        assert "AIOPS_DATASETS_DIR=/data/sets" in environment and "token-of-mlflow" in environment
    service.client.request("DELETE", f"models/train/{job}")


def test_what_a_job_writes_is_for_its_user_alone(service: Any) -> None:
    job = service.client.post("models/train", {"seed": 0}).json()["job_id"]
    wait(service.client, job, "succeeded")
    folder = service.state / "jobs"
    open_ones = [p for p in (folder, *folder.rglob("*")) if p.stat().st_mode & 0o077]
    assert open_ones == []


def test_on_a_full_disk_no_job_starts_and_a_running_one_is_not_lost(disk: Disk, service: Any) -> None:
    job = service.client.post("models/train", {"seed": 1}).json()["job_id"]
    wait(service.client, job, "running")
    while not service.client.get(f"models/train/{job}").json()["progress"]:
        # What it has to say first must still find room.
        time.sleep(0.05)
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


def test_a_jobs_progress_and_error_hold_no_credentials(service: Any) -> None:
    job = service.client.post("models/train", {"seed": 7}).json()["job_id"]
    failed = wait(service.client, job, "failed")
    assert failed["error"] == "cannot connect to postgresql://***@db/mlflow"
