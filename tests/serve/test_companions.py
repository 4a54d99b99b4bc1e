"""Versions that answer beside the champion: which requests a canary answers, and what takes it out."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import ROW, THREAT, Running, Service, Store, version_of

from aiops_core.errors import TrackingError
from serve_app.champions.follower import Follower, listen
from serve_app.champions.node import node_folder, read_pointer, socket_path
from serve_app.guard import audit


@pytest.fixture
def store(servables: dict[str, Path]) -> Store:
    """A registry with champion 1 and, as canary of half of the requests, version 2."""
    found = Store(servables["threat"])
    found.beside["canary"] = (2, 0.5)
    return found


@pytest.fixture
def follower(store: Store, tmp_path: Path) -> Follower:
    """The follower of that registry, after its first look."""
    found = Follower(node_folder(tmp_path / "state"), store)
    found.poll()
    return found


@contextmanager
def listening(follower: Follower, tmp_path: Path) -> Iterator[None]:
    """Let the follower be asked over its socket."""
    server = listen(follower, socket_path(node_folder(tmp_path / "state")))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def who(service: Service, name: str, **row: Any) -> dict[str, Any]:
    answer = service.client.post("predict/threat", {**ROW, "source_ip": name, **row})
    assert answer.status == 200, answer.body
    return dict(answer.json()["model"])


def of_canary(service: Service, count: int = 200) -> list[str]:
    """Return the sources that the canary answers."""
    names = [f"10.0.0.{i}" for i in range(count)]
    return [name for name in names if who(service, name)["alias"] == "canary"]


def beside(service: Service) -> list[dict[str, Any]]:
    models = service.client.get("models/status").json()["models"]
    return list(next(m for m in models if m["name"] == THREAT).get("beside", []))


def refusing(folder: Path, target: Path) -> Path:
    """Make a servable that does not know the feature that requests name."""
    shutil.copytree(folder, target)
    card = json.loads((target / "card.json").read_text())
    for feature in card["features"]:
        feature["name"] = {"failed_auth_count": "failures"}.get(feature["name"], feature["name"])
    (target / "card.json").write_text(json.dumps(card))
    return target


def test_a_canary_answers_its_share_and_always_the_same_sources(make_service: Any, follower: Follower) -> None:
    service = make_service()
    own = of_canary(service)
    assert 70 <= len(own) <= 130
    assert of_canary(service) == own
    model = who(service, own[0])
    assert (model["name"], model["version"], model["alias"]) == (THREAT, "2", "canary")
    assert beside(service) == [{"alias": "canary", "version": "2", "run_id": f"{2:032x}", "share": 0.5}]
    assert service.total("aiops_canary_total", model=THREAT, result="answered") == 2 * len(own) + 1
    assert service.total("aiops_companion_info", model=THREAT, alias="canary", version="2") == 1


def test_a_batch_is_shared_by_the_same_rule_and_answered_in_its_order(make_service: Any, follower: Follower) -> None:
    service = make_service()
    own = of_canary(service, 40)
    rows = [{**ROW, "source_ip": f"10.0.0.{i}"} for i in range(40)]
    rows.insert(3, {"failed_auth_count": "many", "source_ip": own[0]})
    answer = service.client.post("predict/threat", {"instances": rows, "partial": True}).json()["predictions"]
    assert "error" in answer[3] and answer[3]["error"]["errors"][0]["path"] == "$.instances[3].failed_auth_count"
    del answer[3]
    assert [a["source_ip"] for a in answer] == [f"10.0.0.{i}" for i in range(40)]
    assert [a["source_ip"] for a in answer if a["model"]["alias"] == "canary"] == own
    refused = service.client.post("predict/threat", {"instances": rows})
    assert refused.status == 422 and refused.json()["errors"][0]["path"] == "$.instances[3].failed_auth_count"
    # What both refuse says nothing about the canary.
    assert service.total("aiops_canary_total", model=THREAT, result="refused") == 0


def test_requests_that_name_nobody_are_shared_by_their_content(make_service: Any, follower: Follower) -> None:
    service = make_service()
    spoke = Counter(
        service.client.post("predict/threat", {"failed_auth_count": i}).json()["model"]["alias"] for i in range(60)
    )
    assert spoke["canary"] > 10 and spoke["champion"] > 10


def test_without_a_canary_everything_is_the_champions_again(
    make_service: Any, follower: Follower, store: Store
) -> None:
    service = make_service()
    assert of_canary(service, 40)
    del store.beside["canary"]
    follower.poll()
    service.models.watcher.look()
    assert of_canary(service, 40) == [] and beside(service) == []
    assert service.total("aiops_companion_info", model=THREAT, alias="canary") == 0


def test_a_canary_that_cannot_be_served_answers_nothing_and_is_named(
    make_service: Any, servables: dict[str, Path], broken: Path, tmp_path: Path
) -> None:
    store = Store(servables["threat"], {2: broken})
    store.beside["canary"] = (2, 0.5)
    Follower(node_folder(tmp_path / "state"), store).poll()
    service = make_service()
    assert of_canary(service, 40) == []
    (entry,) = beside(service)
    assert entry["refused"]["version"] == "2" and "golden" in entry["refused"]["reason"]


def test_a_canary_that_refuses_what_the_champion_answers_is_taken_out(
    make_service: Any, servables: dict[str, Path], tmp_path: Path
) -> None:
    store = Store(servables["threat"], {2: refusing(servables["threat"], tmp_path / "refusing")})
    store.beside["canary"] = (2, 0.5)
    follower = Follower(node_folder(tmp_path / "state"), store)
    follower.poll()
    service = make_service()
    # Nobody hears of it: the champion answers.
    assert of_canary(service, 60) == []
    assert service.total("aiops_canary_total", model=THREAT, result="refused") == 5
    with listening(follower, tmp_path):
        service.models.watcher._beside.report()
    assert store.beside == {}
    assert read_pointer(node_folder(tmp_path / "state"))["companions"] == {}
    begun, ended = (json.loads(line) for line in (tmp_path / "state" / audit.NAME).read_text().splitlines())
    assert (begun["who"], begun["route"], begun["what"]["version"]) == ("guard rail", "models/canary", 2)
    assert "5 of 5 requests were refused" in begun["what"]["reason"] and ended["phase"] == "done"
    service.models.watcher.look()
    assert beside(service)[0]["stopped"]["version"] == "2" and "refused" in beside(service)[0]["stopped"]["reason"]
    assert service.total("aiops_canary_stopped_total", model=THREAT) == 1


def test_a_canary_that_fails_is_taken_out_though_the_registry_is_away(
    make_service: Any, follower: Follower, store: Store, tmp_path: Path
) -> None:
    service = make_service()
    own = of_canary(service, 40)

    def fails(*args: Any, **options: Any) -> Any:
        raise RuntimeError("the graph does not run")

    service.models.services["threat"].canary.model.servable.occlude = fails
    store.error = TrackingError("no MLflow server answers")
    assert {who(service, name)["version"] for name in own} == {"1"}
    assert service.total("aiops_canary_total", model=THREAT, result="error") == 3
    with listening(follower, tmp_path):
        service.models.watcher._beside.report()
    assert store.beside, "the registry cannot be reached"
    assert read_pointer(node_folder(tmp_path / "state"))["companions"] == {}
    # Back again, it is taken out there too, by a follower that began anew as well.
    store.error = None
    Follower(node_folder(tmp_path / "state"), store).poll()
    assert store.beside == {}
    store.beside["canary"] = (2, 0.5)
    again = Follower(node_folder(tmp_path / "state"), store)
    again.poll()
    content = read_pointer(node_folder(tmp_path / "state"))
    assert "threat_detector@canary" in content["companions"] and content["stopped"] == {}, "named again, it is let in"
    phases = [json.loads(line)["phase"] for line in (tmp_path / "state" / audit.NAME).read_text().splitlines()]
    assert phases == ["begun", "done"]


def test_a_slow_canary_is_taken_out(make_service: Any, follower: Follower) -> None:
    service = make_service()
    canary = service.models.services["threat"].canary
    quick = canary.model.servable.occlude

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(0.01)
        return quick(*args, **options)

    canary.model.servable.occlude = slow
    for _ in range(12):
        of_canary(service, 40)
        if canary.stopped:
            break
    assert "ms, the champion" in canary.stopped
    assert of_canary(service, 40) == []


def test_shadow_and_canary_are_set_and_removed_over_http(
    make_service: Any, servables: dict[str, Path], broken: Path, tmp_path: Path
) -> None:
    store = Store(servables["threat"], {4: broken})
    follower = Follower(node_folder(tmp_path / "state"), store)
    follower.poll()
    service = make_service()
    post = service.client.post
    with listening(follower, tmp_path):
        answer = post("models/canary", {"name": THREAT, "version": 2, "share": 0.5, "expected_version": 1})
        assert answer.status == 200 and answer.json()["canary"]["version"] == 2, answer.body
        assert post("models/shadow", {"name": THREAT, "version": 3}).json()["shadow"]["version"] == 3
        assert store.beside == {"canary": (2, 0.5), "shadow": (3, None)}
        service.models.watcher.look()
        assert of_canary(service, 40)
        assert [entry["alias"] for entry in beside(service)] == ["shadow", "canary"]
        for body, status, word in (
            ({"name": THREAT, "version": 1}, 409, "is the champion"),
            ({"name": THREAT, "version": 4}, 409, "golden"),
            ({"name": THREAT, "version": 99}, 404, "not found"),
            ({"name": THREAT, "version": 5, "expected_version": 7}, 409, "version 1 of"),
            ({"name": "nobody", "version": 5}, 404, "no model"),
        ):
            refused = post("models/shadow", body)
            assert refused.status == status and word in refused.json()["detail"], refused.body
        assert post("models/canary", {"name": THREAT, "version": 2, "share": 1.5}).status == 422
        assert post("models/canary", {"name": THREAT}).status == 422
        assert store.beside["shadow"] == (3, None)
        # A canary that is promoted is no canary any more.
        assert post("models/promote", {"name": THREAT, "version": 2}).status == 200
        assert "threat_detector@canary" not in read_pointer(node_folder(tmp_path / "state"))["companions"]
        assert post("models/shadow", {"name": THREAT, "version": None}).json()["removed"]["version"] == 3
        gone = post("models/shadow", {"name": THREAT, "version": None})
        assert gone.status == 409 and "has no shadow" in gone.json()["detail"]
    service.models.watcher.look()
    assert version_of(service.client) == "2" and of_canary(service, 40) == []
    routes = [json.loads(line).get("route") for line in (tmp_path / "state" / audit.NAME).read_text().splitlines()]
    assert {"models/shadow", "models/canary"} <= set(routes)


@pytest.mark.serve
def test_every_replica_of_a_real_service_follows_a_canary_and_lets_the_same_sources_hear_it(running: Running) -> None:
    before = running.version(THREAT)
    other = 1 if before == "2" else 2

    def spoke(name: str) -> str:
        answer = running.post("predict/threat", {**ROW, "source_ip": name})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["model"]["alias"])

    def within(seconds: float, found: Any) -> None:
        deadline = time.monotonic() + seconds
        while not found():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    answer = running.post("models/canary", {"name": THREAT, "version": other, "share": 0.5})
    assert answer.status_code == 200, answer.text
    try:
        assert running.post("models/shadow", {"name": THREAT, "version": other}).status_code == 200
        # Asked again and again, both replicas answer the same.
        names = [f"10.1.0.{i}" for i in range(20)]
        within(5, lambda: len({tuple(map(spoke, names)) for _ in range(6)}) == 1 and "canary" in map(spoke, names))
        verdict = running.http.get("models/judge", params={"task": "threat"}).json()["verdicts"][0]
        assert verdict["candidate"] == other and verdict["verdict"] is not None
        within(
            10,
            lambda: 'aiops_shadow_total{model="threat_detector",result="answered"}' in running.http.get("metrics").text,
        )
    finally:
        for alias in ("canary", "shadow"):
            running.post(f"models/{alias}", {"name": THREAT, "version": None})
    within(5, lambda: {spoke(name) for name in names for _ in range(3)} == {"champion"})
    assert running.version(THREAT) == before
