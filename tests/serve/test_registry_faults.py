"""The registry under faults: damaged copies, other features, a node that comes up without it, pickles, two who promote."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROW, THREAT, Store, point, version_of

from aiops_core import servable, tracking
from aiops_core.cli import app
from aiops_core.errors import ServableError, TrackingError
from aiops_core.facts import MODELS
from aiops_core.tracking.store import open_client
from serve_app.champions import follower as followers
from serve_app.champions.follower import Follower
from serve_app.champions.node import node_folder, read_pointer
from serve_app.champions.verify import verify

#: Promotes its versions one after another, with time for others between reading and writing.
PROMOTER = """
import sys, time
from mlflow import MlflowClient
from aiops_core import tracking
move = MlflowClient.set_registered_model_alias
MlflowClient.set_registered_model_alias = lambda *args: (move(*args), time.sleep(0.1))
tracking.champions()
print("ready", flush=True)
sys.stdin.readline()
for version in sys.argv[1].split(","):
    tracking.promote("threat_detector", int(version))
"""


class Sealed(Store):
    """A registry whose servables carry digests, as logged ones do, and whose copies in the cache are checked."""

    def fetch(self, name: str, version: int, folder: Path) -> Path:
        if folder.is_dir():
            try:
                servable.check_seal(folder)
                return folder
            except ServableError:
                shutil.rmtree(folder)
        super().fetch(name, version, folder)
        servable.seal(folder)
        return folder


def damage(folder: Path) -> None:
    """Change one byte in the middle of the largest file."""
    path = max(folder.iterdir(), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture
def registered(registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the registry with versions 1 and 2 of the threat detector, and a home of its own."""
    source = Path(registry.removeprefix("sqlite:///"))
    shutil.copy(source, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("AIOPS_HOME", str(tmp_path))
    monkeypatch.setenv("AIOPS_STATE_DIR", str(tmp_path / "state"))
    tracking.promote(THREAT, 1)
    return tmp_path


def other_features(source: Path, target: Path) -> Path:
    """Copy a threat servable whose clients have to change: a feature renamed, another one a category, a class more."""
    shutil.copytree(source, target)
    card = servable.read_card(target)
    card["features"][0]["name"] = "renamed"
    card["features"][1]["dtype"] = "category"
    (target / "card.json").write_text(json.dumps(card))
    return target


def test_the_follower_verifies_the_servables_of_every_task(servables: dict[str, Path]) -> None:
    for task, folder in servables.items():
        verify(folder, MODELS[task], {"version": "1", "run_id": "r", "alias": "champion", "created": None})


def test_a_damaged_copy_is_seen_while_it_is_served_and_fetched_again(
    make_service: Any, servables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "CHECK_SECONDS", 0.0, raising=False)
    store = Sealed(servables["threat"])
    folder = node_folder(tmp_path / "state")
    follower = Follower(folder, store)
    follower.poll()
    cached = Path(read_pointer(folder)["models"][THREAT]["folder"])
    damage(cached)
    # A replica that starts now refuses it, and looks again when it has been replaced.
    service = make_service()
    assert version_of(service.client) is None
    follower.poll()
    service.models.watcher.look()
    assert version_of(service.client) == "1"
    servable.check_seal(cached)
    assert make_service().client.post("predict/threat", ROW).status == 200


def test_a_damaged_copy_stays_in_service_while_it_cannot_be_fetched(
    make_service: Any, servables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "CHECK_SECONDS", 0.0, raising=False)
    store = Sealed(servables["threat"])
    folder = node_folder(tmp_path / "state")
    follower = Follower(folder, store)
    follower.poll()
    service = make_service()
    damage(Path(read_pointer(folder)["models"][THREAT]["folder"]))

    def fetch(*_: Any) -> Path:
        raise TrackingError("no MLflow server answers")

    monkeypatch.setattr(store, "fetch", fetch)
    follower.poll()
    service.models.watcher.look()
    assert version_of(service.client) == "1"
    assert "no MLflow server" in service.client.get("health").json()["refused"][0]["reason"]


def test_a_seal_names_what_was_damaged_lost_or_added(servables: dict[str, Path], tmp_path: Path) -> None:
    for change, words in (
        (lambda f: damage(f), "is damaged"),
        (lambda f: (f / "golden.npz").unlink(), "golden.npz is missing"),
        (lambda f: (f / "more.pkl").write_bytes(b"x"), "more.pkl does not belong there"),
        (lambda f: (f / "digests.json").write_text("[]"), "digests cannot be checked"),
    ):
        folder = tmp_path / "servable"
        shutil.copytree(servables["threat"], folder)
        servable.seal(folder)
        servable.load(folder)
        change(folder)
        with pytest.raises(ServableError, match=words):
            servable.load(folder)
        shutil.rmtree(folder)


@pytest.mark.slow
def test_what_is_registered_is_sealed_and_a_damaged_copy_of_it_is_fetched_again(registered: Path) -> None:
    folder = tracking.fetch(THREAT, 1, registered / "cache" / "one")
    assert (folder / "digests.json").is_file()
    before = servable.digest(folder / "model.onnx")
    damage(folder)
    assert tracking.fetch(THREAT, 1, folder) == folder
    servable.load(folder)
    assert servable.digest(folder / "model.onnx") == before
    assert {p.stat().st_mode & 0o077 for p in (folder, *folder.iterdir())} == {0}


def test_promotion_says_what_changes_for_clients(
    servables: dict[str, Path], tmp_path: Path, make_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = other_features(servables["threat"], tmp_path / "changed")
    # The graph knows nothing of the new category: only the comparison is looked at here.
    monkeypatch.setattr(followers, "verify", lambda *_: None)
    store = Store(servables["threat"], {2: changed})
    follower = Follower(node_folder(tmp_path / "state"), store)
    follower.poll()
    card = servable.read_card(servables["threat"])
    first, second = (feature["name"] for feature in card["features"][:2])
    answer = follower.execute({"do": "promote", "name": THREAT, "version": 2})["ok"]
    assert answer["version"] == 2
    assert [(c["of"], c["name"], c["change"], c["before"], c["after"]) for c in answer["changes"]] == [
        ("feature", first, "removed", "number", None),
        ("feature", second, "retyped", "number", "category"),
        ("feature", "renamed", "added", None, "number"),
    ]
    assert follower.execute({"do": "promote", "name": THREAT, "version": 2})["ok"]["changes"] == []


def test_the_answer_over_http_holds_the_changes_beside_the_version(
    servables: dict[str, Path], tmp_path: Path, make_service: Any
) -> None:
    from serve_app.champions.follower import listen
    from serve_app.champions.node import socket_path

    folder = node_folder(tmp_path / "state")
    follower = Follower(folder, Store(servables["threat"]))
    follower.poll()
    server = listen(follower, socket_path(folder))
    try:
        answer = make_service().client.post("models/promote", {"name": THREAT, "version": 2})
    finally:
        server.shutdown()
        server.server_close()
        socket_path(folder).unlink()
    assert answer.status == 200 and answer.json()["changes"] == [] and answer.json()["promoted"]["version"] == 2
    assert "changes" not in answer.json()["promoted"]


def test_windows_horizons_and_classes_are_compared_too() -> None:
    before = {"features": [{"name": "cpu"}], "window": 24, "horizon": 6, "step_seconds": 60, "classes": ["normal", "a"]}
    after = {"features": [{"name": "cpu"}], "window": 48, "horizon": 6, "step_seconds": 30, "classes": ["normal", "b"]}
    found = [(c["of"], c["name"], c["change"]) for c in servable.changes(before, after)]
    assert found == [
        ("class", "a", "removed"),
        ("class", "b", "added"),
        ("window", None, "changed"),
        ("step_seconds", None, "changed"),
    ]


def test_a_new_node_without_a_registry_starts_from_another_nodes_pointer(
    make_service: Any, servables: dict[str, Path], broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    Follower(state / "nodes" / "older", Store(servables["failure"])).poll()
    store = Store(servables["threat"])
    store.champion = 3
    Follower(state / "nodes" / "other", store).poll()
    store.error = TrackingError("no MLflow server answers")
    here = node_folder(state)
    follower = Follower(here, store)
    follower.poll()
    service = make_service()
    assert version_of(service.client) == "3"
    # Its own copy: the other node may tidy up.
    shutil.rmtree(state / "nodes" / "other")
    assert version_of(make_service().client) == "3"
    assert service.client.get("models/status").json()["mlflow"]["reachable"] is False
    # Back again, the registry has the word.
    store.error, store.champion = None, 4
    follower.poll()
    service.models.watcher.look()
    assert version_of(service.client) == "4"


def test_another_nodes_servable_is_verified_like_any_other(
    make_service: Any, servables: dict[str, Path], broken: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    store = Store(servables["threat"])
    other = state / "nodes" / "other"
    Follower(other, store).poll()
    cached = Path(read_pointer(other)["models"][THREAT]["folder"])
    shutil.rmtree(cached)
    shutil.copytree(broken, cached)
    store.error = TrackingError("no MLflow server answers")
    Follower(node_folder(state), store).poll()
    assert version_of(make_service().client) is None


@pytest.mark.slow
def test_two_who_promote_at_the_same_time_lose_no_champion_of_the_history(registered: Path) -> None:
    with open_client() as client:
        source = client.get_model_version(THREAT, "1").source
        versions = [str(client.create_model_version(THREAT, source, None).version) for _ in range(10)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTER, ",".join(order)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for order in (versions[::2], versions[1::2])
    ]
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    with open_client() as client:
        model = client.get_registered_model(THREAT)
    history = model.tags["champion_history"].split(",")
    assert sorted(history[-10:], key=int) == versions and history[-1] == str(model.aliases["champion"])


@pytest.mark.slow
def test_the_command_line_promotes_only_what_reproduces_its_golden_examples(
    registered: Path, broken: Path, servables: dict[str, Path]
) -> None:
    from typer.testing import CliRunner

    for folder, words in ((broken, "golden"), (servables["failure"], "is for task 'failure'")):
        run = tracking.open_search("threat", registered / folder.name, name="bad", params={}, tags={})
        uri = tracking.log_servable(run.run_id, folder)
        bad = tracking.register("threat", run.run_id, None, model_uri=uri)
        result = CliRunner().invoke(app, ["models", "promote", THREAT, str(bad.version)])
        assert isinstance(result.exception, ServableError) and words in str(result.exception)
        assert tracking.champions()[THREAT].version == 1
    result = CliRunner().invoke(app, ["models", "promote", THREAT, "2"])
    assert result.exit_code == 0 and tracking.champions()[THREAT].version == 2, result.output
    assert (registered / "state").stat().st_mode & 0o777 == 0o700
    result = CliRunner().invoke(app, ["models", "rollback", THREAT])
    assert result.exit_code == 0 and tracking.champions()[THREAT].version == 1


@pytest.mark.slow
def test_the_command_line_sets_and_ends_shadow_and_canary(
    registered: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["models", *arguments])

    assert "answers 25 % of the requests" in run("canary", "threat", "2", "--share", "0.25").output
    assert "unheard" in run("shadow", THREAT, "2").output
    beside = tracking.companions()[THREAT]
    assert (beside["canary"].version, beside["canary"].share, beside["shadow"].version) == (2, 0.25, 2)
    run("list")
    assert "canary 25 %, shadow" in capsys.readouterr().out + run("list").output
    judged = run("judge", "threat")
    assert judged.exit_code == 0 and "Go on collecting" in judged.output, judged.output
    assert json.loads(run("judge", "threat", "--json").output)["candidate"] == 2
    trained = tracking.open_search("threat", registered / "bad", name="bad", params={}, tags={})
    uri = tracking.log_servable(trained.run_id, broken)
    bad = tracking.register("threat", trained.run_id, None, model_uri=uri)
    for arguments, words in (
        (("canary", "threat", str(bad.version)), "golden"),
        (("canary", "threat", "1"), "is the champion"),
        (("canary", "threat", "2", "--share", "1.5"), "--share lies"),
        (("shadow", "threat"), "or --off"),
        (("shadow", "threats", "2"), "unknown task 'threats'"),
        (("judge", "failure", "--since", "x"), "has neither canary nor shadow"),
    ):
        assert words in str(run(*arguments).exception), arguments
    assert "is canary no longer" in run("canary", "threat", "--off").output
    assert "is shadow no longer" in run("shadow", "threat", "--off").output
    assert tracking.companions() == {}


@pytest.mark.slow
def test_versions_are_listed_from_a_store_full_of_other_models(registered: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{registered / 'mlflow.db'}")
    for i in range(100):
        client.create_registered_model(f"another_{i:03d}")
    listed = [v.version for v in tracking.list_models() if v.name == THREAT]
    # Another test may have registered more.
    assert listed[-2:] == [2, 1] and listed == sorted(listed, reverse=True)


def test_nothing_that_serves_unpickles_what_the_registry_holds(
    make_service: Any, servables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pickle was opened")

    import cloudpickle
    import joblib

    for module in (pickle, cloudpickle):
        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(module, name, refuse, raising=False)
    monkeypatch.setattr(joblib, "load", refuse)
    monkeypatch.setattr(np.lib.format, "pickle", None, raising=False)
    planted = {}
    for task, folder in servables.items():
        planted[task] = tmp_path / task
        shutil.copytree(folder, planted[task])
        # Beside what belongs there, in a folder without digests: never looked at.
        for name in ("python_model.pkl", "model.pkl", "model.joblib"):
            (planted[task] / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    point(tmp_path / "state", {MODELS[task]: (folder, "1") for task, folder in planted.items()})
    service = make_service()
    assert service.client.get("health").json()["ready"] is True
    assert service.client.post("predict/threat", ROW).status == 200
    rows = [{"cpu_usage": 50.0, "memory_usage": 60.0}] * 24
    body = {"resource_id": "a", "time_series": rows}
    assert service.client.post("predict/failure", body).json()["model"]["kind"] == "lstm"
    history = {"cpu_usage": [52.1, 55.4, 61.0, 58.3]}
    assert service.client.post("predict/capacity", {"resource_id": "a", "historical_data": history}).status == 200


def test_golden_examples_that_are_a_pickle_are_refused(servables: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "planted"
    shutil.copytree(servables["threat"], folder)
    with np.load(folder / "golden.npz") as stored:
        arrays = dict(stored)

    class Bomb:
        def __reduce__(self) -> Any:
            return (socket.socket, ())

    arrays["more"] = np.array([Bomb()], dtype=object)
    np.savez_compressed(folder / "golden.npz", **arrays)
    with pytest.raises(ServableError, match="pickle"):
        servable.load(folder)
    (folder / "golden.npz").write_bytes(pickle.dumps({"X": 1}))
    with pytest.raises(ServableError):
        servable.load(folder)
