"""Keys, rates, the audit log and writes that are done once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from client import Answer
from conftest import Disk, Service, point

from aiops_core import facts, settings
from aiops_core.audited import audited
from aiops_core.errors import UsageError
from serve_app import app, run
from serve_app.guard import access, audit, keys, rates
from serve_app.guard.access import Guard
from serve_app.guard.commands import main
from serve_app.wire.problems import Problem

PROMOTE = {"name": "threat_detector", "version": 2}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of the commands."""
    monkeypatch.setenv("AIOPS_HOME", str(tmp_path))
    monkeypatch.setenv("AIOPS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("AIOPS_KEYS_FILE", raising=False)
    return tmp_path / "state"


# The keys file -------------------------------------------------------------------------------------------------------


def test_a_key_is_printed_once_alone_on_the_last_line_and_nothing_in_the_file_opens_the_service(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "add", "grafana", "--scope", "read", "--rate", "5"]) == 0
    key = capsys.readouterr().out.splitlines()[-1]
    assert key.startswith("aiops_") and len(key) == len("aiops_") + 43
    path = home / "keys.json"
    assert path.stat().st_mode & 0o777 == 0o600 and home.stat().st_mode & 0o777 == 0o700
    assert key not in path.read_text() and key.removeprefix("aiops_") not in (home / "audit.jsonl").read_text()
    (entry,) = keys.read(path)
    assert (entry.name, entry.scopes, entry.rate, entry.burst) == ("grafana", ("read",), 5.0, 10.0)
    assert entry.sha256 == keys.digest(key.encode())
    assert main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert "grafana" in listed and "read" in listed and "5/s" in listed and entry.sha256 not in listed


def test_a_rotated_key_ends_and_a_revoked_one_leaves_a_file_that_lets_nobody_in(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["keys", "add", "ci", "--scope", "predict,read"])
    old = capsys.readouterr().out.split()[-1]
    assert main(["keys", "rotate", "ci"]) == 0
    new = capsys.readouterr().out.split()[-1]
    (entry,) = keys.read(home / "keys.json")
    assert old != new and entry.sha256 == keys.digest(new.encode()) and entry.scopes == ("read", "predict")
    assert main(["keys", "revoke", "ci"]) == 0
    assert keys.read(home / "keys.json") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "ci", "--scope", "read"], "already"),
        (["add", "a b", "--scope", "read"], "letters"),
        (["add", "x", "--scope", "admin"], "admin"),
        (["add", "x", "--scope", ","], "scopes are"),
        (["add", "x", "--scope", "read", "--rate", "0"], "--rate"),
        (["add", "x", "--scope", "read", "--burst", "3"], "--burst goes with --rate"),
        (["revoke", "nobody"], "there are: ci"),
        (["rotate", "nobody"], "there are: ci"),
    ],
)
def test_a_mistake_with_keys_is_one_sentence_and_changes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    main(["keys", "add", "ci", "--scope", "read"])
    before = (home / "keys.json").read_bytes()
    capsys.readouterr()
    assert main(["keys", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and len(said.err.splitlines()) == 1 and not said.out
    assert (home / "keys.json").read_bytes() == before


def test_keys_added_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    threads = [threading.Thread(target=keys.add, args=(path, f"n{i}", ["read"])) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in keys.read(path)} == {f"n{i}" for i in range(20)}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".keys.json.") and "lock" not in p.name] == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"keys": 1}',
        b'{"keys": [{}]}',
        b'{"keys": [{"name": "a", "sha256": "b", "scopes": ["read"]}]}',
        json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "scopes": []}]}).encode(),
        json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "scopes": ["root"]}]}).encode(),
        json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "scopes": ["read"], "rate": "fast"}]}).encode(),
        json.dumps({"keys": [{"name": n, "sha256": "0" * 64, "scopes": ["read"]} for n in "ab"]}).encode(),
        b"[" * 100_000,
    ],
)
def test_a_damaged_keys_file_is_named_and_read_as_no_key_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UsageError, match=r"keys\.json: it is damaged"):
        keys.read(path)


def test_a_keys_file_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys.add(path, "a", ["read"])
    path.chmod(0o620)
    with pytest.raises(UsageError, match="others may write"):
        keys.read(path)


def test_the_command_line_hands_keys_and_audit_to_the_service(tmp_path: Path) -> None:
    environment = {**os.environ, "AIOPS_HOME": str(tmp_path), "AIOPS_STATE_DIR": str(tmp_path / "state")}
    environment |= {"AIOPS_KEYS_FILE": str(tmp_path / "elsewhere.json")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "aiops_core.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    added = run("keys", "add", "ci", "--scope", "read")
    assert added.returncode == 0 and added.stdout.startswith("aiops_") and (tmp_path / "elsewhere.json").is_file()
    assert "intact: 2 lines" in run("audit", "verify").stdout
    assert "add" in run("keys", "--help").stdout
    assert run("keys", "revoke", "nobody").returncode == 2


def test_what_the_command_line_does_to_champions_is_in_the_audit_log(home: Path) -> None:
    with audited("models promote", name="threat_detector", version=2):
        pass
    with pytest.raises(UsageError), audited("models rollback", name="threat_detector"):
        raise UsageError("no server answers at http://a:s3cret@host")
    assert audit.verify(home / "audit.jsonl")[0] == 4
    begun, done, _, failed = audit.last(home / "audit.jsonl", 4)
    assert begun["what"] == {"name": "threat_detector", "version": 2} and begun["who"].endswith("(shell)")
    assert (begun["route"], done["phase"], failed["phase"]) == ("models promote", "done", "failed")
    assert done["event"] == begun["event"] and "s3cret" not in (home / "audit.jsonl").read_text()


def test_without_an_audit_log_the_command_line_changes_no_champion(home: Path) -> None:
    (home / "audit.jsonl").mkdir(parents=True)
    with pytest.raises(UsageError, match="nothing was done, but the audit log cannot be written"):
        with audited("models promote", name="threat_detector", version=2):
            raise AssertionError("it was done")


# Rates ---------------------------------------------------------------------------------------------------------------


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    bucket = rates.Bucket(2.0, 4.0)
    now = bucket._then
    assert [bucket.take(now) for _ in range(4)] == [0.0] * 4
    assert bucket.take(now) == pytest.approx(0.5)
    assert bucket.take(now + 0.5) == 0.0 and bucket.take(now + 0.5) > 0
    assert [bucket.take(now + 1000) > 0 for _ in range(5)] == [False] * 4 + [True]


def test_failures_are_counted_by_address_and_remembered_for_a_bounded_number_of_them() -> None:
    failures = rates.Failures(1.0, 2.0, most=100)
    assert [failures.take("a") > 0 for _ in range(3)] == [False, False, True]
    assert failures.take("b") == 0.0
    for i in range(1000):
        failures.take(f"c{i}")
    assert len(failures._buckets) == 100


def test_the_replicas_share_the_rate_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = keys.add(path, "a", ["read"], 4.0, 8.0)
    scope = {"headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode())]}
    guard = Guard(path, replicas=4)
    for _ in range(2):
        assert guard.check(scope, "read").name == "a"
    with pytest.raises(Problem) as caught:
        guard.check(scope, "read")
    assert caught.value.status == 429 and (b"retry-after", b"1") in caught.value.headers


# A running service ---------------------------------------------------------------------------------------------------


def test_a_running_service_follows_keys_that_are_added_rotated_and_revoked(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    guard = Guard(path)
    anybody: dict[str, Any] = {"headers": [(b"host", b"localhost")]}

    def status(key: str) -> int:
        headers = [*anybody["headers"], (b"authorization", f"Bearer {key}".encode())]
        try:
            return 200 if guard.check({"headers": headers}, "read") else 0
        except Problem as problem:
            return problem.status

    assert guard.check(anybody, "operate").name is None
    old = keys.add(path, "a", ["read"])
    guard.look()
    assert (status(old), status("aiops_x")) == (200, 401)
    with pytest.raises(Problem, match="valid key"):
        guard.check(anybody, "read")
    new = keys.rotate(path, "a")
    guard.look()
    assert (status(old), status(new)) == (401, 200)
    keys.revoke(path, "a")
    guard.look()
    assert status(new) == 401


@pytest.mark.parametrize("harm", ["remove", "damage", "open to others", "a folder"])
def test_once_keys_were_read_a_file_that_goes_or_is_damaged_closes_the_service_until_it_is_back(
    make_service: Callable[..., Service], harm: str
) -> None:
    path = make_service().state / "keys.json"
    key = keys.add(path, "a", ["read", "predict"])
    service = make_service()
    content = path.read_bytes()
    assert service.client.get("models/status", headers=bearer(key)).status == 200
    if harm == "remove":
        path.unlink()
    elif harm == "damage":
        path.write_bytes(content[:-20])
    elif harm == "open to others":
        path.chmod(0o666)
    else:
        path.unlink()
        path.mkdir()
    service.guard.look()
    for headers in (bearer(key), {}):
        for answer in (
            service.client.get("models/status", headers=headers),
            service.client.post("predict/threat", {"request_rate": 1}, headers=headers),
            service.client.get("nothing/here", headers=headers),
        ):
            assert answer.status == 503 and answer.json()["title"] and answer.headers["x-request-id"]
            assert "keys" in answer.json()["detail"] and str(path) not in answer.body.decode()
    assert service.client.get("health/live").status == 200
    unready = service.client.get("health/ready")
    assert unready.status == 503 and "reasons" not in unready.json()
    if harm == "a folder":
        path.rmdir()
    path.write_bytes(content)
    path.chmod(0o600)
    service.guard.look()
    assert service.client.get("models/status", headers=bearer(key)).status == 200


@pytest.mark.parametrize(
    "options", [{"host": "0.0.0.0"}, {"host": "10.0.0.7"}, {"host": "any.example"}, {"keyed": True}]
)
def test_where_others_can_reach_it_a_service_without_a_keys_file_is_closed(
    make_service: Callable[..., Service], options: dict[str, Any]
) -> None:
    service = make_service(guard=options)
    assert service.client.get("models/status").status == 503
    assert service.client.post("models/train", {}).status == 503


def test_a_replica_started_after_the_keys_file_was_deleted_stays_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIOPS_KEYS_FILE", raising=False)
    monkeypatch.setattr(app, "_listening", lambda: "127.0.0.1")
    config = {"state_dir": str(tmp_path), "keyed": False, "replicas": 1}
    scope = {"headers": [(b"host", b"localhost")]}
    first = app._guard(config, settings.load())
    assert first.check(scope, "operate").name is None, "nobody made a key yet"
    keys.add(tmp_path / "keys.json", "a", ["read"])
    first.look()
    (tmp_path / "keys.json").unlink()
    first.look()
    for guard in (first, app._guard(config, settings.load())):
        with pytest.raises(Problem) as caught:
            guard.check(scope, "operate")
        assert caught.value.status == 503
    with pytest.raises(UsageError, match="is gone: put it back"):
        run.RunningService(state_dir=str(tmp_path)).__enter__()


def test_the_metrics_need_read_unless_told_otherwise(make_service: Callable[..., Service]) -> None:
    path = make_service().state / "keys.json"
    predict, read = keys.add(path, "p", ["predict"]), keys.add(path, "r", ["read"])
    service = make_service()
    assert service.client.get("metrics").status == 401
    assert service.client.get("metrics", headers=bearer(predict)).status == 403
    assert service.client.get("metrics", headers=bearer(read)).status == 200
    assert make_service(guard={"metrics_open": True}).client.get("metrics").status == 200


def test_the_description_is_public_and_names_features_only_to_those_who_may_read(
    make_service: Callable[..., Service], servables: dict[str, Path]
) -> None:
    state = make_service().state
    point(state, {facts.MODELS["threat"]: (servables["threat"], "1")})
    read = keys.add(state / "keys.json", "r", ["read"])
    service = make_service()
    public, full = service.client.get("/schema"), service.client.get("/schema", headers=bearer(read))
    assert b"port_scan_score" not in public.body and b"port_scan_score" in full.body
    described = public.json()
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    paths = described["paths"]
    assert paths["/api/v3/aiops/predict/threat"]["post"]["security"] == [{"key": ["predict"]}]
    assert paths["/api/v3/aiops/models/promote"]["post"]["security"] == [{"key": ["operate"]}]
    assert paths["/docs"]["get"]["security"] == []
    assert service.client.get("health").json().keys() == {"status", "ready"}
    assert service.client.get("health/ready").json().keys() == {"status"}
    assert service.client.get("health/ready", headers=bearer(read)).json().keys() == {"status", "warnings"}
    assert service.client.get("health", headers=bearer(read)).json()["models_loaded"]


# The audit log -------------------------------------------------------------------------------------------------------


def entries(service: Service) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (service.state / "audit.jsonl").read_text().splitlines()]


def test_every_write_is_in_the_audit_log_before_and_after_with_who_asked(make_service: Callable[..., Service]) -> None:
    path = make_service().state / "keys.json"
    key = keys.add(path, "boss", ["operate"])
    service = make_service(command=[sys.executable, "-c", "import time; time.sleep(60)"])

    def ask(method: str, route: str, body: Any = None) -> Answer:
        return service.client.request(method, route, body, headers={**bearer(key), "x-request-id": "r-7"})

    run = {"name": "threat_detector", "run_id": "0" * 32}
    answers = [
        ask("POST", "models/promote", PROMOTE),
        ask("POST", "models/rollback", {"name": "threat_detector"}),
        ask("POST", "models/register", run),
        ask("POST", "remediate", {"action": "scale_horizontal", "resource_id": "s", "reason": "because"}),
        ask("POST", "models/train", {"seed": 1}),
    ]
    answers.append(ask("DELETE", f"models/train/{answers[-1].json()['job_id']}"))
    log = entries(service)
    assert [entry["phase"] for entry in log] == ["begun", "failed"] * 3 + ["begun", "done"] * 3
    assert [entry["status"] for entry in log[1::2]] == [answer.status for answer in answers]
    for begun, ended in zip(log[::2], log[1::2], strict=True):
        assert begun["event"] == ended["event"]
        assert (begun["who"], begun["scope"], begun["request_id"]) == ("boss", "operate", "r-7")
    assert [entry["route"] for entry in log[::2]] == [
        "models/promote", "models/rollback", "models/register", "remediate", "models/train", "models/train/{job_id}",
    ]  # fmt: skip
    assert log[0]["what"] == {**PROMOTE, "expected_version": None} and log[6]["what"]["reason"] == "because"
    assert key not in (service.state / "audit.jsonl").read_text()
    assert (service.state / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    assert audit.verify(service.state / "audit.jsonl")[0] == 12


def test_what_reads_or_is_refused_leaves_no_line(make_service: Callable[..., Service]) -> None:
    service = make_service()
    service.client.get("models/status")
    service.client.post("models/promote", {"name": "threat_detector"})
    service.client.post("models/promote", b"{")
    assert not (service.state / "audit.jsonl").exists()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """An audit log of six lines."""
    path = tmp_path / "audit.jsonl"
    for i in range(3):
        book = audit.Audit(path)
        book.end(book.begin(who="a", what=i), "done", status=200)
    return path


def test_an_intact_log_is_called_intact(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", str(log)]) == 0
    assert capsys.readouterr().out.startswith("intact: 6 lines")
    assert main(["audit", "show", str(log), "--last", "2"]) == 0
    assert [json.loads(line)["phase"] for line in capsys.readouterr().out.splitlines()] == ["begun", "done"]


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (lambda lines: [*lines[:2], lines[2].replace(b'"a"', b'"b"'), *lines[3:]], 4),
        (lambda lines: [*lines[:2], *lines[3:]], 3),
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
        (lambda lines: [*lines[:2], b"{}\n", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"\n", *lines[2:]], 3),
        (lambda lines: [*lines[:5], lines[5][:-10]], 6),
    ],
)
def test_the_first_line_that_was_changed_taken_or_put_in_is_named(
    log: Path, harm: Callable[[list[bytes]], list[bytes]], line: int, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_bytes(b"".join(harm(log.read_bytes().splitlines(keepends=True))))
    assert main(["audit", "verify", str(log)]) == 1
    assert f"line {line} " in capsys.readouterr().err


def test_a_line_that_a_power_cut_left_in_pieces_stays_and_the_next_begins_anew(log: Path) -> None:
    with open(log, "ab") as file:
        file.write(b'{"half')
    audit.Audit(log).begin(who="a")
    with pytest.raises(audit.Broken, match="line 7"):
        audit.verify(log)
    assert json.loads(log.read_bytes().splitlines()[-1])["phase"] == "begun"


def test_lines_of_several_processes_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    script = (
        "import sys; from pathlib import Path; from serve_app.guard.audit import Audit\n"
        "for i in range(40): Audit(Path(sys.argv[1])).begin(who=sys.argv[2], what='x' * 2000)"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(path), str(n)]) for n in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert audit.verify(path)[0] == 120


def test_on_a_full_disk_nothing_is_begun(disk: Disk, make_service: Callable[..., Service]) -> None:
    service = make_service(command=[sys.executable, "-c", ""])
    service.client.post("remediate", {"action": "scale_horizontal", "resource_id": "s"})
    # The rest of the page that is there already is taken first.
    with open(disk.path / "audit.jsonl", "ab") as file:
        file.write(b" " * (4096 - file.tell() % 4096))
    disk.fill()
    before = (disk.path / "audit.jsonl").stat().st_size
    for route, body in (("models/train", {}), ("remediate", {"action": "scale_horizontal", "resource_id": "s"})):
        for headers in ({}, {"idempotency-key": "k"}):
            answer = service.client.post(route, body, headers=headers)
            assert answer.status == 503 and "nothing was done" in answer.json()["detail"]
            assert answer.headers["retry-after"]
    assert not list(disk.path.glob("jobs/*/job.json"))
    assert (disk.path / "audit.jsonl").stat().st_size == before
    disk.free()
    assert service.client.post("models/train", {}, headers={"idempotency-key": "k"}).status == 202


# Idempotency ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def trainer(make_service: Callable[..., Service]) -> Service:
    return make_service(command=[sys.executable, "-c", ""])


def test_a_write_with_an_idempotency_key_is_done_once(trainer: Service, make_service: Callable[..., Service]) -> None:
    headers = {"idempotency-key": "k-1"}
    first = trainer.client.post("models/train", {"seed": 1}, headers=headers)
    assert first.status == 202 and "idempotent-replayed" not in first.headers
    # By whichever replica.
    for service in (trainer, make_service()):
        again = service.client.post("models/train", {"seed": 1}, headers=headers)
        assert (again.status, again.body, again.headers["location"]) == (202, first.body, first.headers["location"])
        assert again.headers["idempotent-replayed"] == "true"
    assert len(trainer.client.get("models/train").json()["jobs"]) == 1
    assert len(entries(trainer)) == 2
    other = trainer.client.post("models/train", {"seed": 2}, headers=headers)
    assert other.status == 422 and "another request" in other.json()["detail"]
    assert (
        trainer.client.post("remediate", {"action": "isolate_host", "resource_id": "s"}, headers=headers).status == 200
    )


def test_a_refusal_is_repeated_and_what_was_not_begun_may_be_tried_again(
    trainer: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"idempotency-key": "k-2"}
    body = {"action": "isolate_host", "resource_id": "s", "dry_run": False}
    first = trainer.client.post("remediate", body, headers=headers)
    again = trainer.client.post("remediate", body, headers=headers)
    assert first.status == again.status == 409 and first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    # No follower runs here: nobody was asked.
    for _ in range(2):
        refused = trainer.client.post(
            "models/rollback", {"name": "threat_detector"}, headers={"idempotency-key": "k-3"}
        )
        assert refused.status == 503 and refused.headers["retry-after"] and "idempotent-replayed" not in refused.headers


def test_an_attempt_of_unknown_outcome_is_not_made_twice_unless_that_is_the_same(
    trainer: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def lost(**command: Any) -> Any:
        asked.append(command["do"])
        raise Problem(503, "the follower was killed while it was at it")

    monkeypatch.setattr(trainer.services.registry, "ask", lost)
    for route, body, statuses in (
        ("models/rollback", {"name": "threat_detector"}, [503, 409]),
        ("models/promote", PROMOTE, [503, 503]),
    ):
        headers = {"idempotency-key": "k-4"}
        assert [trainer.client.post(route, body, headers=headers).status for _ in range(2)] == statuses
    assert asked == ["rollback", "promote", "promote"]


@pytest.mark.parametrize("key", ["", "a" * 129, "a b", "\x80"])
def test_an_idempotency_key_that_is_none_is_refused(trainer: Service, key: str) -> None:
    assert trainer.client.post("models/train", {}, headers={"idempotency-key": key}).status == 400


# Training ------------------------------------------------------------------------------------------------------------


def test_training_over_http_reads_built_in_sources_and_folders_below_allowed_roots_only(
    trainer: Service, tmp_path: Path
) -> None:
    from aiops_core.data.sources import PUBLIC

    assert facts.SOURCES == ("synthetic", *PUBLIC)
    root = trainer.state / "datasets"
    (root / "mine").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "table.csv").write_text("a\n1\n")
    for source in (
        "/etc", str(tmp_path / "secret"), "../../secret", "mine/../../../secret", "link", "table.csv", "mine\0", "absent",
        "--out=/tmp", "-", "~", ".." , "file:///etc", "http://10.0.0.1/",
    ):  # fmt: skip
        answer = trainer.client.post("models/train", {"source": source})
        assert answer.status == 422 and answer.json()["errors"][0]["path"] == "$.source", source
        assert str(tmp_path) not in answer.json()["detail"]
    allowed = {"mine": str(root / "mine"), str(root / "mine"): str(root / "mine"), "nab": "nab"}
    for source, given in allowed.items():
        assert trainer.services.sources.allow(source) == given


def test_names_of_the_service_are_known_by_its_address() -> None:
    assert [host for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost") if not access.is_loopback(host)] == []
    assert [host for host in ("0.0.0.0", "::", "10.0.0.1", "", "localhost.evil") if access.is_loopback(host)] == []
