"""Following the registry: promotions, refusals, and a registry that cannot be reached."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROW, THREAT, Disk, Store, point, version_of

from aiops_core.errors import TrackingError
from aiops_core.facts import MODELS
from serve_app.champions.client import Registry
from serve_app.champions.follower import Follower, listen
from serve_app.champions.node import node_folder, read_pointer, socket_path
from serve_app.champions.verify import verify
from serve_app.wire.problems import Problem


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
    service.models.watcher.look()
    assert version_of(service.client) == "2"
    assert service.total("aiops_reloads_total", model=THREAT, result="loaded") == 2
    assert service.total("aiops_model_info", model=THREAT, version="1") == 0
    assert service.total("aiops_model_info", model=THREAT, version="2") == 1


def test_the_watch_sees_a_new_pointer_by_itself(make_service: Any, servables: dict[str, Path], tmp_path: Path) -> None:
    point(tmp_path / "state", {THREAT: (servables["threat"], "1")})
    service = make_service()
    service.models.start(wait_seconds=0)
    try:
        point(tmp_path / "state", {THREAT: (servables["threat"], "2")})
        deadline = time.time() + 5
        while version_of(service.client) != "2" and time.time() < deadline:
            time.sleep(0.05)
        assert version_of(service.client) == "2"
    finally:
        service.models.close()


def test_a_servable_that_fails_its_golden_check_is_refused_and_the_old_one_stays(
    make_service: Any, servables: dict[str, Path], broken: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    point(state, {THREAT: (servables["threat"], "1")})
    service = make_service()
    point(state, {THREAT: (broken, "2")})
    service.models.watcher.look()
    assert version_of(service.client) == "1"
    entry = next(m for m in service.client.get("models/status").json()["models"] if m["name"] == THREAT)
    assert entry["version"] == "1" and entry["refused"]["version"] == "2" and "golden" in entry["refused"]["reason"]
    assert service.total("aiops_reloads_total", model=THREAT, result="refused") == 1
    # Rolled back, nothing is refused any more.
    point(state, {THREAT: (servables["threat"], "1")})
    service.models.watcher.look()
    assert "refused" not in next(m for m in service.client.get("models/status").json()["models"] if m["name"] == THREAT)


def test_a_refused_promotion_changes_neither_the_alias_nor_what_a_restarted_replica_serves(
    make_service: Any, servables: dict[str, Path], broken: Path, tmp_path: Path
) -> None:
    store = Store(servables["threat"], {2: broken, 3: servables["failure"]})
    folder = node_folder(tmp_path / "state")
    follower = Follower(folder, store)
    follower.poll()
    for version, reason in ((2, "golden"), (3, "task 'failure'")):
        answer = follower.execute({"do": "promote", "name": THREAT, "version": version})
        assert answer.get("kind") == "conflict" and reason in answer["error"]
        assert store.champion == 1 and read_pointer(folder)["models"][THREAT]["version"] == "1"
    store.before = 2
    answer = follower.execute({"do": "rollback", "name": THREAT})
    assert answer.get("kind") == "conflict" and store.champion == 1
    answer = follower.execute({"do": "register", "name": THREAT, "run_id": "r", "alias": "champion"})
    assert answer.get("kind") == "conflict" and "registered as version 3" in answer["error"] and store.champion == 1
    # Polls do not forget it, until another version is taken into service.
    follower.poll()
    service = make_service()
    assert version_of(service.client) == "1"
    (refused,) = service.client.get("health").json()["refused"]
    assert refused["name"] == THREAT and refused["version"] == "3" and "task 'failure'" in refused["reason"]
    assert follower.execute({"do": "promote", "name": THREAT, "version": 4})["ok"]["version"] == 4
    service.models.watcher.look()
    assert version_of(service.client) == "4" and service.client.get("health").json()["refused"] == []


def test_an_alias_moved_elsewhere_to_a_bad_version_leaves_the_last_good_one_in_service(
    make_service: Any, servables: dict[str, Path], broken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(servables["threat"], {2: broken})
    folder = node_folder(tmp_path / "state")
    Follower(folder, store).poll()
    store.champion = 2
    follower = Follower(folder, store)
    follower.poll()
    fetched = len(store.fetched)
    follower.poll()
    assert len(store.fetched) == fetched, "a bad servable is not loaded again at every poll"
    assert "threat_detector version 2 is refused" in caplog.text and "golden" in caplog.text
    caplog.clear()
    service = make_service()
    assert "threat_detector version 2 is refused" in caplog.text
    assert version_of(service.client) == "1"
    health = service.client.get("health")
    assert health.status == 200 and health.json()["status"] == "healthy"
    assert [(r["name"], r["version"]) for r in health.json()["refused"]] == [(THREAT, "2")]
    entry = next(m for m in service.client.get("models/status").json()["models"] if m["name"] == THREAT)
    assert entry["version"] == "1" and entry["refused"]["version"] == "2" and "golden" in entry["refused"]["reason"]
    assert service.total("aiops_reloads_total", model=THREAT, result="refused") == 1
    store.champion = 1
    follower.poll()
    service.models.watcher.look()
    assert service.client.get("health").json()["refused"] == []


def test_a_servable_that_no_request_can_be_built_for_is_refused(servables: dict[str, Path], tmp_path: Path) -> None:
    # Its golden examples come out: only building the requests finds it.
    bad = tmp_path / "bad"
    shutil.copytree(servables["threat"], bad)
    card = json.loads((bad / "card.json").read_text())
    del card["decision"]
    (bad / "card.json").write_text(json.dumps(card))
    store = Store(servables["threat"], {2: bad})
    follower = Follower(tmp_path / "node", store)
    follower.poll()
    answer = follower.execute({"do": "promote", "name": THREAT, "version": 2})
    assert answer.get("kind") == "conflict" and "decision" in answer["error"] and store.champion == 1


def test_a_damaged_cache_is_fetched_again(
    make_service: Any, servables: dict[str, Path], broken: Path, tmp_path: Path
) -> None:
    store = Store(servables["threat"])
    folder = node_folder(tmp_path / "state")
    follower = Follower(folder, store)
    follower.poll()
    shutil.copytree(broken, folder / "servables" / f"{THREAT}-2-{'0' * 8}")
    assert follower.execute({"do": "promote", "name": THREAT, "version": 2})["ok"]["version"] == 2
    assert version_of(make_service().client) == "2"


def test_a_removed_alias_takes_the_model_out_of_service_and_an_unreachable_registry_does_not(
    make_service: Any, servables: dict[str, Path], tmp_path: Path
) -> None:
    database = tmp_path / "mlflow.db"
    database.touch()
    store = Store(servables["threat"])
    folder = node_folder(tmp_path / "state")
    follower = Follower(folder, store, database)
    follower.poll()
    service = make_service()
    # Gone or unreachable, a registry says nothing about aliases.
    database.unlink()
    store.champion = None
    follower.poll()
    service.models.watcher.look()
    assert version_of(service.client) == "1" and "is gone" in str(read_pointer(folder)["registry"]["error"])
    store.error = TrackingError("no MLflow server answers")
    database.touch()
    follower.poll()
    service.models.watcher.look()
    assert version_of(service.client) == "1"
    store.error = None
    follower.poll()
    service.models.watcher.look()
    answer = service.client.post("predict/threat", ROW)
    assert answer.status == 503 and "has been promoted" in answer.json()["detail"]
    assert THREAT not in service.client.get("health").json()["models_loaded"]
    assert service.total("aiops_model_info", model=THREAT, version="1") == 0
    assert make_service().client.post("predict/threat", ROW).status == 503
    store.champion = 1
    follower.poll()
    service.models.watcher.look()
    assert version_of(service.client) == "1"


def test_without_a_failure_champion_the_rules_answer_again(
    make_service: Any, servables: dict[str, Path], tmp_path: Path
) -> None:
    point(tmp_path / "state", {MODELS["failure"]: (servables["failure"], "1")})
    service = make_service()
    rows = [{"cpu_usage": 50.0, "memory_usage": 60.0}] * 24
    body = {"resource_id": "a", "time_series": rows}
    assert service.client.post("predict/failure", body).json()["model"]["kind"] == "lstm"
    folder = node_folder(tmp_path / "state")
    vacant = {**read_pointer(folder), "models": {}, "vacant": [MODELS["failure"]]}
    (folder / "champions.json").write_text(json.dumps(vacant))
    service.models.watcher.look()
    assert service.client.post("predict/failure", body).json()["model"]["kind"] == "rule_based"


def test_a_servable_of_another_task_is_refused(make_service: Any, servables: dict[str, Path], tmp_path: Path) -> None:
    point(tmp_path / "state", {THREAT: (servables["failure"], "1")})
    service = make_service()
    assert "task 'failure'" in service.models.watcher.refused[THREAT]["reason"]


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
    server = listen(follower, socket_path(folder))
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


def test_a_change_is_refused_where_another_version_is_champion_than_the_caller_thinks(
    servables: dict[str, Path], tmp_path: Path
) -> None:
    store = Store(servables["threat"])
    store.before = 2
    follower = Follower(tmp_path / "node", store)
    for command in ({"do": "promote", "version": 4}, {"do": "rollback"}):
        answer = follower.execute({**command, "name": THREAT, "expected": 3})
        assert answer.get("kind") == "conflict" and "version 1 of" in answer["error"] and store.champion == 1
    assert follower.execute({"do": "promote", "name": THREAT, "version": 4, "expected": 1})["ok"]["version"] == 4
    # Sent twice, because the first answer was lost: rolled back once.
    store.before = 1
    answers = [follower.execute({"do": "rollback", "name": THREAT, "expected": 4}) for _ in range(2)]
    assert "ok" in answers[0] and answers[1]["kind"] == "conflict" and store.champion == 1
    store.champion = None
    answer = follower.execute({"do": "promote", "name": THREAT, "version": 4, "expected": 1})
    assert answer.get("kind") == "conflict" and "no version" in answer["error"] and store.champion is None


def test_the_expected_version_of_a_request_reaches_the_follower(
    make_service: Any, servables: dict[str, Path], tmp_path: Path
) -> None:
    folder = node_folder(tmp_path / "state")
    store = Store(servables["threat"])
    store.before = 2
    server = listen(Follower(folder, store), socket_path(folder))
    try:
        client = make_service().client
        for route, body in (("models/promote", {"version": 4}), ("models/rollback", {})):
            answer = client.post(route, {"name": THREAT, "expected_version": 3, **body})
            assert answer.status == 409 and "version 1" in answer.json()["detail"] and store.champion == 1
        body, key = {"name": THREAT, "expected_version": 1}, {"idempotency-key": "k"}
        answers = [client.post("models/rollback", body, headers=key) for _ in range(3)]
        assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)} and store.champion == 2
    finally:
        server.shutdown()
        server.server_close()
        socket_path(folder).unlink()


def test_without_a_follower_the_registry_is_503(make_service: Any) -> None:
    answer = make_service().client.post("models/promote", {"name": THREAT, "version": 1})
    assert answer.status == 503 and "registry" in answer.json()["detail"]


def test_on_a_full_disk_nothing_is_promoted_and_the_old_pointer_stays_whole(
    disk: Disk, make_service: Any, servables: dict[str, Path]
) -> None:
    store = Store(servables["threat"])
    folder = node_folder(disk.path)
    follower = Follower(folder, store)
    follower.poll()
    service = make_service()
    for version in (2, 3):
        store.fetch(THREAT, version, folder / "servables" / f"{THREAT}-{version}-{'0' * 8}")
    disk.fill()
    try:
        answer = follower.execute({"do": "promote", "name": THREAT, "version": 2})
        assert "No space left" in answer.get("error", ""), answer
        assert answer["kind"] == "unreachable" and store.champion == 1
        # Moved by somebody else: taken into service when the pointer can be written.
        store.champion = 3
        follower.poll()
    except OSError as error:
        pytest.fail(f"a full disk ends the follower: {error}")
    assert read_pointer(folder)["models"][THREAT]["version"] == "1"
    assert sorted(path.name for path in folder.iterdir()) == ["champions.json", "servables"]
    service.models.watcher.look()
    assert version_of(service.client) == "1"
    disk.free()
    follower.poll()
    service.models.watcher.look()
    assert version_of(service.client) == "3"


def test_promotions_under_load_fail_no_request(make_service: Any, servables: dict[str, Path], tmp_path: Path) -> None:
    state = tmp_path / "state"
    point(state, {THREAT: (servables["threat"], "0")})
    service = make_service()
    stop = threading.Event()

    def promote() -> None:
        for version in range(1, 8):
            point(state, {THREAT: (servables["threat"], str(version))})
            service.models.watcher.look()
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
    command = [sys.executable, "-m", "serve_app.champions.follower", "--folder", str(tmp_path / "node")]
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


def test_no_credentials_get_into_the_pointer_file_the_status_or_the_log(
    make_service: Any, servables: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(servables["threat"])
    folder = node_folder(tmp_path / "state")
    follower = Follower(folder, store)
    follower.poll()
    uri = "postgresql://svc:s3cret@db/mlflow"
    errors = (TrackingError(f"MLflow at '{uri}': gone"), RuntimeError(f"could not connect to {uri}"))
    for error in errors:
        store.error = error
        follower.poll()
        told = follower.execute({"do": "list"})
        status = make_service().client.get("models/status").body.decode()
        seen = [(folder / "champions.json").read_text(), status, json.dumps(told), caplog.text]
        assert [text for text in seen if "s3cret" in text] == []
        assert "***@db" in seen[0] and "***@db" in seen[1] and "***@db" in seen[2]


@pytest.mark.parametrize("task", sorted(MODELS))
def test_the_follower_can_verify_a_champion_of_every_task(servables: dict[str, Path], task: str) -> None:
    verify(servables[task], MODELS[task], {"version": "1", "run_id": None, "alias": "champion", "created": None})
