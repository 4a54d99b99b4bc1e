"""Show that a redesign changes no number: record what a checkout reports and answers, and compare two recordings.

    python tests/redesign.py record FOLDER [--tree CHECKOUT]     # about ten minutes on two cores
    python tests/redesign.py compare BEFORE AFTER

A recording holds ``report.json`` of four deterministic runs, each in an empty home, and the answers of the real service
to every route, batches and errors included. Only the command line and HTTP are used, so that any two checkouts with the
same surfaces can be compared. Numbers may differ by `TOLERANCE`; times and ids do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
RUNS = {
    "synthetic": ["--n-samples", "2000", "--trials", "3"],
    "nsl-kdd": ["--trials", "2"],
    "cmapss": ["--trials", "2"],
    "azure-v1": ["--trials", "2"],
}
TOLERANCE = 1e-9
#: Times, ids and addresses.
VOLATILE = {
    "created", "wall_seconds", "seconds", "run_id", "request_id", "uptime_seconds", "replica", "loaded_at", "trained_at",
    "reached", "asked", "pid", "job_id", "location", "started", "ended", "sent_at", "id", "source", "x-request-id", "date",
    "code_version", "versions", "timestamp", "progress", "report", "command",
}  # fmt: skip
PREFIX = "/api/v3/aiops"


def environment(tree: Path, home: Path, datasets: Path) -> dict[str, str]:
    """Return the environment of a checkout's processes, with a home of their own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "AIOPS_"))}
    return {
        **kept,
        "PYTHONPATH": str(tree),
        "AIOPS_HOME": str(home),
        "AIOPS_STATE_DIR": str(home / "state"),
        "AIOPS_DATASETS_DIR": str(datasets),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}",
    }


def record(folder: Path, tree: Path, datasets: Path, only: list[str]) -> None:
    """Run the reports and ask the service of the synthetic one."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in only:
        options = RUNS[name]
        home = folder / name
        home.mkdir(parents=True)
        source = str(datasets / name) if name == "azure-v1" else name
        command = [sys.executable, "-m", "aiops_core.cli", "report", "--deterministic", "--source", source, *options]
        print(" ".join(command[2:]), flush=True)
        with open(home / "log.txt", "wb") as log:
            subprocess.run(
                [*command, "--out", str(home / "out")],
                cwd=home, env=environment(tree, home, datasets), stdout=log, stderr=log, check=True,
            )  # fmt: skip
        shutil.copy(home / "out" / "report.json", folder / f"{name}.json")
    home = folder / "synthetic"
    if not home.is_dir():
        return
    for model in ("failure_predictor", "threat_detector", "capacity_forecaster"):
        # Whatever the gate said: the answers of all three are compared.
        command = [sys.executable, "-m", "aiops_core.cli", "models", "promote", model, "1"]
        subprocess.run(command, cwd=home, env=environment(tree, home, datasets), check=False, capture_output=True)
    with service(tree, home, datasets) as url:
        (folder / "answers.json").write_text(json.dumps(ask(url), indent=1, sort_keys=True))
    for name in only:
        shutil.rmtree(folder / name)


@contextmanager
def service(tree: Path, home: Path, datasets: Path) -> Iterator[str]:
    """Serve a home's champions until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "serve_app", "--port", str(port), "--replicas", "1"]
    with open(home / "serve.txt", "wb") as log:
        process = subprocess.Popen(
            command, cwd=home, env=environment(tree, home, datasets), stdout=log, stderr=log
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while b"Ctrl-C stops it" not in (home / "serve.txt").read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((home / "serve.txt").read_text())
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=90)


def requests() -> list[tuple[str, str, Any]]:
    """Return method, path below the prefix and body of every request that is compared."""
    row = {"cpu_usage": 85.5, "memory_usage": 78.2, "disk_io": 1200, "network_errors": 15}
    activity = {"source_ip": "192.168.1.100", "failed_auth_count": 25, "request_rate": 1500, "unique_ips": 50}
    series = [{"cpu_usage": 40 + i, "memory_usage": 60 + i / 2, "response_time": 90 + 3 * i} for i in range(30)]
    history = [50 + 20 * ((i % 24) / 24) for i in range(200)]
    failures: list[Any] = [
        {"resource_id": "a", "metrics": row},
        {"resource_id": "a", "time_series": series[:24]},
        {"resource_id": "a", "time_series": series, "timestamp": "2026-01-31T12:00:00Z"},
        {"resource_id": "a", "time_series": series[:3], "timestamp": 1769860800, "explain": False},
        {"resource_id": "a", "time_series": series, "decision": {"rule": "cost", "cost_missed": 50}},
        {"resource_id": "a", "time_series": series, "decision": {"rule": "alert_budget", "alerts_per_day": 0.5}},
        {"instances": [{"resource_id": str(i), "time_series": series[i : i + 20]} for i in range(8)]},
        {"instances": [{"resource_id": "a", "time_series": series}], "explain": True},
        {"resource_id": "a"}, {"resource_id": "", "metrics": row}, {"resource_id": "a", "metrics": {"cpu_usage": 140}},
        {"resource_id": "a", "metrics": {"nonsense": 1}}, {"instances": []}, {"resource_id": 3, "metrics": row},
        {"resource_id": "a", "time_series": series, "decision": {"rule": "most"}}, [], "text", 3, None,
        {"resource_id": "a", "metrics": row, "time_series": series},
    ]  # fmt: skip
    threats: list[Any] = [
        activity, {**activity, "explain": False}, {"request_rate": 3}, {"xss_score": 0.99, "request_rate": 20},
        {"sql_injection_score": 0.9}, {"privilege_escalation_score": 0.95, "time_anomaly_score": 0.8},
        {**activity, "costs": {"ddos_attack": {"normal": 20}}}, {**activity, "costs": {"none": {"normal": 20}}},
        {"instances": [{**activity, "failed_auth_count": n} for n in range(40)]},
        {"instances": [activity, {"port_scan_score": 0.7}], "explain": True},
        {"instances": [activity], "costs": {"brute_force": {"normal": 9}}},
        {}, {"failed_auth_count": "many"}, {"xss_score": 7}, {"unknown": 1}, {"instances": 3}, {"failed_auth_count": None},
    ]  # fmt: skip
    capacities: list[Any] = [
        {"resource_id": "a", "historical_data": {"cpu_usage": history}, "forecast_days": 2},
        {"resource_id": "a", "historical_data": {"cpu_usage": history, "memory_usage": history[::-1]}},
        {"resource_id": "a", "historical_data": {"cpu_usage": history, "request_rate": history}, "forecast_days": 1},
        {"resource_id": "a", "historical_data": {"cpu_usage": [None, *history]}, "thresholds": {"cpu_usage": 70}},
        {"resource_id": "a", "historical_data": {"storage_usage": history}, "explain": False},
        {"instances": [{"resource_id": str(i), "historical_data": {"cpu_usage": history[i:]}} for i in range(6)]},
        {"resource_id": "a"}, {"resource_id": "a", "historical_data": {"nope": [1]}}, {"resource_id": "a", "forecast_days": -1},
        {"resource_id": "a", "historical_data": {"cpu_usage": []}}, {"resource_id": "a", "historical_data": {"cpu_usage": [900]}},
    ]  # fmt: skip
    for body in capacities:
        for one in body.get("instances", [body]):
            # Without timestamps the last value counts as "now", and an answer would depend on the hour.
            length = max((len(v) for v in one.get("historical_data", {}).values()), default=0)
            if length:
                last = len(history) + 1
                one["timestamps"] = [1767225600 + 3600 * i for i in range(last - length, last)]
    anomalies: list[Any] = [
        {"resource_id": "a", "metrics": {"cpu_usage": 45.0, "network_errors": 90000}},
        {"resource_id": "a", "time_series": [*series, {"cpu_usage": 99.9}]},
        {"resource_id": "a", "time_series": series, "sensitivity": 2.0, "timestamp": "2026-01-31T12:00:00Z"},
        {"instances": [{"resource_id": "a", "metrics": row}, {"resource_id": "b", "metrics": {"other": 4}}]},
        {"resource_id": "a", "metrics": {}}, {"resource_id": "a", "metrics": row, "sensitivity": 99},
    ]  # fmt: skip
    others: list[tuple[str, str, Any]] = [
        ("GET", "health", None), ("GET", "models/status", None), ("GET", "models/versions", None), ("GET", "actions", None),
        ("GET", "schema", None), ("GET", "nowhere", None), ("DELETE", "health", None), ("GET", "predict/threat", None),
        ("GET", "models/train", None), ("GET", "models/train/0123456789ab", None), ("DELETE", "models/train/none", None),
        ("POST", "models/promote", {"name": "threat_detector", "version": 99}),
        ("POST", "models/promote", {"name": "other", "version": 1}),
        ("POST", "models/rollback", {"name": "threat_detector"}),
        ("POST", "models/register", {"name": "threat_detector", "run_id": "0" * 32}),
        ("POST", "models/train", {"models": []}), ("POST", "models/train", {"trials": 0}),
        ("POST", "remediate", {"action": "scale_horizontal", "resource_id": "a"}),
        ("POST", "remediate", {"action": "scale_horizontal", "resource_id": "a", "dry_run": False}),
        ("POST", "remediate", {"action": "explode", "resource_id": "a"}),
    ]  # fmt: skip
    found = [("POST", "predict/failure", body) for body in failures]
    found += [("POST", "predict/threat", body) for body in threats]
    found += [("POST", "predict/capacity", body) for body in capacities]
    return [*found, *[("POST", "analyze/anomaly", body) for body in anomalies], *others]


def ask(url: str) -> list[Any]:
    """Return the answers to all `requests`."""
    answers = []
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for method, path, body in requests():
            content = None if body is None and method != "POST" else json.dumps(body).encode()
            headers = {"content-type": "application/json"} if method == "POST" else {}
            answer = client.request(method, f"{PREFIX}/{path}", content=content, headers=headers)
            answers.append({"request": [method, path, body], "status": answer.status_code, "body": answer.json()})
    return answers


def stable(value: Any) -> Any:
    """Drop times and ids."""
    if isinstance(value, dict):
        return {k: stable(v) for k, v in value.items() if k not in VOLATILE}
    return [stable(v) for v in value] if isinstance(value, list) else value


def differences(a: Any, b: Any, where: str = "$") -> Iterator[str]:
    """Yield every place where two recordings differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            if key not in a or key not in b:
                yield f"{where}.{key}: only {'after' if key in b else 'before'}"
            else:
                yield from differences(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{where}[{i}]")
    elif isinstance(a, float) and isinstance(b, float):
        if abs(a - b) > TOLERANCE * max(1.0, abs(a)):
            yield f"{where}: {a!r} became {b!r}"
    elif a != b:
        yield f"{where}: {str(a)[:120]!r} became {str(b)[:120]!r}"


def compare(before: Path, after: Path) -> int:
    """Print every difference; 1 if there is one."""
    total = 0
    for name in [*RUNS, "answers"]:
        if not all((folder / f"{name}.json").is_file() for folder in (before, after)):
            print(f"{name}: not recorded")
            continue
        one, other = (stable(json.loads((folder / f"{name}.json").read_text())) for folder in (before, after))
        found = list(differences(one, other))
        total += len(found)
        print(f"{name}: {len(found)} differences" + (f" in {len(one)} answers" if name == "answers" else ""))
        for line in found[:40]:
            print(f"  {line}")
    return 1 if total else 0


def main() -> int:
    """Run a sub-command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record")
    one.add_argument("folder", type=Path)
    one.add_argument("--tree", type=Path, default=ROOT)
    one.add_argument("--datasets", type=Path, default=ROOT.parent / "shared" / "datasets")
    one.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    other = commands.add_parser("compare")
    other.add_argument("before", type=Path)
    other.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.command == "compare":
        return compare(options.before, options.after)
    record(options.folder.resolve(), options.tree.resolve(), options.datasets.resolve(), options.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
