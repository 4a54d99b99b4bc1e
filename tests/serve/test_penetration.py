"""What an attacker would try, and what is answered: one row or short test for each attack.

The service is the application itself, with keys on unless a test says otherwise. Other attacks have their tests elsewhere:

- past the proxy, on the replicas' own ports, and behind TLS: `test_reachable`
- ports, files, environments and sockets of the service's processes: `test_cluster`, `test_deploy`
- broken, deep and hostile bodies: `test_bad_input`
- damaged or hostile servables in the registry: `test_registry_faults`, `test_reload`
- webhooks that answer strangely, or send elsewhere: `test_remediation`
- a forged audit log, damaged keys files, full disks: `test_guard`
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import string
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from client import PREFIX, Answer, Client
from conftest import Service

from serve_app.guard import access, keys
from serve_app.http.routes import ROUTES
from serve_app.wire.problems import Problem

ATTACK = {"request_rate": 1500}


class Target:
    """A service with one key of each scope."""

    def __init__(self, make_service: Callable[..., Service], **options: Any) -> None:
        file = make_service().state / "keys.json"
        self.keys = {scope: keys.add(file, f"{scope}-er", [scope]) for scope in keys.SCOPES}
        self.keys["slow"] = keys.add(file, "slow", ["predict", "read"], 0.1, 2)
        self.service = make_service(command=[sys.executable, "-c", ""], **options)

    def ask(self, method: str, path: str, key: str | None = None, body: Any = None, **headers: str) -> Answer:
        """Send a request with the key of a name, or with that text as a header."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["authorization"] = f"Bearer {self.keys[key]}" if key in self.keys else key
        return self.service.client.request(method, path, body, headers=sent)


@pytest.fixture
def target(make_service: Callable[..., Service]) -> Target:
    return Target(make_service)


def refused(answer: Answer, status: int) -> dict[str, Any]:
    """Check that an answer is a problem that gives nothing away, and return it."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert [name for name, _ in answer.every_header].count("x-request-id") == 1
    content: dict[str, Any] = answer.json()
    assert content["status"] == status and content["title"] != "Error"
    assert not re.search(rb"Traceback|File \"|site-packages|/tmp/|keys\.json|sha256", answer.body)
    return content


# Without a key, or with another one ----------------------------------------------------------------------------------------


#: What the header Authorization may hold that is no valid key.
NO_KEYS = {
    "no header": None,
    "an empty header": "",
    "the scheme alone": "Bearer",
    "an empty key": "Bearer ",
    "a made-up key": "Bearer aiops_" + "A" * 43,
    "a key cut short": "Bearer {read:-1}",
    "a key made longer": "Bearer {read}A",
    "a key in other letters": "Bearer {read:swapped}",
    "two keys in one": "Bearer {read} {operate}",
    "a list of keys": "Bearer {read},{operate}",
    "the key without a scheme": "{read}",
    "the key under another scheme": "Basic {read}",
    "the digest from the keys file": "Bearer {digest}",
    "the name of a key": "Bearer read-er",
    "a key behind a control character": "Bearer \t{read}",
    "a key with a NUL": "Bearer {read}\x00",
    "text that is not ASCII": "Bearer \xff\xfe",
    "a long text": "Bearer " + "A" * 100_000,
}


def spelled(text: str | None, target: Target) -> str | None:
    if text is None:
        return None
    read = target.keys["read"]
    known = {"{read}": read, "{read:-1}": read[:-1], "{read:swapped}": read.swapcase(), "{digest}": keys.digest(read.encode()),
             "{operate}": target.keys["operate"]}  # fmt: skip
    for name, value in known.items():
        text = text.replace(name, value)
    return text


@pytest.mark.parametrize("name", NO_KEYS)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "models/status"), ("POST", "predict/threat"), ("POST", "models/promote"), ("GET", "no/such/path")],
)
def test_without_a_valid_key_nothing_is_told_or_done(target: Target, name: str, method: str, path: str) -> None:
    said = refused(target.ask(method, path, spelled(NO_KEYS[name], target), ATTACK), 401)
    # The same words whatever was wrong: none says whether a key exists.
    assert said["detail"] == refused(target.ask(method, path, body=ATTACK), 401)["detail"]
    assert target.ask(method, path, body=ATTACK).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
@pytest.mark.parametrize("scope", keys.SCOPES)
def test_a_key_opens_the_routes_of_its_scope_and_no_other(target: Target, route: Any, scope: str) -> None:
    path = f"{PREFIX}/{route.path}".format(job_id="0123456789ab", file="docs.js")
    # A body that is refused for itself: what matters is whether anybody looks at it.
    answer = target.ask(route.method, path, scope, b"{")
    if route.scope in ("", scope):
        assert answer.status in (200, 202, 400, 404, 409, 503), answer.body
    else:
        assert f"'{route.scope}'" in refused(answer, 403)["detail"]


def test_every_route_that_changes_something_needs_operate_and_only_page_and_health_are_public() -> None:
    assert all(route.scope in ("", *keys.SCOPES) for route in ROUTES)
    assert all(
        route.scope == "predict" if route.task or route.path == "feedback" else route.scope == "operate"
        for route in ROUTES
        if route.method != "GET"
    )
    public = {route.path for route in ROUTES if not route.scope}
    assert public <= {"health", "health/live", "health/ready", "schema", "docs", "docs/{file}"}


@pytest.mark.parametrize("status", [401, 403, 429])
def test_whoever_is_refused_is_refused_before_the_body_is_read(target: Target, status: int) -> None:
    key = {401: "aiops_x", 403: target.keys["read"], 429: target.keys["slow"]}[status]
    if status == 429:
        while target.ask("POST", "predict/threat", "slow", ATTACK).status != 429:
            pass
    scope = {"type": "http", "method": "POST", "path": f"{PREFIX}/predict/threat", "query_string": b"", "headers": [
        (b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode()), (b"content-type", b"text/plain"),
        (b"content-length", b"9999999999"),
    ]}  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    for path in ("predict/threat", "models/train"):
        if status == 429 and path == "models/train":
            continue
        asyncio.run(target.service.api({**scope, "path": f"{PREFIX}/{path}"}, receive, send))
        assert sent.pop(0)["status"] == status
        sent.clear()


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"{predict}"), (b"authorization", b"{operate}")],
        [(b"authorization", b"Bearer x"), (b"authorization", b"{predict}")],
        [(b"host", b"localhost"), (b"authorization", b"{predict}")],
    ],
)
def test_headers_sent_twice_are_not_chosen_from(target: Target, headers: list[tuple[bytes, bytes]]) -> None:
    texts = {
        b"{predict}": f"Bearer {target.keys['predict']}".encode(),
        b"{operate}": f"Bearer {target.keys['operate']}".encode(),
    }
    scope = {"headers": [(b"host", b"localhost"), *((name, texts.get(value, value)) for name, value in headers)]}
    with pytest.raises(Problem) as caught:
        target.service.guard.check(scope, "predict")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "path",
    [
        "//api/v3/aiops/models/status", "/api/v3/aiops//models/status", "/api/v3/aiops/models/status/", "/API/V3/AIOPS/MODELS/STATUS",
        "/api/v3/aiops/docs/../models/status", "/docs/../api/v3/aiops/models/status", "/models/status", "/api/v3/aiops/health/../metrics",
        "/docs/%2e%2e/metrics",
    ],
)  # fmt: skip
def test_another_spelling_of_a_path_is_no_way_round(target: Target, path: str) -> None:
    assert target.ask("GET", path).status in (401, 404)
    assert target.ask("GET", path, "read").status == 404


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "get", "BREW"])
def test_another_method_is_no_way_round(target: Target, method: str) -> None:
    for path in ("models/status", "predict/threat", "models/promote"):
        assert target.ask(method, path).status == 401


@pytest.mark.parametrize(
    "header",
    ["x-forwarded-user", "x-api-key", "x-original-url", "x-rewrite-url", "x-http-method-override", "cookie", "proxy-authorization",
     "x-forwarded-for", "forwarded", "x-forwarded-host"],
)  # fmt: skip
def test_headers_that_other_systems_trust_open_nothing(target: Target, header: str) -> None:
    value = "127.0.0.1" if "for" in header else "admin"
    answer = target.service.client.request("GET", "models/status", headers={header: value})
    assert answer.status == 401
    assert target.service.client.request("GET", "health", headers={header: "/api/v3/aiops/metrics"}).json().keys() == {
        "status",
        "ready",
    }


# DNS rebinding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8100", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "",
     "169.254.169.254", "[::1].evil.example", "[evil]", "localhost,evil.example", "xn--lcalhost-n6a", " localhost", "0x7f.1"],
)  # fmt: skip
def test_a_page_whose_name_was_made_to_point_here_reaches_nothing(
    make_service: Callable[..., Service], host: str
) -> None:
    # Without keys, where a browser on this machine would otherwise be let in.
    service = make_service()
    for method, path in (("GET", "models/status"), ("POST", "models/train"), ("GET", "nothing")):
        refused(service.client.request(method, path, headers={"host": host}), 421)
    assert b"port_scan_score" not in service.client.get("/schema", headers={"host": host}).body


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8100", "127.0.0.1:1", "[::1]:8100", "LOCALHOST", "localhost.", "one.example:80"]
)
def test_its_own_names_are_known(make_service: Callable[..., Service], host: str) -> None:
    service = make_service(guard={"allowed": ["one.example"]})
    assert service.client.get("models/status", headers={"host": host}).status == 200


def test_spellings_of_a_name_do_not_fill_the_memory(make_service: Callable[..., Service]) -> None:
    guard = make_service().guard
    for port in range(3 * access._SPELLINGS):
        guard.check({"headers": [(b"host", b"localhost:%d" % port)]}, "read")
    assert len(guard._spellings) <= access._SPELLINGS


# Floods and guessing ------------------------------------------------------------------------------------------------------


def test_a_flood_of_wrong_keys_is_slowed_by_address_and_harms_nobody_with_a_key(target: Target) -> None:
    statuses = [target.ask("GET", "models/status", f"Bearer aiops_{i}").status for i in range(60)]
    assert set(statuses) == {401, 429} and statuses[-1] == 429
    answer = target.ask("GET", "models/status", "Bearer aiops_x")
    assert int(answer.headers["retry-after"]) >= 1 and "addr" in refused(answer, 429)["detail"]
    # From the same address, also a key that was not seen before.
    assert target.ask("GET", "models/status", "read").status == 200


def test_wrong_keys_are_not_remembered(target: Target) -> None:
    for letters in itertools.islice(itertools.product(string.ascii_letters, repeat=3), 3000):
        target.ask("GET", "actions", "Bearer aiops_" + "".join(letters))
    assert len(target.service.guard._state.known) == 0
    target.ask("GET", "actions", "read")
    for spaces in range(1, 50):
        assert target.ask("GET", "actions", f"bearer{' ' * spaces}{target.keys['read']}").status == 200
    assert len(target.service.guard._state.known) == 1


def test_a_key_that_asks_too_often_is_told_when_to_come_back(target: Target) -> None:
    answers = [target.ask("GET", "actions", "slow") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 429, 429]
    assert 5 <= int(answers[-1].headers["retry-after"]) <= 10
    refused(answers[-1], 429)


def test_keys_are_compared_by_digest_and_in_constant_time(monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
    compared = []
    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    assert target.ask("GET", "actions", "read").status == 200
    assert compared == [(keys.digest(target.keys["read"].encode()),) * 2]


# What an operator's key may do ---------------------------------------------------------------------------------------------


def test_training_reads_no_folder_of_the_server_and_replaces_no_champion_unasked(target: Target) -> None:
    refused(target.ask("POST", "models/train", "operate", {"source": "/etc"}), 422)
    refused(target.ask("POST", "models/train", "operate", {"source": "../../.."}), 422)
    job = target.ask("POST", "models/train", "operate", {"seed": 1}).json()["job_id"]
    command = json.loads((target.service.state / "jobs" / job / "job.json").read_text())["command"]
    assert command[command.index("--promote") + 1] == "first"


def test_a_webhook_is_posted_by_operators_only_and_never_to_where_the_request_says(target: Target) -> None:
    body = {"action": "scale_horizontal", "resource_id": "s", "dry_run": False}
    refused(target.ask("POST", "remediate", "predict", body), 403)
    for extra in ({"url": "http://169.254.169.254/"}, {"webhook": "http://10.0.0.1/"}):
        refused(target.ask("POST", "remediate", "operate", {**body, **extra}), 422)


def test_no_secret_is_in_the_audit_log_or_an_answer(make_service: Callable[..., Service]) -> None:
    hook = "http://127.0.0.1:9/hook/secret-path"
    target = Target(make_service, webhooks={"scale_horizontal": hook}, secret="sign-with-this")
    body = {"action": "scale_horizontal", "resource_id": "s"}
    said = target.ask("POST", "remediate", "operate", body, idempotency_key="k").body.decode()
    for path in target.service.state.rglob("*"):
        if path.is_file() and path.name != "keys.json":
            said += path.read_bytes().decode("latin-1")
    for secret in ("secret-path", "sign-with-this", *target.keys.values()):
        assert secret not in said


def test_the_same_delivery_sent_again_is_answered_again_and_not_done_again(target: Target) -> None:
    first, again = (target.ask("POST", "models/train", "operate", {"seed": 1}, idempotency_key="k") for _ in range(2))
    assert (first.status, first.body) == (again.status, again.body) == (202, first.body)
    assert len(list(target.service.state.glob("jobs/*/job.json"))) == 1


def test_answers_are_replayed_to_their_own_key_only(target: Target) -> None:
    file = target.service.state / "keys.json"
    target.keys["other"] = keys.add(file, "other", ["operate"])
    target.service.guard.look()
    body = {"action": "isolate_host", "resource_id": "s"}
    assert target.ask("POST", "remediate", "operate", body, idempotency_key="k").status == 200
    answer = target.ask("POST", "remediate", "other", body, idempotency_key="k")
    assert answer.status == 200 and "idempotent-replayed" not in answer.headers


# Where it listens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "server.example"])
def test_the_service_does_not_start_where_others_can_reach_it_without_a_key(tmp_path: Path, host: str) -> None:
    environment = {**os.environ, "AIOPS_HOME": str(tmp_path), "AIOPS_STATE_DIR": str(tmp_path / "state")}
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "serve_app", "--host", host], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and time.time() - started < 60
    assert "aiops keys add" in done.stderr and host in done.stderr


def test_the_service_does_not_start_with_keys_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "keys.json").write_text("{")
    environment = {**os.environ, "AIOPS_HOME": str(tmp_path), "AIOPS_STATE_DIR": str(tmp_path / "state")}
    done = subprocess.run(
        [sys.executable, "-m", "serve_app"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "damaged" in done.stderr


def test_a_config_file_that_listens_everywhere_says_that_keys_are_needed() -> None:
    folder = Path(__file__).parents[2] / "serve_app" / "deploy"
    hosts = {p: yaml.safe_load(p.read_text()).get("http_options", {}).get("host") for p in folder.glob("*.yaml")}
    assert sum(host is not None for host in hosts.values()) == 3
    for path, host in hosts.items():
        if host not in (None, "127.0.0.1"):
            assert "aiops keys add" in path.read_text(), path.name


# Headers that broke what stands in front ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [{"x-request-id": "\xff"}, {"x-request-id": "a\r\nx: y"}, {"x-request-id": "<script>"}, {"x-request-timeout-seconds": "inf"},
     {"content-length": "-1"}, {"content-length": "99999999999999999999"}, {"accept": "\x00"}],
)  # fmt: skip
def test_header_games_end_in_no_5xx_and_come_back_in_no_answer(target: Target, headers: dict[str, str]) -> None:
    from serve_app.http.request_ids import Border

    client = Client(Border(target.service.api))
    sent = {**headers, "authorization": f"Bearer {target.keys['read']}"}
    for answer in (
        client.request("GET", "models/status", headers=sent),
        client.request("POST", "predict/threat", ATTACK, headers=sent),
    ):
        assert answer.status < 500
        for value in headers.values():
            assert value not in answer.headers.values()
