"""The real service of tiny models: started, hurt and started again; its registry, its processes, its client."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[3]
__all__ = ["ROOT", "Stand", "build_registry", "free_port", "register", "wait"]

START_SECONDS = 150.0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(condition: Callable[[], Any], seconds: float, what: str) -> float:
    """Return the seconds until a condition held."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        with contextlib.suppress(httpx.HTTPError):
            if condition():
                return time.monotonic() - started
        time.sleep(0.05)
    raise TimeoutError(f"{what}: not within {seconds:g} s")


def build_registry(folder: Path) -> None:
    """Train tiny models once and register them: two versions of the threat detector, one with other features.

    The folder then holds ``mlflow.db``, ``artifacts`` and ``servables``; whoever uses it works on a copy.
    """
    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sys.path.insert(0, str(ROOT / "tests" / "serve"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tiny

    for task in ("failure", "threat", "capacity"):
        tiny.train(task, folder / "servables" / task)
    card = json.loads((folder / "servables" / "threat" / "card.json").read_text(encoding="utf-8"))
    data = tiny.dataset("threat")
    other = {card["features"][0]["name"]: "something_else"}
    renamed = data.replaced(activity=data.tables["activity"].rename(columns=other))
    whole = tiny.dataset
    tiny.dataset = lambda task, seed=3: renamed  # type: ignore[assignment]
    tiny.train("threat", folder / "servables" / "other")
    tiny.dataset = whole
    (folder / "done").touch()


def register(folder: Path, uri: str, store: Path) -> dict[str, int]:
    """Register the servables at an MLflow store; returns the versions of the threat detector by what they are.

    The name of a version's artifacts is left in the file ``run-<what>`` of the folder `store`.
    """
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from aiops_core import tracking

    tracking.prepare_store()
    found = {}
    plan = [("failure", "failure", "failure"), ("capacity", "capacity", "capacity")]
    plan += [("threat", "threat", name) for name in ("first", "second", "damaged", "half")] + [
        ("threat", "other", "other")
    ]
    for task, servable, name in plan:
        search = tracking.open_search(task, store / f"search-{name}", name="chaos", params={}, tags={})
        logged = tracking.log_servable(search.run_id, folder / "servables" / servable)
        (store / f"run-{name}").write_text(logged.rpartition("/")[2], encoding="utf-8")
        alias = "champion" if name in ("failure", "capacity", "first") else None
        found[name] = int(tracking.register(task, search.run_id, alias, model_uri=logged).version)
    return found


class Stand:
    """The service in a process of its own.

    Parameters
    ----------
    folder : Path
        For its state and output.
    uri : str
        Of the registry.
    replicas : int
    state : Path, optional
        State folder, by default in `folder`.
    environment : str
        More variables.

    Attributes
    ----------
    first : float
        Seconds that the first start took.
    """

    def __init__(
        self, folder: Path, uri: str, replicas: int = 2, state: Path | None = None, **environment: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.uri, self.replicas = folder, uri, replicas
        self.state = state or folder / "state"
        self.port = free_port()
        self.output = folder / "serve.log"
        self.headers: dict[str, str] = {}
        self._environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api/v3/aiops/", timeout=90, trust_env=False)

    def __enter__(self) -> Stand:
        self.first = self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.http.close()

    def start(self) -> float:
        """Start it as a user does, with the same command every time; returns the seconds until it says that it stands."""
        named = {"MLFLOW_TRACKING_URI": self.uri, "AIOPS_STATE_DIR": str(self.state), **self._environment}
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        began = time.monotonic()
        with open(self.output, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serve_app", "--port", str(self.port), "--replicas", str(self.replicas)],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**clean, "PYTHONPATH": str(ROOT), **named},
            )
        while b"Ctrl-C stops it" not in self.output.read_bytes():
            if self.process.poll() is not None or time.monotonic() - began > START_SECONDS:
                raise RuntimeError(f"the service did not start:\n{self.output.read_text()}")
            time.sleep(0.1)
        return time.monotonic() - began

    def stop(self) -> None:
        """End it with Ctrl-C."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def processes(self, *words: str) -> dict[int, str]:
        """Pid to command line of the service's processes whose command line holds all words."""
        assert self.process is not None
        parents, names = {}, {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if fields[0] != "Z":
                    parents[int(entry.name)] = int(fields[1])
                    names[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        found = {self.process.pid}
        while more := {child for child, parent in parents.items() if parent in found} - found:
            found |= more
        return {pid: names[pid] for pid in found if pid in names and all(word in names[pid] for word in words)}

    def kill(self, *words: str) -> int:
        """SIGKILL one of the service's processes; returns its pid."""
        pid = min(self.processes(*words))
        os.kill(pid, signal.SIGKILL)
        return pid

    def post(self, path: str, body: Any) -> httpx.Response:
        """Send one request."""
        return self.http.post(path, json=body, headers=self.headers)

    def get(self, path: str) -> httpx.Response:
        """Ask for something."""
        return self.http.get(path, headers=self.headers)

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the lines of the request log."""
        lines = [line for path in self.state.glob("nodes/*/log.jsonl") for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines]

    def replica_logs(self) -> str:
        """Return what the service itself printed."""
        return self.output.read_text(errors="replace")
