"""Services in this process, over real servables trained once for all tests."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tiny
from client import Client

from aiops_core.errors import TrackingError
from aiops_core.facts import MODELS
from aiops_core.journal import Privacy
from aiops_core.settings import Settings
from serve_app.alerts.watch import alerts
from serve_app.backends import LocalModels
from serve_app.champions.client import Registry
from serve_app.champions.node import node_folder
from serve_app.guard.access import Guard
from serve_app.guard.audit import Audit
from serve_app.guard.replays import Replays
from serve_app.guard.sources import Sources
from serve_app.http.api import build_api
from serve_app.http.handlers import Services
from serve_app.journal.recorder import recorder
from serve_app.operations.jobs import Jobs
from serve_app.operations.remediation import Remediator
from serve_app.operations.telemetry import Metrics
from serve_app.wire.limits import Limits

RUN = "0123456789abcdef0123456789abcdef"
ROW = {"failed_auth_count": 25}
THREAT = MODELS["threat"]


@pytest.fixture(scope="session")
def servables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a servable of each task."""
    folder = tmp_path_factory.mktemp("servables")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return {task: tiny.train(task, folder / task) for task in MODELS}


def point(state: Path, models: dict[str, tuple[Path, str]], **registry: Any) -> None:
    """Write the pointer file as the follower would: model name to folder and version."""
    folder = node_folder(state)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "models": {
            name: {"version": version, "run_id": RUN, "alias": "champion", "created": None, "folder": str(path)}
            for name, (path, version) in models.items()
        },
        "refused": {},
        "registry": {"asked": time.time(), "reached": time.time(), "error": None, **registry},
    }
    temporary = folder / "new"
    temporary.write_text(json.dumps(content))
    os.replace(temporary, folder / "champions.json")


@dataclass
class Version:
    name: str
    version: int
    run_id: str
    alias: str | None = "champion"
    created: str = "2026-01-01T00:00:00Z"
    source: str = ""
    share: float | None = None
    recalibration: dict[str, Any] | None = None


class Store:
    """Stands for `aiops_core.tracking`: version 1 is champion, `bad` versions have a servable that cannot be served."""

    def __init__(self, folder: Path, bad: dict[int, Path] | None = None) -> None:
        self.folder = folder
        self.bad = bad or {}
        self.champion: int | None = 1
        self.before = 0
        self.registered = 3
        #: Alias to version and share.
        self.beside: dict[str, tuple[int, float | None]] = {}
        self.error: Exception | None = None
        self.fetched: list[int] = []

    def champions(self) -> dict[str, Version]:
        if self.error:
            raise self.error
        return {} if self.champion is None else {THREAT: self.get_version(THREAT, self.champion)}

    def companions(self) -> dict[str, dict[str, Version]]:
        found = {
            alias: Version(THREAT, version, f"{version:032x}", alias, share=share)
            for alias, (version, share) in self.beside.items()
        }
        return {THREAT: found} if found else {}

    def set_companion(self, name: str, alias: str, version: int, share: float | None = None) -> Version:
        if self.champion is None:
            raise TrackingError(f"model '{name}' has no champion that version {version} could be compared with")
        if self.champion == version:
            raise TrackingError(f"version {version} of {name} is the champion: another one can answer beside it")
        self.beside[alias] = (version, share)
        return self.companions()[name][alias]

    def remove_companion(self, name: str, alias: str, version: int | None = None) -> Version:
        if self.error:
            raise self.error
        if alias not in self.beside:
            raise TrackingError(f"model '{name}' has no {alias}")
        if version is not None and self.beside[alias][0] != version:
            raise TrackingError(f"version {self.beside[alias][0]} of {name} is its {alias}, not version {version}")
        return self.get_version(name, self.beside.pop(alias)[0])

    def list_models(self) -> list[Version]:
        return list(self.champions().values())

    def fetch(self, name: str, version: int, folder: Path) -> Path:
        self.fetched.append(version)
        if not folder.is_dir():
            shutil.copytree(self.bad.get(version, self.folder), folder)
        return folder

    def get_version(self, name: str, version: int) -> Version:
        if version > 9:
            raise TrackingError(f"Model Version {version} not found")
        return Version(name, version, f"{version:032x}")

    def promote(self, name: str, version: int) -> Version:
        self.champion = version
        return self.get_version(name, version)

    def previous_champion(self, name: str) -> Version:
        if not self.before:
            raise TrackingError(f"model '{name}' has no earlier champion to roll back to")
        return self.get_version(name, self.before)

    def rollback(self, name: str) -> Version:
        self.champion = self.before
        return self.previous_champion(name)

    def register(self, task: str, run_id: str, alias: str | None) -> Version:
        assert alias != "champion"
        return self.get_version(MODELS[task], self.registered)


def version_of(client: Any) -> str | None:
    answer = client.post("predict/threat", ROW).json()
    return answer["model"]["version"] if "model" in answer else None


class Service:
    """One replica's worth of the service."""

    def __init__(self, state: Path, **options: Any) -> None:
        self.state = state
        self.metrics = Metrics(state / "metrics", flush=False)
        limits = options.get("limits", Limits())
        chosen = {f"journal{k}": v for k, v in options.get("journal", {"": "off"}).items()}
        told = {"webhooks": options.get("webhooks", {}), "webhook_secret": options.get("secret")}
        self.settings = Settings(**chosen, **told, **options.get("alerts", {"alerts": "off"}))
        self.journal = alerts(recorder(state, self.metrics, self.settings), state, self.metrics, self.settings)
        self.models = LocalModels(
            list(MODELS), node_folder(state), self.metrics, options.get("windows"), limits=limits, journal=self.journal
        )
        self.models.watcher.look()
        self.jobs = Jobs(state / "jobs", self.metrics, {}, options.get("command"), options.get("keep_jobs", 50))
        self.remediator = Remediator(options.get("webhooks", {}), options.get("secret"), self.metrics)
        # By this name schemathesis calls what it tests in process.
        self.guard = Guard(state / "keys.json", **{"allowed": ("testserver",), **options.get("guard", {})})
        self.services = Services(
            self.models,
            self.metrics,
            Registry(node_folder(state)),
            self.jobs,
            self.remediator,
            self.guard,
            Audit(state / "audit.jsonl"),
            Replays(state / "replays"),
            Sources([state / "datasets"]),
            limits=limits,
            folder=node_folder(state),
            state=state,
            privacy=Privacy(state, self.settings.journal_drop, self.settings.journal_hash),
        )
        self.api = build_api(self.services)
        self.client = Client(self.api)

    def samples(self) -> dict[str, float]:
        """Return the samples of ``GET metrics`` by name and sorted labels."""
        from prometheus_client.parser import text_string_to_metric_families

        text = self.client.get("metrics").body.decode()
        return {
            sample.name + json.dumps(sample.labels, sort_keys=True): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of all samples of a name that carry the labels."""
        found = 0.0
        for key, value in self.samples().items():
            sample, given = key.split("{", 1)
            if sample == name and labels.items() <= json.loads("{" + given).items():
                found += value
        return found


@pytest.fixture
def make_service(tmp_path: Path) -> Callable[..., Service]:
    """Build services over one state folder, empty until `point` names models."""
    return lambda **options: Service(tmp_path / "state", **options)


@pytest.fixture(scope="session")
def shared(servables: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service with all three models, for tests that leave nothing behind that others could see."""
    state = tmp_path_factory.mktemp("shared") / "state"
    point(state, {MODELS[task]: (path, "1") for task, path in servables.items()})
    return Service(state)


@pytest.fixture
def client(shared: Service) -> Client:
    """Client of the shared service."""
    return shared.client


@pytest.fixture
def broken(servables: dict[str, Path], tmp_path: Path) -> Iterator[Path]:
    """A threat servable whose golden examples do not come out."""
    import numpy as np

    folder = tmp_path / "broken"
    shutil.copytree(servables["threat"], folder)
    with np.load(folder / "golden.npz") as stored:
        arrays = dict(stored)
    arrays["expected_probability"] = arrays["expected_probability"][:, ::-1]
    np.savez_compressed(folder / "golden.npz", **arrays)
    yield folder


class Disk:
    """A small disk under the state folder, which can be filled up."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave no byte free."""
        block = b"0" * 4096
        with contextlib.suppress(OSError), open(self.path / "ballast", "wb", buffering=0) as file:
            while file.write(block) == len(block):
                pass

    def free(self) -> None:
        """Make room again."""
        (self.path / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 32 MB at the state folder of `make_service`."""
    path = tmp_path / "state"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield Disk(path)
    # Lazily: processes of the test may still have files open there.
    subprocess.run(["umount", "-l", path], check=True)


# The real service ----------------------------------------------------------------------------------------------------


class Running:
    """``aiops serve`` in a process of its own, and an HTTP client for it."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, output: Path, state: Path, uri: str) -> None:
        self.process, self.url, self.output, self.state, self.uri = process, url, output, state, uri
        self.http = httpx.Client(base_url=f"{url}/api/v3/aiops/", timeout=60, trust_env=False)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def version(self, name: str) -> str | None:
        """Return the version of a model that one replica reports, whichever answers."""
        models = self.http.get("models/status").json()["models"]
        found: str | None = next(m["version"] for m in models if m["name"] == name)
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(folder: Path, uri: str, *options: str, port: int | None = None, **environment: str) -> Iterator[Running]:
    """Start the service as a user does, wait until it says that it stands, and end it with Ctrl-C."""
    port = port or free_port()
    output = folder / "serve.log"
    named = {"MLFLOW_TRACKING_URI": uri, "AIOPS_STATE_DIR": str(folder / "state"), **environment}
    with open(output, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve_app", "--port", str(port), *options],
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[2],
            env={k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | named,
        )
    try:
        deadline = time.time() + 300
        while b"Ctrl-C stops it" not in output.read_bytes():
            if process.poll() is not None or time.time() > deadline:
                raise AssertionError(output.read_text())
            time.sleep(0.2)
        running = Running(process, f"http://127.0.0.1:{port}", output, folder / "state", uri)
        yield running
        running.http.close()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def registry(servables: dict[str, Path], store_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a registry with a champion of each model, and a second version of the threat detector."""
    from aiops_core import tracking

    folder = tmp_path_factory.mktemp("registry")
    shutil.copy(store_template, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("AIOPS_STATE_DIR", str(folder / "state"))
        tracking.prepare_store()
        for task, version in (("failure", 1), ("threat", 1), ("threat", 2), ("capacity", 1)):
            search = tracking.open_search(task, folder / f"{task}{version}", name="tiny", params={}, tags={})
            logged = tracking.log_servable(search.run_id, servables[task])
            tracking.register(task, search.run_id, "champion", model_uri=logged)
    return uri


@pytest.fixture(scope="session")
def running(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The service with two ingress replicas, once for all tests."""
    with serve(tmp_path_factory.mktemp("service"), registry, "--replicas", "2", AIOPS_WEBHOOK_SECRET="key") as found:
        yield found
