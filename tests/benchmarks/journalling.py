"""What the journal costs: requests per second of ``predict/threat`` with it against without it, in one run.

Run ``python tests/benchmarks/journalling.py``. Two services of the same model run as ``aiops serve`` runs them, one with
``AIOPS_JOURNAL=off``; the load goes to one and the other in turns, and the median of the ratios of neighbouring turns counts.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import serving

PORTS = {"on": 8165, "off": 8166}
TARGET = 0.95


def start(name: str, folder: Path, uri: str, replicas: int) -> subprocess.Popen[bytes]:
    """Start a service with the journal on or off."""
    environment = os.environ | {
        "AIOPS_JOURNAL": name, "AIOPS_STATE_DIR": str(folder / name), "MLFLOW_TRACKING_URI": uri,
    }  # fmt: skip
    command = [sys.executable, "-m", "serve_app", "--port", str(PORTS[name]), "--replicas", str(replicas)]
    return subprocess.Popen(command, env=environment, cwd=serving.ROOT, stdout=subprocess.DEVNULL)


def measure(folder: Path, rounds: int, seconds: float, replicas: int) -> dict[int, list[tuple[float, float]]]:
    """Return requests per second with and without the journal of every round, by connections."""
    from aiops_core import files
    from serve_app.guard import keys

    uri = f"sqlite:///{folder}/mlflow.db"
    serving.register(folder / "threat", uri)
    made = {}
    for name in PORTS:
        files.private_folder(folder / name)
        made[name] = keys.add(folder / name / "keys.json", "benchmark", ["predict"], rate=1e6)
    urls = {name: f"http://127.0.0.1:{port}{serving.PATHS['service']}" for name, port in PORTS.items()}
    services = []
    found: dict[int, list[tuple[float, float]]] = {1: [], 16: []}
    try:
        for name in PORTS:
            services.append(start(name, folder, uri, replicas))
            serving._wait(urls[name], made[name], 400)
            serving.load(urls[name], 4, 2.0, made[name])
        for k in range(rounds):
            for connections, rows in found.items():
                rate = {
                    name: serving.load(urls[name], connections, seconds, made[name])["rps"]
                    for name in (("on", "off"), ("off", "on"))[k % 2]
                }
                rows.append((rate["on"], rate["off"]))
                print(f"{connections:2} connections: on {rate['on']:.0f}/s, off {rate['off']:.0f}/s", flush=True)
    finally:
        for service in services:
            service.send_signal(signal.SIGINT)
        for service in services:
            service.wait(timeout=90)
    from aiops_core import journal

    kept = len(journal.read(folder / "on", "threat", columns=["row"]))
    print(
        f"{kept} records in the journal, {sum(p.stat().st_size for p in folder.glob('on/journal/*/*.*')) / 2**20:.1f} MB"
    )
    return found


def main() -> int:
    """Measure and print; exit code 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--replicas", type=int, default=serving.REPLICAS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as name:
        serving.train(Path(name) / "threat", 4000)
        found = measure(Path(name), options.rounds, options.seconds, options.replicas)
    medians = {at: statistics.median(on / off for on, off in rows) for at, rows in found.items()}
    for at, ratio in medians.items():
        print(f"{at} connections: {ratio:.3f} of the throughput without the journal (target {TARGET})")
    return 0 if min(medians.values()) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
