"""Following the registry: promotions, refusals, and a registry that cannot be reached."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import point

from aiops_core.errors import TrackingError
from serve_app.problems import Problem
from serve_app.reload import Follower, Registry, _serve, node_folder, read_pointer, socket_path
from serve_app.services import MODELS

ROW = {"failed_auth_count": 25}
THREAT = MODELS["threat"]


@dataclass
class Version:
    name: str
    version: int
    run_id: str
    alias: str | None = "champion"
    created: str = "2026-01-01T00:00:00Z"
    source: str = ""


class Store:
    """Stands for `aiops_core.tracking`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.champion = 1
        self.error: Exception | None = None
        self.fetched: list[int] = []

    def champions(self) -> dict[str, Version]:
        if self.error:
            raise self.error
        return {THREAT: Version(THREAT, self.champion, f"{self.champion:032x}")}

    def list_models(self) -> list[Version]:
        return list(self.champions().values())

    def fetch(self, name: str, version: int, folder: Path) -> Path:
        self.fetched.append(version)
        if not folder.is_dir():
            shutil.copytree(self.folder, folder)
        return folder

    def promote(self, name: str, version: int) -> Version:
        if version > 9:
            raise TrackingError(f"Model Version {version} not found")
        self.champion = version
        return Version(name, version, f"{version:032x}")

    def rollback(self, name: str) -> Version:
        raise TrackingError(f"model '{name}' has no earlier champion to roll back to")


def version_of(client: Any) -> str | None:
    answer = client.post("predict/threat", ROW).json()
    return answer["model"]["version"] if "model" in answer else None


def test_a_promotion_is_served_and_the_old_version_until_then(
    make_service: Any, servables: dict[str, Path], tmp_path: Path
) -> None:
    store = Store(servables["threat"])
    follower = Follower(node_folder(tmp_path / "state"), store)
    follower.poll()
    service = make_service()
    assert version_of(service.client) == "1"
    store.champion = 2
    follower.poll()
    assert version_of(service.client) == "1"
    service.host.watch.look()
    assert version_of(service.client) == "2"
    assert service.total("aiops_reloads_total", model=THREAT, result="loaded") == 2
    assert service.total("aiops_model_info", model=THREAT, version="1") == 0
    assert service.total("aiops_model_info", model=THREAT, version="2") == 1


def test_the_watch_sees_a_new_pointer_by_itself(make_service: Any, servables: dict[str, Path], tmp_path: Path) -> None:
    point(tmp_path / "state", {THREAT: (servables["threat"], "1")})
    service = make_service()
    service.host.start(wait_seconds=0)
    try:
        point(tmp_path / "state", {THREAT: (servables["threat"], "2")})
        deadline = time.time() + 5
        while version_of(service.client) != "2" and time.time() < deadline:
            time.sleep(0.05)
        assert version_of(service.client) == "2"
    finally:
        service.host.close()


def test_a_servable_that_fails_its_golden_check_is_refused_and_the_old_one_stays(
    make_service: Any, servables: dict[str, Path], broken: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    point(state, {THREAT: (servables["threat"], "1")})
    service = make_service()
    point(state, {THREAT: (broken, "2")})
    service.host.watch.look()
    assert version_of(service.client) == "1"
    entry = next(m for m in service.client.get("models/status").json()["models"] if m["name"] == THREAT)
    assert entry["version"] == "1" and entry["refused"]["version"] == "2" and "golden" in entry["refused"]["reason"]
    assert service.total("aiops_reloads_total", model=THREAT, result="refused") == 1
    # Rolled back, nothing is refused any more.
    point(state, {THREAT: (servables["threat"], "1")})
    service.host.watch.look()
    assert "refused" not in next(m for m in service.client.get("models/status").json()["models"] if m["name"] == THREAT)


def test_a_servable_of_another_task_is_refused(make_service: Any, servables: dict[str, Path], tmp_path: Path) -> None:
    point(tmp_path / "state", {THREAT: (servables["failure"], "1")})
    service = make_service()
    assert "task 'failure'" in service.host.watch.refused[THREAT]["reason"]


def test_an_unreachable_registry_stops_nothing_not_even_a_restart(
    make_service: Any, servables: dict[str, Path], tmp_path: Path
) -> None:
    store = Store(servables["threat"])
    folder = node_folder(tmp_path / "state")
    Follower(folder, store).poll()
    store.error = TrackingError("no MLflow server answers")
    follower = Follower(folder, store)
    follower.poll()
    service = make_service()
    assert version_of(service.client) == "1"
    status = service.client.get("models/status").json()["mlflow"]
    assert status["reachable"] is False and "no MLflow server" in status["error"]
    assert service.total("aiops_registry_up") == 0
    store.error = RuntimeError("anything else")
    follower.poll()
    assert read_pointer(folder)["models"][THREAT]["version"] == "1"


def test_a_servable_that_cannot_be_fetched_is_refused(servables: dict[str, Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "missing")
    follower = Follower(tmp_path / "node", store)
    follower.poll()
    content = read_pointer(tmp_path / "node")
    assert content["models"] == {} and content["refused"][THREAT]["version"] == "1"
    assert content["registry"]["error"] is None


def test_an_unchanged_database_is_not_asked_again(servables: dict[str, Path], tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    database.write_text("a")
    follower = Follower(tmp_path / "node", Store(servables["threat"]), database)
    assert follower.changed()
    follower._asked = time.monotonic()
    assert not follower.changed()
    database.write_text("ab")
    assert follower.changed()


def test_commands_reach_the_follower_over_its_socket(servables: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "node"
    store = Store(servables["threat"])
    follower = Follower(folder, store)
    server = _serve(follower, socket_path(folder))
    try:
        registry = Registry(folder)

        def ask(**command: Any) -> Any:
            return asyncio.run(registry.ask(**command))

        assert ask(do="promote", name=THREAT, version=3)["version"] == 3
        assert read_pointer(folder)["models"][THREAT]["version"] == "3"
        assert ask(do="list")[0]["version"] == 3
        for command, status in (
            ({"do": "promote", "name": THREAT, "version": 12}, 404),
            ({"do": "rollback", "name": THREAT}, 409),
            ({"do": "explode", "name": THREAT}, 503),
        ):
            with pytest.raises(Problem) as caught:
                ask(**command)
            assert caught.value.status == status
    finally:
        server.shutdown()
        server.server_close()
        socket_path(folder).unlink()


def test_without_a_follower_the_registry_is_503(make_service: Any) -> None:
    answer = make_service().client.post("models/promote", {"name": THREAT, "version": 1})
    assert answer.status == 503 and "registry" in answer.json()["detail"]


def test_promotions_under_load_fail_no_request(make_service: Any, servables: dict[str, Path], tmp_path: Path) -> None:
    state = tmp_path / "state"
    point(state, {THREAT: (servables["threat"], "0")})
    service = make_service()
    stop = threading.Event()

    def promote() -> None:
        for version in range(1, 8):
            point(state, {THREAT: (servables["threat"], str(version))})
            service.host.watch.look()
        stop.set()

    thread = threading.Thread(target=promote)
    thread.start()
    statuses, versions = set(), set()
    while not stop.is_set():
        answer = service.client.post("predict/threat", ROW)
        statuses.add(answer.status)
        versions.add(answer.json()["model"]["version"])
    thread.join()
    assert statuses == {200} and version_of(service.client) == "7" and len(versions) > 1


def test_one_follower_runs_on_a_node_and_ends_with_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serve_app.reload", "--folder", str(tmp_path / "node")]
    environment = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    first = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    try:
        deadline = time.time() + 60
        while not (tmp_path / "node" / "champions.json").exists() and time.time() < deadline:
            time.sleep(0.1)
        content = json.loads((tmp_path / "node" / "champions.json").read_text())
        assert "no MLflow server answers" in content["registry"]["error"]
        second = subprocess.run(command, stdin=subprocess.PIPE, env=environment, timeout=60)
        assert second.returncode == 0 and first.poll() is None
        assert first.stdin is not None
        first.stdin.close()
        assert first.wait(timeout=30) == 0
    finally:
        first.kill()
        first.wait()
