"""Remediation against a real HTTP receiver."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from conftest import Disk

from aiops_core.rules import FAILURE_ACTIONS, THREAT_ACTIONS
from serve_app.operations.remediation import catalogue

BODY = {"action": "scale_horizontal", "resource_id": "server-01"}


class Receiver:
    """A webhook that answers with the statuses it is given, then 200."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.meanwhile()
                outer.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
                status = outer.statuses.pop(0) if outer.statuses else 200
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:9/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/secret-path"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def service(make_service: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("serve_app.operations.remediation.PAUSES", (0.01, 0.01))
    return make_service(webhooks={"scale_horizontal": receiver.url}, secret="key")


def audit(service: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (service.state / "audit.jsonl").read_text().splitlines()]


def test_a_dry_run_is_the_default_and_sends_nothing(service: Any, receiver: Receiver) -> None:
    answer = service.client.post("remediate", BODY)
    assert answer.status == 200 and answer.json()["status"] == "dry_run" and answer.json()["dry_run"]
    assert receiver.received == [] and audit(service)[-1]["result"]["status"] == "dry_run"
    assert service.total("aiops_remediations_executed_total") == 0
    assert b"secret-path" not in answer.body


def test_an_execution_posts_a_signed_body_once_and_is_counted_and_audited(service: Any, receiver: Receiver) -> None:
    answer = service.client.post("remediate", {**BODY, "dry_run": False, "reason": "cpu", "request_id": "r-1"})
    assert answer.status == 200 and answer.json()["status"] == "executed"
    ((headers, body),) = receiver.received
    expected = hmac.new(b"key", headers["x-aiops-timestamp"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["x-aiops-signature"] == f"sha256={expected}"
    content = json.loads(body)
    assert (
        content["action"] == "scale_horizontal" and content["resource_id"] == "server-01" and content["reason"] == "cpu"
    )
    assert service.total("aiops_remediations_executed_total", action="scale_horizontal") == 1
    assert [entry["phase"] for entry in audit(service)] == ["begun", "done"]
    assert audit(service)[-1]["result"]["status"] == "executed"


def test_a_failing_webhook_is_tried_again_with_the_same_delivery(service: Any, receiver: Receiver) -> None:
    receiver.statuses = [500, 503]
    answer = service.client.post("remediate", {**BODY, "dry_run": False})
    assert answer.json()["attempts"] == 3
    assert len({headers["x-aiops-delivery"] for headers, _ in receiver.received}) == 1


@pytest.mark.parametrize(("statuses", "calls"), [([500] * 9, 3), ([404], 1), ([302], 1)])
def test_a_webhook_that_goes_on_failing_is_502(
    service: Any, receiver: Receiver, statuses: list[int], calls: int
) -> None:
    receiver.statuses = list(statuses)
    answer = service.client.post("remediate", {**BODY, "dry_run": False})
    assert answer.status == 502 and str(statuses[0]) in answer.json()["detail"]
    assert len(receiver.received) == calls
    assert service.total("aiops_remediations_executed_total") == 0
    assert service.total("aiops_remediations_refused_total") == 1
    assert audit(service)[-1]["phase"] == "failed" and audit(service)[-1]["status"] == 502


def test_without_a_webhook_or_a_secret_it_is_409(service: Any, make_service: Any, receiver: Receiver) -> None:
    answer = service.client.post("remediate", {**BODY, "action": "isolate_host", "dry_run": False})
    assert answer.status == 409 and "AIOPS_WEBHOOKS" in answer.json()["detail"]
    unsigned = make_service(webhooks={"scale_horizontal": receiver.url})
    answer = unsigned.client.post("remediate", {**BODY, "dry_run": False})
    assert answer.status == 409 and "AIOPS_WEBHOOK_SECRET" in answer.json()["detail"]
    assert receiver.received == []


def test_every_action_that_a_prediction_recommends_is_in_the_catalogue(service: Any) -> None:
    recommended = {a for table in (FAILURE_ACTIONS, THREAT_ACTIONS) for actions in table.values() for a in actions}
    assert recommended | {"investigate"} <= set(catalogue())
    assert {a["id"] for a in service.client.get("actions").json()["actions"]} == set(catalogue())


def test_on_a_disk_that_fills_up_meanwhile_an_execution_is_told_as_it_was_and_audited_later(
    disk: Disk, service: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.guard.audit.RETRY_SECONDS", 0.1)

    def fill() -> None:
        # Room for a part of a line only: the rest of the page is taken first.
        with open(service.state / "audit.jsonl", "ab") as file:
            file.write(b" " * (4095 - 100 - file.tell()) + b"\n")
        disk.fill()

    receiver.meanwhile = fill
    answer = service.client.post("remediate", {**BODY, "dry_run": False})
    assert answer.status == 200 and answer.json()["status"] == "executed"
    assert len(receiver.received) == 1
    assert (service.state / "audit.jsonl").read_bytes().endswith(b" \n")
    # Nothing new is begun.
    assert service.client.post("remediate", {**BODY, "dry_run": False}).status == 503
    assert len(receiver.received) == 1
    disk.free()
    deadline = time.time() + 10
    while b"executed" not in (service.state / "audit.jsonl").read_bytes() and time.time() < deadline:
        time.sleep(0.05)
    lines = [line for line in (service.state / "audit.jsonl").read_text().splitlines() if line.strip()]
    assert [json.loads(line)["phase"] for line in lines] == ["begun", "done"]


def test_a_webhook_belongs_to_the_trace_of_the_request(service: Any, receiver: Receiver) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    service.client.request("POST", "remediate", {**BODY, "dry_run": False}, headers=headers)
    sent = receiver.received[0][0]["traceparent"]
    assert sent.startswith(f"00-{trace}-") and sent.endswith("-01") and "b7ad6b7169203331" not in sent


def test_a_receiver_that_speaks_no_http_is_a_failed_delivery_without_its_address(make_service: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(3):
                connection, _ = server.accept()
                # All of it: else the connection is reset instead.
                while not (received := connection.recv(1 << 16)).endswith(b"}"):
                    assert received
                connection.sendall(b"no HTTP here\r\n\r\n")
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/s3cret"
        service = make_service(webhooks={"scale_horizontal": url}, secret="key")
        body = {"action": "scale_horizontal", "resource_id": "a", "dry_run": False}
        found = service.client.post("remediate", body)
    assert found.status == 502 and "s3cret" not in found.body.decode()
    audit = (service.state / "audit.jsonl").read_text()
    assert '"failed"' in audit and "s3cret" not in audit
