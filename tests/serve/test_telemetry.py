"""Metrics: parsed by the Prometheus parser, moving as they should, and right over several processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Disk, Service, point
from prometheus_client.parser import text_string_to_metric_families

from aiops_core.facts import MODELS
from serve_app.operations.catalogue import CATALOGUE, listing
from serve_app.operations.telemetry import BUCKETS, Metrics

ROOT = Path(__file__).parents[2]


def total(metrics: Metrics, name: str) -> float | None:
    """Return the sum of all samples of a name, or None if there is none."""
    families = text_string_to_metric_families(metrics.render().decode())
    found = [sample.value for family in families for sample in family.samples if sample.name == name]
    return sum(found) if found else None


def test_the_names_of_the_replaced_system_are_there_from_the_start(make_service: Any) -> None:
    found = {f.name for f in text_string_to_metric_families(make_service().client.get("metrics").body.decode())}
    assert {
        "aiops_predictions",
        "aiops_anomalies_detected",
        "aiops_remediations_executed",
        "aiops_uptime_seconds",
    } <= found


def test_predictions_requests_and_latencies_move_together(shared: Service) -> None:
    labels = {"task": "threat", "kind": "random_forest"}
    before = shared.total("aiops_predictions_total", **labels)
    requests = shared.total("aiops_requests_total", route="predict/threat", status="200")
    observed = shared.total("aiops_request_seconds_count", route="predict/threat")
    for _ in range(3):
        shared.client.post("predict/threat", {"xss_score": 0.5})
    shared.client.post("predict/threat", {"instances": [{"xss_score": 0.5}] * 4})
    shared.client.post("predict/threat", {"xss_score": "x"})
    assert shared.total("aiops_predictions_total", **labels) == before + 7
    assert shared.total("aiops_requests_total", route="predict/threat", status="200") == requests + 4
    assert shared.total("aiops_request_seconds_count", route="predict/threat") == observed + 5


def test_buckets_are_cumulative_and_agree_with_the_count(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, flush=False)
    histogram = metrics.histogram("aiops_request_seconds", route="r")
    for seconds in (0.0001, 0.003, 0.003, 99):
        histogram.observe(seconds)
    families = {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}
    samples = families["aiops_request_seconds"].samples
    buckets = [s.value for s in samples if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets) and len(buckets) == len(BUCKETS) + 1
    assert buckets[-1] == next(s.value for s in samples if s.name.endswith("_count")) == 4


def test_any_replica_answers_the_sum_of_all_and_the_dead_stay_counted(tmp_path: Path) -> None:
    here = Metrics(tmp_path, flush=False)
    here.counter("aiops_predictions_total", task="threat").inc(2)
    code = (
        "import sys; from pathlib import Path; from serve_app.operations.telemetry import Metrics; m = Metrics(Path(sys.argv[1]));"
        "m.counter('aiops_predictions_total', task='threat').inc(5); m.gauge('aiops_registry_up', replica=m.replica).set(1);"
        "print('ready', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert other.stdout is not None and other.stdin is not None
    assert other.stdout.readline() == b"ready\n"
    assert total(here, "aiops_predictions_total") == 7
    assert total(here, "aiops_registry_up") == 1
    other.stdin.close()
    other.wait()
    other.stdout.close()
    assert total(here, "aiops_predictions_total") == 7
    assert total(here, "aiops_registry_up") is None


COUNT = """
import sys; from pathlib import Path; from serve_app.operations.telemetry import Metrics
m = Metrics(Path(sys.argv[1]), flush=False)
m.counter("aiops_predictions_total", task="threat").inc(5)
m.histogram("aiops_request_seconds", route="r").observe(0.002)
"""


def ended(folder: Path, processes: int) -> None:
    """Have some processes count five predictions and one request each, and end."""
    for _ in range(processes):
        subprocess.run([sys.executable, "-c", COUNT, str(folder)], check=True, cwd=ROOT)


def test_the_files_of_ended_processes_become_one_and_nothing_is_lost(tmp_path: Path) -> None:
    here = Metrics(tmp_path, flush=False)
    here.counter("aiops_predictions_total", task="threat").inc(2)
    for round_ in (1, 2):
        ended(tmp_path, 2)
        assert total(here, "aiops_predictions_total") == 2 + 10 * round_
        here.fold()
        here.fold()
        assert total(here, "aiops_predictions_total") == 2 + 10 * round_
        assert total(here, "aiops_request_seconds_count") == 2 * round_
        # Three of this process, and one of each type for all that have ended.
        assert len(list(tmp_path.glob("*.db"))) == 5
    here.counter("aiops_predictions_total", task="threat").inc()
    assert total(here, "aiops_predictions_total") == 23


def test_a_fold_that_was_cut_off_counts_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Metrics(tmp_path, flush=False)
    ended(tmp_path, 2)
    # Killed after the sums were written and before the old files were removed, then before the sums counted.
    monkeypatch.setattr("serve_app.operations.ended._remove", lambda folder: None)
    here.fold()
    assert total(here, "aiops_predictions_total") == 10
    ended(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr("serve_app.operations.ended.write_json", lambda path, content: None)
        here.fold()
    assert total(here, "aiops_predictions_total") == 15
    monkeypatch.undo()
    here.fold()
    assert total(here, "aiops_predictions_total") == 15 and len(list(tmp_path.glob("*.db"))) == 5


def test_a_living_process_of_another_node_keeps_its_gauges_however_idle_it_is(tmp_path: Path) -> None:
    here = Metrics(tmp_path, flush=False)
    other = Metrics(tmp_path, flush=False)
    other.gauge("aiops_registry_up", replica="other").set(1)
    for path in tmp_path.glob("*.db"):
        name = path.name.replace(socket.gethostname(), "node-2")
        if other.replica in path.name:
            path.rename(path.with_name(name))
            os.utime(path.with_name(name), (0, 0))
    here.fold()
    assert total(here, "aiops_registry_up") == 1


def test_every_sample_is_of_the_catalogue_with_its_labels_and_the_readme_shows_it(
    make_service: Any, servables: Any, tmp_path: Path
) -> None:
    point(tmp_path / "state", {MODELS[task]: (path, "1") for task, path in servables.items()})
    service = make_service()
    for path, body in (("predict/threat", {"xss_score": 0.5}), ("predict/threat", {"xss_score": "x"}), ("nothing", {}),
                       ("remediate", {"action": "scale_horizontal", "resource_id": "a", "dry_run": False})):  # fmt: skip
        service.client.post(path, body)
    seen = set()
    for key in service.samples():
        name, labels = key.split("{", 1)
        family = next(n for n in CATALOGUE if n in (name, name.removesuffix("_bucket").removesuffix("_sum")
                                                    .removesuffix("_count")))  # fmt: skip
        seen.add(family)
        allowed = {*CATALOGUE[family].labels, *(["le"] if CATALOGUE[family].kind == "histogram" else [])}
        assert json.loads("{" + labels).keys() <= allowed, key
    assert seen > {"aiops_model_seconds", "aiops_refusals_total", "aiops_jobs", "aiops_requests_in_flight"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert listing() in readme, "print it with python -m serve_app.operations.catalogue"


def test_refusals_are_counted_by_reason_and_limits_apart(make_service: Any) -> None:
    service = make_service()
    service.client.post("predict/threat", {"xss_score": 0.5})
    service.client.get("nothing")
    headers = {"content-length": str(1 << 40)}
    service.client.request("POST", "predict/threat", {}, headers=headers)
    refused = {route: service.total("aiops_refusals_total", route=route) for route in ("predict/threat", "unknown")}
    assert refused == {"predict/threat": 2, "unknown": 1}
    assert service.total("aiops_refusals_total", reason="not_available") == 1
    assert (
        service.total("aiops_refusals_total", reason="body") == service.total("aiops_limits_total", limit="body") == 1
    )
    assert service.total("aiops_limits_total") == 1
    # The one that asks.
    assert service.total("aiops_requests_in_flight") == 1


def test_a_model_is_timed_by_its_version(make_service: Any, servables: dict[str, Path], tmp_path: Path) -> None:
    point(tmp_path / "state", {MODELS["threat"]: (servables["threat"], "7")})
    service = make_service()
    before = service.total("aiops_model_seconds_count", version="7")
    service.client.post("predict/threat", {"instances": [{"xss_score": 0.5}] * 3})
    assert service.total("aiops_model_seconds_count", model="threat_detector", version="7") == before + 1


def test_a_job_whose_process_is_gone_is_lost_in_the_metrics_too(make_service: Any, tmp_path: Path) -> None:
    service = make_service()
    folder = tmp_path / "state" / "jobs" / "0123456789ab"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"job_id": folder.name, "created": 1.0}))
    (folder / "status.json").write_text(json.dumps({"status": "running", "pid": 1 << 30, "host": os.uname().nodename}))
    os.utime(folder / "status.json", (1, 1))
    assert service.total("aiops_jobs", state="lost") == 1 and service.total("aiops_jobs") == 1


def test_every_metric_of_the_catalogue_is_described_once_before_anything_is_counted(make_service: Any) -> None:
    service = make_service()
    service.metrics.counter("aiops_jobs_total", event="started").inc()
    families = list(text_string_to_metric_families(service.client.get("metrics").body.decode()))
    kinds = [(f.name + ("_total" if f.type == "counter" else ""), f.type) for f in families]
    assert kinds == [(name, family.kind) for name, family in CATALOGUE.items()]
    # A gauge and a counter that differ in the ending only.
    assert service.total("aiops_jobs_total", event="started") == 1 and service.total("aiops_jobs") == 0


def test_strange_labels_neither_break_the_text_nor_a_request(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, flush=False)
    for i in range(5000):
        metrics.counter("aiops_errors_total", route=f"{i}").inc()
    metrics.counter("aiops_errors_total", route='a"b\n\\', type="x" * 900).inc()
    list(text_string_to_metric_families(metrics.render().decode()))


def test_a_full_disk_ends_no_process_and_its_numbers_are_counted_in_memory(disk: Disk) -> None:
    here = Metrics(disk.path / "metrics", flush=False)
    here.counter("aiops_predictions_total", task="threat").inc(2)
    files = set((disk.path / "metrics").iterdir())
    disk.fill()
    code = """
import os
import sys
from pathlib import Path
from serve_app.operations.telemetry import Metrics
m = Metrics(Path(sys.argv[1]))
for i in range(3000):
    m.counter("aiops_errors_total", route=str(i)).inc()
m.counter("aiops_predictions_total", task="threat").inc(5)
m.gauge("aiops_registry_up", replica=m.replica).set(1)
here = list(Path("/dev/shm").glob(f"aiops-metrics-{os.getpid()}-*"))
print(b'aiops_predictions_total{task="threat"} 7.0' in m.render(), b"aiops_registry_up" in m.render(), *here)
"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(disk.path / "metrics")], capture_output=True, text=True, cwd=ROOT
    )
    assert found.returncode == 0, found
    assert found.stdout.split()[:2] == ["True", "True"]
    (memory,) = found.stdout.split()[2:]
    assert "counted in its memory only" in found.stderr and "No space left" in found.stderr
    assert set((disk.path / "metrics").iterdir()) == files
    assert total(here, "aiops_predictions_total") == 2
    assert not Path(memory).exists()


def test_the_next_process_that_counts_in_memory_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    code = """
import os, sys; from pathlib import Path; from serve_app.operations.telemetry import Metrics
open(sys.argv[1], "w").close()
m = Metrics(Path(sys.argv[1]))
print(m._folders[-1], flush=True); sys.stdin.read()
"""

    def start(name: str) -> tuple[subprocess.Popen[bytes], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, cwd=ROOT,
        )  # fmt: skip
        assert process.stdout is not None
        return process, Path(process.stdout.readline().decode().strip())

    killed, first = start("a")
    living, second = start("b")
    killed.kill()
    killed.wait()
    third, folder = start("c")
    assert not first.exists() and second.exists() and folder.exists()
    for process in (living, third):
        process.communicate()
    assert not second.exists() and not folder.exists()


def test_counting_is_cheap(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, flush=False)
    slot, histogram = metrics.counter("aiops_errors_total"), metrics.histogram("aiops_request_seconds", route="r")
    started = time.process_time()
    for _ in range(20_000):
        slot.inc()
        histogram.observe(0.002)
    assert (time.process_time() - started) / 20_000 < 20e-6
