"""Metrics: parsed by the Prometheus parser, moving as they should, and right over several processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from conftest import Disk, Service
from prometheus_client.parser import text_string_to_metric_families

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
import sys
from pathlib import Path
from serve_app.operations.telemetry import Metrics
m = Metrics(Path(sys.argv[1]))
for i in range(3000):
    m.counter("aiops_errors_total", route=str(i)).inc()
m.counter("aiops_predictions_total", task="threat").inc(5)
m.gauge("aiops_registry_up", replica=m.replica).set(1)
print(b'aiops_predictions_total{task="threat"} 7.0' in m.render(), b"aiops_registry_up" in m.render())
"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(disk.path / "metrics")], capture_output=True, text=True, cwd=ROOT
    )
    assert found.returncode == 0, found
    assert found.stdout.split() == ["True", "True"]
    assert "counted in its memory only" in found.stderr and "No space left" in found.stderr
    assert set((disk.path / "metrics").iterdir()) == files
    assert total(here, "aiops_predictions_total") == 2
    assert list(Path("/dev/shm").glob("aiops-metrics-*")) == []


def test_counting_is_cheap(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, flush=False)
    slot, histogram = metrics.counter("aiops_errors_total"), metrics.histogram("aiops_request_seconds", route="r")
    started = time.process_time()
    for _ in range(20_000):
        slot.inc()
        histogram.observe(0.002)
    assert (time.process_time() - started) / 20_000 < 20e-6
