"""Requests per second of ``predict/threat`` side by side with two FastAPI apps, in one run on the same cores.

Run ``python tests/benchmarks/serving.py``; everything stays on the loopback interface. The service runs as ``aiops serve``
runs it, with everything switched on: a key with a rate, validation, warnings, drivers, metrics, the registry's follower. The stacks are
measured one after the other, in several rounds, and the median round counts; wrk makes the load when it is installed,
a small asyncio client otherwise (it takes more of the machine, so its absolute numbers are lower).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pickle
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

BODY = '{"source_ip": "192.168.1.100", "failed_auth_count": 25, "request_rate": 1500, "unique_ips": 50}'
PORTS = {"fastapi_onnx": 8161, "fastapi_native": 8162, "service": 8163}
PATHS = {"fastapi_onnx": "/predict", "fastapi_native": "/predict", "service": "/api/v3/aiops/predict/threat"}
REPLICAS = min(2, os.cpu_count() or 1)
TARGETS = {"share_of_fastapi_onnx": 0.7, "times_fastapi_native": 50.0, "p50_ms_at_1": 1.5}


def train(folder: Path, n_samples: int) -> None:
    """Export a threat servable, and a native forest of 200 trees on the same rows."""
    from sklearn.ensemble import RandomForestClassifier

    from aiops_core.data import synthetic
    from aiops_core.tasks import threat

    dataset = synthetic.dataset(n_samples, seed=7, tasks=("threat",))
    data = threat.prepare(dataset, seed=7)
    threat.export(threat.finish([threat.defaults(data)[0]], data, seed=7), data, folder)
    activity = dataset.tables["activity"]
    names = [f["name"] for f in json.loads((folder / "card.json").read_text(encoding="utf-8"))["features"]]
    forest = RandomForestClassifier(200, n_jobs=-1, random_state=7)
    forest.fit(activity[names].fillna(0.0).to_numpy("float32"), activity["threat_type"].to_numpy())
    (folder / "native.pkl").write_bytes(pickle.dumps((names, forest)))


def register(folder: Path, uri: str) -> None:
    """Make the servable the champion of a registry of its own."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    from aiops_core import tracking

    tracking.prepare_store()
    search = tracking.open_search("threat", folder.parent / "search", name="benchmark", params={}, tags={})
    clean = folder.parent / "clean"
    shutil.copytree(folder, clean, ignore=shutil.ignore_patterns("*.pkl"))
    tracking.register("threat", search.run_id, "champion", model_uri=tracking.log_servable(search.run_id, clean))


def load(url: str, connections: int, seconds: float, key: str) -> dict[str, float]:
    """Return requests per second, p50 and p99 in ms, and failed requests; all stacks get the header that one looks at."""
    if shutil.which("wrk"):
        return _wrk(url, connections, seconds, key)
    return asyncio.run(_client(url, connections, seconds, key))


def _wrk(url: str, connections: int, seconds: float, key: str) -> dict[str, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f'wrk.method="POST"\nwrk.body=\'{BODY}\'\nwrk.headers["Content-Type"]="application/json"\n')
        script.write(f'wrk.headers["Authorization"]="Bearer {key}"\n')
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", script.name, url]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}

    def percentile(p: int) -> float:
        value, name = re.search(rf"{p}%\s+([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
        return float(value) * unit[name]

    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed = (int(bad[1]) if bad else 0) + (sum(map(int, broken.groups())) if broken else 0)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]
    return {"rps": rate, "p50_ms": percentile(50), "p99_ms": percentile(99), "failed": failed}


async def _client(url: str, connections: int, seconds: float, key: str) -> dict[str, float]:
    host, port, path = re.match(r"http://([^:]+):(\d+)(.*)", url).groups()  # type: ignore[union-attr]
    request = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n{BODY}"
    ).encode()
    times: list[float] = []
    failed = 0
    end = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.perf_counter() < end:
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head.lower())[1]))  # type: ignore[index]
            times.append(time.perf_counter() - started)
            failed += not head.startswith(b"HTTP/1.1 200")
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    times.sort()
    return {
        "rps": len(times) / seconds,
        "p50_ms": 1e3 * times[len(times) // 2],
        "p99_ms": 1e3 * times[int(len(times) * 0.99)],
        "failed": failed,
    }


def _wait(url: str, key: str, seconds: float = 60.0) -> None:
    headers = ["-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {key}"]
    deadline = time.time() + seconds
    while time.time() < deadline:
        try:
            load(url, 1, 0.2, key) if not shutil.which("wrk") else subprocess.run(
                ["curl", "-sf", "-o", "/dev/null", *headers, "-d", BODY, url], check=True
            )
            return
        except (OSError, subprocess.CalledProcessError, asyncio.IncompleteReadError):
            time.sleep(0.3)
    raise SystemExit(f"nothing answered at {url}")


def measure(rounds: int, seconds: float, folder: Path, replicas: int) -> dict[str, Any]:
    """Run all stacks, each alone, and return the median of every number."""
    from serve_app.guard import keys
    from serve_app.run import RunningService

    key = keys.add(folder / "state" / "keys.json", "benchmark", ["predict"], rate=1e6)
    uri = f"sqlite:///{folder}/mlflow.db"
    register(folder / "threat", uri)
    urls = {name: f"http://127.0.0.1:{PORTS[name]}{PATHS[name]}" for name in PORTS}
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {"1": [], "16": []} for name in PORTS}
    with RunningService(port=PORTS["service"], state_dir=str(folder / "state"), tracking_uri=uri, replicas=replicas):
        apps = {
            name: subprocess.Popen(
                [
                    sys.executable,
                    str(Path(__file__).with_name("apps.py")),
                    kind,
                    str(folder / "threat"),
                    str(PORTS[name]),
                ]
            )
            for name, kind in (("fastapi_onnx", "onnx"), ("fastapi_native", "native"))
        }
        try:
            for url in urls.values():
                _wait(url, key)
                load(url, 4, 1.0, key)
            for _ in range(rounds):
                for name, url in urls.items():
                    for connections in (1, 16):
                        found[name][str(connections)].append(load(url, connections, seconds, key))
        finally:
            for app in apps.values():
                app.terminate()
                app.wait()
    return {
        name: {at: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for at, runs in measured.items()}
        for name, measured in found.items()
    }


def verdict(result: dict[str, Any]) -> dict[str, float]:
    """Return the numbers that have targets."""
    at16 = {name: stack["16"]["rps"] for name, stack in result.items()}
    return {
        "share_of_fastapi_onnx": at16["service"] / at16["fastapi_onnx"],
        "times_fastapi_native": at16["service"] / at16["fastapi_native"],
        "p50_ms_at_1": result["service"]["1"]["p50_ms"],
    }


def render(result: dict[str, Any], rounds: int, seconds: float) -> str:
    """Return the table as Markdown."""
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {'wrk' if shutil.which('wrk') else 'asyncio client'}"
    lines = [
        "# Serving: `predict/threat`, side by side",
        "",
        f"`make bench`, {machine}, median of {rounds} rounds of {seconds:g} s, load from the same cores.",
        "",
        "| stack | 1 connection, 1/s | p50 ms | 16 connections, 1/s | p50 ms | p99 ms | failed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    titles = {
        "fastapi_onnx": "FastAPI + uvicorn + ONNX, nothing else",
        "fastapi_native": "FastAPI + uvicorn + native forest, `n_jobs=-1`",
        "service": "this service, everything on",
    }
    for name, stack in result.items():
        one, many = stack["1"], stack["16"]
        lines.append(
            f"| {titles[name]} | {one['rps']:.0f} | {one['p50_ms']:.2f} | {many['rps']:.0f} | {many['p50_ms']:.2f} "
            f"| {many['p99_ms']:.2f} | {one['failed'] + many['failed']:.0f} |"
        )
    numbers = verdict(result)
    lines += [
        "",
        "| measure | found | target |",
        "| --- | --- | --- |",
        f"| share of the bare FastAPI app, 16 connections | {numbers['share_of_fastapi_onnx']:.2f} | ≥ 0.7 |",
        f"| times the native forest, 16 connections | {numbers['times_fastapi_native']:.0f} | ≥ 50 |",
        f"| p50 at one connection, ms | {numbers['p50_ms_at_1']:.2f} | < 1.5 |",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print and optionally write the table; exit code 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--samples", type=int, default=4000, help="synthetic rows the models are trained on")
    parser.add_argument("--replicas", type=int, default=REPLICAS, help="of the service")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as name:
        train(Path(name) / "threat", options.samples)
        result = measure(options.rounds, options.seconds, Path(name), options.replicas)
    text = render(result, options.rounds, options.seconds)
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    numbers = verdict(result)
    missed = [key for key, target in TARGETS.items() if (numbers[key] < target) != (key == "p50_ms_at_1")]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
