"""The faults, one function each: it does harm, waits until the service is whole again, and says in words what it found."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from aiops_core import console
from chaos.load import SNAPSHOT
from chaos.registry import Registry
from chaos.stand import Stand, wait

__all__ = ["SCENARIOS", "Context", "NotRun", "Scenario"]

THREAT = "threat_detector"
INGRESS, WINDOWS = ("ray::ServeReplica", "ingress"), ("ray::ServeReplica", "windows")
#: A small training job.
JOB = {"models": [THREAT], "use_synthetic_data": True, "n_samples": 600, "trials": 1}
CONTROLLER, FOLLOWER = ("ray::ServeController",), ("serve_app.champions.follower",)


class NotRun(Exception):
    """A fault that cannot be made on this machine."""


@dataclass
class Context:
    """What a fault may reach for.

    Attributes
    ----------
    stand : Stand
    registry : Registry or None
        Of the group ``registry``.
    store : Path
        Folder of the registry's database and artifacts.
    versions : dict of str to int
        Of the threat detector, by what they are.
    disk : Path or None
        A small disk under the state folder, of the group ``disk``.
    clock : Path or None
        File that holds how many seconds the service's clock is off, of the group ``clock``.
    """

    stand: Stand
    registry: Registry | None
    store: Path
    versions: dict[str, int]
    disk: Path | None = None
    clock: Path | None = None


def _whole(stand: Stand, *words: str, number: int = 1, without: int = 0) -> bool:
    found = stand.processes(*words)
    return len(found) >= number and without not in found


def _fill(stand: Stand, resource: str = "survivor") -> None:
    for _ in range(24):
        stand.post("predict/failure", {"resource_id": resource, "metrics": SNAPSHOT})


def _kept(stand: Stand, resource: str = "survivor") -> bool:
    answer = stand.post("predict/failure", {"resource_id": resource, "metrics": SNAPSHOT})
    return bool(answer.status_code == 200 and answer.json()["model"]["kind"] != "rule_based")


def _promote(stand: Stand, version: int) -> tuple[int, str]:
    answer = stand.post("models/promote", {"name": THREAT, "version": version})
    return answer.status_code, str(answer.json().get("detail", ""))


def replica(c: Context) -> str:
    pid = c.stand.kill(*INGRESS)
    took = wait(lambda: _whole(c.stand, *INGRESS, number=c.stand.replicas, without=pid), 60, "a new replica")
    return f"a new replica after {took:.1f} s"


def follower(c: Context) -> str:
    pid = c.stand.kill(*FOLLOWER)
    took = wait(lambda: _whole(c.stand, *FOLLOWER, without=pid), 60, "a new follower")
    took += wait(lambda: c.stand.get("models/versions").status_code == 200, 60, "a follower that answers")
    return f"promotions possible again after {took:.1f} s"


def windows(c: Context) -> str:
    _fill(c.stand)
    assert _kept(c.stand)
    time.sleep(0.5)
    c.stand.kill(*WINDOWS)
    took = wait(lambda: _kept(c.stand), 60, "the window")
    return f"the window of 24 snapshots is there again after {took:.1f} s"


def haproxy(c: Context) -> str:
    pid = c.stand.kill("/haproxy ", " -f ")
    took = wait(lambda: _whole(c.stand, "/haproxy ", " -f ", without=pid), 60, "a new HAProxy")
    return f"a new HAProxy after {took:.1f} s"


def controller(c: Context) -> str:
    pid = c.stand.kill(*CONTROLLER)
    took = wait(lambda: _whole(c.stand, *CONTROLLER, without=pid), 60, "a new controller")
    # It must do its work, too: replace a replica.
    old = c.stand.kill(*INGRESS)
    again = wait(lambda: _whole(c.stand, *INGRESS, number=c.stand.replicas, without=old), 60, "a replica by it")
    return f"a new controller after {took:.1f} s, which replaced a killed replica within {again:.1f} s"


def head(c: Context) -> str:
    _fill(c.stand)
    time.sleep(0.5)
    process = c.stand.process
    assert process is not None
    process.kill()
    process.wait()
    took = c.stand.start()
    kept = "windows kept" if _kept(c.stand) else "windows lost"
    return f"the same command serves again after {took:.1f} s, {c.stand.first:.1f} s the first time; {kept}"


def stopped(c: Context) -> str:
    assert c.registry is not None
    c.registry.stop()
    began = time.monotonic()
    status, _ = _promote(c.stand, c.versions["second"])
    took = time.monotonic() - began
    time.sleep(4)
    c.registry.start()
    again = wait(lambda: _promote(c.stand, c.versions["first"])[0] == 200, 60, "a promotion")
    return f"a promotion is answered {status} after {took:.1f} s; possible again {again:.1f} s after the server"


def slow(c: Context) -> str:
    assert c.registry is not None
    c.registry.mode = "slow"
    began = time.monotonic()
    status, _ = _promote(c.stand, c.versions["second"])
    took = time.monotonic() - began
    c.registry.mode = "pass"
    wait(lambda: _promote(c.stand, c.versions["first"])[0] == 200, 90, "a promotion")
    return f"a promotion is answered {status} after {took:.0f} s"


def failing(c: Context) -> str:
    assert c.registry is not None
    c.registry.mode = "fail"
    began = time.monotonic()
    status, _ = _promote(c.stand, c.versions["second"])
    took = time.monotonic() - began
    time.sleep(3)
    c.registry.mode = "pass"
    wait(lambda: _promote(c.stand, c.versions["first"])[0] == 200, 90, "a promotion")
    return f"a promotion is answered {status} after {took:.0f} s"


def locked(c: Context) -> str:
    database = sqlite3.connect(c.store / "mlflow.db", isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    status, _ = _promote(c.stand, c.versions["second"])
    took = time.monotonic() - began
    time.sleep(max(0.0, 60 - took))
    database.execute("ROLLBACK")
    database.close()
    again = wait(lambda: _promote(c.stand, c.versions["first"])[0] == 200, 60, "a promotion")
    return f"a promotion is answered {status} after {took:.0f} s; possible again {again:.1f} s after the lock"


def _artifacts(c: Context, what: str) -> list[Path]:
    """Return the ONNX files of a registered version, by the digest that no other version's run shares."""
    run = (c.store / f"run-{what}").read_text(encoding="utf-8")
    return sorted(path for path in (c.store / "artifacts").rglob("*.onnx") if run in str(path))


def corrupted(c: Context) -> str:
    for path in _artifacts(c, "damaged"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
        path.write_bytes(content)
    return _refused(c, "damaged")


def half(c: Context) -> str:
    for path in _artifacts(c, "half"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return _refused(c, "half")


def _refused(c: Context, what: str) -> str:
    status, detail = _promote(c.stand, c.versions[what])
    models = c.stand.get("models/status").json()["models"]
    served = next(m["version"] for m in models if m["name"] == THREAT)
    return f"its promotion is answered {status}: {detail[:120]}; version {served} goes on serving"


def features(c: Context) -> str:
    answer = c.stand.post("models/promote", {"name": THREAT, "version": c.versions["other"]})
    told = "; ".join(line.strip() for line in console.changes(answer.json().get("changes") or [])) or "nothing"
    time.sleep(3)
    back = _promote(c.stand, c.versions["first"])[0]
    return f"its promotion is answered {answer.status_code} and says: {told[:200]}; the way back {back}"


def full(c: Context) -> str:
    assert c.disk is not None
    ballast = c.disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass
    time.sleep(5)
    c.stand.kill(*INGRESS)
    time.sleep(8)
    ready = c.stand.get("health/ready").status_code
    ballast.unlink()
    took = wait(lambda: c.stand.get("health/ready").status_code == 200, 60, "to be ready")
    return f"health/ready {ready} while full, a killed replica is replaced all the same; ready {took:.1f} s after there is room"


def _job(c: Context) -> str:
    answer = c.stand.post("models/train", JOB)
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["job_id"]
    wait(lambda: _processes(found, "aiops_core.cli"), 30, "the pipeline")
    time.sleep(2)
    return found


def _processes(*words: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
            if all(word in line for word in words):
                found.append(int(entry.name))
    return found


def _state(c: Context, job: str) -> str:
    found: str = c.stand.get(f"models/train/{job}").json()["status"]
    return found


def job(c: Context) -> str:
    found = _job(c)
    for pid in _processes(found, "aiops_core.cli"):
        os.kill(pid, signal.SIGKILL)
    took = wait(lambda: _state(c, found) not in ("queued", "running"), 60, "the end of the job")
    return f"the job is '{_state(c, found)}' after {took:.1f} s"


def runner(c: Context) -> str:
    found = _job(c)
    for pid in _processes(found, "serve_app.operations.runner"):
        os.kill(pid, signal.SIGKILL)
    time.sleep(2)
    state, again = _state(c, found), c.stand.post("models/train", JOB).status_code
    c.stand.http.delete(f"models/train/{found}", headers=c.stand.headers)
    took = wait(lambda: _state(c, found) not in ("queued", "running"), 90, "the end of the job")
    left = "goes on" if _processes(found, "aiops_core.cli") else "has ended"
    return (
        f"its pipeline counts as '{state}', a second job is answered {again}; cancelled it is '{_state(c, found)}' after "
        f"{took:.1f} s, and the pipeline {left}"
    )


def half_open(c: Context) -> str:
    links: list[socket.socket] = []
    with contextlib.suppress(OSError):
        for _ in range(1000):
            link = socket.create_connection(("127.0.0.1", c.stand.port), timeout=5)
            link.sendall(b"POST /api/v3/aiops/predict/threat HTTP/1.1\r\nHost: x\r\nContent-")
            links.append(link)
    time.sleep(10)
    for link in links:
        link.close()
    return f"{len(links)} connections held for 10 s"


def bodies(c: Context) -> str:
    single = b'{"note": "' + b"x" * 10_000_000 + b'"}'
    batch = b'{"instances": [' + b", ".join([b'{"failed_auth_count": 25, "request_rate": 1500}'] * 210_000) + b"]}"
    headers = {"content-type": "application/json", **c.stand.headers}

    def send(body: bytes) -> int:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.post(
                f"http://127.0.0.1:{c.stand.port}/api/v3/aiops/predict/threat", content=body, headers=headers, timeout=60,
                trust_env=False,
            ).status_code  # fmt: skip
        return 0

    with ThreadPoolExecutor(4) as pool:
        statuses = Counter(pool.map(send, [single, batch] * 8))
    return "16 bodies of 10 MB answered " + ", ".join(f"{status} ({n})" for status, n in sorted(statuses.items()))


def flood(c: Context) -> str:
    if not c.stand.headers:
        raise NotRun("there are no keys")

    def send(_: int) -> int:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(
                f"http://127.0.0.1:{c.stand.port}/api/v3/aiops/models/status", headers={"Authorization": "Bearer wrong"},
                timeout=30, trust_env=False,
            ).status_code  # fmt: skip
        return 0

    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(pool.map(send, range(2000)))
    return "2,000 requests answered " + ", ".join(f"{status} ({n})" for status, n in sorted(statuses.items()))


def clock(c: Context) -> str:
    assert c.clock is not None
    _fill(c.stand)
    for offset in ("+7200", "-7200", "+0"):
        c.clock.write_text(offset)
        time.sleep(6)
        if not _kept(c.stand):
            raise AssertionError(f"the window of snapshots was lost at {offset} s")
    ready = c.stand.get("health/ready").status_code
    status = _promote(c.stand, c.versions["second"])[0]
    return f"two hours on, two hours back, and right again; health/ready {ready}, a promotion {status}, windows kept"


def memory(c: Context) -> str:
    """Take memory beside the service as a training job would, until little is left for some seconds."""
    if not os.environ.get("CHAOS_MEMORY"):
        raise NotRun("would take the memory of everything else on this machine: set CHAOS_MEMORY=1 on one of its own")
    code = (
        "import time; free = int(next(l for l in open('/proc/meminfo') if 'Available' in l).split()[1]) * 1024;"
        "held = bytearray(max(0, free - 400_000_000)); held[::4096] = bytes(len(held[::4096])); time.sleep(10)"
    )
    ended = subprocess.run(["python3", "-c", code], check=False, timeout=90).returncode
    return f"400 MB left for 10 s, the job ended with {ended}"


@dataclass(frozen=True)
class Scenario:
    """One fault.

    Attributes
    ----------
    group : str
        Faults of a group share a running service.
    title : str
    do : callable
    gap : float
        Longest time without a success that its target allows, seconds; infinity for the process that everything else is in.
    """

    group: str
    title: str
    do: Callable[[Context], str]
    gap: float = 5.0

    @property
    def name(self) -> str:
        """Of its function."""
        return self.do.__name__


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("process", "SIGKILL of a replica", replica),
    Scenario("process", "SIGKILL of the follower", follower),
    Scenario("process", "SIGKILL of the window buffer", windows),
    Scenario("process", "SIGKILL of HAProxy", haproxy),
    Scenario("process", "SIGKILL of the controller", controller, 15.0),
    Scenario("process", "SIGKILL of `aiops serve`, and the same command again", head, float("inf")),
    Scenario("jobs", "SIGKILL of a training job", job),
    Scenario("jobs", "SIGKILL of a job's runner", runner),
    Scenario("jobs", "memory pressure of a training job", memory),
    Scenario("clients", "1,000 half-open connections", half_open),
    Scenario("clients", "10 MB bodies", bodies),
    Scenario("clients", "a flood with a wrong key", flood),
    Scenario("registry", "MLflow server stopped", stopped),
    Scenario("registry", "MLflow server slow, 10 s a call", slow),
    Scenario("registry", "MLflow server answering 500", failing),
    Scenario("registry", "MLflow's SQLite locked for 60 s", locked),
    Scenario("registry", "a promoted version with a corrupted artifact", corrupted),
    Scenario("registry", "a promoted version written by half", half),
    Scenario("registry", "a promoted version with other features", features),
    Scenario("disk", "the disk of the state folder full", full),
    Scenario("clock", "the clock moved by two hours, both ways", clock),
)
