"""The real service: Ray Serve, HAProxy, two replicas, the registry's follower."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import Running, serve
from prometheus_client.parser import text_string_to_metric_families
from test_requests import SNAPSHOT, THREAT, _rows, check_envelope

from aiops_core import servable

pytestmark = pytest.mark.serve
THREAT_MODEL = "threat_detector"


def wait(condition: Callable[[], bool], seconds: float) -> float:
    """Return the seconds until a condition held."""
    started = time.time()
    while time.time() - started < seconds:
        if condition():
            return time.time() - started
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def total(running: Running, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(running.http.get("metrics").text)
    samples = [s for f in families for s in f.samples if s.name == name and labels.items() <= s.labels.items()]
    return sum(s.value for s in samples)


def serving_processes(running: Running) -> dict[int, str]:
    """Pid to name of the replicas and the follower of this service."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        ours = str(running.state).encode() in environment
        if ours and ("ray::ServeReplica" in name or "serve_app.champions.follower" in name):
            found[int(folder.name)] = name
    return found


def descendants(pid: int) -> dict[int, str]:
    """Pid to command line of all processes below one."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            names[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: names[child] for child in found - {pid}}


def haproxies(pid: int) -> dict[int, Path]:
    """Pid to configuration file of the HAProxy processes below one."""
    return {
        child: Path(name.split(" -f ")[1].split()[0])
        for child, name in descendants(pid).items()
        if "/haproxy " in name and " -f " in name
    }


def listening(pid: int) -> set[str]:
    """Addresses that a process listens on, as `ip:port`."""
    sockets = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(str(handle.readlink()))
    found = set()
    for name, words in (("tcp", 1), ("tcp6", 4)):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] != "0A" or f"socket:[{fields[9]}]" not in sockets:
                continue
            address, port = fields[1].split(":")
            parts = [int(address[i * 8 : i * 8 + 8], 16).to_bytes(4, sys.byteorder) for i in range(words)]
            found.add(f"{ipaddress.ip_address(b''.join(parts))}:{int(port, 16)}")
    return found


def test_haproxy_listens_on_loopback_only_and_nobody_else_can_command_it(running: Running) -> None:
    ((pid, config),) = haproxies(running.process.pid).items()
    addresses = listening(pid)
    assert len(addresses) == 3 and running.url.removeprefix("http://") in addresses
    for address in addresses:
        assert ipaddress.ip_address(address.rsplit(":", 1)[0]).is_loopback, address
    assert (config.parent / "admin.sock").stat().st_mode & 0o077 == 0
    assert config.parents[1].stat().st_mode & 0o777 == 0o700


def test_every_port_of_the_running_service_listens_on_loopback(running: Running) -> None:
    found = {}
    for pid, name in {running.process.pid: "serve", **descendants(running.process.pid)}.items():
        with contextlib.suppress(OSError):
            found[name[:80]] = listening(pid)
    # The head process, the raylet, the agents, the controller, two replicas and HAProxy.
    assert len({address for addresses in found.values() for address in addresses}) > 12
    elsewhere = {}
    for name, addresses in found.items():
        ips = {address: ipaddress.ip_address(address.rsplit(":", 1)[0]) for address in addresses}
        inside = {a for a, ip in ips.items() if (getattr(ip, "ipv4_mapped", None) or ip).is_loopback}
        elsewhere |= {name: addresses - inside} if addresses - inside else {}
    assert elsewhere == {}


def test_the_state_folder_and_what_starts_are_for_the_user_of_the_service_alone(running: Running) -> None:
    paths = [running.state, *running.state.rglob("*")]
    assert len(paths) > 10
    assert [str(path) for path in paths if path.stat().st_mode & 0o077] == []
    token = Path.home() / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    for pid, name in serving_processes(running).items():
        environment = (Path("/proc") / str(pid) / "environ").read_bytes()
        assert ("follower" in name) != (b"AIOPS_WEBHOOK_SECRET" in environment), name


def test_a_killed_haproxy_is_replaced_within_seconds(running: Running) -> None:
    ((pid, _),) = haproxies(running.process.pid).items()
    os.kill(pid, signal.SIGKILL)

    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{running.url}/api/v3/aiops/health", trust_env=False, timeout=2).status_code == 200
        return False

    wait(lambda: pid not in haproxies(running.process.pid), 5)
    # Ray's own pace is 28 s.
    wait(answers, 15)


@pytest.mark.slow
def test_after_a_kill_the_next_service_ends_what_was_left_and_nothing_else(registry: str, tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        with serve(tmp_path, registry, "--replicas", "1") as killed:
            port = int(killed.url.rsplit(":", 1)[1])
            ((haproxy, config),) = haproxies(killed.process.pid).items()
            # All at once, as a kill of the process group or for want of memory does: nobody is left to clean up.
            below = descendants(killed.process.pid)
            ray = [pid for pid, name in below.items() if "raylet" in name or "gcs_server" in name or "ray::" in name]
            assert len(ray) > 5
            for pid in (killed.process.pid, *ray):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed.process.wait()
            time.sleep(1)
            assert str(config) in Path(f"/proc/{haproxy}/cmdline").read_text()
        with serve(tmp_path, registry, "--replicas", "1", port=port) as again:
            assert again.post("predict/threat", THREAT).status_code == 200
            assert "that an earlier service left behind" in again.output.read_text()
            assert not Path(f"/proc/{haproxy}").exists() and not config.exists()
            assert bystander.poll() is None
        assert not list((tmp_path / "state").rglob("services/*.json"))
    finally:
        bystander.kill()
        bystander.wait()


def test_the_service_is_healthy_with_five_models(running: Running) -> None:
    health = running.http.get("health").json()
    assert health["status"] == "healthy" and health["ready"]
    assert len(running.http.get("models/status").json()["models"]) == 5
    text = running.output.read_text()
    assert "curl" in text and "/docs" in text


def test_the_usual_requests_are_answered(running: Running) -> None:
    failure = running.post("predict/failure", {"resource_id": "server-01", "metrics": SNAPSHOT}).json()
    check_envelope(failure)
    assert failure["model"]["kind"] == "rule_based"
    threat = running.post("predict/threat", THREAT).json()
    check_envelope(threat)
    assert threat["prediction"] != "normal" and threat["severity"] in ("high", "critical")
    capacity = running.post(
        "predict/capacity", {"resource_id": "s", "historical_data": {"cpu_usage": [50, 60]}, "forecast_days": 7}
    ).json()
    check_envelope(capacity)


def test_documentation_and_schema_stand_at_the_root(running: Running) -> None:
    with httpx.Client(base_url=running.url, trust_env=False) as http:
        assert "docs/swagger-ui-bundle.js" in http.get("/docs").text
        assert len(http.get("/docs/swagger-ui-bundle.js").content) > 1_000_000
        assert http.get("/schema").json()["openapi"] == "3.1.0"


def test_a_batch_of_ten_thousand_equals_single_rows_and_the_servable(
    running: Running, servables: dict[str, Path]
) -> None:
    rows = _rows(10_000, seed=2)
    answers = running.post("predict/threat", {"instances": rows}).json()["predictions"]
    loaded: Any = servable.load(servables["threat"])
    p = loaded.predict(loaded.encode(rows))
    found = np.array([[a["probabilities"][c] for c in loaded.classes] for a in answers])
    assert np.abs(found - p).max() < 2e-6
    for i in range(0, 10_000, 400):
        single = running.post("predict/threat", rows[i]).json()
        assert single["probability"] == pytest.approx(answers[i]["probability"], abs=2e-6)


def test_snapshots_fill_one_window_over_both_replicas(running: Running) -> None:
    kinds = []
    for i in range(25):
        body = {"resource_id": "both", "metrics": {**SNAPSHOT, "cpu_usage": 30 + i}}
        # A connection each: the proxy spreads connections over the replicas.
        with httpx.Client(trust_env=False) as http:
            kinds.append(http.post(f"{running.url}/api/v3/aiops/predict/failure", json=body).json()["model"]["kind"])
    assert kinds == ["rule_based"] * 23 + ["lstm"] * 2


def test_metrics_are_the_sum_over_replicas_whoever_answers(running: Running) -> None:
    before = total(running, "aiops_predictions_total", task="threat")
    for _ in range(20):
        with httpx.Client(trust_env=False) as http:
            http.post(f"{running.url}/api/v3/aiops/predict/threat", json=THREAT)
    assert total(running, "aiops_predictions_total", task="threat") == before + 20
    replicas = {
        s.labels["replica"]
        for f in text_string_to_metric_families(running.http.get("metrics").text)
        for s in f.samples
        if s.name == "aiops_model_info" and s.labels["model"] == THREAT_MODEL
    }
    assert len(replicas) == 2


def test_no_serving_process_imports_tensorflow_and_each_is_small(running: Running) -> None:
    found = serving_processes(running)
    assert sum("ingress" in name for name in found.values()) == 2 and any(
        "champions.follower" in name for name in found.values()
    )
    for pid, name in found.items():
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "tensorflow" not in maps and "keras" not in maps, name
        resident = next(
            int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line
        )
        assert resident < 400 * 1024, (name, resident)


def test_promotion_and_rollback_under_load_fail_nothing_and_are_visible_within_five_seconds(running: Running) -> None:
    stop = threading.Event()
    statuses: list[int] = []

    def load() -> None:
        with httpx.Client(trust_env=False, timeout=30) as http:
            while not stop.is_set():
                statuses.append(http.post(f"{running.url}/api/v3/aiops/predict/threat", json=THREAT).status_code)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for route, body, version in (
            ("models/rollback", {"name": THREAT_MODEL}, "1"),
            ("models/promote", {"name": THREAT_MODEL, "version": 2}, "2"),
        ):
            answer = running.post(route, body)
            assert answer.status_code == 200, answer.text

            def everywhere(version: str = version) -> bool:
                return all(running.version(THREAT_MODEL) == version for _ in range(6))

            wait(everywhere, 5)
        # From outside, as `aiops models promote` or MLflow's own pages do it.
        code = f"from aiops_core import tracking; tracking.promote('{THREAT_MODEL}', 1)"
        subprocess.run(
            [sys.executable, "-c", code], check=True, env={"MLFLOW_TRACKING_URI": running.uri, "PATH": "/usr/bin:/bin"}
        )
        wait(lambda: all(running.version(THREAT_MODEL) == "1" for _ in range(6)), 5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200} and len(statuses) > 100
    assert running.post("models/promote", {"name": THREAT_MODEL, "version": 2}).status_code == 200


def test_what_the_registry_refuses_is_said(running: Running) -> None:
    assert running.post("models/promote", {"name": THREAT_MODEL, "version": 99}).status_code == 404
    assert running.post("models/rollback", {"name": "capacity_forecaster"}).status_code == 409
    assert running.post("models/register", {"name": THREAT_MODEL, "run_id": "0" * 32}).status_code == 404
    versions = running.http.get("models/versions").json()["versions"]
    assert {v["version"] for v in versions if v["name"] == THREAT_MODEL} == {1, 2}


def test_every_answer_has_one_request_id_through_the_proxy_too(running: Running) -> None:
    given: list[dict[str, Any]] = [{}, {"x-request-id": "abc-1"}, {"x-request-id": b"\xff"}]
    given += [{"x-request-timeout-seconds": b"\xff"}, {"x-request-id": "a b"}]
    for headers in given:
        answers = [
            running.http.get("health", headers=headers),
            running.http.get("nothing", headers=headers),
            running.http.get("predict/threat", headers=headers),
            running.http.post("predict/threat", content=b"{}", headers=headers),
            running.http.post("predict/threat", json={"xss": 1}, headers=headers),
            running.http.post("predict/threat", json=THREAT, headers=headers),
        ]
        assert [a.status_code for a in answers] == [200, 404, 405, 415, 422, 200], headers
        for answer in answers:
            (name,) = answer.headers.get_list("x-request-id")
            assert name == "abc-1" if headers.get("x-request-id") == "abc-1" else name not in ("", "a b")
        (name,) = answers[-1].headers.get_list("x-request-id")
        assert answers[-1].json()["request_id"] == name


def test_bad_requests_are_refused_through_the_proxy_too(running: Running) -> None:
    assert running.post("predict/threat", {"xss": 1}).status_code == 422
    assert running.http.post("predict/threat", content=b"{").status_code == 415
    assert running.http.get("nothing").headers["content-type"] == "application/problem+json"
    assert (
        running.http.post(
            "predict/threat", content=b" " * (65 << 20), headers={"content-type": "application/json"}
        ).status_code
        == 413
    )


@pytest.mark.slow
def test_a_small_training_job_runs_end_to_end(running: Running) -> None:
    body = {"models": ["threat_detector"], "use_synthetic_data": True, "n_samples": 600, "trials": 1, "seed": 5}
    answer = running.post("models/train", body)
    assert answer.status_code == 202
    job = answer.json()["job_id"]
    assert running.post("models/train", body).status_code == 409

    def ended() -> bool:
        return running.http.get(f"models/train/{job}").json()["status"] not in ("queued", "running")

    wait(ended, 600)
    found = running.http.get(f"models/train/{job}").json()
    assert found["status"] == "succeeded", found
    assert found["result"]["threat"]["gate"]["decision"] in ("champion", "challenger", "refused")


def test_a_taken_port_is_said_in_one_sentence(running: Running) -> None:
    port = running.url.rsplit(":", 1)[1]
    found = subprocess.run(
        [sys.executable, "-m", "serve_app", "--port", port],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    assert found.returncode == 2 and found.stdout == ""
    assert f"port {port} on 127.0.0.1 is taken" in found.stderr and "Traceback" not in found.stderr


@pytest.mark.slow
def test_models_in_deployments_of_their_own_answer_the_same(running: Running, registry: str, tmp_path: Path) -> None:
    with serve(tmp_path, registry, "--placement", "deployments", "--replicas", "1") as apart:
        here, there = (service.post("predict/threat", THREAT).json() for service in (running, apart))
        assert here["probabilities"] == there["probabilities"]
        assert apart.post("predict/threat", {"xss": 1}).json()["errors"][0]["path"] == "$.xss"
        assert len(apart.http.get("models/status").json()["models"]) == 5
        assert apart.http.get("health").json()["ready"]
        assert total(apart, "aiops_predictions_total", task="threat") == 1
        process = apart.process
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=90) == 0
        assert serving_processes(apart) == {}
