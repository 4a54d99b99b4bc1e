"""``health/live`` and ``health/ready``: what they say while things are missing, dead or full."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Disk, Service, point

from aiops_core.facts import MODELS
from serve_app import backends
from serve_app.backends import RemoteModels
from serve_app.champions.node import node_folder, read_pointer

THREAT = MODELS["threat"]


def ready(service: Service) -> tuple[int, dict[str, Any]]:
    """Return status and body of ``health/ready``."""
    answer = service.client.get("health/ready")
    kind = "application/json" if answer.status == 200 else "application/problem+json"
    assert answer.headers["content-type"] == kind
    return answer.status, answer.json()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def follower() -> Iterator[int]:
    """Pid of a process that looks like the follower."""
    code = "import time; time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, "serve_app.champions.follower"])
    yield process.pid
    process.kill()
    process.wait()


def test_a_process_that_answers_is_live_with_or_without_models(make_service: Any) -> None:
    answer = make_service().client.get("health/live")
    assert (answer.status, answer.json()) == (200, {"status": "live"})


def test_a_replica_with_its_champions_is_ready(make_service: Any, servables: dict[str, Path], state: Path) -> None:
    point(state, {THREAT: (servables["threat"], "1")})
    assert ready(make_service()) == (200, {"status": "ready", "warnings": []})


def test_a_champion_that_is_not_in_service_makes_a_replica_unready(
    make_service: Any, broken: Path, state: Path
) -> None:
    point(state, {THREAT: (broken, "3")})
    status, body = ready(make_service())
    assert status == body["status"] == 503
    assert body["reasons"] == [f"{THREAT} has a champion, version 3, but none is in service"]
    assert body["detail"] == body["reasons"][0] and body["instance"].endswith("/health/ready")
    assert "version 3 is refused" in body["warnings"][0]


def test_a_registry_that_does_not_answer_is_a_warning_only(
    make_service: Any, servables: dict[str, Path], state: Path
) -> None:
    point(state, {THREAT: (servables["threat"], "1")}, error="no MLflow server answers")
    status, body = ready(make_service())
    assert status == 200 and body["warnings"] == ["the registry is not reachable: no MLflow server answers"]


def test_a_follower_that_stays_away_makes_a_replica_unready_and_the_metrics_say_so_at_once(
    make_service: Any, servables: dict[str, Path], state: Path, follower: int
) -> None:
    models = {THREAT: (servables["threat"], "1")}
    point(state, models, pid=follower)
    service = make_service()
    assert ready(service)[0] == 200
    assert service.total("aiops_registry_up") == service.total("aiops_follower_up") == 1
    os.kill(follower, 9)
    os.waitpid(follower, 0)
    service.models.watcher.feel()
    assert service.total("aiops_registry_up") == service.total("aiops_follower_up") == 0
    # A new one takes some seconds to start.
    assert ready(service)[0] == 200
    content = read_pointer(node_folder(state))
    content["registry"]["asked"] = time.time() - 40
    (node_folder(state) / "champions.json").write_text(json.dumps(content))
    status, body = ready(service)
    assert status == 503 and "follower of the registry has been gone for 40 s" in body["reasons"][0]


def test_a_full_disk_makes_a_replica_unready_until_there_is_room(
    disk: Disk, make_service: Any, servables: dict[str, Path], state: Path
) -> None:
    point(state, {THREAT: (servables["threat"], "1")})
    service = make_service()
    assert ready(service)[0] == 200
    disk.fill()
    assert ready(service)[1]["reasons"] == ["the disk of the state folder is full"]
    disk.free()
    assert ready(service)[0] == 200


class Handle:
    """A deployment of `LocalModels` as Ray Serve hands it out; it may never answer."""

    def __init__(self, answers: bool) -> None:
        self.status = self.cards = self.call = self
        self._answers = answers

    async def remote(self) -> dict[str, Any]:
        if not self._answers:
            await asyncio.sleep(60)
        registry = {"reachable": True, "error": None, "reached": 1.0}
        return {"models": [{"name": THREAT, "status": "loaded"}], "mlflow": registry, "replica": "r"}


def test_a_deployment_that_does_not_answer_is_named_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "ANSWER_SECONDS", 0.05)
    models = RemoteModels({"threat": Handle(True), "failure": Handle(False), "capacity": Handle(False)})

    async def ask() -> dict[str, Any]:
        async with asyncio.timeout(10):
            return await models.status()

    status = asyncio.run(ask())
    assert {m["name"]: m["status"] for m in status["models"]} == {
        THREAT: "loaded",
        MODELS["failure"]: "unreachable",
        MODELS["capacity"]: "unreachable",
    }
    assert status["mlflow"]["reachable"]
