"""What journal and shadow cost: requests per second of ``predict/threat`` with them against without, in one run.

Run ``python tests/benchmarks/journalling.py``. Three services of the same model run as ``aiops serve`` runs them: without a
journal, with it, and with it and a second version as shadow. The load goes to each in turn, and the median over rounds of the
ratios within a round counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import serving

PORTS = {"off": 8165, "journal": 8166, "shadow": 8167}
TARGETS = {"journal": 0.95, "shadow": 0.80}
TITLES = {"journal": "journal", "shadow": "journal and shadow"}
Rates = dict[str, float]


def prepare(folder: Path) -> dict[str, str]:
    """Return an MLflow store for each service, one with the same servable once more as shadow."""
    from aiops_core import tracking
    from aiops_core.facts import MODELS

    plain = f"sqlite:///{folder}/mlflow.db"
    serving.register(folder / "threat", plain)
    shutil.copy(folder / "mlflow.db", folder / "shadow.db")
    beside = f"sqlite:///{folder}/shadow.db"
    os.environ["MLFLOW_TRACKING_URI"] = beside
    search = tracking.open_search("threat", folder / "again", name="benchmark", params={}, tags={})
    uri = tracking.log_servable(search.run_id, folder / "clean")
    second = tracking.register("threat", search.run_id, None, model_uri=uri)
    tracking.set_companion(MODELS["threat"], "shadow", second.version)
    return {"off": plain, "journal": plain, "shadow": beside}


def start(name: str, folder: Path, uri: str, replicas: int) -> subprocess.Popen[bytes]:
    """Start one of the services."""
    environment = os.environ | {
        "AIOPS_JOURNAL": "off" if name == "off" else "on",
        "AIOPS_STATE_DIR": str(folder / name),
        "MLFLOW_TRACKING_URI": uri,
    }
    command = [sys.executable, "-m", "serve_app", "--port", str(PORTS[name]), "--replicas", str(replicas)]
    return subprocess.Popen(command, env=environment, cwd=serving.ROOT, stdout=subprocess.DEVNULL)


def measure(folder: Path, rounds: int, seconds: float, replicas: int) -> dict[int, list[Rates]]:
    """Return requests per second of each service in every round, by connections."""
    from aiops_core import files
    from serve_app.guard import keys

    stores, made = prepare(folder), {}
    for name in PORTS:
        files.private_folder(folder / name)
        made[name] = keys.add(folder / name / "keys.json", "benchmark", ["predict"], rate=1e6)
    urls = {name: f"http://127.0.0.1:{port}{serving.PATHS['service']}" for name, port in PORTS.items()}
    services = []
    found: dict[int, list[Rates]] = {1: [], 16: []}
    try:
        for name in PORTS:
            services.append(start(name, folder, stores[name], replicas))
            serving._wait(urls[name], made[name], 400)
            serving.load(urls[name], 4, 2.0, made[name])
        names = list(PORTS)
        for k in range(rounds):
            for connections, rows in found.items():
                turn = names[k % 3 :] + names[: k % 3]
                rows.append({name: serving.load(urls[name], connections, seconds, made[name])["rps"] for name in turn})
                print(f"{connections:2} connections:", {name: round(rows[-1][name]) for name in names}, flush=True)
    finally:
        for service in services:
            service.send_signal(signal.SIGINT)
        for service in services:
            service.wait(timeout=90)
    return found


def ratios(found: dict[int, list[Rates]], name: str) -> dict[int, float]:
    """Return the median share of the throughput without a journal, by connections."""
    return {at: statistics.median(row[name] / row["off"] for row in rows) for at, rows in found.items()}


def render(found: dict[int, list[Rates]], seconds: float, kept: str) -> str:
    """Return the page."""
    rounds = len(next(iter(found.values())))
    lines = [
        "# What journal and shadow cost",
        "",
        f"`python tests/benchmarks/journalling.py`: `predict/threat` with a key, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, three services up at the same time and loaded in turn, {rounds} rounds of "
        f"{seconds:g} s, load from the same cores. Shares are medians over rounds of what was reached of the service "
        "without a journal in the same round.",
        "",
        "| with | 1 connection | 16 connections | target |",
        "| --- | --- | --- | --- |",
    ]
    for name, title in TITLES.items():
        share = ratios(found, name)
        lines.append(f"| {title} | {share[1]:.3f} | {share[16]:.3f} | ≥ {TARGETS[name]:.2f} |")
    rates = {
        name: " and ".join(f"{statistics.median(r[name] for r in rows):.0f}" for rows in found.values())
        for name in PORTS
    }
    lines += [
        "",
        f"Requests a second at 1 and 16 connections, medians: {rates['off']} without, {rates['journal']} with the ",
    ]
    lines[-1] += f"journal, {rates['shadow']} with journal and shadow. {kept}"
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and print; exit code 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--replicas", type=int, default=serving.REPLICAS)
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as name:
        folder = Path(name)
        serving.train(folder / "threat", 4000)
        found = measure(folder, options.rounds, options.seconds, options.replicas)
        from aiops_core import journal

        frame = journal.read(folder / "shadow", "threat", columns=["row", "shadow_version"])
        heard = int(frame["shadow_version"].notna().sum())
        kept = f"The service with a shadow kept {len(frame):,} records, {heard:,} of them with the shadow's answer."
    text = render(found, options.seconds, kept)
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    return 0 if all(min(ratios(found, name).values()) >= TARGETS[name] for name in TARGETS) else 1


if __name__ == "__main__":
    sys.exit(main())
